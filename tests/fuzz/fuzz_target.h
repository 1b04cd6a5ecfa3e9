// What the fuzz targets share. Each file NAME_fuzz.cc holds libFuzzer's one entry, so that the same code runs under clang's
// fuzzer and, by replay.cc, over the corpus in every build. A broken promise ends the process, which the fuzzer keeps the
// input of.
#ifndef DSV4MX_TESTS_FUZZ_FUZZ_TARGET_H_
#define DSV4MX_TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string_view>

#include "lib/base/status.h"
#include "lib/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace dsv4mx::fuzz {

inline void Require(bool good, const char* promise) {
  if (good) return;
  std::fprintf(stderr, "broken promise: %s (last error: %s)\n", promise, LastError());
  std::abort();
}

// A refusal is one of these codes, and one line of text.
inline void CheckRefusal(Status status, std::initializer_list<dsv4mx_status> codes) {
  bool known = false;
  for (const dsv4mx_status code : codes) known = known || status.code == code;
  Require(known, "a refusal has one of the promised codes");
  const std::string_view text = LastError();
  Require(!text.empty() && text.find('\n') == std::string_view::npos, "an error is one line");
}

// Names in order and followed by a NUL, every tensor inside the file, every name found again.
inline void CheckTable(const io::TensorTable& table, uint64_t file_bytes) {
  for (size_t i = 0; i < table.size(); ++i) {
    const io::TensorInfo tensor = table[i];
    Require(tensor.offset <= file_bytes && tensor.bytes <= file_bytes - tensor.offset,
            "a tensor lies inside its file");
    Require(tensor.rank >= 0 && tensor.rank <= io::kMaxRank, "a rank is in range");
    for (int d = 0; d < tensor.rank; ++d) {
      Require(tensor.shape[static_cast<size_t>(d)] >= 0, "a size is not below 0");
    }
    Require(tensor.name.data()[tensor.name.size()] == '\0', "a name ends with a NUL");
    Require(i == 0 || table.name(i - 1) < tensor.name, "names are in order, each once");
    Require(table.Find(tensor.name) == i, "a name is found");
  }
}

}  // namespace dsv4mx::fuzz

#endif  // DSV4MX_TESTS_FUZZ_FUZZ_TARGET_H_
