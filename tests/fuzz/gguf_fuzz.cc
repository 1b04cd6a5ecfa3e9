// GGUF files, whole.
#include "lib/io/gguf.h"

#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using dsv4mx::fuzz::Require;
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  if (!dsv4mx::io::IsGguf(file)) return 0;  // what opens a file asks first
  const auto read = [&](uint64_t offset, size_t bytes, void* to) {
    Require(offset <= size && bytes <= size - offset, "a read lies inside the file");
    if (bytes > 0) std::memcpy(to, data + offset, bytes);
    return dsv4mx::kOk;
  };
  dsv4mx::io::TensorTable table;
  const dsv4mx::Status status = dsv4mx::io::ParseGguf(read, size, "g", &table);
  if (status.ok()) {
    dsv4mx::fuzz::CheckTable(table, size);
    return 0;
  }
  dsv4mx::fuzz::CheckRefusal(status, {DSV4MX_STATUS_FORMAT_ERROR, DSV4MX_STATUS_UNSUPPORTED});
  Require(table.size() == 0, "a refused file leaves nothing");
  return 0;
}
