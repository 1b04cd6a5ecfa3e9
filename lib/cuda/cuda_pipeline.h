// The stages of a call on one chunk of its tokens, in order: read ids (where they are not plain), gather, GEMM1, level (where
// the plan wants it) or quantise (where a bf16 path serves W4A8), GEMM2, combine. Each is a launch on the caller's stream, or part of a neighbour's where
// there are few pairs; whoever needs other work between them calls them one by one.
#ifndef DSV4MX_LIB_CUDA_CUDA_PIPELINE_H_
#define DSV4MX_LIB_CUDA_CUDA_PIPELINE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/launch.h"
#include "lib/base/backend.h"
#include "lib/base/plan.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"
#include "lib/cuda/cuda_store.h"
#include "lib/cuda/cuda_workspace.h"

namespace dsv4mx::cuda {

// What of a layer lies on the device.
struct LayerTables {
  int32_t* id_map = nullptr;       // [id_count], or null where ids are in order
  int64_t* invalid_ids = nullptr;  // pinned, of layers that check ids
};

// Tokens of a call.
struct TokenRange {
  int64_t begin, count;
};

class Pipeline {
 public:
  // The layer's spec, plan, tables, store and call outlive it. `part` is of `chunk`, one of the plan's, which is computed in
  // several parts in order where the workspace holds no more.
  Pipeline(const LayerSpec& spec, const Plan& plan, const LayerTables& tables,
           const CudaStore& store, const ApplyCall& call, TokenRange chunk, TokenRange part,
           int32_t multiprocessors);

  Status ReadIds(cudaStream_t stream) const;
  Status Gather(cudaStream_t stream) const;
  Status Gemm1(cudaStream_t stream) const;
  // Gives rows of h one scale each.
  Status Level(cudaStream_t stream) const;
  // W4A8 on a bf16 path, whose GEMM1 leaves h in bf16: passes it through E4M3.
  Status Quantise(cudaStream_t stream) const;
  Status Gemm2(cudaStream_t stream) const { return Gemm2To(nullptr, stream); }
  // `targets`: [panel rows] where rows of bf16 slots go, or null: into the workspace. Not for few pairs.
  Status Gemm2To(void* const* targets, cudaStream_t stream) const;
  Status Combine(cudaStream_t stream) const;
  // Up to h; then GEMM2 on channels [first, first + count) of those held here, into fp32 slots, by the bf16 path.
  Status RunToHidden(cudaStream_t stream) const;
  Status Gemm2Slice(int32_t first, int32_t count, cudaStream_t stream) const;
  CombineArgs CombineOf() const;
  // All of them.
  Status Run(cudaStream_t stream) const;
  // All but Combine, of a call without an output: what is wanted then is the slots.
  Status RunToSlots(cudaStream_t stream) const;
  void* slots() const { return work_.slots; }
  int32_t channels() const { return spec_.intermediate; }
  // [tokens, top_k] row of each pair's slot, or null where slots are by pair.
  const int32_t* slot_rows() const { return few_ ? nullptr : work_.panel_row; }

 private:
  bool WeightIsBf16() const { return spec_.router_weight_dtype == DSV4MX_DTYPE_BF16; }
  bool ReadsIds() const;
  // By parts, whose experts are of the paths that they have in the whole chunk.
  bool InParts() const { return plan_.part_count > 1 && part_.count < chunk_.count; }
  Status Sizes(cudaStream_t stream) const;
  Routing CallersRouting(TokenRange tokens) const;
  const void* CallersWeights() const;
  GatherArgs GatherOf() const;
  GemmArgs Gemm1Of() const;
  GemmArgs Gemm2Of() const;
  GemmArgs Gemm() const;
  // The plan's parts one after the other.
  Status LaunchParts(int (*launch)(Path, const GemmArgs&, KernelStream), GemmArgs a,
                     cudaStream_t stream) const;
  // For experts of f16, which look whether that could hold h.
  Status LaunchAgain(GemmArgs gemm2, cudaStream_t stream) const;

  const LayerSpec& spec_;
  const Plan& plan_;
  const LayerTables& tables_;
  const CudaStore& store_;
  const ApplyCall& call_;
  TokenRange chunk_, part_;
  int32_t multiprocessors_;
  bool limited_;     // to some of the chip's
  bool few_;         // by the kernels for few pairs, which take the whole chip
  bool half_slots_;  // those of f16 are of f16: only Combine reads them
  bool levelled_;    // likewise
  Workspace work_;
  Routing routing_{};    // what the stages behind ReadIds go by
  const void* weights_;  // router weights, likewise
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_PIPELINE_H_
