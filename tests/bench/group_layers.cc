#include "tests/bench/group_layers.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "tests/numbers.h"
#include "tests/random.h"
#include "tests/runner.h"

namespace dsv4mx::bench {
namespace {

#define MUST(call) CudaMust(call, #call)
using test::Must;

// Routings that take turns, so that no call finds the experts of the one before in a cache.
constexpr int kRoutings = 16;

struct DestroyComm {
  void operator()(dsv4mx_comm* p) const { dsv4mx_comm_destroy(p); }
};

struct Rank {
  test::ContextPtr context;
  test::LayerPtr layer;
  test::WeightsPtr weights;
  std::unique_ptr<dsv4mx_comm, DestroyComm> comm;
  std::vector<void*> blocks;
  void* Take(size_t bytes) {
    void* p = nullptr;
    MUST(cudaMalloc(&p, bytes));
    blocks.push_back(p);
    return p;
  }
  void* Put(const void* from, size_t bytes) {
    void* p = Take(bytes);
    MUST(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
  }
  uint16_t *x = nullptr, *out = nullptr;
  std::vector<int32_t*> ids, all_ids;  // by routing: this rank's tokens, and those of all ranks
  float* router = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

}  // namespace

struct LayerBench::Impl {
  LayerCase c;
  std::vector<int> devices;
  std::vector<Rank> ranks;
};

LayerBench::LayerBench(const std::vector<int>& devices, const LayerCase& c) : impl_(new Impl) {
  static std::atomic<uint64_t> group{1000};
  const uint64_t number = group++;
  Impl& m = *impl_;
  m.c = c;
  m.devices = devices;
  m.ranks.resize(devices.size());
  const int size = static_cast<int>(devices.size());
  const int parts = c.tensor ? 1 : size, slices = c.tensor ? size : 1;
  const auto tokens = static_cast<size_t>(c.most_tokens) * static_cast<size_t>(parts);
  const auto k = static_cast<size_t>(c.top_k), h = static_cast<size_t>(c.hidden);
  // Ids of every part's tokens.
  std::vector<std::vector<int32_t>> ids(kRoutings);
  test::Rng rng(5);
  std::vector<int32_t> all(static_cast<size_t>(c.experts));
  std::iota(all.begin(), all.end(), 0);
  for (auto& one : ids) {
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t j = 0; j < k; ++j) {
        std::swap(all[j],
                  all[j + static_cast<size_t>(rng.Below(static_cast<int64_t>(all.size() - j)))]);
        one.push_back(all[j]);
      }
    }
  }
  std::vector<uint16_t> x(tokens * h);
  for (auto& v : x) v = test::ToBf16(rng.Uniform() - 0.5);
  const std::vector<float> router(tokens * k, 0.25f);
  OnEachRank(devices, [&](int r) {
    Rank& rank = m.ranks[static_cast<size_t>(r)];
    dsv4mx_context_desc context = DSV4MX_CONTEXT_DESC_INIT;
    context.device = DSV4MX_DEVICE_CUDA;
    context.device_ordinal = devices[static_cast<size_t>(r)];
    dsv4mx_context* made = nullptr;
    Must(dsv4mx_context_create(&context, &made), "context_create");
    rank.context.reset(made);
    dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
    d.hidden = c.hidden;
    d.intermediate = c.intermediate;
    d.tp_size = slices;
    d.tp_rank = c.tensor ? r : 0;
    d.experts = c.experts / parts;
    d.experts_global = c.experts;
    d.expert_first = c.tensor ? 0 : d.experts * r;
    d.top_k = c.top_k;
    d.clamp_limit = 10;
    d.slot_dtype = c.invariant ? DSV4MX_DTYPE_F32 : DSV4MX_DTYPE_BF16;
    d.flags = c.exact ? uint32_t{DSV4MX_LAYER_BATCH_INVARIANT} : 0;
    d.experimental = test::Experimental(c.path == "planes" ? DSV4MX_NUMBER_PATH_PLANES
                                        : c.path == "bf16" ? DSV4MX_NUMBER_PATH_BF16
                                                           : DSV4MX_NUMBER_PATH_AUTO,
                                        DSV4MX_ORACLE_NONE);
    rank.layer = test::MakeLayer(rank.context.get(), d);
    rank.weights = test::MakeWeights(rank.layer.get());
    // One expert's numbers for all of them: times do not depend on them, and each has memory of its own.
    const int64_t i = c.intermediate / slices, hidden = c.hidden;
    std::vector<uint8_t> codes(static_cast<size_t>(i * hidden / 2)),
        scales(static_cast<size_t>(i * hidden / 32));
    test::Rng own(7, static_cast<uint64_t>(r));
    own.Bytes(codes.data(), codes.size());
    for (auto& s : scales) s = static_cast<uint8_t>(118 + own.Below(3));
    const void *codes_there = rank.Put(codes.data(), codes.size()),
               *scales_there = rank.Put(scales.data(), scales.size());
    for (int32_t e = 0; e < d.experts; ++e) {
      for (const char* name : {"w1", "w3", "w2"}) {
        const bool down = name[1] == '2';
        const int64_t rows = down ? hidden : i, cols = down ? i : hidden;
        const auto set = [&](const char* part, const void* data, dsv4mx_dtype dtype,
                             int64_t width) {
          dsv4mx_tensor t = test::Tensor(data, dtype, {rows, width});
          t.memory = DSV4MX_MEMORY_DEVICE;
          const std::string full = std::string(name) + part;
          Must(dsv4mx_weights_set(rank.weights.get(), full.c_str(), e, &t, nullptr, nullptr),
               full.c_str());
        };
        set(".weight", codes_there, DSV4MX_DTYPE_I8, cols / 2);
        set(".scale", scales_there, DSV4MX_DTYPE_E8M0, cols / 32);
      }
    }
    Must(dsv4mx_weights_prepare(rank.weights.get(), nullptr, nullptr), "prepare");
    dsv4mx_comm_desc comm = DSV4MX_COMM_DESC_INIT;
    comm.kind = DSV4MX_COMM_LOCAL;
    comm.group = number;
    comm.rank = r;
    comm.size = size;
    comm.tp_size = slices;
    comm.ep_combine = c.exact ? DSV4MX_EP_ROUTE_EXACT : DSV4MX_EP_RANK_REDUCE;
    comm.partial_dtype = c.narrow ? DSV4MX_DTYPE_BF16 : DSV4MX_DTYPE_F32;
    comm.tp_reduce = c.invariant ? DSV4MX_TP_INVARIANT : DSV4MX_TP_RANK_ORDER;
    // Slices on CUDA are of multiples of 128 channels, which a small model has few of.
    if (c.invariant) comm.tp_slices = c.intermediate % 1024 == 0 ? 8 : slices;
    comm.max_tokens = c.most_tokens;
    comm.max_hidden = c.hidden;
    comm.max_top_k = c.top_k;
    dsv4mx_comm* joined = nullptr;
    Must(dsv4mx_comm_create(rank.context.get(), &comm, &joined), "comm_create");
    rank.comm.reset(joined);
    Must(dsv4mx_comm_prepare(joined, rank.layer.get(), nullptr), "comm_prepare");
    rank.x = static_cast<uint16_t*>(rank.Put(x.data(), x.size() * 2));
    rank.out = static_cast<uint16_t*>(rank.Take(x.size() * 2));
    rank.router = static_cast<float*>(rank.Put(router.data(), router.size() * 4));
    for (const auto& one : ids)
      rank.all_ids.push_back(static_cast<int32_t*>(rank.Put(one.data(), one.size() * 4)));
    dsv4mx_workspace_args args = DSV4MX_WORKSPACE_ARGS_INIT;
    args.comm = joined;
    dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
    Must(dsv4mx_layer_query_workspace(rank.layer.get(), static_cast<int64_t>(tokens), &args, &need),
         "query_workspace");
    rank.workspace_bytes =
        std::max(need.bytes, test::WorkspaceBytes(rank.layer.get(), static_cast<int64_t>(tokens)));
    rank.workspace = rank.Take(rank.workspace_bytes);
    MUST(cudaDeviceSynchronize());
  });
}

LayerBench::~LayerBench() {
  Impl& m = *impl_;
  for (size_t r = 0; r < m.ranks.size(); ++r) {
    cudaSetDevice(m.devices[r]);
    cudaDeviceSynchronize();
  }
  for (size_t r = 0; r < m.ranks.size(); ++r) {
    cudaSetDevice(m.devices[r]);
    m.ranks[r].comm.reset();
    for (void* p : m.ranks[r].blocks) cudaFree(p);
  }
}

GroupTimes LayerBench::Time(int tokens, bool alone, int rounds, int replays) {
  return TimeRoutings(tokens, alone, rounds, replays, [](int round) { return round % kRoutings; });
}

double LayerBench::SlowestSlices(int tokens, int routings, int rounds, int replays) {
  double sum = 0;
  for (int i = 0; i < routings; ++i)
    sum += TimeRoutings(tokens, true, rounds, replays, [i](int) { return i; }).us.median;
  return sum / routings;
}

GroupTimes LayerBench::TimeRoutings(int tokens, bool alone, int rounds, int replays,
                                    const std::function<int(int)>& routing) {
  Impl& m = *impl_;
  const int parts = m.c.tensor ? 1 : static_cast<int>(m.ranks.size());
  return TimeGroup(m.devices, rounds, replays, [&](int r, int round, cudaStream_t stream) {
    const Rank& rank = m.ranks[static_cast<size_t>(r)];
    dsv4mx_apply_args a = DSV4MX_APPLY_ARGS_INIT;
    a.x = rank.x;
    const int32_t* ids = rank.all_ids[static_cast<size_t>(routing(round))];
    a.topk_ids = alone || m.c.tensor ? ids : ids + static_cast<int64_t>(r) * tokens * m.c.top_k;
    a.topk_weights = rank.router;
    a.out = rank.out;
    a.tokens = alone ? int64_t{tokens} * parts : tokens;
    a.workspace = rank.workspace;
    a.workspace_bytes = rank.workspace_bytes;
    if (!alone) {
      a.comm = rank.comm.get();
      a.comm_tokens = tokens;
    }
    Must(dsv4mx_layer_apply(rank.layer.get(), rank.weights.get(), &a, stream), "apply");
  });
}

std::string LayerBench::Check() const {
  for (const Rank& rank : impl_->ranks) {
    dsv4mx_comm_fault_info f = DSV4MX_COMM_FAULT_INFO_INIT;
    Must(dsv4mx_comm_query_faults(rank.comm.get(), &f), "query_faults");
    if (f.status != DSV4MX_STATUS_OK)
      return std::string(dsv4mx_status_name(f.status)) + " of rank " + std::to_string(f.rank) +
             " at stage " + std::to_string(f.stage) + " of round " + std::to_string(f.round);
  }
  return "";
}

}  // namespace dsv4mx::bench
