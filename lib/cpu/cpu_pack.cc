#include "lib/cpu/cpu_pack.h"

#include <algorithm>
#include <cstring>

#include "lib/base/cpu_layout.h"
#include "lib/base/float_bits.h"
#include "lib/base/scales.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = kCpuTileRows;

uint16_t LoadUnit(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
void StoreUnit(uint8_t* p, uint16_t v) {
  p[0] = static_cast<uint8_t>(v);
  p[1] = static_cast<uint8_t>(v >> 8);
}

uint16_t SwapNibbles(uint16_t unit) {
  return static_cast<uint16_t>((unit & 0x0f0f) << 4 | (unit >> 4 & 0x0f0f));
}

// One tile of 32 rows from the caller's view: a transposition of 16-bit units.
void PackStrided(const CodesView& v, int64_t first_row, int64_t k, uint8_t* tile) {
  for (int64_t u = 0; u < k / kCpuUnitK; ++u) {
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* from = v.data + (first_row + r) * v.row_stride + 2 * u * v.byte_stride;
      const uint16_t unit = static_cast<uint16_t>(from[0] | from[v.byte_stride] << 8);
      StoreUnit(tile + (u * kRows + r) * 2, v.high_first ? SwapNibbles(unit) : unit);
    }
  }
}

// The same where a row's bytes are contiguous: 8 x 8 units at a time, in the vectors that every x86-64 has.
void PackContiguous(const CodesView& v, int64_t first_row, int64_t k, uint8_t* tile) {
#if defined(__SSE2__)
  const __m128i low = _mm_set1_epi8(0x0f);
  for (int64_t u = 0; u < k / kCpuUnitK; u += 8) {
    for (int r0 = 0; r0 < kRows; r0 += 8) {
      __m128i a[8], b[8];
      for (int r = 0; r < 8; ++r) {
        a[r] = _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(v.data + (first_row + r0 + r) * v.row_stride + 2 * u));
        if (v.high_first) {
          a[r] = _mm_or_si128(_mm_slli_epi16(_mm_and_si128(a[r], low), 4),
                              _mm_and_si128(_mm_srli_epi16(a[r], 4), low));
        }
      }
      for (int i = 0; i < 4; ++i) {  // pairs of rows, then of pairs, then of those
        b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
      }
      for (int i = 0; i < 2; ++i) {
        for (int h = 0; h < 2; ++h) {
          a[4 * i + 2 * h] = _mm_unpacklo_epi32(b[4 * i + h], b[4 * i + 2 + h]);
          a[4 * i + 2 * h + 1] = _mm_unpackhi_epi32(b[4 * i + h], b[4 * i + 2 + h]);
        }
      }
      uint8_t* to = tile + (u * kRows + r0) * 2;
      for (int i = 0; i < 4; ++i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i * 2 * kRows),
                         _mm_unpacklo_epi64(a[i], a[4 + i]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * i + 1) * 2 * kRows),
                         _mm_unpackhi_epi64(a[i], a[4 + i]));
      }
    }
  }
#else
  PackStrided(v, first_row, k, tile);
#endif
}

// Contiguous rows of bytes as lines of 32: 16 x 16 at a time, by four rounds of interleaving the halves.
void TransposeScales(const uint8_t* from, int64_t row_stride, int64_t groups, uint8_t* tile) {
  int64_t done = 0;
#if defined(__SSE2__)
  for (; done + 16 <= groups; done += 16) {
    for (int half = 0; half < kRows; half += 16) {
      __m128i a[16], b[16];
      for (int r = 0; r < 16; ++r) {
        a[r] = _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(from + (half + r) * row_stride + done));
      }
      for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 8; ++i) {
          b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
          b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        std::copy_n(b, 16, a);
      }
      for (int g = 0; g < 16; ++g) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(tile + (done + g) * kRows + half), a[g]);
      }
    }
  }
#endif
  for (int r = 0; r < kRows; ++r) {
    for (int64_t g = done; g < groups; ++g) tile[g * kRows + r] = from[r * row_stride + g];
  }
}

}  // namespace

void PackCodes(const CodesView& v, int64_t first_row, int64_t k, uint8_t* tile) {
  if (v.byte_stride == 1) return PackContiguous(v, first_row, k, tile);
  PackStrided(v, first_row, k, tile);
}

Status PackScales(const ScalesView& v, int64_t at, int32_t expert, Matrix m, int64_t row, int64_t k,
                  uint8_t* scales) {
  const int64_t groups = k / kGroupSize;
  const bool bytes = ScaleElementBytes(v.dtype) == 1;
  uint8_t* tile = scales + CpuScale(k, row, 0);
  if (bytes && v.group_stride == 1) {
    const uint8_t* from = v.data + at * v.row_stride;
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = from + r * v.row_stride;
      const void* bad = std::memchr(p, 255, static_cast<size_t>(groups));
      if (bad == nullptr) continue;
      const int64_t g = static_cast<const uint8_t*>(bad) - p;
      return BadScale(expert, m, row + r, g, p + g, v.dtype);
    }
    TransposeScales(from, v.row_stride, groups, tile);
    return kOk;
  }
  for (int r = 0; r < kRows; ++r) {
    const uint8_t* from = v.data + (at + r) * v.row_stride;
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* p = from + g * v.group_stride;
      int byte = bytes ? *p : ScaleByte(p, v.dtype);
      if (byte == 255 || byte == kBadScale) return BadScale(expert, m, row + r, g, p, v.dtype);
      tile[g * kRows + r] = static_cast<uint8_t>(byte);
    }
  }
  return kOk;
}

void PackBias(const uint8_t* from, int64_t stride, int64_t rows, dsv4mx_dtype dtype, uint8_t* to) {
  for (int64_t row = 0; row < rows; ++row, from += stride, to += 4) {
    float value;
    if (dtype == DSV4MX_DTYPE_BF16) {
      value = FloatFromBf16(LoadUnit(from));
    } else {
      std::memcpy(&value, from, 4);
    }
    std::memcpy(to, &value, 4);
  }
}

}  // namespace dsv4mx::cpu
