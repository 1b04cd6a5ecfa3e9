// How the teams that share a tile of GEMM1 add up. The kernels for many pairs add an output's sums of 512 of K (W4A8: 256) in order, each
// with its exponent base. Here each team leaves the sums of its part of K, not yet added, with the bases beside them, as
// *records* in the shared memory of one CTA of the cluster, and one team of that CTA adds them in the same order with the
// same instructions. So the bits do not depend on how K was shared, and they are those of the kernels for many pairs.
#ifndef DSV4MX_KERNELS_FEW_SUMS_CUH_
#define DSV4MX_KERNELS_FEW_SUMS_CUH_

#include "kernels/few/stage.cuh"
#include "kernels/ptx/cluster.cuh"

namespace dsv4mx {

// The record of the sum that ends with block `number` of K. Blocks share sums by 2^shift.
__device__ __forceinline__ int RecordOf(int number, int joined, int shift) {
  return number < joined ? number >> shift
                         : ((joined + (1 << shift) - 1) >> shift) + number - joined;
}
__device__ __forceinline__ int RecordBytes(int tokens) {
  return kFewRecordBytes - kFewSumBytes + tokens * (kFewSumBytes / kFewTokens);
}
// To a record in some CTA of the cluster, whose barrier counts the bytes.
__device__ __forceinline__ void SendRecord(uint32_t record, uint32_t bar, const RowSums& sum,
                                           const RowBases& base, const MmaThread& me, int tokens) {
  if (me.t == 0) {
    SendWord(record + kFewSumBytes + (me.warp * 8 + me.g) * 4, base.row0 | base.row1 << 8, bar);
  }
  if (me.t < tokens) SendFloats(record + (me.warp * 32 + me.lane) * 8, sum.row0, sum.row1, bar);
}

__device__ __forceinline__ void AddSum(RowSums& to, const RowSums& sum, const RowBases& base) {
  to.row0 = fmaf(PlaneUnit(base.row0), sum.row0, to.row0);
  to.row1 = fmaf(PlaneUnit(base.row1), sum.row1, to.row1);
}
// GEMM2's, with the scale of h.
__device__ __forceinline__ void AddSum(RowSums& to, const RowSums& sum, const RowBases& base,
                                       float scale) {
  to.row0 = fmaf(PlaneUnit(base.row0) * scale, sum.row0, to.row0);
  to.row1 = fmaf(PlaneUnit(base.row1) * scale, sum.row1, to.row1);
}

__device__ __forceinline__ RowSums AddRecords(uint32_t records, int count, const MmaThread& me) {
  RowSums sum{0.0f, 0.0f};
#pragma unroll 4
  for (int i = 0; i < count; i++, records += kFewRecordBytes) {
    const uint32_t bases = LoadShared4(records + kFewSumBytes + (me.warp * 8 + me.g) * 4);
    const float2 v = LoadSharedFloat2(records + (me.warp * 32 + me.lane) * 8);
    AddSum(sum, {v.x, v.y}, {bases & 255u, bases >> 8});
  }
  return sum;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_FEW_SUMS_CUH_
