// Every thread reads its own part of a buffer far larger than the caches, or keeps twelve independent chains of
// multiply-and-add busy: enough for two pipes of latency four or five. The best of several rounds counts, because a
// ceiling is what was possible at least once.
#include "tests/bench/cpu_ceilings.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace dsv4mx::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = size_t{1} << 30;
constexpr int kChains = 12;
constexpr int kFmaSteps = 20000;

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// The sums are stored where the compiler cannot follow, or it would drop the loops.
std::atomic<uint64_t> sink;

// Vectors of 16 bytes, which every processor here has: SSE2, or NEON.
using Words = uint64_t __attribute__((vector_size(16), may_alias));
using Floats = float __attribute__((vector_size(16)));
#if defined(__x86_64__)
#define DSV4MX_VECTOR_REGISTER "+x"
#else
#define DSV4MX_VECTOR_REGISTER "+w"
#endif

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void ReadPortable(const uint8_t* p, size_t n) {
  Words sum[4] = {};
  for (size_t at = 0; at < n; at += 64) {
    for (size_t j = 0; j < 4; ++j) sum[j] ^= *reinterpret_cast<const Words*>(p + at + 16 * j);
  }
  sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
  sink += sum[0][0];
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) void ReadAvx2(const uint8_t* p, size_t n) {
  __m256i sum[4] = {};
  for (size_t at = 0; at < n; at += 128) {
    for (size_t j = 0; j < 4; ++j) {
      sum[j] = _mm256_xor_si256(
          sum[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(p + at + 32 * j)));
    }
  }
  sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
  sink += static_cast<uint64_t>(_mm256_extract_epi64(sum[0], 0));
}

__attribute__((target("avx512f"))) void ReadAvx512(const uint8_t* p, size_t n) {
  __m512i sum[4] = {};
  for (size_t at = 0; at < n; at += 256) {
    for (size_t j = 0; j < 4; ++j) {
      sum[j] = _mm512_xor_si512(sum[j], _mm512_load_si512(p + at + 64 * j));
    }
  }
  sum[0] = _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]));
  alignas(64) uint64_t words[8];
  _mm512_store_si512(words, sum[0]);
  sink += words[0];
}

#endif

// The empty asm keeps the compiler from folding steps together. Every loop over the chains is unrolled, or they would
// live in memory.
void FmaPortable() {
  constexpr Floats kOne = {1, 1, 1, 1};
  Floats chain[kChains];
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) chain[c] = kOne;
  const Floats factor = 0.999f * kOne, term = 0.001f * kOne;
  for (int i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      chain[c] = chain[c] * factor + term;
      asm volatile("" : DSV4MX_VECTOR_REGISTER(chain[c]));
    }
  }
  Floats sum = chain[0];
#pragma GCC unroll 12
  for (int c = 1; c < kChains; ++c) sum += chain[c];
  sink += static_cast<uint64_t>(sum[0]);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void FmaAvx2() {
  __m256 chain[kChains];
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) chain[c] = _mm256_set1_ps(1.0f);
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
  for (int i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      chain[c] = _mm256_fmadd_ps(chain[c], factor, term);
      asm volatile("" : "+x"(chain[c]));
    }
  }
  __m256 sum = chain[0];
#pragma GCC unroll 12
  for (int c = 1; c < kChains; ++c) sum = _mm256_add_ps(sum, chain[c]);
  sink += static_cast<uint64_t>(_mm256_cvtss_f32(sum));
}

__attribute__((target("avx512f"))) void FmaAvx512() {
  __m512 chain[kChains];
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) chain[c] = _mm512_set1_ps(1.0f);
  const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
  for (int i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      chain[c] = _mm512_fmadd_ps(chain[c], factor, term);
      asm volatile("" : "+v"(chain[c]));
    }
  }
  __m512 sum = chain[0];
#pragma GCC unroll 12
  for (int c = 1; c < kChains; ++c) sum = _mm512_add_ps(sum, chain[c]);
  sink += static_cast<uint64_t>(_mm512_cvtss_f32(sum));
}

__attribute__((target("avx512f,avx512bf16"))) void MultiplyBf16() {
  __m512 chain[kChains];
#pragma GCC unroll 12
  for (int c = 0; c < kChains; ++c) chain[c] = _mm512_set1_ps(1.0f);
  const __m512i pairs = _mm512_set1_epi32(0x3a003a00);
  for (int i = 0; i < kFmaSteps; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      chain[c] = _mm512_dpbf16_ps(chain[c], __builtin_bit_cast(__m512bh, pairs),
                                  __builtin_bit_cast(__m512bh, pairs));
      asm volatile("" : "+v"(chain[c]));
    }
  }
  __m512 sum = chain[0];
#pragma GCC unroll 12
  for (int c = 1; c < kChains; ++c) sum = _mm512_add_ps(sum, chain[c]);
  sink += static_cast<uint64_t>(_mm512_cvtss_f32(sum));
}
#endif

struct Isa {
  void (*read)(const uint8_t*, size_t);
  void (*fma)();
  int lanes;
};

Isa IsaOf(dsv4mx_cpu_isa isa) {
#if defined(__x86_64__)
  if (isa == DSV4MX_CPU_ISA_AVX512_BF16) return {ReadAvx512, MultiplyBf16, 32};
  if (isa == DSV4MX_CPU_ISA_AVX512) return {ReadAvx512, FmaAvx512, 16};
  if (isa == DSV4MX_CPU_ISA_AVX2) return {ReadAvx2, FmaAvx2, 8};
#else
  (void)isa;
#endif
  return {ReadPortable, FmaPortable, 4};
}

// Runs body(thread) on all threads again and again for `seconds`; the shortest round, in seconds. Threads start a round
// together, so that a round is work done at the same time.
double ShortestRound(int threads, double seconds, const std::function<void(int)>& body) {
  std::atomic<int> round{0}, finished{0};
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) {
    pool.emplace_back([&, t] {
      for (int seen = 0;;) {
        int now;
        while ((now = round.load()) == seen) Pause();
        if (now < 0) return;
        seen = now;
        body(t);
        ++finished;
      }
    });
  }
  double best = 1e30;
  const Clock::time_point begin = Clock::now();
  for (int r = 1; r <= 3 || Seconds(begin, Clock::now()) < seconds; ++r) {
    finished = 0;
    const Clock::time_point start = Clock::now();
    round = r;
    body(0);
    while (finished.load() != threads - 1) Pause();
    best = std::min(best, Seconds(start, Clock::now()));
  }
  round = -1;
  for (std::thread& t : pool) t.join();
  return best;
}

}  // namespace

CpuCeilings MeasureCpuCeilings(dsv4mx_cpu_isa isa, int threads, double seconds) {
  const Isa use = IsaOf(isa);
  const size_t part = kReadBytes / static_cast<size_t>(threads) / 4096 * 4096;
  const size_t bytes = part * static_cast<size_t>(threads);
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  const std::unique_ptr<uint8_t, Free> buffer(
      static_cast<uint8_t*>(std::aligned_alloc(4096, bytes)));
  if (buffer == nullptr) throw std::bad_alloc();
  std::memset(buffer.get(), 1, bytes);  // untouched pages would all be the one page of zeros

  CpuCeilings out;
  const double read = ShortestRound(threads, seconds, [&](int t) {
    use.read(buffer.get() + static_cast<size_t>(t) * part, part);
  });
  out.read_bytes = static_cast<double>(bytes) / read;
  constexpr int kTurns = 20;  // a few milliseconds a round
  const double fma = ShortestRound(threads, seconds, [&](int) {
    for (int i = 0; i < kTurns; ++i) use.fma();
  });
  out.flops = 2.0 * use.lanes * kChains * kFmaSteps * kTurns * threads / fma;
  return out;
}

std::string IsaName(dsv4mx_cpu_isa isa) {
  switch (isa) {
    case DSV4MX_CPU_ISA_AVX512_BF16:
      return "avx512bf16";
    case DSV4MX_CPU_ISA_AVX512:
      return "avx512";
    case DSV4MX_CPU_ISA_AVX2:
      return "avx2";
    default:
      return "portable";
  }
}

}  // namespace dsv4mx::bench
