// Preparation on the GPU against preparation on the host, byte for byte: slabs with Sm90PackExpert, the Marlin form with
// the CPU context's, the census with the CPU context's, and refusals with the same text.
#if DSV4MX_HAVE_CUDA
#include <cuda_runtime_api.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/base/float_bits.h"
#include "lib/base/host_layout.h"
#include "lib/base/marlin.h"
#include "tests/catch.h"
#include "tests/layer_spec.h"
#include "tests/random.h"
#include "tests/raw_expert.h"
#include "tests/run_seed.h"
#include "tests/runner.h"
#include "tests/sha256.h"

namespace dsv4mx::test {
namespace {

using Bytes = std::vector<uint8_t>;

const dsv4mx_context* Gpu() {
  static const ContextPtr context = [] {
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    d.device = DSV4MX_DEVICE_CUDA;
    dsv4mx_context* c = nullptr;
    REQUIRE_OK(dsv4mx_context_create(&d, &c));
    return ContextPtr(c);
  }();
  return context.get();
}

// Free bytes of the device that the test's thread has current, the first one.
size_t FreeOnGpu() {
  size_t free = 0;
#if DSV4MX_HAVE_CUDA
  size_t total = 0;
  REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
#endif
  return free;
}

// Device memory that starts as given bytes, or as poison.
class OnGpu {
 public:
  explicit OnGpu(const Bytes& bytes) : bytes_(bytes.size()) {
    REQUIRE_OK(dsv4mx_context_alloc(Gpu(), std::max<size_t>(bytes_, 1), &memory_));
    REQUIRE_OK(dsv4mx_context_copy(Gpu(), memory_, bytes.data(), bytes_, nullptr));
  }
  ~OnGpu() { dsv4mx_context_free(Gpu(), memory_); }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  uint8_t* get() const { return static_cast<uint8_t*>(memory_); }
  Bytes Read() const {
    Bytes out(bytes_);
    REQUIRE_OK(dsv4mx_context_copy(Gpu(), out.data(), memory_, bytes_, nullptr));
    REQUIRE_OK(dsv4mx_context_synchronize(Gpu(), nullptr));
    return out;
  }

 private:
  size_t bytes_;
  void* memory_ = nullptr;
};

// How a layer's tensors are handed over.
struct Form {
  int32_t hidden = 64, intermediate = 32, experts = 2;
  dsv4mx_w13_order order = DSV4MX_W13_ORDER_GATE_UP;
  bool high_first = false;
  dsv4mx_dtype bias = 0;
  dsv4mx_dtype scales = DSV4MX_DTYPE_E8M0;
  dsv4mx_memory memory = DSV4MX_MEMORY_HOST;
  bool strided = false;  // rows and columns apart, at an odd address
  int scale_low = 100, scale_count = 30;
};

std::string Describe(const Form& f) {
  return "h=" + std::to_string(f.hidden) + " i=" + std::to_string(f.intermediate) +
         " e=" + std::to_string(f.experts) + " order=" + std::to_string(f.order) +
         " high=" + std::to_string(f.high_first) + " bias=" + std::to_string(f.bias) +
         " scales=" + std::to_string(f.scales) + " memory=" + std::to_string(f.memory) +
         " strided=" + std::to_string(f.strided);
}

LayerSpec SpecOf(const Form& f) {
  LayerSpec s = test::SpecOf(f.hidden, f.intermediate, f.experts);
  s.w13_bias = s.w2_bias = f.bias;
  return s;
}

dsv4mx_layer_desc DescOf(const Form& f) {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = f.hidden;
  d.intermediate = f.intermediate;
  d.experts = f.experts;
  d.top_k = 1;
  d.w13_order = f.order;
  d.nibble_order = f.high_first ? DSV4MX_NIBBLE_ORDER_HIGH_FIRST : DSV4MX_NIBBLE_ORDER_LOW_FIRST;
  d.w13_bias = d.w2_bias = f.bias;
  return d;
}

// Random experts, others in every run and for every turn; some groups are all zero, of either sign, with a scale that must
// not count.
std::vector<std::unique_ptr<RawExpert>> MakeExperts(const Form& f, uint64_t turn = 0) {
  std::vector<std::unique_ptr<RawExpert>> all;
  const uint64_t seed = SeedOf(Describe(f)) + turn;
  const LayerSpec spec = SpecOf(f);
  for (int32_t e = 0; e < f.experts; ++e) {
    all.push_back(std::make_unique<RawExpert>(spec));
    Rng rng(seed, static_cast<uint64_t>(e));
    for (const Matrix m : kMatrices) {
      Bytes &codes = all.back()->codes(m), &scales = all.back()->scales(m);
      rng.Bytes(codes.data(), codes.size());
      for (size_t g = 0; g < scales.size(); ++g) {
        scales[g] = static_cast<uint8_t>(f.scale_low + rng.Below(f.scale_count));
        if (rng.Below(8) != 0) continue;
        for (size_t b = 16 * g; b < 16 * g + 16; ++b) codes[b] &= 0x88;
        scales[g] = rng.Below(2) != 0 ? 254 : 0;
      }
      for (float& b : all.back()->bias(m)) {
        b = static_cast<float>(rng.Normal());
        if (f.bias == DSV4MX_DTYPE_BF16) b = FloatFromBf16(Bf16FromFloat(b));
      }
    }
  }
  return all;
}

// One fused or single tensor [E, rows, columns] of elements, laid out and viewed as the form says.
class Given {
 public:
  Given(const Form& f, dsv4mx_dtype dtype, int64_t element, int64_t experts, int64_t rows,
        int64_t columns)
      : dtype_(dtype), element_(element), rows_(rows), columns_(columns), memory_(f.memory) {
    column_stride_ = f.strided ? 3 : 1;
    row_stride_ = columns * column_stride_ + (f.strided ? 5 : 0);
    expert_stride_ = rows * row_stride_ + (f.strided ? 7 : 0);
    offset_ = f.strided ? 1 : 0;
    experts_ = experts;
    bytes_.assign(static_cast<size_t>(offset_ + experts * expert_stride_ * element), 0xEE);
  }
  uint8_t* At(int64_t e, int64_t row, int64_t column) {
    return bytes_.data() + offset_ +
           (e * expert_stride_ + row * row_stride_ + column * column_stride_) * element_;
  }
  // Lives as long as this object.
  dsv4mx_tensor View(bool bias) {
    dsv4mx_tensor t = {};
    t.struct_size = sizeof t;
    if (memory_ == DSV4MX_MEMORY_DEVICE) on_gpu_ = std::make_unique<OnGpu>(bytes_);
    t.data = (on_gpu_ != nullptr ? on_gpu_->get() : bytes_.data()) + offset_;
    t.memory = memory_;
    t.dtype = dtype_;
    t.rank = bias ? 2 : 3;
    const int64_t shape[] = {experts_, rows_, columns_},
                  stride[] = {expert_stride_, row_stride_, column_stride_};
    for (int i = 0; i < t.rank; ++i) t.shape[i] = shape[i], t.stride[i] = stride[i];
    return t;
  }

 private:
  dsv4mx_dtype dtype_;
  int64_t element_, experts_, rows_, columns_;
  dsv4mx_memory memory_;
  int64_t expert_stride_, row_stride_, column_stride_, offset_;
  Bytes bytes_;
  std::unique_ptr<OnGpu> on_gpu_;
};

int64_t FusedRow(const Form& f, Matrix m, int64_t row) {
  if (m == Matrix::kDown) return row;
  const int64_t up = m == Matrix::kUp ? 1 : 0;
  if (f.order == DSV4MX_W13_ORDER_INTERLEAVED) return 2 * row + up;
  return row + (up == (f.order == DSV4MX_W13_ORDER_GATE_UP ? 1 : 0) ? f.intermediate : 0);
}

// A scale byte as an element of the form's dtype.
void PutScale(uint8_t* to, dsv4mx_dtype dtype, int byte) {
  const uint32_t f32 = byte == 0 ? 0x00400000u : static_cast<uint32_t>(byte) << 23;
  const auto bf16 = static_cast<uint16_t>(f32 >> 16);
  switch (dtype) {
    case DSV4MX_DTYPE_F32:
      std::memcpy(to, &f32, 4);
      return;
    case DSV4MX_DTYPE_BF16:
      std::memcpy(to, &bf16, 2);
      return;
    case DSV4MX_DTYPE_F16: {
      const int e = byte - 127;  // -24..15
      const auto half = static_cast<uint16_t>(e >= -14 ? (e + 15) << 10 : 1 << (e + 24));
      std::memcpy(to, &half, 2);
      return;
    }
    default:
      *to = static_cast<uint8_t>(byte);
  }
}

int64_t ElementBytes(dsv4mx_dtype dtype) {
  return dtype == DSV4MX_DTYPE_F32                                 ? 4
         : dtype == DSV4MX_DTYPE_BF16 || dtype == DSV4MX_DTYPE_F16 ? 2
                                                                   : 1;
}

// The layer's six tensors, kept until the weights were prepared.
struct Tensors {
  Tensors(const Form& f, const std::vector<std::unique_ptr<RawExpert>>& experts) {
    const LayerSpec spec = SpecOf(f);
    for (const bool w2 : {false, true}) {
      const int64_t rows = w2 ? f.hidden : 2 * f.intermediate, k = w2 ? f.intermediate : f.hidden;
      codes[w2] = std::make_unique<Given>(f, DSV4MX_DTYPE_U8, 1, f.experts, rows, k / 2);
      scales[w2] = std::make_unique<Given>(f, f.scales, ElementBytes(f.scales), f.experts, rows,
                                           k / kGroupSize);
      biases[w2] = std::make_unique<Given>(f, f.bias, ElementBytes(f.bias), f.experts, rows, 1);
    }
    for (int32_t e = 0; e < f.experts; ++e) {
      RawExpert& from = *experts[static_cast<size_t>(e)];
      for (const Matrix m : kMatrices) {
        const int w2 = m == Matrix::kDown;
        const int64_t bytes = spec.K(m) / 2, groups = spec.K(m) / kGroupSize;
        for (int64_t r = 0; r < spec.Rows(m); ++r) {
          const int64_t row = FusedRow(f, m, r);
          for (int64_t b = 0; b < bytes; ++b) {
            const uint8_t v = from.codes(m)[static_cast<size_t>(r * bytes + b)];
            *codes[w2]->At(e, row, b) = f.high_first ? static_cast<uint8_t>(v << 4 | v >> 4) : v;
          }
          for (int64_t g = 0; g < groups; ++g) {
            PutScale(scales[w2]->At(e, row, g), f.scales,
                     from.scales(m)[static_cast<size_t>(r * groups + g)]);
          }
          const float bias = from.bias(m)[static_cast<size_t>(r)];
          if (f.bias == DSV4MX_DTYPE_F32) std::memcpy(biases[w2]->At(e, row, 0), &bias, 4);
          if (f.bias == DSV4MX_DTYPE_BF16) {
            const uint16_t half = Bf16FromFloat(bias);
            std::memcpy(biases[w2]->At(e, row, 0), &half, 2);
          }
        }
      }
    }
  }
  void Set(dsv4mx_weights* weights, dsv4mx_dtype bias) {
    const auto set = [&](const char* name, Given* given, bool is_bias) {
      const dsv4mx_tensor t = given->View(is_bias);
      REQUIRE_OK(dsv4mx_weights_set(weights, name, -1, &t, nullptr, nullptr));
    };
    set("w13_weight", codes[0].get(), false);
    set("w2_weight", codes[1].get(), false);
    set("w13_weight_scale", scales[0].get(), false);
    set("w2_weight_scale", scales[1].get(), false);
    if (bias == 0) return;
    set("w13_bias", biases[0].get(), true);
    set("w2_bias", biases[1].get(), true);
  }
  std::unique_ptr<Given> codes[2], scales[2], biases[2];
};

// Weights over device memory that is poisoned first, so that a byte nobody writes is seen.
struct GpuWeights {
  explicit GpuWeights(const Form& f)
      : spec(SpecOf(f)),
        slab(static_cast<size_t>(Sm90SlabOf(spec).bytes)),
        layer(MakeLayer(Gpu(), DescOf(f))),
        memory(Bytes(slab * static_cast<size_t>(f.experts), 0xA5)) {
    dsv4mx_weights_desc d = DSV4MX_WEIGHTS_DESC_INIT;
    d.memory = memory.get();
    d.memory_bytes = slab * static_cast<size_t>(f.experts);
    dsv4mx_weights* w = nullptr;
    REQUIRE_OK(dsv4mx_weights_create(layer.get(), &d, &w));
    weights.reset(w);
  }
  void Prepare() { REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr)); }
  // Compares every byte with the host's packing.
  void Check(const std::vector<std::unique_ptr<RawExpert>>& experts) const {
    const Bytes got = memory.Read();
    for (size_t e = 0; e < experts.size(); ++e) {
      Bytes want(slab);
      Sm90PackExpert(spec, *experts[e], want.data());
      const auto at = got.begin() + static_cast<long>(e * slab);
      const auto [g, w] = std::mismatch(at, at + static_cast<long>(slab), want.begin());
      if (w == want.end()) continue;
      FAIL("expert " << e << " byte " << w - want.begin() << " of " << slab << " is " << int{*g}
                     << ", wanted " << int{*w} << "; w2 from " << Sm90SlabOf(spec).w2
                     << ", bases from " << Sm90SlabOf(spec).w13_base << ", biases from "
                     << Sm90SlabOf(spec).w13_bias);
    }
  }
  dsv4mx_weights_info Info() const {
    dsv4mx_weights_info info = {};
    info.struct_size = sizeof info;
    REQUIRE_OK(dsv4mx_weights_query(weights.get(), &info));
    return info;
  }

  LayerSpec spec;
  size_t slab;
  LayerPtr layer;
  OnGpu memory;
  WeightsPtr weights;
};

// The same weights on the CPU, from plain tensors.
struct CpuWeights {
  CpuWeights(Form f, const std::vector<std::unique_ptr<RawExpert>>& experts) {
    f.memory = DSV4MX_MEMORY_HOST;
    layer = MakeLayer(CpuContext(), DescOf(f));
    weights = MakeWeights(layer.get());
    Tensors(f, experts).Set(weights.get(), f.bias);
    REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
  }
  LayerPtr layer;
  WeightsPtr weights;
};

void CheckSlabs(const Form& f) {
  INFO(Describe(f) << " seed " << RunSeed());
  const auto experts = MakeExperts(f);
  GpuWeights gpu(f);
  Tensors tensors(f, experts);
  tensors.Set(gpu.weights.get(), f.bias);
  gpu.Prepare();
  gpu.Check(experts);
  const CpuWeights cpu(f, experts);
  const WeightsFacts want = FactsOf(cpu.weights.get()), got = FactsOf(gpu.weights.get());
  CHECK(got.census.planes_exact == want.census.planes_exact);
  CHECK(got.info.scale_min == want.info.scale_min);
  CHECK(got.info.scale_max == want.info.scale_max);
  CHECK(got.census.span_max == want.census.span_max);
}

// Marlin tensors of all experts in host vectors.
struct MarlinHost {
  MarlinHost(const Form& f, int32_t hidden, int32_t intermediate, dsv4mx_dtype bias, uint8_t fill) {
    desc.hidden_padded = hidden;
    desc.intermediate_padded = intermediate;
    desc.bias_dtype = bias;
    dsv4mx_marlin resolved = desc;
    REQUIRE(ResolveMarlin(SpecOf(f), &resolved).ok());
    const MarlinShape s{resolved.hidden_padded, resolved.intermediate_padded};
    const int64_t each = resolved.bias_dtype == DSV4MX_DTYPE_F32 ? 4 : 2, n = f.experts;
    const int64_t bytes[] = {s.W13Bytes(), s.W13ScaleBytes(), f.bias != 0 ? s.Rows13() * each : 0,
                             s.W2Bytes(),  s.W2ScaleBytes(),  f.bias != 0 ? s.hidden * each : 0};
    for (int i = 0; i < 6; ++i) tensors[i].assign(static_cast<size_t>(n * bytes[i]) + 64, fill);
    Point([this](int i) { return tensors[i].data(); });
  }
  template <class F>
  void Point(F&& at) {
    void** const to[] = {&desc.w13, &desc.w13_scale, &desc.w13_bias,
                         &desc.w2,  &desc.w2_scale,  &desc.w2_bias};
    for (int i = 0; i < 6; ++i) *to[i] = tensors[i].size() > 64 ? at(i) : nullptr;
  }
  Bytes tensors[6];  // each with 64 guard bytes behind
  dsv4mx_marlin desc = DSV4MX_MARLIN_INIT;
};

}  // namespace

TEST_CASE("gpu prepare: slabs equal the host's over shapes, orders and nibble orders", "[gpu]") {
  REQUIRE_GPU();
  int turn = 1;
  for (const int32_t i : {32, 96, 128, 160, 192, 288, 384, 576, 1152}) {
    for (const int32_t h : {32, 96, 160, 2880}) {
      Form f;
      f.intermediate = i;
      f.hidden = h;
      f.order = static_cast<dsv4mx_w13_order>(1 + turn % 3);
      f.high_first = turn % 2 != 0;
      f.bias = turn % 4 == 0 ? DSV4MX_DTYPE_BF16 : turn % 4 == 1 ? DSV4MX_DTYPE_F32 : 0;
      f.strided = turn % 5 == 0;
      f.memory = turn % 7 < 4 ? DSV4MX_MEMORY_HOST : DSV4MX_MEMORY_DEVICE;
      CheckSlabs(f);
      ++turn;
    }
  }
}

TEST_CASE("gpu prepare: every order, nibble order, memory and stride of one shape", "[gpu]") {
  REQUIRE_GPU();
  for (const dsv4mx_w13_order order : {1, 2, 3}) {
    for (const bool high_first : {false, true}) {
      for (const dsv4mx_memory memory : {DSV4MX_MEMORY_HOST, DSV4MX_MEMORY_DEVICE}) {
        for (const bool strided : {false, true}) {
          Form f;
          f.hidden = 224;
          f.intermediate = 160;
          f.experts = 3;
          f.order = order;
          f.high_first = high_first;
          f.memory = memory;
          f.strided = strided;
          f.bias = DSV4MX_DTYPE_BF16;
          CheckSlabs(f);
        }
      }
    }
  }
}

TEST_CASE("gpu prepare: large shapes go through several blocks of staging", "[gpu]") {
  REQUIRE_GPU();
  // The hidden sizes of the models with whole experts, and with one rank's share of them.
  for (const auto& [h, i] : {std::pair{4096, 2304},
                             {4096, 2880},
                             {7168, 3072},
                             {5120, 2304},
                             {5120, 1152},
                             {5120, 576},
                             {5120, 288},
                             {4096, 384},
                             {7168, 96},
                             {2880, 2880}}) {
    for (const dsv4mx_memory memory : {DSV4MX_MEMORY_HOST, DSV4MX_MEMORY_DEVICE}) {
      if (memory == DSV4MX_MEMORY_DEVICE && h != 5120) continue;
      Form f;
      f.hidden = h;
      f.intermediate = i;
      f.experts = 1;
      f.memory = memory;
      CheckSlabs(f);
    }
  }
}

TEST_CASE("gpu prepare: scales as numbers, from the host and on the device", "[gpu]") {
  REQUIRE_GPU();
  for (const dsv4mx_dtype dtype :
       {DSV4MX_DTYPE_I8, DSV4MX_DTYPE_U8, DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16, DSV4MX_DTYPE_F16}) {
    for (const dsv4mx_memory memory : {DSV4MX_MEMORY_HOST, DSV4MX_MEMORY_DEVICE}) {
      for (const bool strided : {false, true}) {
        Form f;
        f.hidden = 96;
        f.intermediate = 64;
        f.scales = dtype;
        f.memory = memory;
        f.strided = strided;
        const bool half = dtype == DSV4MX_DTYPE_F16;
        f.scale_low = half ? 103 : 0;
        f.scale_count = half ? 40 : 255;
        INFO(Describe(f) << " seed " << RunSeed());
        auto experts = MakeExperts(f);
        if (half) {  // what a half cannot say
          for (const auto& e : experts) {
            for (const Matrix m : kMatrices) {
              for (uint8_t& s : e->scales(m)) s = std::clamp<uint8_t>(s, 103, 142);
            }
          }
        }
        GpuWeights gpu(f);
        Tensors tensors(f, experts);
        tensors.Set(gpu.weights.get(), 0);
        gpu.Prepare();
        gpu.Check(experts);
      }
    }
  }
}

TEST_CASE("gpu prepare: a bad scale is refused with the CPU's words", "[gpu]") {
  REQUIRE_GPU();
  const struct {
    dsv4mx_dtype dtype;
    uint32_t bits;
  } bad[] = {{DSV4MX_DTYPE_E8M0, 255},        {DSV4MX_DTYPE_F32, 0x3FC00000u},
             {DSV4MX_DTYPE_F32, 0},           {DSV4MX_DTYPE_F32, 0xBF800000u},
             {DSV4MX_DTYPE_F32, 0x7F800000u}, {DSV4MX_DTYPE_BF16, 0x7FC0u},
             {DSV4MX_DTYPE_BF16, 0x0020u},    {DSV4MX_DTYPE_F16, 0x7C00u},
             {DSV4MX_DTYPE_F16, 0x0003u},     {DSV4MX_DTYPE_F16, 0xBC00u}};
  for (const auto& b : bad) {
    for (const dsv4mx_memory memory : {DSV4MX_MEMORY_HOST, DSV4MX_MEMORY_DEVICE}) {
      Form f;
      f.hidden = 160;
      f.intermediate = 96;
      f.scales = b.dtype;
      f.memory = memory;
      f.scale_low = 115;
      f.scale_count = 10;
      INFO(Describe(f) << " bits " << b.bits << " seed " << RunSeed());
      auto experts = MakeExperts(f);
      for (const auto& e : experts) {
        for (const Matrix m : kMatrices) {
          for (uint8_t& s : e->scales(m)) s = std::clamp<uint8_t>(s, 103, 142);
        }
      }
      Tensors tensors(f, experts);
      // Two of them: the first one in row order is told.
      for (const int64_t row : {70, 20}) {
        std::memcpy(tensors.scales[0]->At(1, f.intermediate + row, 3), &b.bits,
                    static_cast<size_t>(ElementBytes(b.dtype)));
      }
      GpuWeights gpu(f);
      const dsv4mx_tensor t = tensors.scales[0]->View(false);
      REQUIRE_REFUSED(
          dsv4mx_weights_set(gpu.weights.get(), "w13_weight_scale", -1, &t, nullptr, nullptr),
          DSV4MX_STATUS_INVALID_SCALE, "expert 1,up (w3),row 20,group 3");
      const std::string text = dsv4mx_last_error();
      Form cpu_form = f;
      cpu_form.memory = DSV4MX_MEMORY_HOST;
      const LayerPtr layer = MakeLayer(CpuContext(), DescOf(cpu_form));
      const WeightsPtr weights = MakeWeights(layer.get());
      Tensors again(cpu_form, experts);
      for (const int64_t row : {70, 20}) {
        std::memcpy(again.scales[0]->At(1, f.intermediate + row, 3), &b.bits,
                    static_cast<size_t>(ElementBytes(b.dtype)));
      }
      const dsv4mx_tensor host = again.scales[0]->View(false);
      REQUIRE_REFUSED(
          dsv4mx_weights_set(weights.get(), "w13_weight_scale", -1, &host, nullptr, nullptr),
          DSV4MX_STATUS_INVALID_SCALE, "row 20");
      CHECK(text == dsv4mx_last_error());
    }
  }
}

TEST_CASE("gpu prepare: Marlin export equals the CPU's, and import gives the slab back", "[gpu]") {
  REQUIRE_GPU();
  const struct {
    int32_t h, i, h_padded, i_padded;
    dsv4mx_dtype bias;
  } cases[] = {{64, 32, 0, 0, 0},
               {96, 32, 0, 32, DSV4MX_DTYPE_F32},
               {160, 288, 256, 320, DSV4MX_DTYPE_BF16},
               {2880, 96, 0, 0, DSV4MX_DTYPE_BF16},
               {32, 160, 128, 256, DSV4MX_DTYPE_F32},
               {4096, 384, 0, 0, DSV4MX_DTYPE_BF16},
               {160, 576, 0, 0, 0},
               {96, 1152, 0, 0, DSV4MX_DTYPE_F32},
               {7168, 192, 0, 0, 0},
               {5120, 288, 0, 0, 0},
               {5120, 384, 0, 0, DSV4MX_DTYPE_F32},
               {5120, 576, 5184, 640, DSV4MX_DTYPE_BF16},
               {5120, 1152, 0, 0, 0},
               {4096, 2304, 0, 0, 0},
               {2880, 2880, 0, 0, DSV4MX_DTYPE_BF16}};
  for (const auto& c : cases) {
    Form f;
    f.hidden = c.h;
    f.intermediate = c.i;
    f.bias = c.bias;
    f.experts = c.h * c.i < 1 << 20 ? 3 : 1;
    INFO(Describe(f) << " padded " << c.h_padded << " " << c.i_padded << " seed " << RunSeed());
    const auto experts = MakeExperts(f);
    const CpuWeights cpu(f, experts);
    MarlinHost want(f, c.h_padded, c.i_padded, c.bias, 0x5A);
    REQUIRE_OK(dsv4mx_weights_export_marlin(cpu.weights.get(), &want.desc, nullptr, nullptr));

    GpuWeights gpu(f);
    Tensors tensors(f, experts);
    tensors.Set(gpu.weights.get(), f.bias);
    gpu.Prepare();
    MarlinHost host(f, c.h_padded, c.i_padded, c.bias, 0x5A);
    const size_t before = FreeOnGpu();
    REQUIRE_OK(dsv4mx_weights_export_marlin(gpu.weights.get(), &host.desc, nullptr, nullptr));
    if (c.h * c.i > 4 << 20) CHECK(FreeOnGpu() >= before);  // where staging is megabytes
    for (int t = 0; t < 6; ++t) {
      INFO("host tensor " << t);
      CHECK(host.tensors[t] == want.tensors[t]);
    }

    MarlinHost device(f, c.h_padded, c.i_padded, c.bias, 0x5A);
    std::vector<std::unique_ptr<OnGpu>> memory;
    for (const Bytes& t : device.tensors) memory.push_back(std::make_unique<OnGpu>(t));
    device.Point([&](int t) { return memory[static_cast<size_t>(t)]->get(); });
    device.desc.memory = DSV4MX_MEMORY_DEVICE;
    REQUIRE_OK(dsv4mx_weights_export_marlin(gpu.weights.get(), &device.desc, nullptr, nullptr));
    for (int t = 0; t < 6; ++t) {
      INFO("device tensor " << t);
      CHECK(memory[static_cast<size_t>(t)]->Read() == want.tensors[t]);
    }

    for (const MarlinHost* from : {&host, &device}) {
      GpuWeights back(f);
      REQUIRE_OK(dsv4mx_weights_import_marlin(back.weights.get(), &from->desc, nullptr, nullptr));
      back.Prepare();
      back.Check(experts);
    }
  }
}

TEST_CASE("gpu prepare: a NaN scale in Marlin form is refused with its position", "[gpu]") {
  REQUIRE_GPU();
  Form f;
  f.hidden = 160;
  f.intermediate = 96;
  MarlinHost m(f, 192, 128, 0, 0);
  // Of expert 1: up row 5, and an earlier one in down, which is told later. Padding is not looked at.
  const int64_t rows = 256, per13 = rows * 192 / 32, per2 = 192 * 128 / 32;
  m.tensors[1][static_cast<size_t>(per13 + MarlinScale(rows, 128 + 5, 4))] = 255;
  m.tensors[1][static_cast<size_t>(per13 + MarlinScale(rows, 128 + 90, 1))] = 255;
  m.tensors[1][static_cast<size_t>(per13 + MarlinScale(rows, 100, 0))] = 255;
  m.tensors[1][static_cast<size_t>(per13 + MarlinScale(rows, 0, 5))] = 255;
  m.tensors[4][static_cast<size_t>(per2 + MarlinScale(192, 1, 0))] = 255;
  constexpr const char* kWords = "expert 1,up (w3),row 5,group 4,255";
  GpuWeights gpu(f);
  REQUIRE_REFUSED(dsv4mx_weights_import_marlin(gpu.weights.get(), &m.desc, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_SCALE, kWords);
  std::vector<std::unique_ptr<OnGpu>> memory;
  for (const Bytes& t : m.tensors) memory.push_back(std::make_unique<OnGpu>(t));
  m.Point([&](int t) { return memory[static_cast<size_t>(t)]->get(); });
  m.desc.memory = DSV4MX_MEMORY_DEVICE;
  REQUIRE_REFUSED(dsv4mx_weights_import_marlin(gpu.weights.get(), &m.desc, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_SCALE, kWords);
}

TEST_CASE("[F7] gpu prepare: host memory given as device memory is refused, not read", "[gpu]") {
  REQUIRE_GPU();
  Form f;
  GpuWeights gpu(f);
  const Bytes host(1 << 16, 0);
  dsv4mx_tensor t = Tensor(host.data(), DSV4MX_DTYPE_U8, {2, 64, 32});
  t.memory = DSV4MX_MEMORY_DEVICE;
  const dsv4mx_status status =
      dsv4mx_weights_set(gpu.weights.get(), "w13_weight", -1, &t, nullptr, nullptr);
  // A GPU that reads all host memory may take it.
  if (status == DSV4MX_STATUS_OK) return Skip("this GPU reads pageable host memory");
  REQUIRE_REFUSED(status, DSV4MX_STATUS_INVALID_TENSOR, "codes,host memory,wanted");
  MarlinHost m(f, 0, 0, 0, 0);
  m.desc.memory = DSV4MX_MEMORY_DEVICE;
  REQUIRE_REFUSED(dsv4mx_weights_import_marlin(gpu.weights.get(), &m.desc, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "Marlin,host memory,wanted");
  struct alignas(256) Line {
    uint8_t bytes[256];
  };
  std::vector<Line> memory(gpu.slab / sizeof(Line) * static_cast<size_t>(f.experts));
  dsv4mx_weights_desc desc = DSV4MX_WEIGHTS_DESC_INIT;
  desc.memory = memory.data();
  desc.memory_bytes = memory.size() * sizeof(Line);
  dsv4mx_weights* made = nullptr;
  REQUIRE_REFUSED(dsv4mx_weights_create(gpu.layer.get(), &desc, &made),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "memory of the weights,host memory,wanted");
  CHECK(made == nullptr);
}

TEST_CASE("gpu prepare: the published Marlin hashes", "[gpu]") {
  REQUIRE_GPU();
  const auto xorshift = [](uint32_t x, size_t n) {
    Bytes out(n);
    for (uint8_t& b : out) {
      x ^= x << 13;
      x ^= x >> 17;
      x ^= x << 5;
      b = static_cast<uint8_t>(x);
    }
    return out;
  };
  const auto scale_bytes = [&](uint32_t x, size_t n) {
    Bytes out = xorshift(x, n);
    for (uint8_t& b : out) b = static_cast<uint8_t>(b % 20 + 110);
    return out;
  };
  std::ifstream file("tests/data/marlin-golden.json");
  REQUIRE(file.good());
  int found = 0;
  const nlohmann::json golden = nlohmann::json::parse(file)["cases"];
  for (const auto& c : golden) {
    const std::string kind = c["kind"];
    if (kind != "weights" && kind != "padded layer") continue;
    INFO(c.dump());
    Form f;
    f.experts = 1;
    f.hidden = kind == "weights" ? c["N"] : c["H"];
    f.intermediate = kind == "weights" ? c["K"] : c["I"];
    auto experts = MakeExperts(f);
    RawExpert& e = *experts[0];
    const size_t half = static_cast<size_t>(f.intermediate) * static_cast<size_t>(f.hidden) / 2;
    if (kind == "weights") {
      e.codes(Matrix::kDown) = xorshift(c["seed"], half);
    } else {
      const Bytes w13 = xorshift(c["seeds"]["w13"], 2 * half),
                  s13 = scale_bytes(c["seeds"]["s13"], half / 8);
      const auto middle = [](const Bytes& v) {
        return v.begin() + static_cast<long>(v.size() / 2);
      };
      e.codes(Matrix::kGate).assign(w13.begin(), middle(w13));
      e.codes(Matrix::kUp).assign(middle(w13), w13.end());
      e.scales(Matrix::kGate).assign(s13.begin(), middle(s13));
      e.scales(Matrix::kUp).assign(middle(s13), s13.end());
      e.codes(Matrix::kDown) = xorshift(c["seeds"]["w2"], half);
      e.scales(Matrix::kDown) = scale_bytes(c["seeds"]["s2"], half / 16);
    }
    GpuWeights gpu(f);
    Tensors tensors(f, experts);
    tensors.Set(gpu.weights.get(), 0);
    gpu.Prepare();
    MarlinHost out(f, kind == "weights" ? f.hidden : 0, kind == "weights" ? f.intermediate : 0, 0,
                   0);
    REQUIRE_OK(dsv4mx_weights_export_marlin(gpu.weights.get(), &out.desc, nullptr, nullptr));
    const auto hash = [&](int t) {
      return Sha256(out.tensors[t].data(), out.tensors[t].size() - 64);
    };
    if (kind == "weights") {
      CHECK(hash(3) == c["out_sha256"]);
    } else {
      CHECK(hash(0) == c["w13_sha256"]);
      CHECK(hash(1) == c["s13_sha256"]);
      CHECK(hash(3) == c["w2_sha256"]);
      CHECK(hash(4) == c["s2_sha256"]);
    }
    ++found;
  }
  CHECK(found == 7);
}

TEST_CASE("gpu prepare: set again, cancel, and prepare goes on where it stopped", "[gpu]") {
  REQUIRE_GPU();
  Form f;
  f.hidden = 96;
  f.intermediate = 64;
  f.experts = 4;
  f.scale_low = 90;
  f.scale_count = 60;
  const auto before = MakeExperts(f, 1);
  f.scale_low = 115;
  f.scale_count = 5;
  const auto after = MakeExperts(f, 2);
  GpuWeights gpu(f);
  Tensors first(f, before), second(f, after);
  first.Set(gpu.weights.get(), 0);
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress = [](void*, dsv4mx_stage, int64_t done, int64_t total) -> int32_t {
    return 10 * done > 6 * total;
  };
  dsv4mx_prepare_args args = DSV4MX_PREPARE_ARGS_INIT;
  args.control = &control;
  CHECK(dsv4mx_weights_prepare(gpu.weights.get(), &args, nullptr) == DSV4MX_STATUS_CANCELLED);
  second.Set(gpu.weights.get(), 0);
  gpu.Prepare();
  gpu.Check(after);
  CHECK(gpu.Info().scale_min == 115);  // nothing is left of what was replaced
  CHECK(gpu.Info().scale_max == 119);
}

}  // namespace dsv4mx::test
