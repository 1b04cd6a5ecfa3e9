// zstd as sections of a snapshot need it: one frame from buffer to buffer, in working memory of the caller's, so that
// nothing is allocated and what it takes is known before.
#ifndef DSV4MX_LIB_IO_ZSTD_CODEC_H_
#define DSV4MX_LIB_IO_ZSTD_CODEC_H_

#include <cstddef>

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace dsv4mx::io {

class ZstdEncoder {
 public:
  // Working memory for frames of up to `most` bytes at levels 1..19.
  static size_t MemoryBytes(int level, size_t most);
  // Room that any frame of so many bytes fits into.
  static size_t Bound(size_t bytes);

  // `memory` is aligned to 8 and outlives the encoder.
  ZstdEncoder(int level, size_t most, void* memory);
  // Length of the frame; 0 if it does not fit into `room`.
  size_t Encode(const void* from, size_t bytes, void* to, size_t room);

 private:
  ZSTD_CCtx_s* context_;
};

class ZstdDecoder {
 public:
  static size_t MemoryBytes();
  // `memory` is aligned to 8 and outlives the decoder.
  explicit ZstdDecoder(void* memory);
  // Null, or what is wrong with frames that were to give exactly `bytes` bytes. Writes nothing beyond these.
  const char* Decode(const void* from, size_t stored, void* to, size_t bytes);

 private:
  ZSTD_DCtx_s* context_;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_ZSTD_CODEC_H_
