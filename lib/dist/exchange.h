// A layer over a group, round by round: rows to their experts, the layer on what has come, results home, the sum; and the
// reduction of tensor-parallel ranks. What carries rows is a Carrier: stores into windows, or collectives.
//
// The steps have the names of what kernels will do one by one (lib/cuda/cuda_pipeline.h): ReadIds is Send, Gather, GEMM1 and
// GEMM2 are LayerBackend::ApplyRows, Combine is Finish.
#ifndef DSV4MX_LIB_DIST_EXCHANGE_H_
#define DSV4MX_LIB_DIST_EXCHANGE_H_

#include <cstdint>
#include <memory>

#include "kernels/dist/window.h"
#include "lib/base/backend.h"
#include "lib/base/pair_array.h"
#include "lib/dist/bound_layer.h"
#include "lib/dist/comm_spec.h"
#include "lib/dist/region.h"

namespace dsv4mx::dist {

// One call, checked.
struct LayerCall {
  const LayerSpec& spec;
  const LayerBackend& backend;
  const ExpertStore& store;
  const Census& census;
  const ApplyCall& call;
  int64_t comm_tokens;
  uint32_t comm_tag;
  dsv4mx_stream stream;
};

// What has come to this rank, or is its own: rows to compute.
class RowTable {
 public:
  void Place(uint8_t* memory, int64_t rows, int32_t top_k);
  static int64_t Bytes(int64_t rows, int32_t top_k);

  void Clear() { rows_ = 0; }
  // `experts` and `weights` are copied, top_k of each.
  void Add(const void* x, const int32_t* experts, const float* weights, int32_t top_k, void* slots);
  int64_t rows() const { return rows_; }
  const void** x() const { return x_; }
  const int32_t* experts() const { return experts_; }
  const float* weights() const { return weights_; }
  void** slots() const { return slots_; }

 private:
  int64_t rows_ = 0;
  const void** x_ = nullptr;
  void** slots_ = nullptr;
  int32_t* experts_ = nullptr;
  float* weights_ = nullptr;
};

// How long rows of this call are, and what ranks must agree on.
struct RoundSizes {
  int64_t hidden;
  int32_t top_k;
  int64_t slot_row;     // bytes of one route's result as it travels
  int64_t partial_row;  // bytes of one partial sum
  int64_t most;         // tokens of this round on any rank
  uint64_t tag;
};

// One rank's way to the others. Ranks are expert-parallel or tensor-parallel numbers, as the names say.
class Carrier {
 public:
  virtual ~Carrier() = default;

  // Why nothing works any more, or OK.
  virtual Status Broken() = 0;
  // A fault that this rank found outside of a wait. Returns what counts.
  virtual Status Break(const FaultWord& fault) = 0;
  virtual FaultWord Fault() const = 0;
  // This rank is gone for good.
  virtual void Leave() = 0;
  // Between two collective calls on the host: forgets faults and rounds.
  virtual Status Reset() = 0;
  virtual int64_t bytes() const = 0;

  // Expert parallel. One row to part `to`, its `at`-th; `experts` of max_top_k.
  virtual void Send(const RoundSizes& sizes, int32_t to, int64_t at, const RowMeta& meta,
                    const void* x) = 0;
  // Ends sending (sent[part] rows each), waits for the others, adds what came to the table.
  virtual Status Deliver(const RoundSizes& sizes, const int64_t* sent, RowTable* table) = 0;
  // Where the results of this rank's own row go: route by route of token `token`, or the sum of its `at`-th own row.
  virtual uint8_t* OwnSlots(const RoundSizes& sizes, int64_t token, int64_t at) = 0;
  // Sends results home and waits for those of this rank's tokens.
  virtual Status Return(const RoundSizes& sizes) = 0;
  // Result of slot `slot` of `token`, or the sum for the `at`-th row that went to part `from`.
  virtual const uint8_t* Result(const RoundSizes& sizes, int64_t token, int32_t slot) = 0;
  virtual const uint8_t* Sum(const RoundSizes& sizes, int32_t from, int64_t at) = 0;

  // Whether every part reduces as often as the one with the most tokens.
  virtual bool ReducesTogether() const { return false; }
  // Tensor parallel: a place for this rank's partial sums of up to reduce_tokens tokens; then the ranks' rows.
  virtual uint8_t* Partials(const RoundSizes& sizes) = 0;
  virtual Status Reduce(const RoundSizes& sizes, int64_t tokens) = 0;
  virtual const uint8_t* Partial(const RoundSizes& sizes, int32_t tp, int64_t token) = 0;
};

class Exchange {
 public:
  static Status Make(const CommSpec& spec, std::unique_ptr<Carrier> carrier,
                     std::unique_ptr<Exchange>* out);

  // Collective. After a failure of the group the caller's rows are NaN.
  Status Apply(const LayerCall& call, BoundLayer* bound);

  Carrier* carrier() const { return carrier_.get(); }
  int64_t bytes() const;
  // Rows of all ranks that may come to this one in a round.
  static int64_t MostRows(const CommSpec& spec) { return spec.max_tokens * spec.ep_size(); }

 private:
  Exchange(const CommSpec& spec, std::unique_ptr<Carrier> carrier);
  Status Run(const LayerCall& call, BoundLayer* bound, int64_t tokens);
  Status Round(const LayerCall& call, const RoundSizes& sizes, BoundLayer* bound, int64_t first,
               int64_t count);
  Status InvariantRound(const LayerCall& call, const RoundSizes& sizes, BoundLayer* bound,
                        int64_t first, int64_t count);
  // Chooses every route's copy and hands rows to the carrier and to the table.
  void Route(const LayerCall& call, const RoundSizes& sizes, BoundLayer* bound, int64_t first,
             int64_t count, int64_t* sent);
  Status Compute(const LayerCall& call, const RoundSizes& sizes, BoundLayer* bound,
                 int32_t channel_first, int32_t channel_count, dsv4mx_dtype slot_dtype);
  // RANK_REDUCE: results of some rows at a time, added up for each row's home.
  Status ComputeSums(const LayerCall& call, const RoundSizes& sizes, BoundLayer* bound);
  // The sum of a token's routes or parts, in fp32, before the scaling factor.
  void SumRoutes(const LayerCall& call, const RoundSizes& sizes, int64_t first, int64_t token,
                 int64_t begin, int64_t count, dsv4mx_dtype slot_dtype, float* sum);
  Status Finish(const LayerCall& call, const RoundSizes& sizes, int64_t first, int64_t count);
  Status ReduceAndWrite(const LayerCall& call, const RoundSizes& sizes, int64_t first,
                        int64_t count);
  bool SumsTravel() const {
    return spec_.ep_size() > 1 && spec_.ep_combine == DSV4MX_EP_RANK_REDUCE;
  }

  CommSpec spec_;
  std::unique_ptr<Carrier> carrier_;
  std::shared_ptr<Region> scratch_;
  RowTable table_;
  int32_t* part_ = nullptr;  // [max_tokens, max_top_k] expert-parallel part of each route, or -1
  int32_t* at_ = nullptr;    // [max_tokens, ep] which row of its part a token is, or -1
  uint8_t* some_ = nullptr;  // RANK_REDUCE: slots of kSomeRows rows
  float* levels_ = nullptr;  // TP_INVARIANT: sums of the tree, [levels][reduce_tokens][hidden]
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_EXCHANGE_H_
