// Rows travel by all-gather: everybody gets everybody's rows, padded to the largest number, and takes what its experts serve.
// Results go home by reduce-scatter: each route's row is computed by one rank and zero on the others, so that the sum is the
// row, in whatever order it is made. Sums of RANK_REDUCE go to their homes one by one, which add them up in rank order.
//
// All of it goes over the whole group, also where parts have tensor-parallel ranks of their own: so every rank makes the same
// calls, and all find a fault in the same one.
#ifndef DSV4MX_LIB_DIST_COLLECTIVE_CARRIER_H_
#define DSV4MX_LIB_DIST_COLLECTIVE_CARRIER_H_

#include <atomic>
#include <memory>

#include "lib/dist/collectives.h"
#include "lib/dist/exchange.h"
#include "lib/dist/region.h"

namespace dsv4mx::dist {

class CollectiveCarrier final : public Carrier {
 public:
  static Status Make(const CommSpec& spec, std::unique_ptr<Collectives> own,
                     Collectives* collectives, std::unique_ptr<Carrier>* out);

  Status Broken() override;
  Status Break(const FaultWord& fault) override;
  FaultWord Fault() const override { return UnpackFault(fault_.load()); }
  void Leave() override {}
  Status Reset() override;
  int64_t bytes() const override { return static_cast<int64_t>(memory_->bytes()); }
  bool ReducesTogether() const override { return true; }

  void Send(const RoundSizes& sizes, int32_t to, int64_t at, const RowMeta& meta,
            const void* x) override;
  Status Deliver(const RoundSizes& sizes, const int64_t* sent, RowTable* table) override;
  uint8_t* OwnSlots(const RoundSizes& sizes, int64_t token, int64_t at) override;
  Status Return(const RoundSizes& sizes) override;
  const uint8_t* Result(const RoundSizes& sizes, int64_t token, int32_t slot) override;
  const uint8_t* Sum(const RoundSizes& sizes, int32_t from, int64_t at) override;
  uint8_t* Partials(const RoundSizes& sizes) override;
  Status Reduce(const RoundSizes& sizes, int64_t tokens) override;
  const uint8_t* Partial(const RoundSizes& sizes, int32_t tp, int64_t token) override;

 private:
  // What begins a block, so that ranks in different calls find out.
  struct Head {
    uint64_t tag;
    uint32_t stage, round;
    int64_t count;
  };

  CollectiveCarrier(const CommSpec& spec, std::unique_ptr<Collectives> own,
                    Collectives* collectives)
      : spec_(spec), own_(std::move(own)), collectives_(collectives) {}
  // A block of this rank, and everybody's after the gather.
  Status Gather(uint8_t* mine, uint8_t* all, int64_t bytes, const Head& head, bool same_count);
  int64_t EntryBytes() const { return 4 + 12 * int64_t{spec_.max_top_k}; }
  int64_t RowsAt() const {
    return (static_cast<int64_t>(sizeof(Head)) + EntryBytes() * spec_.max_tokens + 63) / 64 * 64;
  }
  const uint8_t* RowsOf(const uint8_t* block) const { return block + RowsAt(); }
  bool SumsTravel() const { return sum_bytes_ != 0; }
  int64_t ResultAt(const RoundSizes& sizes, int32_t r, int64_t token, int64_t at) const;
  // Results of this round begin as zero.
  void Clean(const RoundSizes& sizes);

  CommSpec spec_;
  std::unique_ptr<Collectives> own_;
  Collectives* collectives_;
  std::shared_ptr<Region> memory_;
  int64_t block_bytes_ = 0, partial_bytes_ = 0;
  int64_t sum_bytes_ = 0;                         // of one rank's sums, where they travel
  uint8_t *block_ = nullptr, *blocks_ = nullptr;  // rows: mine, [size]
  // [size][max_tokens][top_k][hidden] and mine, or [size][max_tokens][hidden] and as many
  uint8_t *results_ = nullptr, *home_ = nullptr;
  uint8_t* gathered_ = nullptr;                       // one of the results from [size] ranks
  uint8_t *partial_ = nullptr, *partials_ = nullptr;  // mine, [size]
  int64_t entries_ = 0;
  bool clean_ = false;  // results_ are zero
  uint32_t ep_round_ = 0, tp_round_ = 0;
  std::atomic<uint64_t> fault_{0};
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_COLLECTIVE_CARRIER_H_
