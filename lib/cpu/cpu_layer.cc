#include "lib/cpu/cpu_layer.h"

#include <algorithm>
#include <cstdio>
#include <new>

#include "lib/cpu/cpu_host.h"
#include "lib/cpu/cpu_kernels.h"
#include "lib/cpu/cpu_store.h"
#include "lib/cpu/fast_apply.h"
#include "lib/cpu/oracle.h"
#include "lib/cpu/routing.h"

namespace dsv4mx::cpu {
namespace {

const CpuKernels& KernelsOf(dsv4mx_cpu_isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case DSV4MX_CPU_ISA_AVX512_BF16:
      return kAvx512Bf16Kernels;
    case DSV4MX_CPU_ISA_AVX512:
      return kAvx512Kernels;
    case DSV4MX_CPU_ISA_AVX2:
      return kAvx2Kernels;
#endif
    default:
      return kPortableKernels;
  }
}

}  // namespace

CpuLayer::CpuLayer(std::shared_ptr<const LayerSpec> spec, dsv4mx_cpu_isa isa, ThreadPool* pool)
    : spec_(std::move(spec)), placed_(spec_), isa_(isa), pool_(pool) {}

bool CpuLayer::IsOracle() const {
  return spec_->oracle != DSV4MX_ORACLE_NONE;
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
                    : FastWorkspaceBytes(*spec_, KernelsOf(isa_), max_tokens);
}

size_t CpuLayer::MinimumWorkspaceBytes(int64_t max_tokens) const {
  return WorkspaceBytes(std::min<int64_t>(max_tokens, 1));
}

uint64_t CpuLayer::NumericsOfDevice() const {
  // Raised whenever a change of the CPU kernels changes bits.
  constexpr uint64_t kKernels = 1;
  return kKernels << 16 | static_cast<uint64_t>(DSV4MX_DEVICE_CPU) << 8 |
         static_cast<uint64_t>(IsOracle() ? 0 : isa_);
}

void CpuLayer::PlanText(int64_t tokens, const Census*, char* text, size_t bytes) const {
  const long long t = tokens;
  if (IsOracle()) {
    std::snprintf(text, bytes,
                  "cpu oracle %s%s: fp64, %d threads, %lld tokens, because the layer asks for it",
                  spec_->oracle == DSV4MX_ORACLE_TRUTH ? "truth" : "spec",
                  spec_->compute == DSV4MX_COMPUTE_W4A8 ? " of W4A8" : "", pool_->threads(), t);
    return;
  }
  const long long most = FastChunkTokens(*spec_), parts = (t + most - 1) / most;
  std::snprintf(
      text, bytes,
      "cpu %s: %s x fp4 in fp32, tiles of 32 rows x up to %d tokens of an expert, %d "
      "threads, %lld tokens "
      "in %lld part%s of at most %lld, because no other path exists on a cpu",
      IsaName(isa_), spec_->compute == DSV4MX_COMPUTE_W4A8 ? "W4A8, e4m3 activations" : "bf16",
      KernelsOf(isa_).max_tokens, pool_->threads(), t, parts, parts == 1 ? "" : "s", most);
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
  if (spec_->checked_ids) {
    int64_t invalid = 0;
    const Status checked = CheckIds(*spec_, IdsOf(*spec_, call), tokens, &invalid);
    invalid_ids_.fetch_add(invalid, std::memory_order_relaxed);
    DSV4MX_TRY(checked);
  }
  const auto& cpu_store = static_cast<const CpuStore&>(store);
  if (IsOracle()) {
    ApplyOracle(*placed_, cpu_store, call, tokens, pool_);
  } else {
    ApplyFast(*placed_, cpu_store, KernelsOf(isa_), call, tokens, pool_);
  }
  return kOk;
}

}  // namespace dsv4mx::cpu
