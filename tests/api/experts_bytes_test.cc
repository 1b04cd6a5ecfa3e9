// Prepared experts read back through the ABI: as tensors in every form that they are set in, as weights, and as slabs, which
// also go to another process.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

#include "lib/base/names.h"
#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

// One matrix in the names of both families.
struct Names {
  const char *short_name, *long_name, *bias;
};
constexpr Names kNames[] = {{"w1", "gate_proj", "gate_proj.bias"},
                            {"w3", "up_proj", "up_proj.bias"},
                            {"w2", "down_proj", "down_proj.bias"}};

std::vector<uint8_t> InOrder(std::vector<uint8_t> codes, dsv4mx_nibble_order order) {
  if (order == DSV4MX_NIBBLE_ORDER_LOW_FIRST) return codes;
  for (uint8_t& b : codes) b = static_cast<uint8_t>(b << 4 | b >> 4);
  return codes;
}

std::vector<uint8_t> Raw(const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * 4);
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

uint16_t Bf16Of(double value) {
  const auto f = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

std::vector<uint8_t> Weights(const ExpertData& d, int m) {
  constexpr double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  std::vector<uint8_t> bytes(static_cast<size_t>(d.rows[m] * d.k[m] * 2));
  for (int64_t i = 0; i < d.rows[m] * d.k[m]; ++i) {
    const int code = d.codes[m][static_cast<size_t>(i / 2)] >> (i % 2 * 4) & 15;
    const double value =
        std::ldexp(kValues[code & 7], d.scales[m][static_cast<size_t>(i / 32)] - 127);
    const uint16_t bf16 = static_cast<uint16_t>(Bf16Of(value) | code >> 3 << 15);
    std::memcpy(&bytes[static_cast<size_t>(2 * i)], &bf16, 2);
  }
  return bytes;
}

// Reads a tensor [rows, columns] with strides (0 = contiguous) and gives it without gaps; what lies between must stay.
std::vector<uint8_t> Get(const Runner& run, dsv4mx_device device, const std::string& name,
                         int32_t expert, dsv4mx_dtype dtype, int64_t element, int64_t rows,
                         int64_t columns, int64_t row_stride = 0, int64_t column_stride = 0) {
  const bool plain = row_stride == 0;
  const int64_t rs = plain ? columns : row_stride, cs = plain ? 1 : column_stride;
  const auto bytes = static_cast<size_t>(((rows - 1) * rs + (columns - 1) * cs + 1) * element);
  const bool cuda = device == DSV4MX_DEVICE_CUDA;
  std::vector<uint8_t> host(bytes, 0xC3);
  void* memory = host.data();
  if (cuda) {
    Must(dsv4mx_context_alloc(run.context(), bytes, &memory), "alloc");
    Must(dsv4mx_context_copy(run.context(), memory, host.data(), bytes, nullptr), "copy");
  }
  dsv4mx_tensor t = Tensor(memory, dtype, {rows, columns});
  if (dtype == DSV4MX_DTYPE_F32) t.rank = 1;
  t.memory = cuda ? DSV4MX_MEMORY_DEVICE : DSV4MX_MEMORY_HOST;
  if (!plain) t.stride[0] = rs, t.stride[1] = t.rank > 1 ? cs : 0;
  const dsv4mx_status status =
      dsv4mx_weights_get(run.weights(), name.c_str(), expert, &t, nullptr, nullptr);
  const std::string text = dsv4mx_last_error();
  if (cuda) {
    Must(dsv4mx_context_copy(run.context(), host.data(), memory, bytes, nullptr), "copy");
    Must(dsv4mx_context_synchronize(run.context(), nullptr), "synchronize");
    dsv4mx_context_free(run.context(), memory);
  }
  if (status != DSV4MX_STATUS_OK) throw Refused("get " + name + " " + text, status);
  if (plain) return host;
  std::vector<uint8_t> got;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      uint8_t* at = host.data() + (r * rs + c * cs) * element;
      got.insert(got.end(), at, at + element);
      std::memset(at, 0xC3, static_cast<size_t>(element));
    }
  }
  for (const uint8_t b : host) {
    if (b != 0xC3) throw std::runtime_error("bytes between the elements were written");
  }
  return got;
}

DEVICE_TEST_CASE("get: what was set comes back bit for bit, for shapes and orders", "[experts]") {
  std::vector<std::string> problems;
  for (const char* sizes :
       {"h=32 i=32", "h=96 i=160", "h=160 i=96", "h=256 i=128", "h=224 i=352"}) {
    for (const char* order : {"unset", "gate_up", "up_gate", "interleaved"}) {
      for (const char* nibble : {"low", "high"}) {
        problems.push_back(std::string(sizes) + " e=2 k=1 m=1 scales=1..254 order=" + order +
                           " nibble=" + nibble + (order[0] == 'g' ? " bias=1" : ""));
      }
    }
  }
  problems.push_back("h=2880 i=64 e=1 k=1 m=1 bias13=bf16 order=gate_up");
  problems.push_back("h=64 i=1056 e=1 k=1 m=1 bias2=f32 order=interleaved nibble=high");
  for (const std::string& problem : problems) {
    INFO(problem);
    Case c = MakeCase(problem);
    c.p.device = device;
    const Runner run(c);
    for (int32_t e = 0; e < c.p.experts; ++e) {
      const ExpertData& d = *c.experts[static_cast<size_t>(e)];
      for (int m = 0; m < 3; ++m) {
        const int64_t rows = d.rows[m], k = d.k[m];
        const std::string name = kNames[m].short_name;
        for (const dsv4mx_device memory : {dsv4mx_device{DSV4MX_DEVICE_CPU}, device}) {
          CHECK(Get(run, memory, name + ".weight", e, DSV4MX_DTYPE_U8, 1, rows, k / 2) ==
                InOrder(d.codes[m], c.p.nibble));
          CHECK(Get(run, memory, name + ".scale", e, DSV4MX_DTYPE_E8M0, 1, rows, k / 32) ==
                d.scales[m]);
          CHECK(Get(run, memory, name + ".weight", e, DSV4MX_DTYPE_BF16, 2, rows, k) ==
                Weights(d, m));
          if (!d.bias[m].empty()) {
            CHECK(Get(run, memory, kNames[m].bias, e, DSV4MX_DTYPE_F32, 4, rows, 1) ==
                  Raw(d.bias[m]));
          }
        }
      }
    }
  }
}

DEVICE_TEST_CASE("get: any strides, in memory of either kind", "[experts]") {
  Case c = MakeCase("h=160 i=96 e=2 k=1 m=1 order=gate_up bias=1");
  c.p.device = device;
  const Runner run(c);
  const ExpertData& d = *c.experts[1];
  for (int m = 0; m < 3; ++m) {
    const int64_t rows = d.rows[m], k = d.k[m];
    const std::string name = kNames[m].long_name;
    for (const dsv4mx_device memory : {dsv4mx_device{DSV4MX_DEVICE_CPU}, device}) {
      // Rows apart, columns apart, both, and transposed.
      const auto all = [&](const char* kind, dsv4mx_dtype dtype, int64_t element, int64_t columns,
                           const std::vector<uint8_t>& want) {
        const int64_t strides[][2] = {
            {columns + 5, 1}, {3 * columns, 3}, {2 * columns + 7, 2}, {1, rows}, {2, 2 * rows + 3}};
        for (const auto& s : strides) {
          INFO(name << kind << " strides " << s[0] << ", " << s[1]);
          CHECK(Get(run, memory, name + kind, 1, dtype, element, rows, columns, s[0], s[1]) ==
                want);
        }
      };
      all(".weight", DSV4MX_DTYPE_I8, 1, k / 2, d.codes[m]);
      all(".weight_scale", DSV4MX_DTYPE_U8, 1, k / 32, d.scales[m]);
      all(".weight", DSV4MX_DTYPE_BF16, 2, k, Weights(d, m));
      CHECK(Get(run, memory, kNames[m].bias, 1, DSV4MX_DTYPE_F32, 4, rows, 1, 3, 1) ==
            Raw(d.bias[m]));
    }
  }
}

TEST_CASE("get: every name of one matrix, with a prefix, and by an expert's number", "[experts]") {
  Case whole = MakeCase("h=64 i=32 e=6 k=2 m=4 order=gate_up bias=1");
  whole.p.ep = 2, whole.p.ep_rank = 1;
  whole.experts.erase(whole.experts.begin(), whole.experts.begin() + 3);
  const Runner run(whole);
  TensorName row;
  int names = 0;
  for (int rank = 0; TensorNameRow(rank, &row); ++rank) {
    const std::string suffix(row.suffix);
    const bool codes = row.kind == TensorKind::kCodes, bias = row.kind == TensorKind::kBias;
    const int m = row.target == TensorTarget::kGate ? 0 : row.target == TensorTarget::kUp ? 1 : 2;
    const ExpertData& d = *whole.experts[1];
    const int64_t columns = bias ? 1 : codes ? d.k[m] / 2 : d.k[m] / 32;
    const auto dtype = bias ? DSV4MX_DTYPE_F32 : codes ? DSV4MX_DTYPE_U8 : DSV4MX_DTYPE_E8M0;
    const std::vector<uint8_t> want = bias ? Raw(d.bias[m]) : codes ? d.codes[m] : d.scales[m];
    INFO(suffix);
    if (row.family->blocks) continue;  // never the name of a tensor of one kind
    if (row.target == TensorTarget::kW13) {
      CHECK_THROWS_AS(Get(run, DSV4MX_DEVICE_CPU, suffix, 1, dtype, 1, 2 * d.rows[0], 2), Refused);
      CHECK(MissingWords(dsv4mx_last_error(), "gate and up,w1") == "");
      continue;
    }
    ++names;
    for (const std::string& name : {suffix, "model.layers.3.mlp." + suffix}) {
      CHECK(Get(run, DSV4MX_DEVICE_CPU, name, 1, dtype, bias ? 4 : 1, d.rows[m], columns) == want);
    }
    for (const int32_t expert : {-1, 4}) {  // local expert 1 is expert 4 of the layer
      CHECK(Get(run, DSV4MX_DEVICE_CPU, "layers.3.experts.4." + suffix, expert, dtype, bias ? 4 : 1,
                d.rows[m], columns) == want);
    }
  }
  CHECK(names > 20);
}

TEST_CASE("get: the largest and smallest scales as weights", "[experts]") {
  Case c = MakeCase("h=32 i=32 e=1 k=1 m=1");
  ExpertData& d = *c.experts[0];
  for (int m = 0; m < 3; ++m) {
    for (size_t i = 0; i < d.codes[m].size(); ++i) {
      d.codes[m][i] = static_cast<uint8_t>(2 * i % 16 | (2 * i + 1) % 16 << 4);
    }
    for (size_t i = 0; i < d.scales[m].size(); ++i) {
      d.scales[m][i] = static_cast<uint8_t>(i % 2 == 0 ? i / 2 : 254 - i / 2);
    }
  }
  const Runner run(c);
  for (int m = 0; m < 3; ++m) {
    CHECK(Get(run, DSV4MX_DEVICE_CPU, std::string(kNames[m].short_name) + ".weight", 0,
              DSV4MX_DTYPE_BF16, 2, 32, 32) == Weights(d, m));
  }
}

TEST_CASE("get: what it refuses", "[experts]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=4 bias2=bf16");
  const Runner run(c);
  std::vector<uint8_t> memory(64 * 64 * 2);
  dsv4mx_weights* w = run.weights();
  const auto get = [&](const char* name, int32_t expert, const dsv4mx_tensor& t) {
    return dsv4mx_weights_get(w, name, expert, &t, nullptr, nullptr);
  };
  const dsv4mx_tensor good = Tensor(memory.data(), DSV4MX_DTYPE_U8, {32, 32});
  REQUIRE_OK(get("w1.weight", 0, good));
  constexpr auto kArgument = DSV4MX_STATUS_INVALID_ARGUMENT;
  constexpr auto kTensor = DSV4MX_STATUS_INVALID_TENSOR;
  REQUIRE_REFUSED(get("w1.weight", 3, good), kArgument, "expert,3,0..2");
  REQUIRE_REFUSED(get("w1.weight", -1, good), kArgument, "expert,-1,0..2");
  REQUIRE_REFUSED(get("experts.1.w1.weight", 0, good), kArgument, "expert,0,-1 or 1");
  REQUIRE_REFUSED(get("experts.7.w1.weight", -1, good), DSV4MX_STATUS_NOT_FOUND,
                  "experts.7,not held");
  REQUIRE_REFUSED(get("nonsense", 0, good), DSV4MX_STATUS_NOT_FOUND, "nonsense");
  REQUIRE_REFUSED(get("w13_weight", 0, good), DSV4MX_STATUS_NOT_FOUND, "w13_weight,gate and up,w3");
  REQUIRE_REFUSED(get("gate_proj.bias", 0, Tensor(memory.data(), DSV4MX_DTYPE_F32, {32})),
                  DSV4MX_STATUS_NOT_FOUND, "gate_proj.bias,no w13 bias");
  REQUIRE_REFUSED(get("w1.weight", 0, Tensor(nullptr, DSV4MX_DTYPE_U8, {32, 32})), kTensor, "NULL");
  REQUIRE_REFUSED(get("w1.weight", 0, Tensor(memory.data(), DSV4MX_DTYPE_F32, {32, 64})), kTensor,
                  "dtype,F32,U8,BF16");
  REQUIRE_REFUSED(get("w1.scale", 0, Tensor(memory.data(), DSV4MX_DTYPE_F32, {32, 2})), kTensor,
                  "dtype,F32,E8M0");
  REQUIRE_REFUSED(get("down_proj.bias", 0, Tensor(memory.data(), DSV4MX_DTYPE_BF16, {64})), kTensor,
                  "dtype,BF16,wanted F32");
  REQUIRE_REFUSED(get("w1.weight", 0, Tensor(memory.data(), DSV4MX_DTYPE_U8, {32, 64})), kTensor,
                  "[32, 64],[32, 32]");
  REQUIRE_REFUSED(get("w1.weight", 0, Tensor(memory.data(), DSV4MX_DTYPE_BF16, {32, 32})), kTensor,
                  "[32, 32],[32, 64]");
  for (const auto& s :
       std::vector<std::vector<int64_t>>{{0, 1}, {32, 0}, {31, 1}, {1, 31}, {2, 2}}) {
    dsv4mx_tensor t = good;
    t.stride[0] = s[0], t.stride[1] = s[1];
    REQUIRE_REFUSED(get("w1.weight", 0, t), kTensor, "strides,overlap");
  }
  dsv4mx_tensor bias = Tensor(memory.data(), DSV4MX_DTYPE_F32, {1, 64});
  bias.stride[0] = 1;
  REQUIRE_REFUSED(get("down_proj.bias", 0, bias), kTensor, "strides,overlap");
  dsv4mx_tensor t = good;
  t.memory = 3;
  REQUIRE_REFUSED(get("w1.weight", 0, t), kArgument, "memory,3");
  REQUIRE_REFUSED(dsv4mx_weights_get(w, nullptr, 0, &good, nullptr, nullptr), kArgument,
                  "name,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_get(w, "w1.weight", 0, nullptr, nullptr, nullptr), kArgument,
                  "tensor,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_get(nullptr, "w1.weight", 0, &good, nullptr, nullptr), kArgument,
                  "weights,NULL");
  dsv4mx_expert_args args = DSV4MX_EXPERT_ARGS_INIT;
  args.flags = 1;
  REQUIRE_REFUSED(dsv4mx_weights_get(w, "w1.weight", 0, &good, &args, nullptr), kArgument, "flags");
  REQUIRE_OK(dsv4mx_weights_reset(w));
  for (const char* name : {"w1.weight", "experts.1.w1.weight"}) {
    REQUIRE_REFUSED(get(name, 1, good), DSV4MX_STATUS_INVALID_STATE, "prepare");
  }
}

dsv4mx_slab SlabOf(const dsv4mx_weights* w, int32_t expert) {
  dsv4mx_slab slab = DSV4MX_SLAB_INIT;
  Must(dsv4mx_weights_get_slab(w, expert, &slab), "get_slab");
  return slab;
}

DEVICE_TEST_CASE("slabs: an expert moves by its bytes, into prepared weights and into others",
                 "[experts]") {
  for (const char* problem :
       {"h=96 i=160 e=4 k=2 m=7 order=gate_up bias=1", "h=64 i=32 e=3 k=2 m=5"}) {
    Case c = MakeCase(problem), fresh = MakeCase(std::string(problem) + " seed=77");
    c.p.device = fresh.p.device = device;
    const Runner a(c), b(fresh);
    const dsv4mx_slab slab = SlabOf(b.weights(), 1);
    CHECK(slab.memory ==
          (device == DSV4MX_DEVICE_CUDA ? DSV4MX_MEMORY_DEVICE : DSV4MX_MEMORY_HOST));
    CHECK(static_cast<int64_t>(slab.bytes) * c.p.experts == a.info().prepared_bytes);
    CHECK(SlabOf(a.weights(), 0).id == slab.id);
    CHECK(SlabOf(a.weights(), 0).bytes == slab.bytes);
    std::vector<uint8_t> bytes(slab.bytes + 1);
    REQUIRE_OK(dsv4mx_context_copy(b.context(), bytes.data() + 1, slab.data, slab.bytes, nullptr));
    REQUIRE_OK(dsv4mx_context_synchronize(b.context(), nullptr));
    dsv4mx_slab host = slab;
    host.data = bytes.data() + 1;
    host.memory = DSV4MX_MEMORY_HOST;
    Case changed = c;
    changed.experts[2] = changed.experts[0] = fresh.experts[1];
    REQUIRE_OK(dsv4mx_weights_set_slab(a.weights(), 2, &host, nullptr, nullptr));
    REQUIRE_OK(dsv4mx_weights_set_slab(a.weights(), 0, &slab, nullptr, nullptr));
    CHECK(CheckSame(a.Apply(), Runner(changed).Apply()) == "");
    // Onto itself.
    const dsv4mx_slab own = SlabOf(a.weights(), 2);
    REQUIRE_OK(dsv4mx_weights_set_slab(a.weights(), 2, &own, nullptr, nullptr));
    CHECK(CheckSame(a.Apply(), Runner(changed).Apply()) == "");
    // Weights made of slabs alone.
    const LayerPtr layer = MakeLayer(a.context(), DescOf(c));
    const WeightsPtr w = MakeWeights(layer.get());
    for (int32_t e = 0; e < c.p.experts; ++e) {
      const dsv4mx_slab from = e == 1 ? host : SlabOf(a.weights(), e);
      REQUIRE_OK(dsv4mx_weights_set_slab(w.get(), e, &from, nullptr, nullptr));
    }
    REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
    changed.experts[1] = fresh.experts[1];
    CHECK(CheckSame(ApplyGuarded(a.context(), layer.get(), w.get(), c.p, c.in),
                    Runner(changed).Apply()) == "");
  }
}

TEST_CASE("slabs: derived bytes are made anew, and a scale byte 255 is refused", "[experts]") {
  Case c = MakeCase("h=96 i=32 e=2 k=1 m=3 scales=118..122");
  const Runner a(c);
  const Output before = a.Apply();
  const dsv4mx_slab slab = SlabOf(a.weights(), 1);
  const auto* data = static_cast<const uint8_t*>(slab.data);
  std::vector<uint8_t> bytes(data, data + slab.bytes);
  dsv4mx_slab host = slab;
  host.data = bytes.data();
  const size_t weights = 3 * 96 * 32, scales = weights / 2;
  REQUIRE(slab.bytes > weights * 17 / 32);  // there is padding
  // A call that is cancelled already changes nothing and gives nothing.
  const int32_t flag = 1;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.cancel = &flag;
  dsv4mx_expert_args cancelled = DSV4MX_EXPERT_ARGS_INIT;
  cancelled.control = &control;
  const dsv4mx_slab other = SlabOf(a.weights(), 0);
  REQUIRE_REFUSED(dsv4mx_weights_set_slab(a.weights(), 1, &other, &cancelled, nullptr),
                  DSV4MX_STATUS_CANCELLED, "cancelled");
  std::vector<uint8_t> codes(32 * 96 / 2, 0x5A);
  dsv4mx_tensor tensor = DSV4MX_TENSOR_INIT;
  tensor.data = codes.data();
  tensor.dtype = DSV4MX_DTYPE_U8;
  tensor.rank = 2;
  tensor.shape[0] = 32, tensor.shape[1] = 96 / 2;
  REQUIRE_REFUSED(dsv4mx_weights_get(a.weights(), "w1.weight", 1, &tensor, &cancelled, nullptr),
                  DSV4MX_STATUS_CANCELLED, "cancelled");
  CHECK(codes == std::vector<uint8_t>(codes.size(), 0x5A));
  CHECK(CheckSame(before, a.Apply()) == "");
  bytes.back() = 0x55;
  REQUIRE_OK(dsv4mx_weights_set_slab(a.weights(), 1, &host, nullptr, nullptr));
  CHECK(data[slab.bytes - 1] == 0);
  CHECK(CheckSame(before, a.Apply()) == "");
  bytes[scales] = 255;
  REQUIRE_REFUSED(dsv4mx_weights_set_slab(a.weights(), 1, &host, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_SCALE, "expert 1,gate,row 0,group 0,255");
  CHECK(CheckSame(before, a.Apply()) == "");
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  const WeightsPtr w = MakeWeights(layer.get());
  REQUIRE_REFUSED(dsv4mx_weights_set_slab(w.get(), 1, &host, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_SCALE, "expert 1,gate,row 0,group 0,255");
  REQUIRE_OK(dsv4mx_weights_set_slab(w.get(), 0, &slab, nullptr, nullptr));
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_NOT_FOUND,
                  "expert 1");
  // The census is of what came.
  bytes[scales] = 250;
  REQUIRE_OK(dsv4mx_weights_set_slab(a.weights(), 1, &host, nullptr, nullptr));
  CHECK(FactsOf(a.weights()).info.scale_max == 250);
}

TEST_CASE("slabs: what is refused", "[experts]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=4"), other = MakeCase("h=64 i=64 e=3 k=2 m=4");
  const Runner a(c), b(other);
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  const WeightsPtr empty = MakeWeights(layer.get());
  dsv4mx_slab slab = DSV4MX_SLAB_INIT;
  constexpr auto kArgument = DSV4MX_STATUS_INVALID_ARGUMENT;
  REQUIRE_REFUSED(dsv4mx_weights_get_slab(a.weights(), 3, &slab), kArgument, "expert,3,0..2");
  REQUIRE_REFUSED(dsv4mx_weights_get_slab(empty.get(), 0, &slab), DSV4MX_STATUS_INVALID_STATE,
                  "prepared,slab");
  CHECK(slab.data == nullptr);
  REQUIRE_REFUSED(dsv4mx_weights_get_slab(nullptr, 0, &slab), kArgument, "weights,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_get_slab(a.weights(), 0, nullptr), kArgument, "out,NULL");
  const auto set = [&](int32_t expert, const dsv4mx_slab& s) {
    return dsv4mx_weights_set_slab(a.weights(), expert, &s, nullptr, nullptr);
  };
  const dsv4mx_slab good = SlabOf(a.weights(), 0);
  REQUIRE_REFUSED(set(3, good), kArgument, "expert,3,0..2");
  REQUIRE_REFUSED(set(-1, good), kArgument, "expert,-1,0..2");
  REQUIRE_REFUSED(set(0, SlabOf(b.weights(), 0)), DSV4MX_STATUS_UNSUPPORTED,
                  "id,wanted,cpu 1,hidden 64,32 channels");
  dsv4mx_slab bad = good;
  bad.data = nullptr;
  REQUIRE_REFUSED(set(0, bad), DSV4MX_STATUS_INVALID_TENSOR, "data,NULL");
  bad = good;
  bad.bytes -= 1;
  REQUIRE_REFUSED(set(0, bad), DSV4MX_STATUS_BUFFER_TOO_SMALL,
                  std::to_string(bad.bytes) + "," + std::to_string(good.bytes));
  bad.bytes += 2;
  REQUIRE_REFUSED(set(0, bad), DSV4MX_STATUS_INVALID_TENSOR, std::to_string(bad.bytes));
  bad = good;
  bad.memory = -1;
  REQUIRE_REFUSED(set(0, bad), kArgument, "memory,-1");
  bad = good;
  bad.reserved = 1;
  REQUIRE_REFUSED(set(0, bad), kArgument, "reserved,1");
  REQUIRE_REFUSED(dsv4mx_weights_set_slab(nullptr, 0, &good, nullptr, nullptr), kArgument,
                  "weights,NULL");
  REQUIRE_REFUSED(dsv4mx_weights_set_slab(a.weights(), 0, nullptr, nullptr, nullptr), kArgument,
                  "slab,NULL");
  bad = good;
  bad.struct_size = 8;
  REQUIRE_REFUSED(set(0, bad), DSV4MX_STATUS_INVALID_STRUCT, "slab,8");
}

bool ReadAll(int from, void* to, size_t bytes) {
  auto* at = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    const ssize_t n = read(from, at, bytes);
    if (n <= 0) return false;
    at += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}
bool WriteAll(int to, const void* from, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(from);
  while (bytes > 0) {
    const ssize_t n = write(to, at, bytes);
    if (n <= 0) return false;
    at += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

// In a child process, which makes handles of its own: two experts go through the pipe.
int Send(const Case& c, int to) {
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  desc.threads = 2;
  dsv4mx_context* made = nullptr;
  if (dsv4mx_context_create(&desc, &made) != DSV4MX_STATUS_OK) return 1;
  const ContextPtr context(made);
  const Runner run(c, context.get());
  for (const int32_t e : {0, 2}) {
    const dsv4mx_slab slab = SlabOf(run.weights(), e);
    const uint64_t head[] = {slab.id, slab.bytes};
    if (!WriteAll(to, head, sizeof head) || !WriteAll(to, slab.data, slab.bytes)) return 2;
  }
  return 0;
}

TEST_CASE("slabs: from one process to another, through a pipe", "[experts]") {
  const char* const problem = "h=96 i=160 e=4 k=2 m=7 order=gate_up bias=1";
  const Case c = MakeCase(problem), fresh = MakeCase(std::string(problem) + " seed=77");
  int pipes[2];
  REQUIRE(pipe(pipes) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int result = 3;
    try {
      result = Send(fresh, pipes[1]);
    } catch (...) {
    }
    _exit(result);
  }
  close(pipes[1]);
  const Runner a(c);
  Case changed = c;
  for (const int32_t e : {0, 2}) {
    uint64_t head[2];
    REQUIRE(ReadAll(pipes[0], head, sizeof head));
    std::vector<uint8_t> bytes(head[1]);
    REQUIRE(ReadAll(pipes[0], bytes.data(), bytes.size()));
    dsv4mx_slab slab = DSV4MX_SLAB_INIT;
    slab.id = head[0];
    slab.data = bytes.data();
    slab.bytes = bytes.size();
    REQUIRE_OK(dsv4mx_weights_set_slab(a.weights(), e, &slab, nullptr, nullptr));
    changed.experts[static_cast<size_t>(e)] = fresh.experts[static_cast<size_t>(e)];
  }
  close(pipes[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(CheckSame(a.Apply(), Runner(changed).Apply()) == "");
}

}  // namespace
}  // namespace dsv4mx::test
