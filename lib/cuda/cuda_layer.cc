#include "lib/cuda/cuda_layer.h"

#include <algorithm>
#include <cstdio>

#include "kernels/launch.h"
#include "lib/base/host_layout.h"
#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_store.h"
#include "lib/cuda/cuda_workspace.h"

namespace dsv4mx::cuda {
namespace {

// One chunk of a call: the arguments of its launches.
class Chunk {
 public:
  Chunk(const LayerSpec& spec, const Plan& plan, const ApplyCall& call, int64_t begin,
        const int32_t* expert_map)
      : spec_(spec),
        path_(plan.path),
        width_(plan.width),
        quantised_(plan.quantised),
        call_(call),
        begin_(begin) {
    const int64_t tokens = std::min(plan.chunk_tokens, call.tokens - begin);
    work_ = CarveWorkspace(spec, tokens, call.workspace);
    routing_.ids = Pairs(call.topk_ids, spec.ids_dtype == DSV4MX_DTYPE_I64 ? 8 : 4);
    routing_.expert_map = expert_map;
    routing_.tokens_device = call.tokens_device;
    routing_.ids_are_64 = spec.ids_dtype == DSV4MX_DTYPE_I64;
    routing_.token_begin = static_cast<int32_t>(begin);
    routing_.tokens = static_cast<int32_t>(tokens);
    routing_.top_k = spec.top_k;
    routing_.experts = spec.experts;
    routing_.expert_first = spec.expert_first;
    routing_.experts_global = spec.experts_global;
    weights_ = Pairs(call.topk_weights, WeightIsBf16() ? 2 : 4);
  }

  PrepareArgs Prepare() const {
    PrepareArgs a{};
    a.routing = routing_;
    a.counts = work_.counts;
    a.position = work_.position;
    a.x = static_cast<const uint16_t*>(call_.x) + begin_ * call_.x_stride;
    a.x_stride = call_.x_stride;
    a.hidden = spec_.hidden;
    a.rows = work_.x;
    a.positions = work_.positions;
    a.row_scale = work_.row_scale;
    a.router_weights = weights_;
    a.weight_is_bf16 = WeightIsBf16();
    a.weight_on_input = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT;
    a.hidden_weight = work_.hidden_weight;
    a.path = path_;
    a.quantised = quantised_;
    return a;
  }

  // W4A8 on a bf16 path, whose GEMM1 leaves h in bf16.
  bool NeedsQuantise() const { return quantised_ && !IsE4m3(path_); }
  QuantiseArgs Quantise() const {
    QuantiseArgs a{};
    a.routing = routing_;
    a.position = work_.position;
    a.rows = work_.h;
    a.positions = work_.positions;
    a.k = spec_.intermediate;
    return a;
  }

  GemmArgs Gemm1(const CudaStore& store, int32_t ctas) const {
    const Sm90Slab& slab = store.parts();
    GemmArgs a = Gemm(store, ctas);
    a.matrix = slab.w13;
    a.base = slab.w13_base;
    a.bias = spec_.w13_bias != 0 ? slab.w13_bias : -1;
    a.tiles = spec_.intermediate / (kSm90TileRows / 2);
    a.k = spec_.hidden;
    a.rows = work_.x;
    a.row_scale = work_.row_scale;
    a.h = work_.h;
    a.h_scale = work_.h_scale;
    a.hidden_weight = work_.hidden_weight;
    a.clamp_limit = spec_.clamp_limit;
    a.alpha = spec_.alpha;
    a.beta = spec_.beta;
    return a;
  }

  GemmArgs Gemm2(const CudaStore& store, int32_t ctas) const {
    const Sm90Slab& slab = store.parts();
    GemmArgs a = Gemm(store, ctas);
    a.matrix = slab.w2;
    a.base = slab.w2_base;
    a.bias = spec_.w2_bias != 0 ? slab.w2_bias : -1;
    a.tiles = static_cast<int32_t>(Sm90PaddedRows(spec_.hidden) / kSm90TileRows);
    a.k = spec_.intermediate;
    a.rows = work_.h;
    a.row_scale = work_.h_scale;
    a.slots = work_.slots;
    a.slots_are_bf16 = spec_.slot_dtype == DSV4MX_DTYPE_BF16;
    a.hidden = spec_.hidden;
    return a;
  }

  CombineArgs Combine() const {
    CombineArgs a{};
    a.routing = routing_;
    a.position = work_.position;
    a.slots = work_.slots;
    a.slots_are_bf16 = spec_.slot_dtype == DSV4MX_DTYPE_BF16;
    a.weights = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2 ? weights_ : nullptr;
    a.weight_is_bf16 = WeightIsBf16();
    a.routed_scaling_factor = spec_.routed_scaling_factor;
    a.out_is_f32 = spec_.out_dtype == DSV4MX_DTYPE_F32;
    a.out = static_cast<uint8_t*>(call_.out) + begin_ * call_.out_stride * (a.out_is_f32 ? 4 : 2);
    a.out_stride = call_.out_stride;
    a.hidden = spec_.hidden;
    return a;
  }

 private:
  bool WeightIsBf16() const { return spec_.router_weight_dtype == DSV4MX_DTYPE_BF16; }
  const void* Pairs(const void* all, int64_t bytes) const {
    return static_cast<const uint8_t*>(all) + begin_ * spec_.top_k * bytes;
  }
  GemmArgs Gemm(const CudaStore& store, int32_t ctas) const {
    GemmArgs a{};
    a.routing = routing_;
    a.counts = work_.counts;
    a.slabs = store.memory();
    a.slab_bytes = store.parts().bytes;
    a.positions = work_.positions;
    a.width = width_;
    a.ctas = ctas;
    return a;
  }

  const LayerSpec& spec_;
  Path path_;
  int32_t width_;
  bool quantised_;
  const ApplyCall& call_;
  int64_t begin_;
  Workspace work_;
  Routing routing_{};
  const void* weights_;
};

}  // namespace

Status CudaLayer::Make(std::shared_ptr<const LayerSpec> spec,
                       std::shared_ptr<const PlanTable> table, const Device* device,
                       std::unique_ptr<LayerBackend>* out) {
  DSV4MX_RETURN_IF(IsOracleCompute(spec->compute), DSV4MX_STATUS_UNSUPPORTED,
                   "compute is %s, which only the CPU backend has; wanted W4A16 or W4A8 on CUDA",
                   spec->compute == DSV4MX_COMPUTE_ORACLE_TRUTH  ? "ORACLE_TRUTH"
                   : spec->compute == DSV4MX_COMPUTE_ORACLE_SPEC ? "ORACLE_SPEC"
                                                                 : "ORACLE_W4A8");
  std::unique_ptr<CudaLayer> layer(new CudaLayer(std::move(spec), std::move(table), device));
  DSV4MX_TRY(layer->CopyMap());
  *out = std::move(layer);
  return kOk;
}

Status CudaLayer::CopyMap() {
  if (spec_->expert_map.empty()) return kOk;
  const size_t bytes = spec_->expert_map.size() * sizeof(int32_t);
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
  void* memory = nullptr;
  DSV4MX_CUDA(cudaMalloc(&memory, bytes));
  expert_map_ = static_cast<int32_t*>(memory);
  // A stream of this thread's own, which neither waits for the legacy stream nor disturbs a capture there.
  DSV4MX_CUDA(cudaMemcpyAsync(memory, spec_->expert_map.data(), bytes, cudaMemcpyHostToDevice,
                              cudaStreamPerThread));
  DSV4MX_CUDA(cudaStreamSynchronize(cudaStreamPerThread));
  return kOk;
}

CudaLayer::~CudaLayer() {
  if (expert_map_ == nullptr) return;
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  (void)cudaFree(expert_map_);
}

int64_t CudaLayer::PreparedBytes() const {
  return Sm90SlabOf(*spec_).bytes * spec_->experts;
}

int64_t CudaLayer::PeakExtraBytes() const {
  return CudaStore::ExtraBytes(*spec_);
}

int64_t CudaLayer::PreparedAlignment() const {
  return 256;
}

size_t CudaLayer::WorkspaceBytes(int64_t max_tokens) const {
  if (max_tokens <= 0) return 0;
  const int64_t chunk = LargestChunk(*table_, *spec_, max_tokens, device_->plan_device());
  return CarveWorkspace(*spec_, chunk, nullptr).bytes;
}

void CudaLayer::PlanText(int64_t tokens, const Census* census, char* text, size_t bytes) const {
  if (tokens == 0) {
    std::snprintf(text, bytes, "cuda sm_90a: no launch, because there are 0 tokens");
    return;
  }
  const PlanDevice& device = device_->plan_device();
  PrintPlan(MakePlan(*table_, *spec_, census, tokens, device), census, tokens, device, text, bytes);
}

Status CudaLayer::CheckCensus(const Census& census) const {
  return CheckPlanCensus(*spec_, census);
}

Status CudaLayer::MakeStore(void* memory, std::unique_ptr<ExpertStore>* out) const {
  return CudaStore::Make(spec_, memory, device_, out);
}

Status CudaLayer::Apply(const ExpertStore& store, const Census& census, const ApplyCall& call,
                        dsv4mx_stream stream) const {
  if (call.tokens == 0) return kOk;
  const auto& experts = static_cast<const CudaStore&>(store);
  const int32_t ctas = device_->multiprocessors();
  const Plan plan = MakePlan(*table_, *spec_, &census, call.tokens, device_->plan_device());
  const DeviceScope scope(*device_, DeviceScope::Capture::kAsIs);
  DSV4MX_TRY(scope.Begin(stream));
  // Chunks follow each other on the stream and share the workspace: each begins when the one before is read.
  for (int64_t begin = 0; begin < call.tokens; begin += plan.chunk_tokens) {
    const Chunk chunk(*spec_, plan, call, begin, expert_map_);
    DSV4MX_CUDA(LaunchPrepare(chunk.Prepare(), stream));
    DSV4MX_CUDA(LaunchGemm1(plan.path, chunk.Gemm1(experts, ctas), stream));
    if (chunk.NeedsQuantise()) DSV4MX_CUDA(LaunchQuantise(chunk.Quantise(), stream));
    DSV4MX_CUDA(LaunchGemm2(plan.path, chunk.Gemm2(experts, ctas), stream));
    DSV4MX_CUDA(LaunchCombine(chunk.Combine(), stream));
  }
  return kOk;
}

}  // namespace dsv4mx::cuda
