#include "lib/dist/communicator.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "lib/dist/collective_carrier.h"
#include "lib/dist/file_exchange.h"
#include "lib/dist/local_group.h"
#include "lib/dist/peer_carrier.h"
#include "lib/dist/windows.h"

namespace dsv4mx::dist {
namespace {

constexpr int64_t kDeviceReduceBytes = 64 << 20;  // of a window

GroupShape DeviceShapeOf(const CommSpec& s) {
  GroupShape shape;
  shape.rank = s.rank;
  shape.size = s.size;
  shape.tp_size = s.tp_size;
  shape.tp_slices = s.tp_reduce == DSV4MX_TP_INVARIANT ? s.tp_slices : 0;
  shape.processes = s.kind == DSV4MX_COMM_CALLBACK;
  shape.window = ShapeOf(s);
  // Kernels take a while to begin, so that devices reduce more at a time, as far as the buffers stay small.
  if (s.tp_size > 1) {
    const int64_t most =
        kDeviceReduceBytes / (2 * s.tp_size * s.max_hidden * shape.window.partial_bytes);
    shape.window.reduce_tokens = std::clamp(most, shape.window.reduce_tokens,
                                            std::max(s.max_tokens, shape.window.reduce_tokens));
  }
  shape.timeout_ns = s.timeout_ns;
  return shape;
}

// What kernels do not do yet.
Status CheckDeviceGroup(const CommSpec& s) {
  DSV4MX_RETURN_IF(
      s.kind == DSV4MX_COMM_CALLBACK && s.transport == DSV4MX_COMM_TRANSPORT_COLLECTIVE,
      DSV4MX_STATUS_UNSUPPORTED,
      "COLLECTIVE with kind CALLBACK on a CUDA context, wanted AUTO or PEER, or kind "
      "NCCL_ID: the caller's all_gather is not enqueued");
  return kOk;
}

}  // namespace

Status Communicator::Meet(const dsv4mx_comm_desc& desc, const dsv4mx_nccl_source& nccl,
                          const Backend& backend, const Control& control) {
  switch (spec_.kind) {
    case DSV4MX_COMM_LOCAL: {
      std::shared_ptr<LocalGroup> group;
      DSV4MX_TRY(LocalGroup::Join(desc.group, spec_, control, &group));
      bootstrap_ = std::make_unique<LocalBootstrap>(std::move(group), spec_);
      return kOk;
    }
    case DSV4MX_COMM_CALLBACK:
      bootstrap_ = std::make_unique<CallbackBootstrap>(desc);
      return kOk;
    case DSV4MX_COMM_NCCL_ID:
    case DSV4MX_COMM_NCCL_BORROW: {
      std::unique_ptr<NcclGroup> group;
      DSV4MX_TRY(NcclGroup::Make(desc, nccl, spec_, backend, control, &group));
      nccl_ = group.get();
      bootstrap_ = std::move(group);
      return kOk;
    }
    default:
      bootstrap_ = std::make_unique<SelfBootstrap>();
      return kOk;
  }
}

Status Communicator::Create(const dsv4mx_comm_desc& desc, const dsv4mx_nccl_source& nccl,
                            const Backend& backend, const Control& control,
                            std::unique_ptr<Communicator>* out) {
  std::unique_ptr<Communicator> comm(new Communicator);
  CommSpec& spec = comm->spec_;
  DSV4MX_TRY(CheckMembership(desc, &spec));
  DSV4MX_TRY(comm->Meet(desc, nccl, backend, control));
  Status checked = CheckRest(desc, &spec);
  if (checked.ok() && spec.Exchanges()) {
    checked = backend.MakeRankGroup(DeviceShapeOf(spec), comm->nccl_, &comm->ranks_);
    if (checked.ok() && comm->ranks_ != nullptr) checked = CheckDeviceGroup(spec);
  }
  DSV4MX_TRY(Agree(comm->bootstrap_.get(), spec, checked, control));
  std::vector<CommFields> fields;
  DSV4MX_TRY(GatherOne(comm->bootstrap_.get(), spec, FieldsOf(spec), &fields, control));
  DSV4MX_TRY(CompareFields(fields.data(), spec.size));
  if (comm->nccl_ != nullptr && comm->ranks_ != nullptr)
    DSV4MX_TRY(Agree(comm->bootstrap_.get(), spec, comm->nccl_->Divide(spec, control), control));
  if (spec.Exchanges()) DSV4MX_TRY(comm->MakeRanks(control));
  if (spec.Exchanges() && comm->ranks_ == nullptr) {
    std::unique_ptr<Carrier> carrier;
    DSV4MX_TRY(comm->MakeCarrier(control, &carrier));
    const Status made = Exchange::Make(spec, std::move(carrier), &comm->exchange_);
    DSV4MX_TRY(Agree(comm->bootstrap_.get(), spec, made, control));
  }
  *out = std::move(comm);
  return kOk;
}

Communicator::~Communicator() {
  if (ranks_ != nullptr) ranks_->Leave();
  if (exchange_ != nullptr) exchange_->carrier()->Leave();
  if (bootstrap_ != nullptr) bootstrap_->Leave();
}

Status Communicator::MakeRanks(const Control& control) {
  struct Place {
    int32_t kind, place;  // 0 = ranks of the host's exchange
    DeviceIdentity identity;
  };
  Place mine{};
  if (ranks_ != nullptr) mine = {1, ranks_->place(), {}};
  const WindowSharing* sharing =
      ranks_ != nullptr && spec_.kind == DSV4MX_COMM_CALLBACK ? ranks_->sharing() : nullptr;
  if (sharing != nullptr)
    DSV4MX_TRY(Agree(bootstrap_.get(), spec_, sharing->Identify(&mine.identity), control));
  std::vector<Place> all;
  DSV4MX_TRY(GatherOne(bootstrap_.get(), spec_, mine, &all, control));
  std::vector<int32_t> places;
  for (int32_t r = 0; r < spec_.size; ++r) {
    const Place& p = all[static_cast<size_t>(r)];
    DSV4MX_RETURN_IF(p.kind != all[0].kind, DSV4MX_STATUS_COMM_MISMATCH,
                     "rank %d is on a %s, wanted one of rank 0's kind: groups are of CPU contexts "
                     "or of CUDA contexts",
                     r, p.kind == 0 ? "CPU" : "GPU");
    places.push_back(p.place);
  }
  if (ranks_ == nullptr) return kOk;
  // Processes number devices each in its own way.
  Status found = kOk;
  for (size_t r = 0; sharing != nullptr && r < places.size() && found.ok(); ++r)
    found = sharing->FindPlace(all[r].identity, &places[r]);
  DSV4MX_TRY(Agree(bootstrap_.get(), spec_, found, control));
  DSV4MX_TRY(Agree(bootstrap_.get(), spec_, ranks_->MakeWindow(places), control));
  reason_ = ranks_->what();
  if (nccl_ != nullptr) {
    spec_.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
    return kOk;
  }
  std::vector<std::shared_ptr<GroupWindow>> windows;
  DSV4MX_TRY(sharing != nullptr ? OpenWindows(*sharing, control, &windows)
                                : ReferWindows(control, &windows));
  DSV4MX_TRY(Agree(bootstrap_.get(), spec_, ranks_->Connect(std::move(windows)), control));
  reason_ = ranks_->what();
  spec_.transport = DSV4MX_COMM_TRANSPORT_PEER;
  return kOk;
}

Status Communicator::ReferWindows(const Control& control, GroupWindows* out) {
  // Ranks see each other's references: they last until all have copied them.
  const std::shared_ptr<GroupWindow> own = ranks_->window();
  const std::shared_ptr<GroupWindow>* reference = &own;
  std::vector<const std::shared_ptr<GroupWindow>*> references;
  DSV4MX_TRY(GatherOne(bootstrap_.get(), spec_, reference, &references, control));
  for (const auto* one : references) out->push_back(*one);
  return Agree(bootstrap_.get(), spec_, kOk, control);
}

Status Communicator::OpenWindows(const WindowSharing& sharing, const Control& control,
                                 GroupWindows* out) {
  Files mine(1), theirs(spec_.size);
  DSV4MX_TRY(Agree(bootstrap_.get(), spec_, sharing.Share(&mine[0]), control));
  DSV4MX_TRY(ExchangeFiles(bootstrap_.get(), spec_, mine[0], control, &theirs));
  Status opened = kOk;
  for (int32_t r = 0; r < spec_.size && opened.ok(); ++r) {
    out->push_back(ranks_->window());
    if (r != spec_.rank) opened = sharing.Open(theirs[r], &out->back());
  }
  return Agree(bootstrap_.get(), spec_, opened, control);
}

Status Communicator::MakeCollective(const std::string& why, const Control& control,
                                    std::unique_ptr<Carrier>* out) {
  spec_.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
  reason_ = why;
  std::unique_ptr<Collectives> own;
  if (nccl_ == nullptr) own = std::make_unique<GatherCollectives>(bootstrap_.get(), spec_);
  Collectives* collectives = nccl_ != nullptr ? nccl_ : own.get();
  const Status made = CollectiveCarrier::Make(spec_, std::move(own), collectives, out);
  return Agree(bootstrap_.get(), spec_, made, control);
}

Status Communicator::MakeCarrier(const Control& control, std::unique_ptr<Carrier>* out) {
  if (nccl_ != nullptr) return MakeCollective("collective: NCCL", control, out);
  if (spec_.transport == DSV4MX_COMM_TRANSPORT_COLLECTIVE)
    return MakeCollective("collective: all_gather of the caller, as asked for", control, out);
  std::vector<std::shared_ptr<Region>> windows;
  const int64_t bytes = LayOut(ShapeOf(spec_)).bytes;
  const char* where = nullptr;
  if (spec_.kind == DSV4MX_COMM_CALLBACK) {
    const Status shared = ShareWindows(bootstrap_.get(), spec_, bytes, control, &windows);
    if (!shared.ok() && spec_.transport == DSV4MX_COMM_TRANSPORT_AUTO &&
        shared.code == DSV4MX_STATUS_COMM_ERROR) {
      // All ranks were told the same.
      return MakeCollective(std::string("collective, because ") + LastError(), control, out);
    }
    DSV4MX_TRY(shared);
    where = "peer: windows in shared memory of this host";
  } else {
    DSV4MX_TRY(SharePrivateWindows(bootstrap_.get(), spec_, bytes, control, &windows));
    where = "peer: windows in memory of this process";
  }
  reason_ = where;
  spec_.transport = DSV4MX_COMM_TRANSPORT_PEER;
  *out = std::make_unique<PeerCarrier>(spec_, std::move(windows));
  return kOk;
}

Status Communicator::Prepare(const LayerKey& key, const LayerSpec& layer,
                             const LayerBackend& backend, const Control& control) {
  if (!Exchanges()) return kOk;
  std::shared_ptr<BoundLayer> bound;
  DSV4MX_TRY(BoundLayer::Make(bootstrap_.get(), spec_, layer, backend, control, &bound));
  if (ranks_ != nullptr) {
    const bool weights_travel = bound->weights_travel || spec_.ep_combine == DSV4MX_EP_RANK_REDUCE;
    const Status made =
        ranks_->MakeLayer(backend, bound->routes.Ways(), weights_travel, &bound->on_device);
    DSV4MX_TRY(Agree(bootstrap_.get(), spec_, made, control));
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto i = bound_.begin(); i != bound_.end();) {
      i = i->second.key.expired() ? bound_.erase(i) : std::next(i);
    }
    bound_[key.get()] = Bound{key, std::move(bound)};
  }
  // What was freed just now may wait for all devices: nobody applies before it is gone (turnstile.h).
  return ranks_ != nullptr && nccl_ != nullptr ? Agree(bootstrap_.get(), spec_, kOk, control) : kOk;
}

std::shared_ptr<BoundLayer> Communicator::Find(const LayerKey& key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = bound_.find(key.get());
  if (found == bound_.end() || found->second.key.expired()) return nullptr;
  return found->second.layer;
}

Status Communicator::CheckCall(const LayerKey& key, int64_t tokens, int64_t comm_tokens) {
  DSV4MX_RETURN_IF(comm_tokens < 0 || comm_tokens > kMaxTokens, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "comm_tokens is %lld, wanted 0..%lld", static_cast<long long>(comm_tokens),
                   static_cast<long long>(kMaxTokens));
  if (!Exchanges()) {
    DSV4MX_RETURN_IF(aborted_.load(), DSV4MX_STATUS_COMM_RANK_LOST,
                     "rank 0 aborted the group's work");
    return kOk;
  }
  DSV4MX_RETURN_IF(Find(key) == nullptr, DSV4MX_STATUS_INVALID_STATE,
                   "the layer is not prepared for this communicator, wanted dsv4mx_comm_prepare "
                   "on every rank before apply");
  const int64_t most = comm_tokens == 0 ? spec_.max_tokens : comm_tokens;
  DSV4MX_RETURN_IF(
      spec_.ep_size() > 1 && tokens > most, DSV4MX_STATUS_INVALID_ARGUMENT,
      "tokens is %lld, wanted at most %s = %lld: set comm_tokens to the most tokens of "
      "any rank, on every rank",
      static_cast<long long>(tokens),
      comm_tokens == 0 ? "the communicator's max_tokens" : "comm_tokens",
      static_cast<long long>(most));
  return kOk;
}

Status Communicator::Apply(const LayerKey& key, const LayerCall& call) {
  LayerCall c = call;
  if (c.comm_tokens == 0) c.comm_tokens = spec_.max_tokens;
  const std::shared_ptr<BoundLayer> bound = Find(key);
  return ranks_ != nullptr ? ApplyOnDevice(c, bound.get()) : exchange_->Apply(c, bound.get());
}

Status Communicator::ApplyOnDevice(const LayerCall& c, BoundLayer* bound) {
  const GroupCall call{c.backend, c.store,       c.census,   bound->on_device.get(),
                       c.call,    c.comm_tokens, bound->tag, c.comm_tag,
                       c.stream};
  FaultWord fault = ranks_->Fault();
  Status status = fault.status == 0 ? ranks_->Apply(call, &fault) : TellFault(spec_, fault);
  if (status.ok()) return status;
  const bool waited = fault.status != 0;  // ended by a fault, of which nothing is told yet
  if (ranks_->Fault().status == 0) {
    // Found by this rank alone, which the others would wait for.
    const KeepError why;
    if (!waited)
      fault = {DSV4MX_STATUS_COMM_ERROR, DSV4MX_COMM_STAGE_NONE, spec_.rank, spec_.rank, 0};
    fault = ranks_->Break(fault);
    if (!waited) why.Restore();
  }
  if (waited) status = TellFault(spec_, fault);
  const KeepError why;
  ranks_->Poison(call);
  why.Restore();
  return status;
}

Status Communicator::GetLoads(const LayerKey& key, int64_t* pairs, int32_t count) const {
  const auto bound = Find(key);
  DSV4MX_RETURN_IF(bound == nullptr, DSV4MX_STATUS_INVALID_STATE,
                   "the layer is not prepared for this communicator, wanted dsv4mx_comm_prepare "
                   "first%s",
                   Exchanges() ? "" : "; a group of one counts with expert_counts of apply");
  DSV4MX_RETURN_IF(static_cast<size_t>(count) != bound->loads.size(),
                   DSV4MX_STATUS_INVALID_ARGUMENT, "count is %d, wanted the layer's %zu experts",
                   count, bound->loads.size());
  if (bound->on_device != nullptr) {
    bound->on_device->GetLoads(pairs);
    return kOk;
  }
  for (size_t e = 0; e < bound->loads.size(); ++e)
    pairs[e] = __atomic_load_n(&bound->loads[e], __ATOMIC_RELAXED);
  return kOk;
}

void Communicator::Query(dsv4mx_comm_info* out) const {
  out->kind = spec_.kind;
  out->transport = Exchanges() ? spec_.transport : DSV4MX_COMM_TRANSPORT_AUTO;
  out->rank = spec_.rank;
  out->size = spec_.size;
  out->ep_rank = spec_.ep_rank();
  out->ep_size = spec_.ep_size();
  out->tp_rank = spec_.tp_rank();
  out->tp_size = spec_.tp_size;
  out->window_bytes = ranks_ != nullptr      ? ranks_->bytes()
                      : exchange_ != nullptr ? exchange_->bytes()
                                             : 0;
  if (nccl_ != nullptr) {
    out->nccl_version = nccl_->nccl().version;
    std::snprintf(out->nccl_file, sizeof(out->nccl_file), "%s", nccl_->nccl().file.c_str());
  }
  std::snprintf(out->reason, sizeof(out->reason), "%s", reason_.c_str());
}

void Communicator::QueryFaults(dsv4mx_comm_fault_info* out) const {
  FaultWord f{};
  if (ranks_ != nullptr) {
    f = ranks_->Fault();
  } else if (exchange_ != nullptr) {
    f = exchange_->carrier()->Fault();
  } else if (aborted_.load()) {
    f.status = DSV4MX_STATUS_COMM_RANK_LOST;
  }
  out->status = f.status;
  out->stage = f.stage;
  out->rank = f.rank;
  out->found_by = f.found_by;
  out->round = f.round;
}

void Communicator::Abort() const {
  const FaultWord fault{DSV4MX_STATUS_COMM_RANK_LOST, DSV4MX_COMM_STAGE_NONE, spec_.rank,
                        spec_.rank, 0};
  const KeepError keep;
  if (ranks_ != nullptr) {
    (void)ranks_->Break(fault);
  } else if (exchange_ != nullptr) {
    (void)exchange_->carrier()->Break(fault);
  } else {
    aborted_.store(true);
  }
  keep.Restore();
}

Status Communicator::Reset(const Control& control) {
  aborted_.store(false);
  if (!Exchanges()) return kOk;
  // Nobody is inside a call any more; then nobody begins one before all have forgotten.
  DSV4MX_TRY(bootstrap_->AllGather(nullptr, nullptr, 0, control));
  const Status forgotten = ranks_ != nullptr ? ranks_->Reset() : exchange_->carrier()->Reset();
  return Agree(bootstrap_.get(), spec_, forgotten, control);
}

}  // namespace dsv4mx::dist
