// W4A8 on a bf16 path: h, a bf16 panel, passes through E4M3 in place. The order inside a block of 128 and the swizzle do
// not matter, because a block keeps its scale wherever its values stand.
#include "kernels/mxfp4/split.cuh"
#include "kernels/ptx/launch.cuh"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"

namespace dsv4mx {
namespace {

constexpr int kThreads = 256;

// One pair a block; 16 lanes hold a block of 128 values, eight each.
__global__ void __launch_bounds__(kThreads) Quantise(const __grid_constant__ QuantiseArgs a) {
  WaitForPrimary();
  LaunchDependents();
  const int pair = blockIdx.x;
  if (pair >= ChunkTokens(a.routing) * a.routing.top_k) return;
  const int64_t panel_row = a.panel_row[pair];
  if (panel_row < 0) return;
  const int lines = (a.k + 63) / 64, lane = threadIdx.x % 16;
  for (int first = 0; first < lines; first += kThreads / 8) {
    const int line = first + threadIdx.x / 16 * 2 + lane / 8;
    uint4* const at = reinterpret_cast<uint4*>(
        a.panel + (line / 2 * a.panel_rows + (panel_row & ~int64_t{7})) * 256 + line % 2 * 1024 +
        panel_row % 8 * 128 + lane % 8 * 16);
    const uint4 q = line < lines ? *at : make_uint4(0, 0, 0, 0);
    uint32_t words[4] = {q.x, q.y, q.z, q.w}, top = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      top = max(top, words[i] << 16 & 0x7FFFFFFFu);
      top = max(top, words[i] & 0x7FFF0000u);
    }
#pragma unroll
    for (int x = 1; x < 16; x *= 2) top = max(top, __shfl_xor_sync(~0u, top, x));
    if (line >= lines) continue;  // the same in all that shuffle
    const float scale = E4m3Scale(top), inverse = PlaneInverse(scale);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float low = RoundE4m3(__uint_as_float(words[i] << 16) * inverse) * scale;
      const float high = RoundE4m3(__uint_as_float(words[i] & 0xFFFF0000u) * inverse) * scale;
      words[i] =
          __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xFFFF0000u);  // exact in bf16
    }
    *at = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

}  // namespace

cudaError_t LoadQuantise() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, Quantise);
}

int LaunchQuantise(const QuantiseArgs& args, KernelStream stream) {
  return LaunchDependent(Quantise, dim3(args.routing.tokens * args.routing.top_k), dim3(kThreads),
                         0, stream, args);
}

}  // namespace dsv4mx
