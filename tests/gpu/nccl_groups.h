// Groups of GPU ranks that met through NCCL: the stand-in (device_nccl.h) or a real one.
#ifndef DSV4MX_TESTS_GPU_NCCL_GROUPS_H_
#define DSV4MX_TESTS_GPU_NCCL_GROUPS_H_

#include <functional>
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
      MakePart(c, layout, &rank);
      dsv4mx_comm_desc d = CommDescOf(c.p, layout, r, 0);
      d.kind = borrow ? DSV4MX_COMM_NCCL_BORROW : DSV4MX_COMM_NCCL_ID;
      d.flags = flags;
      d.nccl = &nccl.source;
      d.nccl_id = id;
      if (borrow) d.nccl_comm = host[static_cast<size_t>(r)] = nccl.make(id, l.size, r);
      JoinWith(c, d, &rank);
    });
  }
  // As a program would: each rank's thread leaves by itself.
  ~Met() {
    (void)OnRanks(layout.size, [&](int r) {
      const auto i = static_cast<size_t>(r);
      CUDA_MUST(cudaSetDevice(DeviceOf(r)));
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
  // Every rank's rows of the last of some calls, parts one after the other, of tensor-parallel rank tp.
  std::vector<uint8_t> Rows(int calls = 1, int tp = 0, const CallOptions& options = {}) {
    std::vector<std::vector<uint8_t>> outs(ranks.size());
    errors = OnRanks(layout.size, [&](int r) {
      CallOptions o = options;
      o.rows = &outs[static_cast<size_t>(r)];
      for (int i = 0; i < calls; ++i) (void)ApplyShare(c, layout, at(r), o);
    });
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

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_NCCL_GROUPS_H_
