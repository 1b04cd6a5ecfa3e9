// NCCL beside the library's own exchange, found at run time: one communicator per rank of this process.
#ifndef DSV4MX_TESTS_BENCH_GROUP_NCCL_H_
#define DSV4MX_TESTS_BENCH_GROUP_NCCL_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace dsv4mx::bench {

class GroupNccl {
 public:
  enum Type { kFloat32 = 7, kBfloat16 = 9 };
  // Null, and why, where there is none, it is switched to multicast, or devices are shared.
  static std::unique_ptr<GroupNccl> Make(const std::string& file, const std::vector<int>& devices,
                                         std::string* why);
  ~GroupNccl();
  int version() const { return version_; }
  void AllGather(int rank, const void* mine, void* all, size_t count, Type type, cudaStream_t s);
  void ReduceScatter(int rank, const void* all, void* mine, size_t count, Type type,
                     cudaStream_t s);
  void AllReduce(int rank, const void* from, void* to, size_t count, Type type, cudaStream_t s);

 private:
  GroupNccl() = default;
  using Comm = void*;
  int version_ = 0;
  std::vector<Comm> comms_;
  int (*init_all_)(Comm*, int, const int*) = nullptr;
  int (*destroy_)(Comm) = nullptr;
  int (*all_gather_)(const void*, void*, size_t, int, Comm, cudaStream_t) = nullptr;
  int (*reduce_scatter_)(const void*, void*, size_t, int, int, Comm, cudaStream_t) = nullptr;
  int (*all_reduce_)(const void*, void*, size_t, int, int, Comm, cudaStream_t) = nullptr;
};

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_GROUP_NCCL_H_
