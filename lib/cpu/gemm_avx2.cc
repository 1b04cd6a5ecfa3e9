// The kernel for AVX2. Half a line, 32 bytes, is four codes of 16 rows. A code's bf16 value has a byte of its own for
// high and low half, so two byte lookups and an unpack give two k of eight rows as pairs of bf16; a shift and a mask
// widen them. That is 19 instructions for 64 codes, whatever the number of tokens.
//
// Everything here has internal linkage: no function of this file can stand in for one of another file.
#include <immintrin.h>

#include "lib/cpu/cpu_kernels.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = 32, kGroupK = 32, kUnitK = 4, kHalfRows = 16;
constexpr int kMaxTokens = 4;     // 8 sums and 8 registers to decode with
constexpr int64_t kAhead = 1024;  // bytes of codes to fetch ahead

// Scale bytes of the 16 rows in the order in which unpacking leaves them: rows 0-3 and 8-11, rows 4-7 and 12-15.
struct Scales {
  __m256i bytes[2];
};
inline Scales LoadScales(const uint8_t* p) {
  const __m128i raw = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                                        _MM_SHUFFLE(3, 1, 2, 0));
  return Scales{{_mm256_cvtepu8_epi32(raw), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(raw, raw))}};
}
inline __m256 ScaleOf(__m256i bytes) {
  // Byte 0 means the subnormal 2^-127; every other byte is an exponent field.
  return _mm256_castsi256_ps(
      _mm256_max_epu32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(0x00400000)));
}

// A code of magnitude 4 or 6 is infinite under byte 253, of 2 or more under 254.
inline __m256 Overflow(__m256 w, __m256i bytes) {
  const __m256 four = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(253)));
  const __m256 two = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(254)));
  __m256 limit = _mm256_blendv_ps(_mm256_set1_ps(8.0f), _mm256_set1_ps(4.0f), four);
  limit = _mm256_blendv_ps(limit, _mm256_set1_ps(2.0f), two);
  const __m256 sign_bit = _mm256_set1_ps(-0.0f);
  const __m256 sign = _mm256_and_ps(w, sign_bit), magnitude = _mm256_andnot_ps(sign_bit, w);
  const __m256 infinite = _mm256_or_ps(sign, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000)));
  return _mm256_blendv_ps(w, infinite, _mm256_cmp_ps(magnitude, limit, _CMP_GE_OQ));
}

// kHalves halves of 16 rows, from half `first` of the tiles on.
template <int kHalves, int kTokens, bool kOverflow>
void Kernel(const GemmArgs& a, int first) {
  const __m256i high_bytes = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, static_cast<char>(0x80),
                    static_cast<char>(0xbf), static_cast<char>(0xbf), static_cast<char>(0xbf),
                    static_cast<char>(0xc0), static_cast<char>(0xc0), static_cast<char>(0xc0),
                    static_cast<char>(0xc0)));
  const __m256i low_bytes = _mm256_broadcastsi128_si256(_mm_setr_epi8(
      0x00, 0x00, static_cast<char>(0x80), static_cast<char>(0xc0), 0x00, 0x40,
      static_cast<char>(0x80), static_cast<char>(0xc0), 0x00, 0x00, static_cast<char>(0x80),
      static_cast<char>(0xc0), 0x00, 0x40, static_cast<char>(0x80), static_cast<char>(0xc0)));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i high_half = _mm256_set1_epi32(static_cast<int>(0xffff0000u));

  __m256 total[kHalves][kTokens][2];
#pragma GCC unroll 4
  for (int i = 0; i < kHalves; ++i) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) total[i][t][0] = total[i][t][1] = _mm256_setzero_ps();
  }
  const uint8_t* codes[kHalves];
  const uint8_t* scales[kHalves];
#pragma GCC unroll 4
  for (int i = 0; i < kHalves; ++i) {
    const int tile = (first + i) / 2, half = (first + i) % 2;
    codes[i] = a.codes[tile] + half * 2 * kHalfRows;
    scales[i] = a.scales[tile] + half * kHalfRows;
  }
  const float* x = a.x;
  int64_t at = 0;
  for (int64_t k = 0; k < a.k; k += kGroupK) {
    __m256 sum[kHalves][kTokens][2];
#pragma GCC unroll 4
    for (int i = 0; i < kHalves; ++i) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) sum[i][t][0] = sum[i][t][1] = _mm256_setzero_ps();
    }
    for (int u = 0; u < kGroupK / kUnitK; ++u) {
#pragma GCC unroll 4
      for (int i = 0; i < kHalves; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(codes[i] + at + kAhead), _MM_HINT_T0);
        const __m256i line = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes[i] + at));
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {  // k = j and j + 2
          const __m256i index =
              _mm256_and_si256(j == 0 ? line : _mm256_srli_epi16(line, 4), nibble);
          const __m256i high = _mm256_shuffle_epi8(high_bytes, index),
                        low = _mm256_shuffle_epi8(low_bytes, index);
          const __m256i pairs[2] = {_mm256_unpacklo_epi8(low, high),
                                    _mm256_unpackhi_epi8(low, high)};
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            __m256 w[2];
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v) {
              w[v] = _mm256_castsi256_ps(h == 0 ? _mm256_slli_epi32(pairs[v], 16)
                                                : _mm256_and_si256(pairs[v], high_half));
              if constexpr (kOverflow) w[v] = Overflow(w[v], LoadScales(scales[i] + k).bytes[v]);
            }
#pragma GCC unroll 4
            for (int t = 0; t < kTokens; ++t) {
              const __m256 value = _mm256_broadcast_ss(x + (j + 2 * h) * kTokens + t);
              sum[i][t][0] = _mm256_fmadd_ps(w[0], value, sum[i][t][0]);
              sum[i][t][1] = _mm256_fmadd_ps(w[1], value, sum[i][t][1]);
            }
          }
        }
      }
      at += 2 * kRows;
      x += kUnitK * kTokens;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kHalves; ++i) {
      const Scales s = LoadScales(scales[i] + k);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        total[i][t][0] = _mm256_fmadd_ps(sum[i][t][0], ScaleOf(s.bytes[0]), total[i][t][0]);
        total[i][t][1] = _mm256_fmadd_ps(sum[i][t][1], ScaleOf(s.bytes[1]), total[i][t][1]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kHalves; ++i) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const int tile = (first + i) / 2, half = (first + i) % 2;
      float* out = a.out + (tile * kTokens + t) * kRows + half * kHalfRows;
      _mm256_store_ps(out, _mm256_permute2f128_ps(total[i][t][0], total[i][t][1], 0x20));
      _mm256_store_ps(out + 8, _mm256_permute2f128_ps(total[i][t][0], total[i][t][1], 0x31));
    }
  }
}

template <int kHalves, int kTokens>
void Run(const GemmArgs& args) {
  for (int first = 0; first < 2 * args.tiles; first += kHalves) {
    if (args.overflow) {
      Kernel<kHalves, kTokens, true>(args, first);
    } else {
      Kernel<kHalves, kTokens, false>(args, first);
    }
  }
}

void Gemm(const GemmArgs& args) {
  switch (
      args.tokens) {  // as many halves at once as registers hold, so that additions do not wait for each other
    case 1:
      return Run<2, 1>(args);
    case 2:
      return Run<2, 2>(args);
    case 3:
      return Run<1, 3>(args);
    default:
      return Run<1, 4>(args);
  }
}

}  // namespace

const CpuKernels kAvx2Kernels = {kMaxTokens, Gemm};

}  // namespace dsv4mx::cpu
