#include "tests/bench/group_nccl.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace dsv4mx::bench {
namespace {

void Must(int result, const char* call) {
  if (result != 0)
    throw std::runtime_error(std::string(call) + " returned " + std::to_string(result));
}

}  // namespace

std::unique_ptr<GroupNccl> GroupNccl::Make(const std::string& file, const std::vector<int>& devices,
                                           std::string* why) {
  // Multicast objects of one program are a matter of all others on the host.
  const char* nvls = std::getenv("NCCL_NVLS_ENABLE");
  if (nvls == nullptr || std::strcmp(nvls, "0") != 0) {
    *why = "NCCL_NVLS_ENABLE is not 0";
    return nullptr;
  }
  for (size_t i = 0; i < devices.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (devices[i] != devices[j]) continue;
      *why = "ranks share a device, which NCCL refuses";
      return nullptr;
    }
  }
  void* library = dlopen(file.empty() ? "libnccl.so.2" : file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    *why = dlerror();
    return nullptr;
  }
  std::unique_ptr<GroupNccl> n(new GroupNccl);
  int (*version)(int*) = nullptr;
  const auto find = [&](const char* name, auto* out) {
    *out = reinterpret_cast<std::remove_pointer_t<decltype(out)>>(dlsym(library, name));
    if (*out == nullptr) throw std::runtime_error(std::string("NCCL has no ") + name);
  };
  find("ncclGetVersion", &version);
  find("ncclCommInitAll", &n->init_all_);
  find("ncclCommDestroy", &n->destroy_);
  find("ncclAllGather", &n->all_gather_);
  find("ncclReduceScatter", &n->reduce_scatter_);
  find("ncclAllReduce", &n->all_reduce_);
  Must(version(&n->version_), "ncclGetVersion");
  n->comms_.resize(devices.size());
  Must(n->init_all_(n->comms_.data(), static_cast<int>(devices.size()), devices.data()),
       "ncclCommInitAll");
  return n;
}

GroupNccl::~GroupNccl() {
  for (const Comm comm : comms_) {
    if (comm != nullptr) (void)destroy_(comm);
  }
}

void GroupNccl::AllGather(int rank, const void* mine, void* all, size_t count, Type type,
                          cudaStream_t s) {
  Must(all_gather_(mine, all, count, type, comms_[static_cast<size_t>(rank)], s), "ncclAllGather");
}
void GroupNccl::ReduceScatter(int rank, const void* all, void* mine, size_t count, Type type,
                              cudaStream_t s) {
  Must(reduce_scatter_(all, mine, count, type, 0, comms_[static_cast<size_t>(rank)], s),
       "ncclReduceScatter");
}
void GroupNccl::AllReduce(int rank, const void* from, void* to, size_t count, Type type,
                          cudaStream_t s) {
  Must(all_reduce_(from, to, count, type, 0, comms_[static_cast<size_t>(rank)], s),
       "ncclAllReduce");
}

}  // namespace dsv4mx::bench
