// Headers of safetensors files: the input as a whole file, and as the JSON of a header whose length fits, behind three
// bytes that say how much data follows it. The second form lets mutations reach the JSON.
#include "lib/io/safetensors.h"

#include <algorithm>

#include "tests/fuzz/fuzz_target.h"

namespace {

using namespace dsv4mx;        // NOLINT: one short file
using namespace dsv4mx::fuzz;  // NOLINT

void ParseHeader(std::string_view header, uint64_t file_bytes) {
  io::TensorTable table;
  const Status status = io::ParseSafetensorsHeader(header, file_bytes, "f", &table);
  if (status.ok()) return CheckTable(table, file_bytes);
  CheckRefusal(status, {DSV4MX_STATUS_FORMAT_ERROR});
  Require(table.size() == 0, "a refused header leaves nothing");
}

void ParseFile(std::string_view file) {
  uint64_t header_bytes = 0;
  const std::string_view head = file.substr(0, std::min(file.size(), io::kHeadBytes));
  const Status status = io::ParseSafetensorsHead(head, file.size(), "f", &header_bytes);
  if (!status.ok()) return CheckRefusal(status, {DSV4MX_STATUS_FORMAT_ERROR});
  Require(file.size() >= 8 && header_bytes <= file.size() - 8, "a header lies inside its file");
  ParseHeader(file.substr(8, static_cast<size_t>(header_bytes)), file.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  ParseFile(text);
  if (size < 3) return 0;
  const uint64_t data_bytes = data[0] | data[1] << 8 | data[2] << 16;
  ParseHeader(text.substr(3), 8 + (size - 3) + data_bytes);
  return 0;
}
