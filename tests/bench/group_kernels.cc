#include "tests/bench/group_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "kernels/dist/launch_exchange.h"
#include "lib/base/thread_state.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_window.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::bench {
namespace {

#define MUST(call) CudaMust(static_cast<cudaError_t>(call), #call)

void MustStatus(Status status) {
  if (!status.ok()) throw std::runtime_error(LastError());
}

// Device memory of one rank, freed with it.
class Memory {
 public:
  template <class T>
  T* Take(size_t count) {
    void* p = nullptr;
    MUST(cudaMalloc(&p, std::max<size_t>(count, 1) * sizeof(T)));
    MUST(cudaMemset(p, 0, std::max<size_t>(count, 1) * sizeof(T)));
    blocks_.push_back(p);
    return static_cast<T*>(p);
  }
  template <class T>
  T* Put(const std::vector<T>& from) {
    T* to = Take<T>(from.size());
    MUST(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
    return to;
  }
  ~Memory() {
    for (void* p : blocks_) cudaFree(p);
  }

 private:
  std::vector<void*> blocks_;
};

// Windows, and the ranks' view of them.
struct Group {
  std::vector<int> devices;
  std::vector<std::shared_ptr<const cuda::Device>> opened;
  std::vector<std::shared_ptr<cuda::CudaWindow>> windows;
  std::vector<std::unique_ptr<Memory>> memory;
  std::vector<dist::GroupArgs> args;

  Group(const std::vector<int>& d, int64_t bytes, int tp) : devices(d) {
    const size_t ranks = d.size();
    const std::vector<int32_t> places(d.begin(), d.end());
    for (size_t r = 0; r < ranks; ++r) {
      MUST(cudaSetDevice(d[r]));
      std::unique_ptr<cuda::Device> device;
      MustStatus(cuda::Device::Open(d[r], MemoryHook(), &device));
      opened.push_back(std::move(device));
      for (const int32_t to : places) MustStatus(cuda::CheckReach(d[r], to));
      std::shared_ptr<cuda::CudaWindow> window;
      MustStatus(cuda::CudaWindow::Make(opened[r], bytes, places, false, &window));
      windows.push_back(window);
      memory.push_back(std::make_unique<Memory>());
      MUST(dist::LoadExchange());
    }
    for (size_t r = 0; r < ranks; ++r) {
      MUST(cudaSetDevice(d[r]));
      dist::GroupArgs a{};
      for (size_t p = 0; p < ranks; ++p) {
        a.windows[p] = windows[p]->data();
        a.told[p] = windows[p]->told();
      }
      a.progress = memory[r]->Take<dist::Progress>(1);
      a.SetRank(static_cast<int32_t>(r), static_cast<int32_t>(ranks), tp);
      a.timeout_ns = 2'000'000'000;
      a.tag = 1;
      args.push_back(a);
    }
  }
  ~Group() {
    for (size_t r = 0; r < memory.size(); ++r) {
      cudaSetDevice(devices[r]);
      memory[r].reset();
    }
  }
  bool shared() const { return devices.size() > 1 && devices[0] == devices[1]; }
  // "" or the fault that a rank was told.
  std::string Fault() const {
    for (size_t r = 0; r < windows.size(); ++r) {
      const dist::FaultWord f = dist::UnpackFault(*windows[r]->told());
      if (f.status != 0)
        return "rank " + std::to_string(r) + " was told status " + std::to_string(f.status) +
               " at stage " + std::to_string(f.stage) + " of round " + std::to_string(f.round) +
               ", rank " + std::to_string(f.rank);
    }
    return "";
  }
};

// Ranks that share a device push one after the other before the first of them waits. Bench threads of one device would have to
// meet for it as the library's do, so that here one thread enqueues everything for all.
template <class Enqueue>
GroupTimes TimeAll(const Group& g, int rounds, int replays, const Enqueue& enqueue) {
  if (!g.shared()) {
    return TimeGroup(g.devices, rounds, replays, [&](int r, int, cudaStream_t s) {
      enqueue(r, dist::kPush | dist::kWait, s, 3);
    });
  }
  return TimeGroup({g.devices[0]}, rounds, replays, [&](int, int, cudaStream_t s) {
    const int ranks = static_cast<int>(g.devices.size());
    for (int step = 0; step < 2; ++step) {
      for (int r = 0; r < ranks; ++r) enqueue(r, dist::kPush, s, step + 1);
      for (int r = 0; r < ranks; ++r) enqueue(r, dist::kWait, s, step + 1);
    }
  });
}

}  // namespace

// --------------------------------------------------------------------------------------------------------- exchange --

struct ExchangeBench::Impl {
  ExchangeCase c;
  dist::Window window;
  std::unique_ptr<Group> group;
  struct Rank {
    std::vector<int32_t> ids;
    std::vector<float> weights;
    std::vector<uint16_t> x;
    uint16_t *x_device, *out, *all, *part;
    dist::SendArgs send{};
    dist::ReturnArgs back{};
    dist::FinishArgs finish{};
  };
  std::vector<Rank> ranks;
  int PartOf(int32_t id) const { return id / (c.experts / static_cast<int>(ranks.size())); }
};

ExchangeBench::ExchangeBench(const std::vector<int>& devices, const ExchangeCase& c)
    : impl_(new Impl) {
  Impl& m = *impl_;
  m.c = c;
  const int parts = static_cast<int>(devices.size()), each = c.experts / parts;
  dist::WindowShape shape;
  shape.ep = parts;
  shape.top_k = c.top_k;
  shape.max_tokens = c.tokens;
  shape.hidden = c.hidden;
  shape.rank_reduce = c.sum_bytes != 0;
  if (c.sum_bytes != 0) shape.partial_bytes = c.sum_bytes;
  shape.part_cells = dist::kMostPieces;
  shape.flagged_row_bytes = dist::FlaggedRowBytes(c.tokens, c.hidden);
  shape.flagged_slot_bytes = dist::FlaggedSlotBytes(
      c.tokens, c.hidden,
      c.sum_bytes != 0 ? parts * shape.partial_bytes : c.top_k * shape.slot_bytes);
  m.window = dist::LayOut(shape);
  m.group = std::make_unique<Group>(devices, m.window.bytes, 1);
  for (auto& args : m.group->args) args.part_cells = m.window.part_cells;
  m.ranks.resize(devices.size());
  const auto tokens = static_cast<size_t>(c.tokens), k = static_cast<size_t>(c.top_k),
             h = static_cast<size_t>(c.hidden);
  for (size_t r = 0; r < m.ranks.size(); ++r) {
    Impl::Rank& rank = m.ranks[r];
    MUST(cudaSetDevice(devices[r]));
    Memory& memory = *m.group->memory[r];
    test::Rng rng(17, static_cast<uint64_t>(r));
    std::vector<int32_t> all(static_cast<size_t>(c.experts));
    std::iota(all.begin(), all.end(), 0);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t j = 0; j < k; ++j) {
        std::swap(all[j],
                  all[j + static_cast<size_t>(rng.Below(static_cast<int64_t>(all.size() - j)))]);
        rank.ids.push_back(all[j]);
        rank.weights.push_back(static_cast<float>(1 + rng.Below(1000)) / 1000.0f);
      }
      for (size_t i = 0; i < h; ++i)
        rank.x.push_back(test::ToBf16(
            static_cast<float>(static_cast<int64_t>(rng.Below(2001)) - 1000) / 256.0f));
    }
    std::vector<uint64_t> ways;
    for (int id = 0; id < c.experts; ++id)
      ways.push_back(uint64_t{1} << 32 | static_cast<uint64_t>(id / each) << 16 |
                     static_cast<uint64_t>(id % each));
    std::vector<int32_t> rows(static_cast<size_t>(parts) * tokens * k);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i / k);
    rank.x_device = memory.Put(rank.x);
    rank.out = memory.Take<uint16_t>(tokens * h);
    rank.all = memory.Take<uint16_t>(static_cast<size_t>(parts) * tokens * k * h);
    rank.part = memory.Take<uint16_t>(tokens * k * h);
    dist::ExchangeSizes sizes{};
    sizes.ids = m.window.meta;
    sizes.weights = c.sum_bytes != 0 ? m.window.meta + int64_t{4} * parts * c.tokens * c.top_k : -1;
    sizes.rows = m.window.rows;
    sizes.slots = m.window.slots;
    sizes.flagged = dist::IsFlagged(c.tokens, c.hidden) && c.pieces == 0;
    sizes.flagged_rows = m.window.flagged_rows;
    sizes.flagged_row_bytes = shape.flagged_row_bytes;
    sizes.flagged_slots = m.window.flagged_slots;
    sizes.spacing = c.tokens;
    sizes.top_k = c.top_k;
    sizes.hidden = c.hidden;
    sizes.pieces = c.pieces > 0 ? c.pieces : dist::PiecesOf(c.tokens, c.hidden);
    sizes.slot_bytes = 2;
    sizes.sums_travel = c.sum_bytes != 0;
    sizes.sum_is_bf16 = c.sum_bytes == 2;
    dist::OwnTokens own{};
    own.ids = memory.Put(rank.ids);
    own.ids_stride = c.top_k;
    own.weights = memory.Put(rank.weights);
    own.weights_stride = c.top_k;
    own.tokens = c.tokens;
    own.top_k = c.top_k;
    const dist::RouteArgs routes{memory.Put(ways), memory.Take<uint32_t>(1), c.experts};
    rank.send.group = rank.back.group = rank.finish.group = m.group->args[r];
    rank.send.sizes = rank.back.sizes = rank.finish.sizes = sizes;
    rank.send.own = rank.finish.sum.own = own;
    rank.send.routes = rank.finish.sum.routes = routes;
    rank.send.x = rank.x_device;
    rank.send.x_stride = c.hidden;
    // Experts that give back what they get: a pair's result is its row.
    rank.back.results = m.group->windows[r]->data() + m.window.rows;
    rank.back.result_row = memory.Put(rows);
    rank.back.rows = parts * c.tokens;
    rank.back.weighted = rank.finish.sum.weighted = 1;
    rank.back.experts = each;
    rank.back.last = 1;
    rank.finish.sum.factor = 1.0f;
    rank.finish.sum.out = rank.out;
    rank.finish.sum.out_stride = c.hidden;
    rank.back.sum = rank.finish.sum;
    MUST(cudaDeviceSynchronize());
  }
}
ExchangeBench::~ExchangeBench() = default;

GroupTimes ExchangeBench::Time(int rounds, int replays) {
  Impl& m = *impl_;
  return TimeAll(*m.group, rounds, replays, [&](int r, int parts, cudaStream_t stream, int steps) {
    const Impl::Rank& rank = m.ranks[static_cast<size_t>(r)];
    if ((steps & 1) != 0) {
      dist::SendArgs a = rank.send;
      a.parts = parts;
      MUST(dist::LaunchSend(a, stream));
    }
    if ((steps & 2) != 0) {
      dist::ReturnArgs a = rank.back;
      a.parts = parts;
      MUST(dist::LaunchReturn(a, stream));
      if ((parts & dist::kWait) != 0 && a.sizes.flagged == 0)
        MUST(dist::LaunchFinish(rank.finish, stream));
    }
  });
}

std::string ExchangeBench::Check() {
  Impl& m = *impl_;
  if (const std::string fault = m.group->Fault(); !fault.empty()) return fault;
  const auto h = static_cast<size_t>(m.c.hidden), k = static_cast<size_t>(m.c.top_k);
  for (size_t r = 0; r < m.ranks.size(); ++r) {
    const Impl::Rank& rank = m.ranks[r];
    std::vector<uint16_t> out(rank.x.size());
    MUST(cudaSetDevice(m.group->devices[r]));
    MUST(cudaMemcpy(out.data(), rank.out, out.size() * 2, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t token = i / h;
      const float x = test::FromBf16(rank.x[i]);
      const bool by_part = m.c.sum_bytes != 0;
      std::vector<float> sums(by_part ? m.ranks.size() : 1);
      for (size_t j = 0; j < k; ++j) {
        float& to = sums[by_part ? static_cast<size_t>(m.PartOf(rank.ids[token * k + j])) : 0];
        to = std::fma(rank.weights[token * k + j], x, to);
      }
      float sum = 0;
      for (const float one : sums)
        sum += m.c.sum_bytes == 2 ? test::FromBf16(test::ToBf16(one)) : one;
      if (test::ToBf16(sum) != out[i])
        return "rank " + std::to_string(r) + ", element " + std::to_string(i) + ": " +
               std::to_string(test::FromBf16(out[i])) + ", wanted " + std::to_string(sum);
    }
    MUST(cudaMemset(rank.out, 0xFF, out.size() * 2));
  }
  return "";
}

double ExchangeBench::bytes_out() const {
  const Impl& m = *impl_;
  const auto ranks = m.ranks.size(), k = static_cast<size_t>(m.c.top_k);
  std::vector<double> out(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    for (size_t t = 0; t < static_cast<size_t>(m.c.tokens); ++t) {
      uint64_t touched = 0;
      for (size_t j = 0; j < k; ++j) {
        const auto part = static_cast<size_t>(m.PartOf(m.ranks[r].ids[t * k + j]));
        if (part == r) continue;
        touched |= uint64_t{1} << part;
        // Its result goes back from there.
        if (m.c.sum_bytes == 0) out[part] += 2.0 * m.c.hidden;
      }
      for (size_t p = 0; p < ranks; ++p) {
        if ((touched >> p & 1) == 0) continue;
        out[r] += 2.0 * m.c.hidden;
        out[p] += static_cast<double>(m.c.sum_bytes) * m.c.hidden;
      }
    }
  }
  return *std::max_element(out.begin(), out.end());
}

void* ExchangeBench::all(int rank) const {
  return impl_->ranks[static_cast<size_t>(rank)].all;
}
const void* ExchangeBench::x(int rank) const {
  return impl_->ranks[static_cast<size_t>(rank)].x_device;
}
void* ExchangeBench::part(int rank) const {
  return impl_->ranks[static_cast<size_t>(rank)].part;
}

// ----------------------------------------------------------------------------------------------------------- reduce --

struct ReduceBench::Impl {
  ReduceCase c;
  std::unique_ptr<Group> group;
  std::vector<std::vector<float>> sums;
  std::vector<dist::ReduceArgs> args;
  std::vector<void*> scratch;
};

ReduceBench::ReduceBench(const std::vector<int>& devices, const ReduceCase& c) : impl_(new Impl) {
  Impl& m = *impl_;
  m.c = c;
  const int tp = static_cast<int>(devices.size());
  dist::WindowShape shape;
  shape.tp = tp;
  shape.hidden = c.hidden;
  shape.reduce_tokens = 0;
  shape.flagged_bytes = dist::FlaggedBytes(int64_t{c.tokens} * c.hidden * (c.bf16 ? 2 : 4));
  const dist::Window window = dist::LayOut(shape);
  m.group = std::make_unique<Group>(devices, window.bytes, tp);
  const size_t count = static_cast<size_t>(c.tokens) * static_cast<size_t>(c.hidden);
  for (size_t r = 0; r < devices.size(); ++r) {
    MUST(cudaSetDevice(devices[r]));
    Memory& memory = *m.group->memory[r];
    test::Rng rng(23, static_cast<uint64_t>(r));
    std::vector<float> sums(count);
    std::vector<uint16_t> narrow(count);
    for (size_t i = 0; i < count; ++i) {
      narrow[i] = test::ToBf16(static_cast<float>(static_cast<int64_t>(rng.Below(20001)) - 10000) /
                               1024.0f);
      sums[i] = test::FromBf16(narrow[i]);
    }
    dist::ReduceArgs a{};
    a.group = m.group->args[r];
    a.sums = c.bf16 ? static_cast<const void*>(memory.Put(narrow))
                    : static_cast<const void*>(memory.Put(sums));
    a.sum_is_bf16 = c.bf16;
    a.flagged = window.flagged;
    a.flagged_bytes = shape.flagged_bytes;
    a.hidden = c.hidden;
    a.tokens = c.tokens;
    a.factor = 1.0f;
    a.out = memory.Take<uint16_t>(count);
    a.out_stride = c.hidden;
    m.args.push_back(a);
    m.sums.push_back(std::move(sums));
    m.scratch.push_back(memory.Take<float>(count));
    MUST(cudaDeviceSynchronize());
  }
}
ReduceBench::~ReduceBench() = default;

GroupTimes ReduceBench::Time(int rounds, int replays) {
  Impl& m = *impl_;
  return TimeAll(*m.group, rounds, replays, [&](int r, int parts, cudaStream_t stream, int steps) {
    if ((steps & 1) == 0) return;
    dist::ReduceArgs a = m.args[static_cast<size_t>(r)];
    a.parts = parts;
    a.alone = parts == (dist::kPush | dist::kWait);
    MUST(dist::LaunchReduce(a, stream));
  });
}

std::string ReduceBench::Check() {
  Impl& m = *impl_;
  if (const std::string fault = m.group->Fault(); !fault.empty()) return fault;
  for (size_t r = 0; r < m.args.size(); ++r) {
    std::vector<uint16_t> out(m.sums[r].size());
    MUST(cudaSetDevice(m.group->devices[r]));
    MUST(cudaMemcpy(out.data(), m.args[r].out, out.size() * 2, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < out.size(); ++i) {
      float sum = 0;
      for (const auto& one : m.sums) sum += one[i];
      if (test::ToBf16(sum) != out[i])
        return "rank " + std::to_string(r) + ", element " + std::to_string(i) + ": " +
               std::to_string(test::FromBf16(out[i])) + ", wanted " + std::to_string(sum);
    }
    MUST(cudaMemset(m.args[r].out, 0xFF, out.size() * 2));
  }
  return "";
}

const void* ReduceBench::sums(int rank) const {
  return impl_->args[static_cast<size_t>(rank)].sums;
}
void* ReduceBench::scratch(int rank) const {
  return impl_->scratch[static_cast<size_t>(rank)];
}

}  // namespace dsv4mx::bench
