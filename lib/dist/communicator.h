// One rank of a group: how the ranks met, what carries their rows, and the layers they have made ready together.
#ifndef DSV4MX_LIB_DIST_COMMUNICATOR_H_
#define DSV4MX_LIB_DIST_COMMUNICATOR_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/base/rank_group.h"
#include "lib/dist/bootstrap.h"
#include "lib/dist/bound_layer.h"
#include "lib/dist/collectives.h"
#include "lib/dist/comm_spec.h"
#include "lib/dist/exchange.h"

namespace dsv4mx::dist {

// The layer itself, as whoever owns it knows it: a layer that is gone is not mistaken for a new one in its place.
using LayerKey = std::shared_ptr<const void>;

class Communicator {
 public:
  // Collective. The backend outlives the communicator.
  static Status Create(const dsv4mx_comm_desc& desc, const dsv4mx_nccl_source& nccl,
                       const Backend& backend, const Control& control,
                       std::unique_ptr<Communicator>* out);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const CommSpec& spec() const { return spec_; }
  bool Exchanges() const { return spec_.Exchanges(); }
  // Rows that apply computes for all ranks in one round, for calls of up to `tokens` tokens.
  int64_t MostRows(int64_t tokens) const {
    return spec_.ep_size() > 1 ? Exchange::MostRows(spec_) : tokens;
  }

  Status Prepare(const LayerKey& key, const LayerSpec& layer, const LayerBackend& backend,
                 const Control& control);
  // Refuses what is wrong on this rank alone; nothing has happened then.
  Status CheckCall(const LayerKey& key, int64_t tokens, int64_t comm_tokens);
  Status Apply(const LayerKey& key, const LayerCall& call);
  Status GetLoads(const LayerKey& key, int64_t* pairs, int32_t count) const;

  void Query(dsv4mx_comm_info* out) const;
  void QueryFaults(dsv4mx_comm_fault_info* out) const;
  void Abort() const;
  Status Reset(const Control& control);

 private:
  struct Bound {
    std::weak_ptr<const void> key;
    std::shared_ptr<BoundLayer> layer;
  };

  Communicator() = default;
  Status Meet(const dsv4mx_comm_desc& desc, const dsv4mx_nccl_source& nccl, const Backend& backend,
              const Control& control);
  Status MakeCarrier(const Control& control, std::unique_ptr<Carrier>* out);
  // Where devices exchange rows themselves: leaves `ranks_` null on others.
  Status MakeRanks(const Control& control);
  // Every rank's window, by reference within the process, or mapped from another.
  using GroupWindows = std::vector<std::shared_ptr<GroupWindow>>;
  Status ReferWindows(const Control& control, GroupWindows* out);
  Status OpenWindows(const WindowSharing& sharing, const Control& control, GroupWindows* out);
  Status ApplyOnDevice(const LayerCall& call, BoundLayer* bound);
  Status MakeCollective(const std::string& why, const Control& control,
                        std::unique_ptr<Carrier>* out);
  std::shared_ptr<BoundLayer> Find(const LayerKey& key) const;

  CommSpec spec_;
  std::unique_ptr<Bootstrap> bootstrap_;
  NcclGroup* nccl_ = nullptr;  // the same, where it is that
  // Null both for a group that exchanges nothing.
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<RankGroup> ranks_;
  std::string reason_ = "one rank: nothing is exchanged";
  mutable std::atomic<bool> aborted_{false};  // of such a group

  mutable std::mutex mutex_;
  std::unordered_map<const void*, Bound> bound_;
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_COMMUNICATOR_H_
