// The CPU as a device: plain memory, a pool of threads, and the instruction set chosen once.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "lib/base/backend.h"
#include "lib/base/thread_pool.h"
#include "lib/base/usable_threads.h"
#include "lib/cpu/cpu_host.h"
#include "lib/cpu/cpu_layer.h"
#include "lib/cpu/cpu_memory.h"

namespace dsv4mx {
namespace cpu {
namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(dsv4mx_cpu_isa isa, int wanted_threads, std::unique_ptr<ThreadPool> pool,
             const MemoryHook& hook)
      : isa_(isa), pool_(std::move(pool)), memory_(hook) {
    if (pool_->threads() < wanted_threads) {
      std::snprintf(notice_, sizeof notice_,
                    "the system gave %d of %d threads: the CPU backend runs slower (see ulimit -u "
                    "and pids.max)",
                    pool_->threads(), wanted_threads);
    }
  }

  void Query(dsv4mx_context_info* info) const override {
    info->device = DSV4MX_DEVICE_CPU;
    info->device_ordinal = 0;
    info->threads = pool_->threads();
    info->cpu_isa = isa_;
    info->compute_capability = 0;
    info->multiprocessors = 0;
    info->l2_bytes = 0;
    std::snprintf(info->name, sizeof info->name, "CPU");
  }

  void Name(char* text, size_t bytes) const override {
    std::snprintf(text, bytes, "cpu %s, %d thread%s", IsaName(isa_), pool_->threads(),
                  pool_->threads() == 1 ? "" : "s");
  }

  const char* Notice() const override { return notice_; }

  Status Alloc(size_t bytes, size_t alignment, void** out) const override {
    return memory_.Alloc(bytes, alignment, out);
  }

  Status Free(void* pointer, size_t bytes) const override {
    memory_.Free(pointer, bytes);
    return kOk;
  }

  Status AllocStaging(size_t bytes, void** out) const override { return Alloc(bytes, 64, out); }

  Status FreeStaging(void* pointer, size_t bytes) const override { return Free(pointer, bytes); }

  Status Copy(void* to, const void* from, size_t bytes, dsv4mx_stream) const override {
    if (bytes != 0) std::memmove(to, from, bytes);
    return kOk;
  }

  Status Synchronize(dsv4mx_stream) const override { return kOk; }

  Status MakeLayer(std::shared_ptr<const LayerSpec> spec,
                   std::unique_ptr<LayerBackend>* out) const override {
    DSV4MX_RETURN_IF(
        spec->number_path == DSV4MX_NUMBER_PATH_PLANES, DSV4MX_STATUS_UNSUPPORTED,
        "number_path is PLANES, which only the CUDA backend has; wanted AUTO or BF16 on the CPU");
    try {
      *out = std::make_unique<CpuLayer>(std::move(spec), isa_, pool_.get(), &memory_);
    } catch (const std::bad_alloc&) {
      return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "no memory for a layer");
    }
    return kOk;
  }

 private:
  char notice_[192] = "";
  dsv4mx_cpu_isa isa_;
  std::unique_ptr<ThreadPool> pool_;
  Memory memory_;
};

}  // namespace
}  // namespace cpu

Status MakeCpuBackend(const BackendDesc& given, std::unique_ptr<Backend>* out) {
  const dsv4mx_context_desc& desc = given.desc;
  dsv4mx_cpu_isa isa = DSV4MX_CPU_ISA_DEFAULT;
  DSV4MX_TRY(cpu::ChooseIsa(desc.cpu_isa, cpu::HasIsa, &isa));
  std::unique_ptr<ThreadPool> pool;
  const int threads = desc.threads != 0 ? desc.threads : UsableThreads();
  DSV4MX_TRY(ThreadPool::Make(threads, &pool));
  try {
    *out = std::make_unique<cpu::CpuBackend>(isa, threads, std::move(pool), MemoryHook(desc));
  } catch (const std::bad_alloc&) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "no memory for the CPU backend");
  }
  return kOk;
}

void QueryCpuDevice(dsv4mx_device_info* info) {
  const auto page = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  info->device = DSV4MX_DEVICE_CPU;
  info->supported = 1;
  info->total_bytes = page * static_cast<int64_t>(sysconf(_SC_PHYS_PAGES));
  info->free_bytes = cpu::AvailableBytes();
  std::snprintf(info->name, sizeof info->name, "CPU");
}

}  // namespace dsv4mx
