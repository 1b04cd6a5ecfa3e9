// Align and rewrite x, in one launch. Blocks below `experts` each list the pairs of one expert; the others each rewrite
// one token's row for the number path. No block waits for another: an expert's offset is the number of pairs of lower
// experts, which its block counts itself.
#include "kernels/mxfp4/layout.h"
#include "kernels/mxfp4/split.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRounds = 8;

__device__ __forceinline__ int BlockSum(int v, int* scratch) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  int sum = 0;
  for (int w = 0; w < kWarps; w++) sum += scratch[w];
  return sum;
}

// Pairs keep their order: a block walks them in pieces of kThreads * kRounds, a warp owns kRounds lines of 32 of each.
__device__ void ListExpert(const PrepareArgs& a, int expert) {
  __shared__ int scratch[kWarps];
  const int pairs = ChunkTokens(a.routing) * a.routing.top_k;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int lower = 0, own = 0;
  for (int p = threadIdx.x; p < pairs; p += kThreads) {
    const int e = LocalExpert(a.routing, p);
    lower += e >= 0 && e < expert;
    own += e == expert;
  }
  const int offset = BlockSum(lower, scratch), count = BlockSum(own, scratch);
  if (threadIdx.x == 0) {
    a.offsets[expert] = offset;
    a.counts[expert] = count;
  }
  int written = offset;
  for (int first = 0; first < pairs && written < offset + count; first += kThreads * kRounds) {
    const int begin = first + warp * 32 * kRounds + lane;
    uint32_t hits[kRounds];
    int mine = 0;
#pragma unroll
    for (int i = 0; i < kRounds; i++) {
      const int p = begin + 32 * i;
      hits[i] = __ballot_sync(~0u, p < pairs && LocalExpert(a.routing, p) == expert);
      mine += __popc(hits[i]);
    }
    __syncthreads();
    if (lane == 0) scratch[warp] = mine;
    __syncthreads();
    int at = written;
    for (int w = 0; w < kWarps; w++) {
      at += w < warp ? scratch[w] : 0;
      written += scratch[w];
    }
#pragma unroll
    for (int i = 0; i < kRounds; i++) {
      if (hits[i] >> lane & 1) a.sorted[at + __popc(hits[i] & ((1u << lane) - 1))] = begin + 32 * i;
      at += __popc(hits[i]);
    }
  }
}

// Eight consecutive values, multiplied with the router weight where that belongs to the input.
__device__ __forceinline__ void LoadEight(const uint16_t* x, float weight, bool weighted,
                                          float* v) {
  const uint4 q = *reinterpret_cast<const uint4*>(x);
  const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
  if (!weighted) return;
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = __bfloat162float(__float2bfloat16_rn(v[i] * weight));
}

__device__ void RewriteRow(const PrepareArgs& a, int token) {
  __shared__ uint32_t peak;
  const uint16_t* x = a.x + token * a.x_stride;
  uint8_t* row = a.rows + token * a.row_bytes;
  const bool weighted = a.input_weight != nullptr;
  const float weight = weighted ? LoadWeight(a.input_weight, a.weight_is_bf16, token) : 1.0f;
  float inverse = 1.0f, v[8];
  if (a.path == Path::kPlanes) {
    if (threadIdx.x == 0) peak = 0;
    __syncthreads();
    uint32_t top = 0;
    for (int k = threadIdx.x * 8; k < a.hidden; k += kThreads * 8) {
      LoadEight(x + k, weight, weighted, v);
#pragma unroll
      for (int i = 0; i < 8; i++) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFu);
    }
    top = __reduce_max_sync(~0u, top);
    if (threadIdx.x % 32 == 0) atomicMax(&peak, top);
    __syncthreads();
    const float scale = PlaneScale(peak);
    inverse = PlaneInverse(scale);
    if (threadIdx.x == 0) a.row_scale[token] = scale;
  }
  for (int k = threadIdx.x * 8; k < a.hidden; k += kThreads * 8) {
    LoadEight(x + k, weight, weighted, v);
    if (a.path == Path::kPlanes) {
      // Eight values of one lane and step: even k go to one word, odd k to the word 16 bytes on.
      uint32_t high[2] = {0, 0}, low[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < 8; i++) {
        uint8_t h, l;
        SplitPlanes(v[i] * inverse, h, l);
        high[i & 1] |= static_cast<uint32_t>(h) << (i / 2 * 8);
        low[i & 1] |= static_cast<uint32_t>(l) << (i / 2 * 8);
      }
      const int64_t at = Sm90PlaneIndex(a.hidden, k);
      uint8_t* to = row + at / 128 * 256 + at % 128;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        *reinterpret_cast<uint32_t*>(to + 16 * h) = high[h];
        *reinterpret_cast<uint32_t*>(to + 16 * h + 128) = low[h];
      }
    } else {
      uint8_t* to = row + Sm90Bf16Index(a.hidden, k) * 2;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        *reinterpret_cast<__nv_bfloat162*>(to + 16 * i) = pair;
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) Prepare(const __grid_constant__ PrepareArgs a) {
  WaitForPrimary();  // the workspace may still be read by the call before
  LaunchDependents();
  const int block = blockIdx.x;
  if (block < a.routing.experts) {
    ListExpert(a, block);
  } else if (block - a.routing.experts < ChunkTokens(a.routing)) {
    RewriteRow(a, block - a.routing.experts);
  }
}

}  // namespace

cudaError_t LoadPrepare() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, Prepare);
}

int LaunchPrepare(const PrepareArgs& args, KernelStream stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(args.routing.experts + args.routing.tokens);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, Prepare, args);
}

}  // namespace dsv4mx
