// What the tests of groups on GPUs share: where ranks lie, one rank as the oracle, and groups that have joined.
#ifndef DSV4MX_TESTS_GPU_GPU_GROUPS_H_
#define DSV4MX_TESTS_GPU_GPU_GROUPS_H_

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/catch.h"
#include "tests/dist/group.h"
#include "tests/gpu/cuda_must.h"
#include "tests/gpu/streams.h"
#include "tests/numbers.h"

namespace dsv4mx::test {

inline int Devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// Numbers of ranks to try a problem with. On the emulator, whose time goes with them, eight are left to a case's first problem.
inline std::vector<int> RankCounts(bool first) {
  if (first || std::getenv("DSV4MX_EMULATED_DEVICES") == nullptr) return {2, 4, 8};
  return {2, 4};
}

// Where ranks lie: all on one device, each on its own, or dealt out over two, which some of them share.
enum class Spread { kOne, kEach, kTwo };

inline std::optional<Layout> On(Spread spread, Layout layout) {
  if (spread == Spread::kEach && Devices() < layout.size) return {};
  if (spread == Spread::kTwo && (Devices() < 2 || layout.size < 3)) return {};
  for (int r = 0; r < layout.size; ++r)
    layout.devices.push_back(spread == Spread::kEach ? r : spread == Spread::kTwo ? r % 2 : 0);
  return layout;
}

inline Layout Parts(int size) {
  Layout l;
  l.size = size;
  return l;
}
inline Layout Slices(int size) {
  Layout l;
  l.size = l.tp = size;
  return l;
}

inline std::string Differs(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size())
    return std::to_string(a.size()) + " bytes, wanted " + std::to_string(b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) return "byte " + std::to_string(i) + " of " + std::to_string(a.size());
  }
  return "";
}

inline float ValueAt(const Problem& p, const std::vector<uint8_t>& raw, size_t i) {
  if (p.out == DSV4MX_DTYPE_F32) {
    float y;
    std::memcpy(&y, raw.data() + 4 * i, 4);
    return y;
  }
  uint16_t narrow;
  std::memcpy(&narrow, raw.data() + 2 * i, 2);
  return FromBf16(narrow);
}

inline double Error(const Problem& p, const std::vector<uint8_t>& raw,
                    const std::vector<double>& truth) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double y = ValueAt(p, raw, i);
    error += (y - truth[i]) * (y - truth[i]);
    norm += truth[i] * truth[i];
  }
  return std::sqrt(error / norm);
}

inline bool AllNaN(const Problem& p, const std::vector<uint8_t>& raw) {
  for (size_t i = 0; i < raw.size() / (p.out == DSV4MX_DTYPE_F32 ? 4 : 2); ++i) {
    if (!std::isnan(ValueAt(p, raw, i))) return false;
  }
  return true;
}

// The number of rows that are all NaN where the others have these bits; negative where a row is neither.
inline int64_t NaNRows(const Problem& p, const std::vector<uint8_t>& raw,
                       const std::vector<uint8_t>& wanted) {
  const auto bytes = static_cast<size_t>(p.hidden) * (p.out == DSV4MX_DTYPE_F32 ? 4 : 2);
  if (raw.size() != wanted.size()) return -1;
  int64_t rows = 0;
  for (size_t at = 0; at < raw.size(); at += bytes) {
    if (AllNaN(p, {raw.begin() + static_cast<std::ptrdiff_t>(at),
                   raw.begin() + static_cast<std::ptrdiff_t>(at + bytes)})) {
      ++rows;
    } else if (std::memcmp(raw.data() + at, wanted.data() + at, bytes) != 0) {
      return -1;
    }
  }
  return rows;
}

inline Case GpuRanks(const std::string& text) {
  return MakeCase(text + " dev=cuda");
}
inline std::vector<uint8_t> OneRank(const Case& c) {
  return Runner(c).Apply().raw;
}

// Runs body(layout) on one device, and on several where there are.
inline void OnDevices(const Layout& layout, const std::function<void(const Layout&)>& body) {
  for (const Spread spread : {Spread::kOne, Spread::kEach, Spread::kTwo}) {
    if (const auto placed = On(spread, layout)) {
      INFO((spread == Spread::kOne    ? "all on one device, "
            : spread == Spread::kEach ? "a device each, "
                                      : "on two devices, ")
           << layout.size << " ranks");
      body(*placed);
    }
  }
}

struct Joined {
  Joined(const Case& whole, const Layout& l) : c(whole), layout(l) {
    for (int r = 0; r < l.size; ++r) (void)ContextFor(c.p, l, r);
    const uint64_t group = NewGroup();
    ranks.resize(static_cast<size_t>(l.size));
    for (const auto& error : OnRanks(l.size, [&](int r) {
           Rank& rank = at(r);
           rank.rank = r;
           MakePart(c, layout, &rank);
           JoinGroup(c, layout, group, &rank);
         })) {
      REQUIRE(error == "");
    }
  }
  Rank& at(int r) { return ranks[static_cast<size_t>(r)]; }
  // Every rank's call; what each was refused with.
  std::vector<std::string> Apply(const CallOptions& options = {}) {
    return OnRanks(layout.size, [&](int r) { (void)ApplyShare(c, layout, at(r), options); });
  }
  const Case& c;
  Layout layout;
  std::vector<Rank> ranks;
};

inline dsv4mx_comm_fault_info FaultOf(const Rank& rank) {
  dsv4mx_comm_fault_info f = DSV4MX_COMM_FAULT_INFO_INIT;
  Must(dsv4mx_comm_query_faults(rank.comm.get(), &f), "query_faults");
  return f;
}

inline void ResetAll(Joined* g) {
  for (const auto& error : OnRanks(g->layout.size, [&](int r) {
         Must(dsv4mx_comm_reset(g->at(r).comm.get(), nullptr), "reset");
       })) {
    REQUIRE(error == "");
  }
}

// Every rank's call in one graph, on one stream: each enqueues its stages when its turn has come. Replayed, with out
// poisoned between, it gives `wanted` every time: the rows of all parts, of the first of each part's ranks.
inline void CheckReplays(const Case& c, const Layout& l, std::vector<Rank>* ranks,
                         const std::vector<uint8_t>& wanted) {
  // Rows waits for the stream of its call, so that it must outlive the capture.
  const Stream stream;
  std::vector<std::unique_ptr<GroupBuffers>> buffers;
  for (Rank& rank : *ranks) {
    CallOptions o;
    o.stream = stream.get();
    buffers.push_back(std::make_unique<GroupBuffers>(c, l, rank, o));
  }
  cudaGraph_t captured = nullptr;
  cudaGraphExec_t graph = nullptr;
  CUDA_MUST(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed));
  const auto errors =
      OnRanks(l.size, [&](int r) { Must(buffers[static_cast<size_t>(r)]->Apply(), "apply"); });
  CUDA_MUST(cudaStreamEndCapture(stream.get(), &captured));
  for (const auto& error : errors) REQUIRE(error == "");
  CUDA_MUST(cudaGraphInstantiate(&graph, captured, 0));
  for (int i = 0; i < 20; ++i) {
    for (auto& b : buffers) b->Poison();
    CUDA_MUST(cudaGraphLaunch(graph, stream.get()));
    stream.Wait();
    std::vector<uint8_t> all;
    for (int r = 0; r < l.size; r += l.tp) {
      const auto rows = buffers[static_cast<size_t>(r)]->Rows();
      all.insert(all.end(), rows.begin(), rows.end());
    }
    REQUIRE(Differs(all, wanted) == "");
  }
  cudaGraphExecDestroy(graph);
  cudaGraphDestroy(captured);
}

inline void CheckWorks(Joined* g) {
  for (const auto& error : g->Apply()) CHECK(error == "");
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_GROUPS_H_
