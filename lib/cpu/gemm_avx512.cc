// The kernel for AVX-512. A 32-bit lane holds four codes of an even row and four of the odd row after it; one shift
// brings a code to the bottom of its lane, and one permute, which looks at the low four bits only, turns it into its
// value. Sums of a group stay in registers; the running sums, touched once per group, may live on the stack.
//
// Everything here has internal linkage: no function of this file can stand in for one of another file.
// GCC 12's own intrinsics start from a variable that they never set (GCC bug 105593); its warning names our lines.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "lib/cpu/cpu_kernels.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = 32, kGroupK = 32, kUnitK = 4;
constexpr int kMaxTokens = 12;     // 24 sums, two weights, the table, and room
constexpr int kMaxTwinTokens = 6;  // with two tiles at once
constexpr int64_t kAhead = 2048;   // bytes of codes to fetch ahead

// 2^(b-127) from one byte a lane: byte 0 means the subnormal 2^-127, every other byte is an exponent field.
inline __m512 ScaleOf(__m512i bytes) {
  return _mm512_castsi512_ps(
      _mm512_max_epu32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000)));
}
// The same times 2^kHeadroom, for bytes below kFirstWideScale.
inline __m512 RaisedScaleOf(__m512i bytes) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(kHeadroom << 23)));
}

// x of one token at k = j of a unit.
inline __m512 Broadcast(const float* unit, int j, int tokens, int token) {
  return _mm512_set1_ps(unit[j * tokens + token]);
}
inline __m512 Broadcast(const uint32_t* unit, int j, int tokens, int token) {
  const __m512i pair = _mm512_set1_epi32(static_cast<int>(unit[j / 2 * tokens + token]));
  return _mm512_castsi512_ps(j % 2 == 0 ? _mm512_slli_epi32(pair, 16)
                                        : _mm512_and_si512(pair, _mm512_set1_epi32(-65536)));
}

template <class X, int kTiles, int kTokens, bool kWide>
void Kernel(const GemmArgs& a, int first_tile) {
  constexpr bool kPairs = !__is_same(X, float);
  constexpr float kUnit = kWide ? 1.0f : 1.0f / (1 << kHeadroom);
  const __m512 table = _mm512_mul_ps(
      _mm512_set1_ps(kUnit), _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f,
                                            -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f));
  __m512 total[kTiles][kTokens][2];
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) total[i][t][0] = total[i][t][1] = _mm512_setzero_ps();
  }
  const X* x = static_cast<const X*>(a.x);
  int64_t at = 0;
  for (int64_t k = 0; k < a.k; k += kGroupK) {
    __m512i bytes[kTiles][2];
    __m512 sum[kTiles][kTokens][2];
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      const __m256i packed =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a.scales[first_tile + i] + k));
      const __m512i pair = _mm512_cvtepu16_epi32(packed);
      bytes[i][0] = _mm512_and_si512(pair, _mm512_set1_epi32(0xff));
      bytes[i][1] = _mm512_srli_epi32(pair, 8);
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) sum[i][t][0] = sum[i][t][1] = _mm512_setzero_ps();
    }
    for (int u = 0; u < kGroupK / kUnitK; ++u) {
      __m512i codes[kTiles];
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        const uint8_t* from = a.codes[first_tile + i] + at;
        _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
        codes[i] = _mm512_load_si512(from);
      }
      at += 2 * kRows;
#pragma GCC unroll 4
      for (int j = 0; j < kUnitK; ++j) {
        __m512 w[kTiles][2];
#pragma GCC unroll 2
        for (int i = 0; i < kTiles; ++i) {
          w[i][0] =
              _mm512_permutexvar_ps(j == 0 ? codes[i] : _mm512_srli_epi32(codes[i], 4 * j), table);
          w[i][1] = _mm512_permutexvar_ps(_mm512_srli_epi32(codes[i], 16 + 4 * j), table);
          if constexpr (kWide) {
            w[i][0] = _mm512_mul_ps(w[i][0], ScaleOf(bytes[i][0]));
            w[i][1] = _mm512_mul_ps(w[i][1], ScaleOf(bytes[i][1]));
          }
        }
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          const __m512 value = Broadcast(x, j, kTokens, t);
#pragma GCC unroll 2
          for (int i = 0; i < kTiles; ++i) {
            sum[i][t][0] = _mm512_fmadd_ps(w[i][0], value, sum[i][t][0]);
            sum[i][t][1] = _mm512_fmadd_ps(w[i][1], value, sum[i][t][1]);
          }
        }
      }
      x += (kPairs ? kUnitK / 2 : kUnitK) * kTokens;
    }
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      const __m512 even = kWide ? _mm512_set1_ps(1.0f) : RaisedScaleOf(bytes[i][0]);
      const __m512 odd = kWide ? _mm512_set1_ps(1.0f) : RaisedScaleOf(bytes[i][1]);
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) {
        total[i][t][0] = _mm512_fmadd_ps(sum[i][t][0], even, total[i][t][0]);
        total[i][t][1] = _mm512_fmadd_ps(sum[i][t][1], odd, total[i][t][1]);
      }
    }
  }
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      float* out = a.out + ((first_tile + i) * kTokens + t) * kRows;
      _mm512_store_ps(out, _mm512_permutex2var_ps(total[i][t][0], low, total[i][t][1]));
      _mm512_store_ps(out + 16, _mm512_permutex2var_ps(total[i][t][0], high, total[i][t][1]));
    }
  }
}

using KernelFn = void (*)(const GemmArgs&, int);

#define DSV4MX_ROW(x, tiles, wide)                                                 \
  Kernel<x, tiles, 1, wide>, Kernel<x, tiles, 2, wide>, Kernel<x, tiles, 3, wide>, \
      Kernel<x, tiles, 4, wide>, Kernel<x, tiles, 5, wide>, Kernel<x, tiles, 6, wide>
#define DSV4MX_ALL(x, wide)                                                                    \
  DSV4MX_ROW(x, 1, wide), Kernel<x, 1, 7, wide>, Kernel<x, 1, 8, wide>, Kernel<x, 1, 9, wide>, \
      Kernel<x, 1, 10, wide>, Kernel<x, 1, 11, wide>, Kernel<x, 1, 12, wide>
constexpr KernelFn kSingle[2][kMaxTokens] = {{DSV4MX_ALL(float, false)}, {DSV4MX_ALL(float, true)}};
constexpr KernelFn kTwin[2][kMaxTwinTokens] = {{DSV4MX_ROW(float, 2, false)},
                                               {DSV4MX_ROW(float, 2, true)}};
constexpr KernelFn kOfPairs[2][kMaxTokens] = {{DSV4MX_ALL(uint32_t, false)},
                                              {DSV4MX_ALL(uint32_t, true)}};
#undef DSV4MX_ROW
#undef DSV4MX_ALL

void Gemm(const GemmArgs& args) {
  if (args.tiles == 2 && args.tokens <= kMaxTwinTokens)
    return kTwin[args.wide][args.tokens - 1](args, 0);
  for (int tile = 0; tile < args.tiles; ++tile) kSingle[args.wide][args.tokens - 1](args, tile);
}

}  // namespace

const CpuKernels kAvx512Kernels = {kMaxTokens, Gemm, nullptr};

void GemmOfPairsAvx512(const GemmArgs& args) {
  for (int tile = 0; tile < args.tiles; ++tile) kOfPairs[args.wide][args.tokens - 1](args, tile);
}

}  // namespace dsv4mx::cpu
