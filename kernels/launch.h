// The one header of kernels/ that lib/cuda sees: plain arguments and launch functions, no CUDA type but the stream. All
// pointers are device pointers; every launch is asynchronous, allocates nothing and returns a cudaError_t as int.
#ifndef DSV4MX_KERNELS_LAUNCH_H_
#define DSV4MX_KERNELS_LAUNCH_H_

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace dsv4mx {

using KernelStream = CUstream_st*;

enum class Path : int32_t { kPlanes = 0, kBf16 = 1, kBf16Wide = 2 };

// Which ids are held here, and how many tokens there are.
struct Routing {
  const void* ids;               // [tokens, top_k] int32 or int64
  const int32_t* expert_map;     // [experts_global] or null
  const int32_t* tokens_device;  // or null
  int32_t ids_are_64;
  int32_t token_begin;  // first token of this chunk
  int32_t tokens;       // host bound of this chunk
  int32_t top_k;
  int32_t experts, expert_first, experts_global;
};

// Align: sorted[] lists the chunk's pairs (token * top_k + slot, token counted inside the chunk) grouped by local expert,
// ascending inside an expert. In the same launch x is rewritten for the path: permuted, and split into planes.
struct PrepareArgs {
  Routing routing;
  int32_t* counts;    // [experts]
  int32_t* offsets;   // [experts]
  int32_t* sorted;    // [tokens * top_k]
  const uint16_t* x;  // bf16 [tokens, hidden] of this chunk
  int64_t x_stride;   // elements
  int32_t hidden;
  uint8_t* rows;  // [tokens] rows of row_bytes: planes (256 bytes per 128 of K: high, low), or bf16
  int64_t row_bytes;
  float* row_scale;          // [tokens], planes only
  const void* input_weight;  // router weights to multiply x with (top_k = 1), or null
  int32_t weight_is_bf16;
  Path path;
};
int LaunchPrepare(const PrepareArgs& args, KernelStream stream);

// GEMM1 (w13, activation) and GEMM2 (w2) over the sorted pairs.
struct GemmArgs {
  const uint8_t* slabs;  // experts in the sm90 layout
  int64_t slab_bytes;
  int64_t matrix, base, bias;  // offsets inside a slab; bias < 0 = none
  int32_t tiles;               // 64-row tiles of the matrix
  int32_t k;
  int32_t experts;
  int32_t top_k;
  const int32_t* counts;
  const int32_t* offsets;
  const int32_t* sorted;
  const uint8_t* rows;  // GEMM1: by token; GEMM2: by sorted position
  int64_t row_bytes;
  const float*
      row_scale;  // planes: GEMM1 [tokens]; GEMM2 [pairs, row_scale_stride], one per 128 of K
  int32_t row_scale_stride;
  // GEMM1
  uint8_t* h;  // [pairs] rows of h_bytes
  int64_t h_bytes;
  float* h_scale;  // planes: [pairs, h_scale_stride]
  int32_t h_scale_stride;
  int32_t intermediate;
  float clamp_limit, alpha, beta;
  int32_t plain_silu;         // alpha = 1, beta = 0
  const void* hidden_weight;  // router weights that multiply h, or null
  int32_t weight_is_bf16;
  // GEMM2
  void* slots;  // [pairs, hidden] by pair index
  int32_t slots_are_bf16;
  int32_t hidden;
  // launch
  int32_t ctas;
  int32_t width;                // largest token tile
  int32_t stages, stage_bytes;  // set by the launch
};
int LaunchGemm1(Path path, const GemmArgs& args, KernelStream stream);
int LaunchGemm2(Path path, const GemmArgs& args, KernelStream stream);

// out[token] = routed_scaling_factor * sum over slots of weight * slot, in slot order, in fp32.
struct CombineArgs {
  Routing routing;
  const void* slots;  // [tokens * top_k, hidden]
  int32_t slots_are_bf16;
  const void* weights;  // [tokens, top_k] or null (already applied)
  int32_t weight_is_bf16;
  float routed_scaling_factor;
  void* out;
  int64_t out_stride;  // elements
  int32_t out_is_f32;
  int32_t hidden;
};
int LaunchCombine(const CombineArgs& args, KernelStream stream);

// Loads every kernel of the library into the current device and sets its shared-memory limits.
int LoadKernels();

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_LAUNCH_H_
