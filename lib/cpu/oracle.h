// The two fp64 oracles of the layer, written to be read: what every other path is judged by.
#ifndef DSV4MX_LIB_CPU_ORACLE_H_
#define DSV4MX_LIB_CPU_ORACLE_H_

#include <cstddef>

#include "lib/base/backend.h"
#include "lib/base/thread_pool.h"
#include "lib/cpu/cpu_store.h"

namespace dsv4mx::cpu {

size_t OracleWorkspaceBytes(const LayerSpec& spec, int64_t tokens, int threads);

// The layer of spec.compute, ORACLE_TRUTH or ORACLE_SPEC, over the first `tokens` tokens of the call.
void ApplyOracle(const LayerSpec& spec, const CpuStore& store, const ApplyCall& call,
                 int64_t tokens, ThreadPool* pool);

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_ORACLE_H_
