// The kernel for AVX-512 BF16: vdpbf16ps multiplies two k of 16 rows at once, twice as many as a multiply-and-add. One shift
// and one lookup turn a code of 32 rows into bf16; two neighbouring k of the same rows are then interleaved into pairs, which
// leaves the rows in an order of their own (Rows below) until the end.
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
constexpr int kMaxTokens = 12;     // 24 sums, four pairs of weights, the table, and room
constexpr int kMaxTwinTokens = 4;  // with two tiles at once
constexpr int64_t kAhead = 2048;   // bytes of codes to fetch ahead

// The values of the codes divided by 2^kHeadroom, as bf16.
constexpr uint16_t Value(int code) {
  constexpr uint16_t kMagnitude[8] = {0,      0x3f00, 0x3f80, 0x3fc0,
                                      0x4000, 0x4040, 0x4080, 0x40c0};  // 0 to 6
  const int lowered = code % 8 == 0 ? 0 : kMagnitude[code % 8] - (kHeadroom << 7);
  return static_cast<uint16_t>(lowered | (code >= 8 ? 0x8000 : 0));
}
struct alignas(64) Table {
  uint16_t value[32];  // the lookup takes five bits: both halves are alike
};
constexpr Table MakeTable() {
  Table table{};
  for (int i = 0; i < 32; ++i) table.value[i] = Value(i % 16);
  return table;
}
constexpr Table kTable = MakeTable();

inline __m512 Multiply(__m512 sum, __m512i pairs, __m512i x) {
  return _mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, pairs),
                          __builtin_bit_cast(__m512bh, x));
}

// Interleaving 16-bit lanes stays inside 128 bits: of rows 8q + 0..7 the low half gets the first four, the high half the
// others.
struct Rows {
  __m512 low, high;
};

// 2^(b - 127 + kHeadroom) of a group.
inline Rows LoadScales(const uint8_t* scales) {
  const __m256i fours =
      _mm256_permutevar8x32_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)),
                                  _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
  const __m512i headroom = _mm512_set1_epi32(kHeadroom);
  const __m512i low = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(fours));
  const __m512i high = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(fours, 1));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(low, headroom), 23)),
          _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(high, headroom), 23))};
}

inline void StoreRows(Rows rows, float* out) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  _mm512_store_ps(out, _mm512_permutex2var_ps(rows.low, first, rows.high));
  _mm512_store_ps(out + 16, _mm512_permutex2var_ps(rows.low, second, rows.high));
}

template <int kTiles, int kTokens>
void Kernel(const GemmArgs& a, int first_tile) {
  const __m512i table = _mm512_load_si512(kTable.value);
  Rows total[kTiles][kTokens];
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      total[i][t].low = total[i][t].high = _mm512_setzero_ps();
    }
  }
  const uint32_t* x = static_cast<const uint32_t*>(a.x);
  int64_t at = 0;
  for (int64_t k = 0; k < a.k; k += kGroupK) {
    Rows sum[kTiles][kTokens];
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) sum[i][t].low = sum[i][t].high = _mm512_setzero_ps();
    }
    for (int u = 0; u < kGroupK / kUnitK; ++u) {
      __m512i pairs[kTiles][2][2];  // of k = 0, 1 and of 2, 3, low and high rows
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        const uint8_t* from = a.codes[first_tile + i] + at;
        _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_T0);
        const __m512i codes = _mm512_load_si512(from);
        const __m512i k0 = _mm512_permutexvar_epi16(codes, table);
        const __m512i k1 = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), table);
        const __m512i k2 = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), table);
        const __m512i k3 = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), table);
        pairs[i][0][0] = _mm512_unpacklo_epi16(k0, k1);
        pairs[i][0][1] = _mm512_unpackhi_epi16(k0, k1);
        pairs[i][1][0] = _mm512_unpacklo_epi16(k2, k3);
        pairs[i][1][1] = _mm512_unpackhi_epi16(k2, k3);
      }
      at += 2 * kRows;
#pragma GCC unroll 2
      for (int j = 0; j < kUnitK / 2; ++j) {
#pragma GCC unroll 12
        for (int t = 0; t < kTokens; ++t) {
          const __m512i value = _mm512_set1_epi32(static_cast<int>(x[j * kTokens + t]));
#pragma GCC unroll 2
          for (int i = 0; i < kTiles; ++i) {
            sum[i][t].low = Multiply(sum[i][t].low, pairs[i][j][0], value);
            sum[i][t].high = Multiply(sum[i][t].high, pairs[i][j][1], value);
          }
        }
      }
      x += kUnitK / 2 * kTokens;
    }
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      const Rows scale = LoadScales(a.scales[first_tile + i] + k);
#pragma GCC unroll 12
      for (int t = 0; t < kTokens; ++t) {
        total[i][t].low = _mm512_fmadd_ps(sum[i][t].low, scale.low, total[i][t].low);
        total[i][t].high = _mm512_fmadd_ps(sum[i][t].high, scale.high, total[i][t].high);
      }
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 12
    for (int t = 0; t < kTokens; ++t) {
      StoreRows(total[i][t], a.out + ((first_tile + i) * kTokens + t) * kRows);
    }
  }
}

using KernelFn = void (*)(const GemmArgs&, int);

constexpr KernelFn kSingle[kMaxTokens] = {
    Kernel<1, 1>, Kernel<1, 2>, Kernel<1, 3>, Kernel<1, 4>,  Kernel<1, 5>,  Kernel<1, 6>,
    Kernel<1, 7>, Kernel<1, 8>, Kernel<1, 9>, Kernel<1, 10>, Kernel<1, 11>, Kernel<1, 12>};
constexpr KernelFn kTwin[kMaxTwinTokens] = {Kernel<2, 1>, Kernel<2, 2>, Kernel<2, 3>, Kernel<2, 4>};

void Gemm(const GemmArgs& args) {
  if (args.tiles == 2 && args.tokens <= kMaxTwinTokens) return kTwin[args.tokens - 1](args, 0);
  for (int tile = 0; tile < args.tiles; ++tile) kSingle[args.tokens - 1](args, tile);
}

}  // namespace

const CpuKernels kAvx512Bf16Kernels = {kMaxTokens, Gemm, GemmOfPairsAvx512};

}  // namespace dsv4mx::cpu
