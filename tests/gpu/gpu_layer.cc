#include "tests/gpu/gpu_layer.h"

#include <algorithm>
#include <cstring>

#include "tests/gpu/cuda_must.h"
#include "tests/gpu/gpu_data.h"
#include "tests/numbers.h"
#include "tests/run_seed.h"

namespace dsv4mx::test {
namespace {

std::unique_ptr<DeviceBuffer> Buffer(int64_t bytes, size_t alignment = 16,
                                     Guard guard = Guard::kBands) {
  return std::make_unique<DeviceBuffer>(static_cast<size_t>(bytes), alignment, guard);
}

dsv4mx_tensor DeviceTensor(const DeviceBuffer& b, dsv4mx_dtype dtype,
                           std::initializer_list<int64_t> shape) {
  dsv4mx_tensor t = Tensor(b.data(), dtype, shape);
  t.memory = DSV4MX_MEMORY_DEVICE;
  return t;
}

}  // namespace

Problem GpuProblem(const std::string& text) {
  Problem p = Parse(text);
  p.device = DSV4MX_DEVICE_CUDA;
  if (text.find("seed=") == std::string::npos) p.seed = SeedOf(text);
  return p;
}

Inputs MakeRouting(const Problem& problem) {
  Problem p = problem;
  p.hidden = 0;  // ids and router weights have streams of their own
  return MakeInputs(p);
}

Case GpuCase(const Problem& problem) {
  return Case{problem, {}, {}, MakeRouting(problem)};
}

// --- RawModel --------------------------------------------------------------------------------------------------------

RawModel::RawModel(const Case& c)
    : hidden_(c.p.hidden), intermediate_(c.p.LocalIntermediate()), experts_(c.p.LocalExperts()) {
  for (int m = 0; m < 3; ++m) {
    const int64_t codes = Rows(m) * K(m) / 2, scales = Rows(m) * K(m) / 32;
    const dsv4mx_dtype bias = m == kDown ? c.p.w2_bias : c.p.w13_bias;
    codes_[m] = Buffer(experts_ * codes);
    scales_[m] = Buffer(experts_ * scales);
    if (bias != 0) bias_[m] = Buffer(experts_ * Rows(m) * 4);
    if (c.experts.empty()) {
      const HashedPart part{c.p.seed, m, c.p.ExpertFirst(), experts_};
      FillCodes(part, codes, codes_[m]->data());
      FillScales(part, scales, c.p.scale_lo, c.p.scale_hi, scales_[m]->data());
      if (bias != 0)
        FillBias(part, Rows(m), bias == DSV4MX_DTYPE_BF16,
                 reinterpret_cast<float*>(bias_[m]->data()));
      continue;
    }
    std::vector<uint8_t> all_codes, all_scales;
    std::vector<float> all_bias;
    for (const auto& e : c.experts) {
      all_codes.insert(all_codes.end(), e->codes[m].begin(), e->codes[m].end());
      all_scales.insert(all_scales.end(), e->scales[m].begin(), e->scales[m].end());
      all_bias.insert(all_bias.end(), e->bias[m].begin(), e->bias[m].end());
    }
    codes_[m]->Upload(all_codes.data(), all_codes.size());
    scales_[m]->Upload(all_scales.data(), all_scales.size());
    if (bias != 0) bias_[m]->Upload(all_bias.data(), all_bias.size() * 4);
  }
}

GpuExperts RawModel::View() const {
  GpuExperts v{hidden_, intermediate_, {}, {}, {}};
  for (int m = 0; m < 3; ++m) {
    v.codes[m] = codes_[m]->data();
    v.scales[m] = scales_[m]->data();
    v.bias[m] = bias_[m] == nullptr ? nullptr : reinterpret_cast<const float*>(bias_[m]->data());
  }
  return v;
}

ExpertData RawModel::Read(int32_t e) const {
  ExpertData data{
      {intermediate_, intermediate_, hidden_}, {hidden_, hidden_, intermediate_}, {}, {}, {}};
  for (int m = 0; m < 3; ++m) {
    const size_t codes = static_cast<size_t>(Rows(m) * K(m) / 2), scales = codes / 16,
                 index = static_cast<size_t>(e);
    data.codes[m] = codes_[m]->Download(index * codes, codes);
    data.scales[m] = scales_[m]->Download(index * scales, scales);
    data.bias[m] = ReadBias(e, m);
  }
  return data;
}

std::vector<float> RawModel::ReadBias(int32_t e, int matrix) const {
  std::vector<float> bias;
  if (bias_[matrix] == nullptr) return bias;
  bias.resize(static_cast<size_t>(Rows(matrix)));
  const size_t bytes = bias.size() * 4;
  std::memcpy(bias.data(), bias_[matrix]->Download(static_cast<size_t>(e) * bytes, bytes).data(),
              bytes);
  return bias;
}

std::unique_ptr<DeviceBuffer> RawModel::Fused(const DeviceBuffer& gate, const DeviceBuffer& up,
                                              int64_t row_bytes, dsv4mx_w13_order order) const {
  auto fused = Buffer(experts_ * 2 * intermediate_ * row_bytes);
  // Blocks that alternate: rows, or an expert's whole half.
  const bool rows = order == DSV4MX_W13_ORDER_INTERLEAVED;
  const size_t block = static_cast<size_t>(rows ? row_bytes : row_bytes * intermediate_);
  const size_t blocks = static_cast<size_t>(rows ? experts_ * intermediate_ : experts_);
  const bool up_first = order == DSV4MX_W13_ORDER_UP_GATE;
  for (int half = 0; half < 2; ++half) {
    const DeviceBuffer& from = (half == 0) == up_first ? up : gate;
    CUDA_MUST(cudaMemcpy2D(fused->data() + static_cast<size_t>(half) * block, 2 * block,
                           from.data(), block, block, blocks, cudaMemcpyDeviceToDevice));
  }
  return fused;
}

void RawModel::SetAll(dsv4mx_weights* weights, const Problem& p) const {
  const auto set = [&](const char* name, const DeviceBuffer& b, dsv4mx_dtype dtype,
                       std::initializer_list<int64_t> shape) {
    const dsv4mx_tensor t = DeviceTensor(b, dtype, shape);
    Must(dsv4mx_weights_set(weights, name, -1, &t, nullptr, nullptr), name);
  };
  const int64_t e = experts_, h = hidden_, i = intermediate_;
  std::vector<std::unique_ptr<DeviceBuffer>> held;
  const auto hold = [&](std::unique_ptr<DeviceBuffer> b) -> const DeviceBuffer& {
    return *held.emplace_back(std::move(b));
  };
  if (p.order == DSV4MX_W13_ORDER_UNSET) {
    set("w1.weight", *codes_[kGate], DSV4MX_DTYPE_I8, {e, i, h / 2});
    set("w1.scale", *scales_[kGate], DSV4MX_DTYPE_E8M0, {e, i, h / 32});
    set("w3.weight", *codes_[kUp], DSV4MX_DTYPE_U8, {e, i, h / 2});
    set("w3.scale", *scales_[kUp], DSV4MX_DTYPE_U8, {e, i, h / 32});
  } else {
    set("w13_weight", hold(Fused(*codes_[kGate], *codes_[kUp], h / 2, p.order)), DSV4MX_DTYPE_I8,
        {e, 2 * i, h / 2});
    set("w13_weight_scale", hold(Fused(*scales_[kGate], *scales_[kUp], h / 32, p.order)),
        DSV4MX_DTYPE_E8M0, {e, 2 * i, h / 32});
  }
  set("w2.weight", *codes_[kDown], DSV4MX_DTYPE_E2M1, {e, h, i});
  set("w2.scale", *scales_[kDown], DSV4MX_DTYPE_E8M0, {e, h, i / 32});
  // Biases are small: fused and rounded on the host.
  for (const bool down : {false, true}) {
    const dsv4mx_dtype type = down ? p.w2_bias : p.w13_bias;
    if (type == 0) continue;
    Problem as_type;
    as_type.rw = type;
    std::vector<uint8_t> bytes;
    for (int32_t n = 0; n < experts_; ++n) {
      const std::vector<uint8_t> one =
          down ? PackRouterWeights(as_type, ReadBias(n, kDown))
               : FuseRows(PackRouterWeights(as_type, ReadBias(n, kGate)),
                          PackRouterWeights(as_type, ReadBias(n, kUp)),
                          type == DSV4MX_DTYPE_BF16 ? 2 : 4, p.order);
      bytes.insert(bytes.end(), one.begin(), one.end());
    }
    auto buffer = Buffer(static_cast<int64_t>(bytes.size()));
    buffer->Upload(bytes.data(), bytes.size());
    set(down ? "w2_bias" : "w13_bias", hold(std::move(buffer)), type, {e, down ? h : 2 * i});
  }
  // What was set is not looked at again once the stream has passed: it may go, and its place may be used.
  CUDA_MUST(cudaDeviceSynchronize());
  for (const auto& b : held) {
    if (const std::string damage = b->Damage(); !damage.empty()) throw std::runtime_error(damage);
    b->Fill(0xFF);
  }
}

std::string RawModel::Damage() const {
  for (const auto* set : {codes_, scales_, bias_}) {
    for (int m = 0; m < 3; ++m) {
      if (set[m] == nullptr) continue;
      if (const std::string damage = set[m]->Damage(); !damage.empty())
        return "raw weights: " + damage;
    }
  }
  return "";
}

// --- GpuLayer --------------------------------------------------------------------------------------------------------

GpuLayer::GpuLayer(const Case& c, std::shared_ptr<const RawModel> raw,
                   const dsv4mx_context* context)
    : case_(c),
      raw_(raw != nullptr ? std::move(raw) : std::make_shared<RawModel>(c)),
      context_(context != nullptr ? context : ContextOf(c.p)) {
  layer_ = MakeLayer(context_, DescOf(case_));
  weights_ = MakeWeights(layer_.get());
  raw_->SetAll(weights_.get(), case_.p);
  Must(dsv4mx_weights_prepare(weights_.get(), nullptr, nullptr), "weights_prepare");
  CUDA_MUST(cudaDeviceSynchronize());
}

std::string GpuLayer::Plan(int64_t tokens) const {
  char text[1024];
  Must(dsv4mx_layer_query_plan(layer_.get(), weights_.get(), tokens, text, sizeof text),
       "query_plan");
  return text;
}

// --- GpuCall ---------------------------------------------------------------------------------------------------------

GpuCall::GpuCall(const GpuLayer& layer, const Inputs& in, const GpuCallOptions& options)
    : layer_(layer), options_(options), args_(DSV4MX_APPLY_ARGS_INIT) {
  const Problem& p = layer.p();
  const int64_t tokens = static_cast<int64_t>(in.ids.size()) / p.top_k;
  const auto elements = [&](int64_t stride) {
    return tokens == 0 ? 0 : (tokens - 1) * stride + p.hidden;
  };
  const size_t id = p.ids == DSV4MX_DTYPE_I64 ? 8 : 4, weight = p.rw == DSV4MX_DTYPE_BF16 ? 2 : 4;
  const size_t need = WorkspaceBytes(layer.layer(), tokens);
  x_ = Buffer(elements(x_stride()) * 2, 16, options.guard);
  ids_ = Buffer(static_cast<int64_t>(in.ids.size() * id), id, options.guard);
  weights_ = Buffer(static_cast<int64_t>(in.weights.size() * weight), weight, options.guard);
  out_ = Buffer(elements(out_stride()) * ElementBytes(), 16, options.guard);
  workspace_ = Buffer(static_cast<int64_t>(need), 256, options.guard);
  count_ = Buffer(4, 4, options.guard);
  args_.x = x_->data();
  args_.x_stride = p.x_stride;
  args_.topk_ids = ids_->data();
  args_.topk_weights = weights_->data();
  args_.out = out_->data();
  args_.out_stride = p.out_stride;
  args_.tokens = tokens;
  args_.workspace = workspace_->data();
  args_.workspace_bytes = need;
  // NaN in the gaps of x: a kernel that reads past a row's end shows it.
  if (options.fill || x_stride() != p.hidden) x_->Fill(0xFF);
  if (in.x.empty())
    FillX(p.seed, tokens, p.hidden, x_stride(), p.Amplitude(),
          reinterpret_cast<uint16_t*>(x_->data()));
  SetInputs(in);
  if (options.tokens_device.has_value()) {
    args_.tokens_device = reinterpret_cast<const int32_t*>(count_->data());
    SetCount(*options.tokens_device);
  }
  if (options.fill) Poison();
}

int64_t GpuCall::x_stride() const {
  return layer_.p().x_stride == 0 ? layer_.p().hidden : layer_.p().x_stride;
}
int64_t GpuCall::out_stride() const {
  return layer_.p().out_stride == 0 ? layer_.p().hidden : layer_.p().out_stride;
}

int64_t GpuCall::live() const {
  if (args_.tokens_device == nullptr) return args_.tokens;
  return std::clamp<int64_t>(*options_.tokens_device, 0, args_.tokens);
}

void GpuCall::SetInputs(const Inputs& in) {
  in_ = in;
  const std::vector<uint8_t> ids = PackIds(layer_.p(), in.ids),
                             weights = PackRouterWeights(layer_.p(), in.weights);
  if (ids.size() != ids_->bytes()) throw std::invalid_argument("SetInputs: other sizes");
  ids_->Upload(ids.data(), ids.size());
  weights_->Upload(weights.data(), weights.size());
  if (!in.x.empty()) {
    const size_t row = static_cast<size_t>(layer_.p().hidden) * 2;
    CUDA_MUST(cudaMemcpy2D(x_->data(), static_cast<size_t>(x_stride()) * 2, in.x.data(), row, row,
                           static_cast<size_t>(tokens()), cudaMemcpyHostToDevice));
    CUDA_MUST(cudaDeviceSynchronize());
  }
}

void GpuCall::SetCount(int32_t tokens) {
  options_.tokens_device = tokens;
  count_->Upload(&tokens, sizeof tokens);
}

void GpuCall::Poison() {
  out_->Fill(options_.poison);
  workspace_->Fill(options_.poison);
}

void GpuCall::Enqueue(CUstream_st* stream) const {
  Must(dsv4mx_layer_apply(layer_.layer(), layer_.weights(), &args_, stream), "layer_apply");
}

void GpuCall::Run() const {
  Enqueue(nullptr);
  Must(dsv4mx_context_synchronize(layer_.context(), nullptr), "synchronize");
}

std::string GpuCall::Damage() const {
  const struct {
    const char* name;
    const DeviceBuffer& buffer;
  } all[] = {{"x", *x_},
             {"ids", *ids_},
             {"router weights", *weights_},
             {"out", *out_},
             {"workspace", *workspace_},
             {"count", *count_}};
  for (const auto& b : all) {
    if (const std::string damage = b.buffer.Damage(); !damage.empty())
      return std::string(b.name) + ": " + damage;
  }
  if (!options_.fill) return "";
  const int64_t row = layer_.p().hidden * ElementBytes(), stride = out_stride() * ElementBytes();
  const uint8_t poison = static_cast<uint8_t>(options_.poison);
  int64_t at = FirstOtherByteInGaps(out_->data(), tokens(), row, stride, poison);
  if (at < 0 && live() < tokens()) {
    const int64_t first = live() * stride;
    at = FirstOtherByte(out_->data() + first, static_cast<int64_t>(out_->bytes()) - first, poison);
    if (at >= 0) at += first;
  }
  if (at < 0) return "";
  return "out: byte " + std::to_string(at % stride) + " of row " + std::to_string(at / stride) +
         " was overwritten, rows to process " + std::to_string(live());
}

std::vector<uint16_t> GpuCall::X() const {
  std::vector<uint16_t> x(static_cast<size_t>(tokens() * layer_.p().hidden));
  const size_t row = static_cast<size_t>(layer_.p().hidden) * 2;
  if (!x.empty())
    CUDA_MUST(cudaMemcpy2D(x.data(), row, x_->data(), static_cast<size_t>(x_stride()) * 2, row,
                           static_cast<size_t>(tokens()), cudaMemcpyDeviceToHost));
  return x;
}

std::vector<uint8_t> GpuCall::RowBytes(const std::vector<int64_t>& tokens) const {
  const size_t row = static_cast<size_t>(layer_.p().hidden * ElementBytes()),
               stride = static_cast<size_t>(out_stride() * ElementBytes());
  std::vector<uint8_t> bytes(tokens.size() * row);
  for (size_t r = 0; r < tokens.size();) {  // runs of neighbours in one copy
    size_t n = 1;
    while (r + n < tokens.size() && tokens[r + n] == tokens[r] + static_cast<int64_t>(n)) ++n;
    CUDA_MUST(cudaMemcpy2D(&bytes[r * row], row,
                           out_->data() + static_cast<size_t>(tokens[r]) * stride, stride, row, n,
                           cudaMemcpyDeviceToHost));
    r += n;
  }
  return bytes;
}

Output GpuCall::Rows(const std::vector<int64_t>& tokens) const {
  Output out{static_cast<int64_t>(tokens.size()), layer_.p().hidden, RowBytes(tokens), {}, ""};
  out.y = NumbersOf(out.raw, static_cast<size_t>(ElementBytes()));
  return out;
}

}  // namespace dsv4mx::test
