// GEMM2 on a slice of the channels held here (launch_slices.h): the bf16 path's kernel, whose producer of weights steps from tile
// to tile of the whole matrix while it reads the slice's part of each.
#include "kernels/dist/launch_slices.h"
#include "kernels/sm90_gemm_launch.cuh"

namespace dsv4mx::dist {
namespace {

struct SliceKernelArgs : GemmKernelArgs {
  int64_t tile_bytes;
};

template <class C>
__device__ __forceinline__ void ProduceSliceWeights(const SliceKernelArgs& a, const TileList& list,
                                                    Ring<C> ring) {
  static_assert(C::kStageK == kSliceUnit, "every stage of a slice is a whole block");
  ForEachItem<C>(list, ring, 0, [&](const Item& item) {
    const int tile = item.row_block * C::kTiles, live = min(C::kTiles, a.tiles - tile);
    const uint64_t policy =
        TilesOf(list, item.expert) > 1 ? PolicyEvictNormal() : PolicyEvictFirst();
    const uint8_t* from = a.slabs + item.expert * a.slab_bytes + a.matrix + tile * a.tile_bytes;
#pragma unroll 1
    for (int k = 0; k < a.k; k += C::kStageK, from += C::kWeightBytes) {
      BarrierWait(ring.Empty(), ring.phase ^ 1);
      BarrierArriveExpect(ring.Full(), live * C::kWeightBytes);
#pragma unroll 1
      for (int i = 0; i < live; i++) {
        BulkCopy(ring.Weights() + i * C::kWeightBytes, from + i * a.tile_bytes, C::kWeightBytes,
                 ring.Full(), policy);
      }
      ring.Next();
    }
  });
  if (threadIdx.x % 32 != 0) return;
  BarrierWait(ring.Empty(), ring.phase ^ 1);
  BarrierArrive(ring.Full());
}

// As MoeGemm (sm90_moe_gemm.cuh says why).
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    SliceGemm(const __grid_constant__ SliceKernelArgs a) {
  DSV4MX_DYNAMIC_SHARED(shared);
  __shared__ __align__(8) uint64_t barriers[2 * kMaxStages];
  Ring<C> ring{a, SharedAddress(shared), SharedAddress(barriers), 0, 0};
  const TileList list = TileListAt(shared + a.stages * a.stage_bytes, a.routing.experts,
                                   (a.tiles + C::kTiles - 1) / C::kTiles);
  if (threadIdx.x == 0) {
    for (int i = 0; i < a.stages; i++) {
      BarrierInit(ring.full + 8 * i, kProducerWarps);
      BarrierInit(ring.full + 8 * (kMaxStages + i), C::kWarpgroups * 4 * kLanesThatRelease);
    }
    FenceAsyncProxy();
  }
  LaunchDependents();
  BuildTileList<C::kThreads>(a, list);
  if (threadIdx.x >= C::kWarpgroups * 128) {
    RegistersDown<C::kProducerRegisters>();
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0) - C::kWarpgroups * 4;
    if (warp == 0) ProduceSliceWeights<C>(a, list, ring);
    if (warp == 1) ProduceHeaders<C>(a, list, ring);
    if (warp == 2) ProducePanel<C>(a, list, ring);
  } else {
    RegistersUp<C::kMathRegisters>();
    Consume<C>(a, ring, HiddenScratch{});
  }
}

template <class C>
cudaError_t Launch(const SliceGemmArgs& args, cudaStream_t stream) {
  if (args.gemm.k <= 0 || args.gemm.k % kSliceUnit != 0) return cudaErrorInvalidValue;
  SliceKernelArgs a{{args.gemm, 0, 0, 0, 0}, args.tile_bytes};
  const int shared = DivideShared<C>(a);
  if (shared == 0) return cudaErrorInvalidValue;
  return LaunchDependent(SliceGemm<C>, dim3(a.ctas), dim3(C::kThreads), shared, stream, a);
}

// No warp of this kernel takes items out of a counter: they are dealt out.
template <Path P>
struct SliceConfig : GemmConfig<P, 2> {
  static constexpr bool kShares = false;
};
using Narrow = SliceConfig<Path::kBf16>;
using Wide = SliceConfig<Path::kBf16Wide>;

}  // namespace

cudaError_t LoadSliceGemm() {
  const cudaError_t error = cudaFuncSetAttribute(
      SliceGemm<Narrow>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(SliceGemm<Wide>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSharedLimit);
}

int LaunchSliceGemm2(Path path, const SliceGemmArgs& args, KernelStream stream) {
  if (path == Path::kBf16) return Launch<Narrow>(args, stream);
  if (path == Path::kBf16Wide) return Launch<Wide>(args, stream);
  return cudaErrorInvalidValue;
}

}  // namespace dsv4mx::dist
