#include "lib/io/zstd_codec.h"

// Contexts in the caller's memory. They are outside of zstd's shared ABI, but this library links it statically.
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <cstdint>

namespace dsv4mx::io {
namespace {

ZSTD_compressionParameters ParametersOf(int level, size_t most) {
  return ZSTD_getCParams(level, most, 0);
}

}  // namespace

size_t ZstdEncoder::MemoryBytes(int level, size_t most) {
  return ZSTD_estimateCCtxSize_usingCParams(ParametersOf(level, most));
}

size_t ZstdEncoder::Bound(size_t bytes) {
  return ZSTD_compressBound(bytes);
}

ZstdEncoder::ZstdEncoder(int level, size_t most, void* memory)
    : context_(ZSTD_initStaticCCtx(memory, MemoryBytes(level, most))) {
  // Named one by one: a level alone would choose others for shorter input, with more memory than was asked for.
  const ZSTD_compressionParameters p = ParametersOf(level, most);
  const struct {
    ZSTD_cParameter name;
    unsigned value;
  } all[] = {{ZSTD_c_windowLog, p.windowLog},
             {ZSTD_c_hashLog, p.hashLog},
             {ZSTD_c_chainLog, p.chainLog},
             {ZSTD_c_searchLog, p.searchLog},
             {ZSTD_c_minMatch, p.minMatch},
             {ZSTD_c_targetLength, p.targetLength},
             {ZSTD_c_strategy, static_cast<unsigned>(p.strategy)}};
  for (const auto& each : all) {
    if (context_ != nullptr)
      ZSTD_CCtx_setParameter(context_, each.name, static_cast<int>(each.value));
  }
}

size_t ZstdEncoder::Encode(const void* from, size_t bytes, void* to, size_t room) {
  if (context_ == nullptr) return 0;
  const size_t stored = ZSTD_compress2(context_, to, room, from, bytes);
  return ZSTD_isError(stored) != 0 ? 0 : stored;
}

size_t ZstdDecoder::MemoryBytes() {
  return ZSTD_estimateDCtxSize();
}

ZstdDecoder::ZstdDecoder(void* memory) : context_(ZSTD_initStaticDCtx(memory, MemoryBytes())) {}

const char* ZstdDecoder::Decode(const void* from, size_t stored, void* to, size_t bytes) {
  if (context_ == nullptr) return "no working memory";
  const size_t got = ZSTD_decompressDCtx(context_, to, bytes, from, stored);
  if (ZSTD_isError(got) != 0) return ZSTD_getErrorName(got);
  return got == bytes ? nullptr : "the frame is too short";
}

}  // namespace dsv4mx::io
