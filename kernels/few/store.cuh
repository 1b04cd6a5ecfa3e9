// Where the sums of the kernels for few pairs go: h by pair, or slots by pair.
#ifndef DSV4MX_KERNELS_FEW_STORE_CUH_
#define DSV4MX_KERNELS_FEW_STORE_CUH_

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/bias.cuh"
#include "kernels/epilogue/slots.cuh"
#include "kernels/few/pairs.cuh"
#include "kernels/few/sums.cuh"
#include "kernels/few/team_ring.cuh"

namespace dsv4mx {

// GEMM1's epilogue: activation, then h of the lane's token and channel. `scale` is that of its row of x.
__device__ __forceinline__ void FewStoreHidden(const FewKernelArgs& a, const RowSums& sum,
                                               const FewTile& tile, int row_tile, int pair,
                                               float scale, const MmaThread& me) {
  const GemmArgs& m = a.gemm;
  if (me.t >= tile.count) return;
  const RowBias bias = LoadBias(m, m.slabs + tile.expert * m.slab_bytes, row_tile, me);
  float h = ActivationOf(fmaf(sum.row0, scale, bias.row0), fmaf(sum.row1, scale, bias.row1),
                         MakeActivation(m));
  if (a.gather.hidden_weight != nullptr)
    h *= LoadWeight(a.gather.router_weights, a.gather.weight_is_bf16, pair);
  // The place that StoreHidden of the plane path gives the channel in its block.
  const int at = row_tile * 32 + (me.g & 1) * 16 + 4 * (me.g >> 1) + me.warp;
  reinterpret_cast<float*>(m.h)[static_cast<int64_t>(pair) * (m.tiles * 32) + at] = h;
}

// kWhole2's: the lane's two neighbouring values of its token's slot, which begins at `slot`.
__device__ __forceinline__ void FewStoreSlot(const GemmArgs& m, const RowSums& sum,
                                             const FewTile& tile, int row_tile, int64_t slot,
                                             const MmaThread& me) {
  const int column = row_tile * 64 + me.warp * 16 + me.g * 2;
  if (me.t >= tile.count || column >= m.hidden) return;
  float row0 = sum.row0, row1 = sum.row1;
  if (m.bias >= 0) {
    const RowBias bias = LoadBias(m, m.slabs + tile.expert * m.slab_bytes, row_tile, me);
    row0 += bias.row0, row1 += bias.row1;
  }
  if (m.slots_are_bf16) {
    StoreSlot(static_cast<__nv_bfloat16*>(m.slots) + slot + column, row0, row1);
  } else {
    StoreSlot(static_cast<float*>(m.slots) + slot + column, row0, row1);
  }
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_STORE_CUH_
