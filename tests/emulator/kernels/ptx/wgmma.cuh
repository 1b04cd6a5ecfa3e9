// In place of kernels/ptx/wgmma.cuh: products are done when they are asked for.
#ifndef DSV4MX_KERNELS_PTX_WGMMA_CUH_
#define DSV4MX_KERNELS_PTX_WGMMA_CUH_

#include "tests/emulator/device.h"

namespace dsv4mx {

template <int N>
struct WgmmaE4M3 {
  static_assert(N >= 8 && N <= 128 && N % 8 == 0, "columns of the instruction's wrappers");
  static void Mma(float* d, const uint32_t* a, uint64_t b, int accumulate) {
    emulator::Multiply(emulator::Number::kE4m3, N, d, a, b, accumulate != 0);
  }
};
template <int N>
struct WgmmaBf16 {
  static_assert(N >= 8 && N <= 128 && N % 8 == 0, "columns of the instruction's wrappers");
  static void Mma(float* d, const uint32_t* a, uint64_t b, int accumulate) {
    emulator::Multiply(emulator::Number::kBf16, N, d, a, b, accumulate != 0);
  }
};
template <int N>
struct WgmmaF16 {
  static_assert(N >= 8 && N <= 128 && N % 8 == 0, "columns of the instruction's wrappers");
  static void Mma(float* d, const uint32_t* a, uint64_t b, int accumulate) {
    emulator::Multiply(emulator::Number::kF16, N, d, a, b, accumulate != 0);
  }
};

// f(std::integral_constant<int, N>) with N the first of Low, Low + Step, ... High that is no less than columns.
template <int High, int Low = 8, int Step = 8, int N = Low, class F>
void ForWidth(int columns, F&& f) {
  if constexpr (N >= High) {
    f(std::integral_constant<int, High>());
  } else {
    if (columns <= N) return f(std::integral_constant<int, N>());
    ForWidth<High, Low, Step, N + Step>(columns, f);
  }
}
inline void WgmmaFence() {}
inline void WgmmaCommit() {}
template <int Pending>
void WgmmaWait() {}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_PTX_WGMMA_CUH_
