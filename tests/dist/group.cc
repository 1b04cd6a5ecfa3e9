#include "tests/dist/group.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <numeric>
#include <thread>

namespace dsv4mx::test {
namespace {

std::vector<int32_t> ExpertsOf(const Problem& p, const Layout& layout, int ep) {
  if (!layout.placement.empty()) return layout.placement[static_cast<size_t>(ep)];
  std::vector<int32_t> all(static_cast<size_t>(p.experts / layout.ep()));
  std::iota(all.begin(), all.end(), ep * p.experts / layout.ep());
  return all;
}

// Rows [row0, row0 + rows) and columns [col0, ...) of a whole expert's tensor, without a copy.
void SetSlice(dsv4mx_weights* weights, const char* name, int32_t e, const std::vector<uint8_t>& all,
              int64_t row_bytes, dsv4mx_dtype dtype, int64_t row0, int64_t rows, int64_t col0,
              int64_t cols) {
  dsv4mx_tensor t = Tensor(all.data() + row0 * row_bytes + col0, dtype, {rows, cols});
  t.stride[0] = row_bytes;
  t.stride[1] = 1;
  Must(dsv4mx_weights_set(weights, name, e, &t, nullptr, nullptr), name);
}

// Biases of one expert go by names of the family gate_proj, up_proj, down_proj.
void SetPart(const Case& whole, const Layout& layout, int tp, int32_t local, int32_t expert,
             dsv4mx_weights* w) {
  const Problem& p = whole.p;
  const auto held = whole.Expert(expert);
  const ExpertData& d = *held;
  const int64_t h = p.hidden, i = p.intermediate, share = i / layout.tp, first = share * tp;
  const auto u8 = DSV4MX_DTYPE_U8;
  const auto e8 = DSV4MX_DTYPE_E8M0;
  SetSlice(w, "gate_proj.weight", local, d.codes[kGate], h / 2, u8, first, share, 0, h / 2);
  SetSlice(w, "gate_proj.scale", local, d.scales[kGate], h / 32, e8, first, share, 0, h / 32);
  SetSlice(w, "up_proj.weight", local, d.codes[kUp], h / 2, u8, first, share, 0, h / 2);
  SetSlice(w, "up_proj.scale", local, d.scales[kUp], h / 32, e8, first, share, 0, h / 32);
  SetSlice(w, "down_proj.weight", local, d.codes[kDown], i / 2, u8, 0, h, first / 2, share / 2);
  SetSlice(w, "down_proj.scale", local, d.scales[kDown], i / 32, e8, 0, h, first / 32, share / 32);
  const auto bias = [&](const char* name, const std::vector<float>& all, int64_t at, int64_t n) {
    const dsv4mx_tensor t = Tensor(all.data() + at, DSV4MX_DTYPE_F32, {n});
    Must(dsv4mx_weights_set(w, name, local, &t, nullptr, nullptr), name);
  };
  if (p.w13_bias != 0) {
    bias("gate_proj.bias", d.bias[kGate], first, share);
    bias("up_proj.bias", d.bias[kUp], first, share);
  }
  if (p.w2_bias != 0) bias("down_proj.bias", d.bias[kDown], 0, h);
}

}  // namespace

const dsv4mx_context* ContextFor(const Problem& p, const Layout& layout, int rank) {
  if (layout.devices.empty()) return ContextOf(p);
  static std::mutex mutex;
  static std::map<int32_t, ContextPtr> contexts;
  const std::lock_guard<std::mutex> lock(mutex);
  ContextPtr& context = contexts[layout.devices[static_cast<size_t>(rank)]];
  if (context == nullptr) {
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = DSV4MX_DEVICE_CUDA;
    desc.device_ordinal = layout.devices[static_cast<size_t>(rank)];
    dsv4mx_context* made = nullptr;
    Must(dsv4mx_context_create(&desc, &made), "context_create");
    context.reset(made);
  }
  return context.get();
}

uint64_t NewGroup() {
  static std::atomic<uint64_t> next{1};
  return next++;
}

Share ShareOf(const Problem& p, const Layout& layout, int ep) {
  if (layout.tokens.empty()) {
    const int64_t first = p.tokens * ep / layout.ep();
    return {first, p.tokens * (ep + 1) / layout.ep() - first};
  }
  Share s{0, layout.tokens[static_cast<size_t>(ep)]};
  for (int e = 0; e < ep; ++e) s.first += layout.tokens[static_cast<size_t>(e)];
  return s;
}

dsv4mx_comm_desc CommDescOf(const Problem& p, const Layout& layout, int rank, uint64_t group) {
  dsv4mx_comm_desc d = DSV4MX_COMM_DESC_INIT;
  d.kind = layout.kind;
  d.transport = layout.transport;
  d.rank = rank;
  d.size = layout.size;
  d.tp_size = layout.tp;
  d.ep_combine = layout.ep_combine;
  d.tp_reduce = layout.tp_reduce;
  d.tp_slices = layout.tp_slices;
  d.slot_dtype = layout.slot;
  d.partial_dtype = layout.partial;
  d.max_tokens = layout.max_tokens != 0 ? layout.max_tokens : std::max<int64_t>(p.tokens, 1);
  d.max_hidden = p.hidden;
  d.max_top_k = p.top_k;
  d.timeout_ns = layout.timeout_ns;
  d.group = group;
  return d;
}

void MakePart(const Case& whole, const Layout& layout, Rank* rank) {
  const Problem& p = whole.p;
  const int ep = rank->rank / layout.tp, tp = rank->rank % layout.tp;
  const std::vector<int32_t> experts = ExpertsOf(p, layout, ep);
  rank->context = ContextFor(p, layout, rank->rank);
  dsv4mx_layer_desc d = DescOf(whole);
  d.tp_size = layout.tp;
  d.tp_rank = tp;
  d.experts = static_cast<int32_t>(experts.size());
  d.experts_global = p.experts;
  d.expert_first = 0;
  d.placement = experts.data();
  if (layout.physical) {
    d.flags |= DSV4MX_LAYER_PHYSICAL_IDS;
    for (int e = 0; e < layout.ep(); ++e) {
      const auto count = static_cast<int32_t>(ExpertsOf(p, layout, e).size());
      if (e < ep) d.physical_first += count;
      d.physical_global += count;
    }
  }
  rank->layer = MakeLayer(rank->context, d);
  rank->weights = MakeWeights(rank->layer.get());
  for (size_t e = 0; e < experts.size(); ++e) {
    SetPart(whole, layout, tp, static_cast<int32_t>(e), experts[e], rank->weights.get());
  }
  Must(dsv4mx_weights_prepare(rank->weights.get(), nullptr, nullptr), "prepare");
}

std::shared_ptr<ThreadGather> ThreadGather::Of(uint64_t group, int size) {
  static std::mutex mutex;
  static std::map<uint64_t, std::shared_ptr<ThreadGather>> all;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& one = all[group];
  if (one == nullptr) one.reset(new ThreadGather(size));
  return one;
}

int32_t ThreadGather::AllGather(void* user, const void* mine, void* all, size_t bytes) {
  const User& u = *static_cast<User*>(user);
  ThreadGather& g = *u.gather;
  std::unique_lock<std::mutex> lock(g.mutex_);
  g.changed_.wait(lock, [&] { return g.leaving_ == 0; });
  g.data_.resize(bytes * static_cast<size_t>(g.size_));
  std::memcpy(g.data_.data() + bytes * static_cast<size_t>(u.rank), mine, bytes);
  if (++g.arrived_ == g.size_) {
    g.arrived_ = 0;
    g.leaving_ = g.size_;
    g.changed_.notify_all();
  } else {
    g.changed_.wait(lock, [&] { return g.leaving_ != 0; });
  }
  std::memcpy(all, g.data_.data(), g.data_.size());
  if (--g.leaving_ == 0) g.changed_.notify_all();
  return 0;
}

static void Create(const Case& whole, const dsv4mx_comm_desc& desc, Rank* rank) {
  dsv4mx_comm* comm = nullptr;
  const dsv4mx_context* context = rank->context != nullptr ? rank->context : ContextOf(whole.p);
  Must(dsv4mx_comm_create(context, &desc, &comm), "comm_create");
  rank->comm.reset(comm);
}

static dsv4mx_comm_desc DescOfRank(const Case& whole, const Layout& layout, uint64_t group,
                                   Rank* rank) {
  dsv4mx_comm_desc desc = CommDescOf(whole.p, layout, rank->rank, group);
  if (layout.kind == DSV4MX_COMM_CALLBACK) {
    rank->gather = {ThreadGather::Of(group, layout.size), rank->rank};
    desc.all_gather = ThreadGather::AllGather;
    desc.user = &rank->gather;
  }
  return desc;
}

void MakeComm(const Case& whole, const Layout& layout, uint64_t group, Rank* rank) {
  Create(whole, DescOfRank(whole, layout, group, rank), rank);
}

void JoinGroup(const Case& whole, const Layout& layout, uint64_t group, Rank* rank) {
  JoinWith(whole, DescOfRank(whole, layout, group, rank), rank);
}

void JoinWith(const Case& whole, const dsv4mx_comm_desc& desc, Rank* rank) {
  Create(whole, desc, rank);
  Must(dsv4mx_comm_prepare(rank->comm.get(), rank->layer.get(), nullptr), "comm_prepare");
  dsv4mx_workspace_args args = DSV4MX_WORKSPACE_ARGS_INIT;
  args.comm = rank->comm.get();
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  Must(dsv4mx_layer_query_workspace(rank->layer.get(), std::max<int64_t>(whole.p.tokens, 1), &args,
                                    &need),
       "query_workspace");
  rank->workspace = std::make_unique<Guarded>(rank->context, need.bytes, 256);
}

GroupBuffers::GroupBuffers(const Case& whole, const Layout& layout, const Rank& rank,
                           const CallOptions& options)
    : rank_(rank), stream_(options.stream) {
  const Problem& p = whole.p;
  Share share = ShareOf(p, layout, rank.rank / layout.tp);
  if (options.tokens >= 0) share.count = options.tokens;
  std::vector<int64_t> rows(static_cast<size_t>(share.count));
  std::iota(rows.begin(), rows.end(), share.first);
  const Inputs in = TakeRows(p, whole.in, rows);
  const std::vector<uint8_t> ids = PackIds(p, in.ids), weights = PackRouterWeights(p, in.weights);
  const size_t row = static_cast<size_t>(p.hidden) * (p.out == DSV4MX_DTYPE_F32 ? 4 : 2);
  const auto make = [&](const void* from, size_t bytes) {
    return std::make_unique<Guarded>(rank.context, from, bytes, 16);
  };
  x_ = make(in.x.data(), in.x.size() * 2);
  ids_ = make(ids.data(), ids.size());
  weights_ = make(weights.data(), weights.size());
  out_ = std::make_unique<Guarded>(rank.context, static_cast<size_t>(share.count) * row, 16);
  Poison();
  if (options.accumulate != nullptr)
    out_->Write(options.accumulate->data(), options.accumulate->size());
  args_.x = x_->data();
  args_.topk_ids = ids_->data();
  args_.topk_weights = weights_->data();
  args_.out = out_->data();
  args_.tokens = share.count;
  if (options.tokens_device >= 0) {
    const auto count = static_cast<int32_t>(options.tokens_device);
    count_ = make(&count, sizeof(count));
    args_.tokens_device = reinterpret_cast<const int32_t*>(count_->data());
  }
  if (options.expert_counts != nullptr) {
    counts_ = make(options.expert_counts->data(), options.expert_counts->size() * sizeof(int64_t));
    args_.expert_counts = reinterpret_cast<int64_t*>(counts_->data());
  }
  args_.workspace = rank.workspace->data();
  args_.workspace_bytes = rank.workspace->bytes();
  args_.comm = rank.comm.get();
  args_.comm_tag = options.tag;
  args_.flags = options.accumulate != nullptr ? uint32_t{DSV4MX_APPLY_ACCUMULATE} : 0;
  int64_t most = 0;
  for (int e = 0; e < layout.ep(); ++e) most = std::max(most, ShareOf(p, layout, e).count);
  args_.comm_tokens = layout.max_tokens != 0 ? most : 0;
  if (options.comm_tokens != 0) args_.comm_tokens = options.comm_tokens;
}

dsv4mx_status GroupBuffers::Apply() const {
  return dsv4mx_layer_apply(rank_.layer.get(), rank_.weights.get(), &args_, stream_);
}

std::vector<uint8_t> GroupBuffers::Rows() const {
  Must(dsv4mx_context_synchronize(rank_.context, stream_), "synchronize");
  for (const Guarded* g :
       {x_.get(), ids_.get(), weights_.get(), out_.get(), count_.get(), rank_.workspace.get()}) {
    if (g == nullptr) continue;
    const std::string damage = g->Damage();
    if (!damage.empty()) throw std::runtime_error(damage);
  }
  return out_->Read();
}

std::vector<int64_t> GroupBuffers::Counts() const {
  const std::vector<uint8_t> bytes = counts_->Read();
  std::vector<int64_t> counts(bytes.size() / sizeof(int64_t));
  std::memcpy(counts.data(), bytes.data(), bytes.size());
  return counts;
}

std::vector<uint8_t> ApplyShare(const Case& whole, const Layout& layout, const Rank& rank,
                                const CallOptions& options) {
  const GroupBuffers buffers(whole, layout, rank, options);
  const dsv4mx_status status = buffers.Apply();
  // The text is this thread's last error, which reading keeps.
  const std::string why = dsv4mx_last_error();
  std::vector<uint8_t> out = buffers.Rows();
  if (options.rows != nullptr) *options.rows = out;
  if (options.expert_counts != nullptr) *options.expert_counts = buffers.Counts();
  if (status != DSV4MX_STATUS_OK) throw Refused("apply", status, why);
  return out;
}

std::vector<std::string> OnRanks(int size, const std::function<void(int rank)>& body) {
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        body(r);
      } catch (const std::exception& e) {
        errors[static_cast<size_t>(r)] = e.what();
      }
    });
  }
  for (auto& t : threads) t.join();
  return errors;
}

std::vector<uint8_t> RunGroup(const Case& whole, const Layout& layout, int calls, int tp) {
  // Made before the threads ask for them.
  for (int r = 0; r < layout.size; ++r) (void)ContextFor(whole.p, layout, r);
  const uint64_t group = NewGroup();
  std::vector<std::vector<uint8_t>> outs(static_cast<size_t>(layout.size));
  const auto errors = OnRanks(layout.size, [&](int r) {
    Rank rank;
    rank.rank = r;
    MakePart(whole, layout, &rank);
    JoinGroup(whole, layout, group, &rank);
    for (int call = 0; call < calls; ++call)
      outs[static_cast<size_t>(r)] = ApplyShare(whole, layout, rank);
  });
  for (size_t r = 0; r < errors.size(); ++r) {
    if (!errors[r].empty())
      throw std::runtime_error("rank " + std::to_string(r) + ": " + errors[r]);
  }
  std::vector<uint8_t> all;
  for (int ep = 0; ep < layout.ep(); ++ep) {
    const auto& one = outs[static_cast<size_t>(ep * layout.tp + tp)];
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

}  // namespace dsv4mx::test
