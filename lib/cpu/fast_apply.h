// The fast path: route, pack x, gate and up with the activation, down, combine.
#ifndef DSV4MX_LIB_CPU_FAST_APPLY_H_
#define DSV4MX_LIB_CPU_FAST_APPLY_H_

#include <cstddef>

#include "lib/base/backend.h"
#include "lib/base/thread_pool.h"
#include "lib/cpu/cpu_kernels.h"
#include "lib/cpu/cpu_store.h"

namespace dsv4mx::cpu {

size_t FastWorkspaceBytes(const LayerSpec& spec, const CpuKernels& kernels, int64_t tokens);

// Tokens that go through the layer at once; more run in equal parts of at most this.
int64_t FastChunkTokens(const LayerSpec& spec);

void ApplyFast(const LayerSpec& spec, const CpuStore& store, const CpuKernels& kernels,
               const ApplyCall& call, int64_t tokens, ThreadPool* pool);
void ApplyRowsFast(const LayerSpec& spec, const CpuStore& store, const CpuKernels& kernels,
                   const RowsCall& call, ThreadPool* pool);

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_FAST_APPLY_H_
