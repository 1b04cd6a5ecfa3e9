// The GGUF format of llama.cpp: key-value pairs, tensor infos, tensor bytes (github.com/ggml-org/ggml,
// docs/gguf.md). Its MXFP4 blocks hold 32 values in 17 bytes: the scale byte, then byte j with value j
// in the low and value j + 16 in the high half.
#ifndef DSV4MX_LIB_IO_GGUF_H_
#define DSV4MX_LIB_IO_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/safetensors.h"

namespace dsv4mx::io {

// Whether a file that begins so is one.
bool IsGguf(std::string_view head);

// Copies bytes [offset, offset + bytes) of a file, which has them.
using ReadAt = std::function<Status(uint64_t offset, size_t bytes, void* to)>;

// Of a file's keys those that tell of routed experts.
struct GgufKeys {
  std::string architecture;  // "" where the file does not say
  std::map<std::string, std::vector<double>>
      numbers;  // "deepseek4.expert_count"; one each, or one a layer
};

// Reads keys and infos of a file of that size. Shapes come outermost dimension first, as in other
// formats. `label` names the file in messages. On failure *out and *keys (null = not
// wanted) are left empty.
Status ParseGguf(const ReadAt& read, uint64_t file_bytes, const char* label, TensorTable* out,
                 GgufKeys* keys = nullptr);

inline constexpr int64_t kMxfp4CodeBytes = 16, kMxfp4BlockBytes = kMxfp4CodeBytes + 1;

// `count` blocks as 16 bytes of codes each, the even value in the low half.
void CodesOfMxfp4Blocks(const uint8_t* blocks, int64_t count, uint8_t* codes);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_GGUF_H_
