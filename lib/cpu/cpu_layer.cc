#include "lib/cpu/cpu_layer.h"

#include <algorithm>
#include <cstdio>
#include <new>

#include "lib/cpu/cpu_host.h"
#include "lib/cpu/cpu_kernels.h"
#include "lib/cpu/cpu_store.h"
#include "lib/cpu/fast_apply.h"
#include "lib/cpu/oracle.h"

namespace dsv4mx::cpu {
namespace {

const CpuKernels& KernelsOf(dsv4mx_cpu_isa isa) {
  switch (isa) {
    case DSV4MX_CPU_ISA_AVX512:
      return kAvx512Kernels;
    case DSV4MX_CPU_ISA_AVX2:
      return kAvx2Kernels;
    default:
      return kPortableKernels;
  }
}

}  // namespace

CpuLayer::CpuLayer(std::shared_ptr<const LayerSpec> spec, dsv4mx_cpu_isa isa, ThreadPool* pool)
    : spec_(std::move(spec)), isa_(isa), pool_(pool) {}

bool CpuLayer::IsOracle() const {
  return IsOracleCompute(spec_->compute);
}

int64_t CpuLayer::PreparedBytes() const {
  return CpuLayout(*spec_).bytes();
}

// Setting converts from the caller's memory straight into the store; only the Marlin form goes through 64 raw rows.
int64_t CpuLayer::PeakExtraBytes() const {
  const int64_t row = (std::max(spec_->hidden, spec_->intermediate) + 127) / 128 * 128;
  return 64 * row / 2 + row / kGroup;
}

int64_t CpuLayer::PreparedAlignment() const {
  return kCpuAlign;
}

size_t CpuLayer::WorkspaceBytes(int64_t max_tokens) const {
  if (max_tokens <= 0) return 0;
  return IsOracle() ? OracleWorkspaceBytes(*spec_, max_tokens, pool_->threads())
                    : FastWorkspaceBytes(*spec_, max_tokens);
}

void CpuLayer::PlanText(int64_t tokens, const Census*, char* text, size_t bytes) const {
  const long long t = tokens;
  if (IsOracle()) {
    std::snprintf(
        text, bytes, "cpu oracle %s: fp64, %d threads, %lld tokens, because compute asks for it",
        spec_->compute == DSV4MX_COMPUTE_ORACLE_TRUTH  ? "truth"
        : spec_->compute == DSV4MX_COMPUTE_ORACLE_SPEC ? "spec"
                                                       : "w4a8",
        pool_->threads(), t);
    return;
  }
  const long long most = FastChunkTokens(*spec_), parts = (t + most - 1) / most;
  std::snprintf(text, bytes,
                "cpu %s: %s x fp4 in fp32, tiles of 32 rows x up to %d tokens of an expert, %d "
                "threads, %lld tokens "
                "in %lld part%s of at most %lld, because no other path exists on a cpu",
                IsaName(isa_),
                spec_->compute == DSV4MX_COMPUTE_W4A8 ? "W4A8, e4m3 activations" : "bf16", KernelsOf(isa_).max_tokens, pool_->threads(), t, parts,
                parts == 1 ? "" : "s", most);
}

Status CpuLayer::MakeStore(void* memory, std::unique_ptr<ExpertStore>* out) const {
  try {
    *out = std::make_unique<CpuStore>(spec_, memory, pool_);
  } catch (const std::bad_alloc&) {
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY, "no memory for the expert table of %d experts",
                spec_->experts);
  }
  return kOk;
}

Status CpuLayer::Apply(const ExpertStore& store, const Census&, const ApplyCall& call,
                       dsv4mx_stream) const {
  int64_t tokens = call.tokens;
  if (call.tokens_device != nullptr) tokens = std::clamp<int64_t>(*call.tokens_device, 0, tokens);
  if (tokens == 0) return kOk;
  const auto& cpu_store = static_cast<const CpuStore&>(store);
  if (IsOracle()) {
    ApplyOracle(cpu_store, call, tokens, pool_);
  } else {
    ApplyFast(cpu_store, KernelsOf(isa_), call, tokens, pool_);
  }
  return kOk;
}

}  // namespace dsv4mx::cpu
