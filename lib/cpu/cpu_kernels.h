// The one kernel of the CPU backend's fast path, as a table per instruction set. This header is all that the files
// compiled for an instruction set include: it holds data only, no function that two of them could both emit.
//
//   out[tile][t][r] = sum over groups g of  scale[g][r] * ( sum over k in g of  value(code[r][k]) * x[k][t] )
//
// in fp32, groups ascending, k inside a group in an order of the kernel's own. The order depends on nothing else, so a
// result has the same bits for any number of tokens, tiles and threads.
//
// The product instruction of AVX-512 BF16 takes pairs of bf16 and flushes subnormals. With the codes divided by 2^8 no sum
// of a group can be one, as long as no x of the token is smaller than 2^-110 (all products are then multiples of 2^-126):
// other tokens, and experts with large scales, take the table's second kernel.
#ifndef DSV4MX_LIB_CPU_CPU_KERNELS_H_
#define DSV4MX_LIB_CPU_CPU_KERNELS_H_

#include <cstdint>

namespace dsv4mx::cpu {

// A group's sum is of code * x, so it can be far larger than what it contributes: x near 2^121 under a scale of 2^-100. It
// is therefore made of codes divided by 2^8, which keeps it finite for every finite x (32 * 6 < 2^8) and exact (a bf16 x is
// a multiple of 2^-133), and the scale carries the 2^8, as long as it stays a number: up to byte 246. Experts with larger
// bytes multiply each code by its scale first, which also gives Inf where a weight overflows bf16.
inline constexpr int kHeadroom = 8;
inline constexpr int kFirstWideScale = 255 - kHeadroom;

struct GemmArgs {
  const uint8_t* codes[2];  // tiles of 32 rows, cpu_layout.h; 64-byte aligned
  const uint8_t* scales[2];
  int tiles;      // 1 or 2
  int tokens;     // 1..max_tokens
  bool wide;      // a scale byte of kFirstWideScale or more occurs
  int64_t k;      // a multiple of 32
  const void* x;  // [k][tokens] in fp32, or [k/2][tokens] pairs of bf16, even k in the low half
  float* out;     // [tiles][tokens][32], 64-byte aligned
};

inline constexpr int kMaxBlockTokens = 12;  // largest max_tokens of any table

// The smallest magnitude but zero that the kernel of pairs takes, as a bf16: 2^-110.
inline constexpr uint16_t kSmallestFast = (127 - 110) << 7;

struct CpuKernels {
  int max_tokens;
  void (*gemm)(const GemmArgs& args);
  // Null where x is fp32. Else x comes in pairs, gemm wants args.wide false and no x below kSmallestFast, and this kernel
  // takes the rest.
  void (*rest)(const GemmArgs& args);
};

extern const CpuKernels kPortableKernels;
extern const CpuKernels kAvx2Kernels, kAvx512Kernels, kAvx512Bf16Kernels;  // of x86-64 alone

// The fp32 kernel of AVX-512 for x in pairs.
void GemmOfPairsAvx512(const GemmArgs& args);

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CPU_KERNELS_H_
