// The one kernel of the CPU backend's fast path, as a table per instruction set. This header is all that the files
// compiled for an instruction set include: it holds data only, no function that two of them could both emit.
//
//   out[tile][t][r] = sum over groups g of  scale[g][r] * ( sum over k in g of  value(code[r][k]) * x[k][t] )
//
// in fp32, groups ascending, k inside a group in an order of the instruction set's own. The order depends on nothing
// else, so a result has the same bits for any number of tokens, tiles and threads.
#ifndef DSV4MX_LIB_CPU_CPU_KERNELS_H_
#define DSV4MX_LIB_CPU_CPU_KERNELS_H_

#include <cstdint>

namespace dsv4mx::cpu {

struct GemmArgs {
  const uint8_t* codes[2];  // tiles of 32 rows, cpu_layout.h; 64-byte aligned
  const uint8_t* scales[2];
  int tiles;   // 1 or 2
  int tokens;  // 1..max_tokens
  // A scale byte of 253 or 254 occurs: there codes overflow bf16 and are infinite. Other experts never pay for the test.
  bool overflow;
  int64_t k;       // a multiple of 32
  const float* x;  // [k][tokens]
  float* out;      // [tiles][tokens][32], 64-byte aligned
};

inline constexpr int kMaxBlockTokens = 12;  // largest max_tokens of any table

struct CpuKernels {
  int max_tokens;
  void (*gemm)(const GemmArgs& args);
};

extern const CpuKernels kPortableKernels;
extern const CpuKernels kAvx2Kernels, kAvx512Kernels;  // of x86-64 alone

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CPU_KERNELS_H_
