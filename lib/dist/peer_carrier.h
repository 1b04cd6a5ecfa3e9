// Rows travel by stores into the other ranks' windows.
#ifndef DSV4MX_LIB_DIST_PEER_CARRIER_H_
#define DSV4MX_LIB_DIST_PEER_CARRIER_H_

#include <memory>
#include <vector>

#include "lib/dist/exchange.h"
#include "lib/dist/region.h"

namespace dsv4mx::dist {

class PeerCarrier final : public Carrier {
 public:
  // windows[r]: that of rank r of the group, zeroed, ShapeOf(spec) large.
  PeerCarrier(const CommSpec& spec, std::vector<std::shared_ptr<Region>> windows);

  Status Broken() override;
  Status Break(const FaultWord& fault) override;
  FaultWord Fault() const override;
  void Leave() override;
  Status Reset() override;
  int64_t bytes() const override { return window_.bytes; }

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
  ControlBlock* control(int32_t rank) const {
    return reinterpret_cast<ControlBlock*>(windows_[static_cast<size_t>(rank)]);
  }
  uint8_t* me() const { return windows_[static_cast<size_t>(spec_.rank)]; }
  // Waits for the cell that `rank` of the group writes, and compares what it thinks this round is.
  Status Await(const Cell* cell, dsv4mx_comm_stage stage, uint32_t round, int32_t rank,
               uint64_t tag, uint32_t* value);
  Status Mismatch(dsv4mx_comm_stage stage, uint32_t round, int32_t rank, uint64_t got,
                  uint64_t wanted);
  bool Lost(int32_t rank) const;
  uint8_t* PartialsOf(uint8_t* window, const RoundSizes& sizes, int32_t tp) const;
  // Where in a home's window the results of token `token`, or the sum for a part's `at`-th row, lie.
  int64_t SlotsAt(const RoundSizes& sizes, int32_t part, int64_t token, int64_t at) const;

  CommSpec spec_;
  WindowShape shape_;
  Window window_;
  std::vector<std::shared_ptr<Region>> regions_;
  std::vector<uint8_t*> windows_;
  uint32_t ep_round_ = 0, tp_round_ = 0;
};

// The text of a fault, as every rank tells it. Returns its status.
Status TellFault(const CommSpec& spec, const FaultWord& fault);

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_PEER_CARRIER_H_
