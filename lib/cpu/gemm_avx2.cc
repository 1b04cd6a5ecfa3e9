// The kernel for AVX2 with F16C. Half a line, 32 bytes, is four codes of 16 rows. A code's value is a half-precision
// number whose low byte is zero, so one byte lookup gives 32 codes, a shift and a mask part them into 16 numbers each,
// and the load that widens eight of them to fp32 is one instruction: 17 for 64 codes, whatever the number of tokens, and
// most of them in pipes that multiply-and-add leaves idle.
//
// Those loads need the numbers in memory, so they pass through a ring of a few units in the first-level cache: while one
// unit is multiplied, one further on is decoded, a piece between any two blocks of multiplications. The processor finds
// both kinds of work close together, and nothing waits for what was just stored.
//
// Everything here has internal linkage: no function of this file can stand in for one of another file.
#include <immintrin.h>

#include "lib/cpu/cpu_kernels.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = 32, kGroupK = 32, kUnitK = 4, kHalfRows = 16, kUnits = kGroupK / kUnitK;
constexpr int kMaxTokens =
    6;  // 12 sums, two weights, a value of x, and one register to decode with
constexpr int kRing = 4, kDistance = 2;  // units in the ring, and from decoding to multiplying
constexpr int64_t kAhead = 2048;         // bytes of codes to fetch ahead

// Four k of 16 rows in half precision.
struct alignas(64) Unit {
  uint16_t value[kUnitK][kHalfRows];
};

inline __m256i LoadScales(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
// 2^(b-127): byte 0 means the subnormal 2^-127, every other byte is an exponent field.
inline __m256 ScaleOf(__m256i bytes) {
  return _mm256_castsi256_ps(
      _mm256_max_epu32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(0x00400000)));
}
// The same times 2^kHeadroom, for bytes below kFirstWideScale.
inline __m256 RaisedScaleOf(__m256i bytes) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(kHeadroom << 23)));
}

// sum += w * value, in place: left to itself, GCC picks forms that overwrite w, copies the sums about and spills them.
inline void MultiplyAdd(__m256 w, __m256 value, __m256* sum) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(*sum) : "x"(w), "x"(value));
}

struct Constants {
  __m256i high_bytes;  // of the values of the 16 codes in half precision
  __m256i nibble, high_byte;
};

inline void Decode(const uint8_t* codes, const Constants& c, Unit* unit) {
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {  // k = j and j + 2
    const __m256i line = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i index = _mm256_and_si256(j == 0 ? line : _mm256_srli_epi16(line, 4), c.nibble);
    const __m256i both = _mm256_shuffle_epi8(c.high_bytes, index);
    _mm256_store_si256(reinterpret_cast<__m256i*>(unit->value[j]), _mm256_slli_epi16(both, 8));
    _mm256_store_si256(reinterpret_cast<__m256i*>(unit->value[j + 2]),
                       _mm256_and_si256(both, c.high_byte));
  }
}

// kHalves halves of 16 rows, from half `first` of the tiles on.
template <int kHalves, int kTokens, bool kWide>
void Kernel(const GemmArgs& a, int first) {
  // In half precision an exponent is four steps of the high byte.
  constexpr int kLower = kWide ? 0 : kHeadroom * 4;
  const auto value = [](int high_byte) { return static_cast<char>(high_byte - kLower); };
  const __m128i high_bytes =
      _mm_setr_epi8(0x00, value(0x38), value(0x3c), value(0x3e), value(0x40), value(0x42),
                    value(0x44), value(0x46), static_cast<char>(0x80), value(0xb8), value(0xbc),
                    value(0xbe), value(0xc0), value(0xc2), value(0xc4), value(0xc6));
  Constants constants = {_mm256_broadcastsi128_si256(high_bytes), _mm256_set1_epi8(15),
                         _mm256_set1_epi16(static_cast<int16_t>(0xff00))};
  // With this many sums no register is free for constants or for values of x kept for later.
  constexpr bool kFull = kHalves * kTokens >= 5;

  __m256 total[kHalves][kTokens][2];
  const uint8_t* codes[kHalves];
  const uint8_t* scales[kHalves];
#pragma GCC unroll 4
  for (int i = 0; i < kHalves; ++i) {
#pragma GCC unroll 6
    for (int t = 0; t < kTokens; ++t) total[i][t][0] = total[i][t][1] = _mm256_setzero_ps();
    const int tile = (first + i) / 2, half = (first + i) % 2;
    codes[i] = a.codes[tile] + half * 2 * kHalfRows;
    scales[i] = a.scales[tile] + half * kHalfRows;
  }
  Unit ring[kRing][kHalves];
  for (int u = 0; u < kDistance; ++u) {
    for (int i = 0; i < kHalves; ++i) Decode(codes[i] + u * 2 * kRows, constants, &ring[u][i]);
  }
  const int64_t end = a.k / kUnitK * 2 * kRows;
  int64_t at = kDistance * 2 * kRows;
  const float* x = static_cast<const float*>(a.x);
  for (int64_t k = 0; k < a.k; k += kGroupK) {
    __m256 sum[kHalves][kTokens][2];
#pragma GCC unroll 4
    for (int i = 0; i < kHalves; ++i) {
#pragma GCC unroll 6
      for (int t = 0; t < kTokens; ++t) sum[i][t][0] = sum[i][t][1] = _mm256_setzero_ps();
    }
    for (int u = 0; u < kUnits; ++u) {
      const Unit* from = ring[u % kRing];
      Unit* to = ring[(u + kDistance) % kRing];
#pragma GCC unroll 16
      for (int n = 0; n < kUnitK * kHalves; ++n) {
        const int o = n / kHalves, i = n % kHalves;
        const int in_unit = o % 2 * 2 + o / 2;  // k = 0, 2, 1, 3: part of what a result's bits are
        // Loads are not to be moved up from here: what they loaded would take the place of sums.
        if constexpr (kFull) {
          asm volatile("" : "+m"(constants) : : "memory");
        } else if constexpr (kTokens > 1) {
          asm volatile("" : : : "memory");
        }
        __m256 w[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          w[v] = _mm256_cvtph_ps(
              _mm_load_si128(reinterpret_cast<const __m128i*>(from[i].value[in_unit] + 8 * v)));
          if constexpr (kWide) {
            w[v] = _mm256_mul_ps(w[v], ScaleOf(LoadScales(scales[i] + k + 8 * v)));
          }
        }
#pragma GCC unroll 6
        for (int t = 0; t < kTokens; ++t) {
          const __m256 value = _mm256_broadcast_ss(x + in_unit * kTokens + t);
          MultiplyAdd(w[0], value, &sum[i][t][0]);
          MultiplyAdd(w[1], value, &sum[i][t][1]);
        }
        if (n % 4 == 3) {
          const int half = n / 4;
          if (kHalves == 1 || half % 2 == 0) {  // once a line
            _mm_prefetch(reinterpret_cast<const char*>(codes[half] + at + kAhead), _MM_HINT_T0);
          }
          Decode(codes[half] + at, constants, &to[half]);
        }
      }
      at += at + 2 * kRows < end ? 2 * kRows : 0;  // the last unit comes again
      x += kUnitK * kTokens;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kHalves; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const __m256 scale =
            kWide ? _mm256_set1_ps(1.0f) : RaisedScaleOf(LoadScales(scales[i] + k + 8 * v));
#pragma GCC unroll 6
        for (int t = 0; t < kTokens; ++t) {
          total[i][t][v] = _mm256_fmadd_ps(sum[i][t][v], scale, total[i][t][v]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kHalves; ++i) {
#pragma GCC unroll 6
    for (int t = 0; t < kTokens; ++t) {
      const int tile = (first + i) / 2, half = (first + i) % 2;
      float* out = a.out + (tile * kTokens + t) * kRows + half * kHalfRows;
      _mm256_store_ps(out, total[i][t][0]);
      _mm256_store_ps(out + 8, total[i][t][1]);
    }
  }
}

template <int kHalves, int kTokens>
void Run(const GemmArgs& args) {
  for (int first = 0; first < 2 * args.tiles; first += kHalves) {
    if (args.wide) {
      Kernel<kHalves, kTokens, true>(args, first);
    } else {
      Kernel<kHalves, kTokens, false>(args, first);
    }
  }
}

// As many halves at once as registers hold: two pipes of latency four want at least eight sums, or additions wait for
// each other.
void Gemm(const GemmArgs& args) {
  switch (args.tokens) {
    case 1:
      return args.tiles == 2 ? Run<4, 1>(args) : Run<2, 1>(args);
    case 2:
      return Run<2, 2>(args);
    case 3:
      return Run<2, 3>(args);
    case 4:
      return Run<1, 4>(args);
    case 5:
      return Run<1, 5>(args);
    default:
      return Run<1, 6>(args);
  }
}

}  // namespace

const CpuKernels kAvx2Kernels = {kMaxTokens, Gemm, nullptr};

}  // namespace dsv4mx::cpu
