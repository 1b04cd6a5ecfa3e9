// Groups of GPU ranks that met through NCCL: the stand-in (device_nccl.h) or a real one.
#ifndef DSV4MX_TESTS_GPU_NCCL_GROUPS_H_
#define DSV4MX_TESTS_GPU_NCCL_GROUPS_H_

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/device_nccl.h"
#include "tests/gpu/gpu_groups.h"

namespace dsv4mx::test {

// Where a group's NCCL comes from, and communicators of it as a host would have them; ranks' threads call these, with the rank's
// device current.
struct NcclSource {
  std::vector<dsv4mx_nccl_function> table;
  std::string path;
  dsv4mx_nccl_source source = DSV4MX_NCCL_SOURCE_INIT;  // all defaults where neither is given
  std::function<void*(const char (&id)[128], int size, int rank)> make;
  std::function<void(void* comm)> destroy;
};

inline const NcclSource& StandIn() {
  static const NcclSource source = [] {
    NcclSource s;
    s.table = DeviceNcclTable();
    s.make = [](const char(&id)[128], int size, int rank) {
      return MakeDeviceNcclComm(id, size, rank);
    };
    s.destroy = DestroyDeviceNcclComm;
    return s;
  }();
  return source;
}

// Where a rank is, on stderr, where DSV4MX_TEST_TRACE is set: what began and did not end is where it hangs.
class Trace {
 public:
  Trace(int rank, const char* what) : rank_(rank), what_(what) { Tell("begins"); }
  ~Trace() { Tell("ended"); }
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

 private:
  void Tell(const char* how) const {
    static const bool wanted = std::getenv("DSV4MX_TEST_TRACE") != nullptr;
    static const auto start = std::chrono::steady_clock::now();
    if (!wanted) return;
    const std::chrono::duration<double> at = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "trace %8.3f rank %d: %s %s\n", at.count(), rank_, what_, how);
  }
  int rank_;
  const char* what_;
};

// A group that met through NCCL.
struct Met {
  Met(const Case& whole, const Layout& l, bool borrow = false, uint32_t flags = 0,
      const NcclSource& from = StandIn())
      : c(whole), layout(l), nccl(from) {
    nccl.source.functions = nccl.table.empty() ? nullptr : nccl.table.data();
    nccl.source.function_count = nccl.table.size();
    if (!nccl.path.empty()) nccl.source.path = nccl.path.c_str();
    for (int r = 0; r < l.size; ++r) (void)ContextFor(c.p, l, r);
    char id[128];
    Must(dsv4mx_nccl_get_unique_id(&nccl.source, id), "unique_id");
    ranks.resize(static_cast<size_t>(l.size));
    host.resize(static_cast<size_t>(l.size));
    errors = OnRanks(l.size, [&](int r) {
      CUDA_MUST(cudaSetDevice(DeviceOf(r)));
      Rank& rank = at(r);
      rank.rank = r;
      const Trace whole_trace(r, "a group");
      {
        const Trace trace(r, "weights");
        MakePart(c, layout, &rank);
      }
      dsv4mx_comm_desc d = CommDescOf(c.p, layout, r, 0);
      d.kind = borrow ? DSV4MX_COMM_NCCL_BORROW : DSV4MX_COMM_NCCL_ID;
      d.flags = flags;
      d.nccl = &nccl.source;
      d.nccl_id = id;
      if (borrow) {
        const Trace trace(r, "the host's communicator");
        d.nccl_comm = host[static_cast<size_t>(r)] = nccl.make(id, l.size, r);
      }
      const Trace trace(r, "create and prepare");
      JoinWith(c, d, &rank);
    });
  }
  // As a program would: each rank's thread leaves by itself.
  ~Met() {
    (void)OnRanks(layout.size, [&](int r) {
      const auto i = static_cast<size_t>(r);
      CUDA_MUST(cudaSetDevice(DeviceOf(r)));
      const Trace trace(r, "destroy");
      ranks[i] = Rank();
      if (host[i] != nullptr) nccl.destroy(host[i]);
    });
  }
  Met(const Met&) = delete;
  Met& operator=(const Met&) = delete;
  Rank& at(int r) { return ranks[static_cast<size_t>(r)]; }
  int DeviceOf(int r) const { return layout.devices[static_cast<size_t>(r)]; }
  // What the ranks said of the last step, or nothing where all went well.
  std::string said() const {
    std::string all;
    for (size_t r = 0; r < errors.size(); ++r) {
      if (errors[r] != "") all += "rank " + std::to_string(r) + ": " + errors[r] + "; ";
    }
    return all;
  }
  // Some calls of every rank. What options points to is of each rank by itself: `with` completes them. Memory is taken before the
  // first call and freed after the last: cudaFree waits for every device that reaches the memory, and with it for another rank's
  // kernel that waits for this rank's.
  std::vector<std::vector<uint8_t>> Calls(
      int calls, const CallOptions& options = {},
      const std::function<void(int r, CallOptions*)>& with = nullptr,
      const std::function<void(int r)>& before = nullptr) {
    std::vector<std::vector<uint8_t>> outs(ranks.size());
    std::vector<CallOptions> all(ranks.size(), options);
    std::vector<std::unique_ptr<GroupBuffers>> buffers(ranks.size());
    const auto step = [&](const char* what, const std::function<void(size_t r)>& body) {
      return OnRanks(layout.size, [&](int r) {
        CUDA_MUST(cudaSetDevice(DeviceOf(r)));
        const Trace trace(r, what);
        body(static_cast<size_t>(r));
      });
    };
    errors = step("buffers", [&](size_t r) {
      if (with != nullptr) with(static_cast<int>(r), &all[r]);
      buffers[r] = std::make_unique<GroupBuffers>(c, layout, ranks[r], all[r]);
    });
    if (said() != "") return outs;
    errors = step("calls", [&](size_t r) {
      if (before != nullptr) before(static_cast<int>(r));
      dsv4mx_status status = DSV4MX_STATUS_OK;
      std::string why;
      for (int i = 0; i < calls; ++i) {
        if (options.accumulate == nullptr) buffers[r]->Poison();
        {
          const Trace trace(static_cast<int>(r), "apply");
          if (const auto one = buffers[r]->Apply(); one != DSV4MX_STATUS_OK) {
            status = one;
            why = dsv4mx_last_error();
          }
        }
        const Trace trace(static_cast<int>(r), "the call's end");
        outs[r] = buffers[r]->Rows();
      }
      if (all[r].expert_counts != nullptr) *all[r].expert_counts = buffers[r]->Counts();
      if (status != DSV4MX_STATUS_OK) throw Refused("apply", status, why);
    });
    return outs;
  }
  // Every rank's rows of the last of some calls, parts one after the other, of tensor-parallel rank tp.
  std::vector<uint8_t> Rows(int calls = 1, int tp = 0, const CallOptions& options = {}) {
    const auto outs = Calls(calls, options);
    std::vector<uint8_t> all;
    for (int ep = 0; ep < layout.ep(); ++ep) {
      const auto& one = outs[static_cast<size_t>(ep * layout.tp + tp)];
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }
  // Every rank's call of some kind; what each said.
  void Each(const std::function<void(int r)>& body) {
    errors = OnRanks(layout.size, [&](int r) {
      CUDA_MUST(cudaSetDevice(DeviceOf(r)));
      body(r);
    });
  }
  Case c;
  Layout layout;
  NcclSource nccl;
  std::vector<Rank> ranks;
  std::vector<void*> host;
  std::vector<std::string> errors;
};

// Pairs by expert, as the two ranks' calls counted them and as the communicators do: `pairs` in both.
inline void CheckLoads(Met* g, const std::vector<std::vector<int64_t>>& counts, int64_t before,
                       int64_t pairs) {
  int64_t counted = 0, loaded = 0;
  for (int r = 0; r < 2; ++r) {
    const auto& mine = counts[static_cast<size_t>(r)];
    std::vector<int64_t> loads(mine.size());
    Must(dsv4mx_comm_get_loads(g->at(r).comm.get(), g->at(r).layer.get(), loads.data(),
                               static_cast<int32_t>(loads.size())),
         "loads");
    for (size_t e = 0; e < mine.size(); ++e) {
      counted += mine[e] - before;
      loaded += loads[e];
    }
  }
  CHECK(counted == pairs);
  CHECK(loaded == counted);
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_NCCL_GROUPS_H_
