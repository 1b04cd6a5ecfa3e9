// Operations on experts over a runtime that is host code: what is enqueued on which stream and behind which event, what is
// never waited for, what is refused before anything is enqueued, and bytes that come back as they were set.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/catch.h"
#include "tests/driver/fake_runtime.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

constexpr int32_t kHidden = 160, kIntermediate = 96, kExperts = 3;
const auto kStream = reinterpret_cast<dsv4mx_stream>(uintptr_t{0x77});

struct Destroy {
  void operator()(dsv4mx_context* p) const { dsv4mx_context_destroy(p); }
  void operator()(dsv4mx_layer* p) const { dsv4mx_layer_destroy(p); }
  void operator()(dsv4mx_weights* p) const { dsv4mx_weights_destroy(p); }
};

struct Tensor3 {
  std::vector<uint8_t> codes[3], scales[3];
  std::vector<float> bias[3];
};
int64_t Rows(int m) {
  return m == 2 ? kHidden : kIntermediate;
}
int64_t K(int m) {
  return m == 2 ? kIntermediate : kHidden;
}

Tensor3 MakeExpert(uint64_t seed, int low = 100, int high = 108) {
  Rng rng(seed);
  Tensor3 e;
  for (int m = 0; m < 3; ++m) {
    e.codes[m].resize(static_cast<size_t>(Rows(m) * K(m) / 2));
    rng.Bytes(e.codes[m].data(), e.codes[m].size());
    e.scales[m].resize(static_cast<size_t>(Rows(m) * K(m) / 32));
    for (uint8_t& s : e.scales[m]) {
      s = static_cast<uint8_t>(low +
                               static_cast<int>(rng.Below(static_cast<uint32_t>(high - low + 1))));
    }
    for (int64_t i = 0; i < Rows(m); ++i) e.bias[m].push_back(static_cast<float>(rng.Below(99)));
  }
  return e;
}

dsv4mx_tensor View(const void* data, dsv4mx_dtype dtype, int64_t rows, int64_t columns) {
  dsv4mx_tensor t = {};
  t.struct_size = sizeof t;
  t.data = data;
  t.dtype = dtype;
  t.rank = columns == 0 ? 1 : 2;
  t.shape[0] = rows, t.shape[1] = columns;
  return t;
}

const char* const kNames[] = {"w1", "w3", "w2"};
const char* const kBiases[] = {"gate_proj.bias", "up_proj.bias", "down_proj.bias"};

// A context, a layer with a placement, and weights on a fake device.
struct Fake {
  explicit Fake(const std::vector<Tensor3>& experts, int32_t device = 0) {
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = DSV4MX_DEVICE_CUDA;
    cd.device_ordinal = device;
    dsv4mx_context* c = nullptr;
    REQUIRE_OK(dsv4mx_context_create(&cd, &c));
    context.reset(c);
    const int32_t placement[] = {2, 3, 1};
    dsv4mx_layer_desc ld = DSV4MX_LAYER_DESC_INIT;
    ld.hidden = kHidden;
    ld.intermediate = kIntermediate;
    ld.experts = kExperts;
    ld.experts_global = 29;
    ld.placement = placement;
    ld.top_k = 2;
    ld.w13_bias = ld.w2_bias = DSV4MX_DTYPE_F32;
    dsv4mx_layer* l = nullptr;
    REQUIRE_OK(dsv4mx_layer_create(c, &ld, &l));
    layer.reset(l);
    weights = Make();
    for (int32_t e = 0; e < static_cast<int32_t>(experts.size()); ++e) {
      Set(weights.get(), e, experts[static_cast<size_t>(e)]);
    }
    if (experts.size() == kExperts) Prepare();
  }
  std::unique_ptr<dsv4mx_weights, Destroy> Make() const {
    dsv4mx_weights* w = nullptr;
    REQUIRE_OK(dsv4mx_weights_create(layer.get(), nullptr, &w));
    return std::unique_ptr<dsv4mx_weights, Destroy>(w);
  }
  static void Set(dsv4mx_weights* w, int32_t e, const Tensor3& data) {
    for (int m = 0; m < 3; ++m) {
      const auto set = [&](const std::string& name, const dsv4mx_tensor& t) {
        REQUIRE_OK(dsv4mx_weights_set(w, name.c_str(), e, &t, nullptr, nullptr));
      };
      const std::string name = m == 0 ? "gate_proj" : m == 1 ? "up_proj" : "down_proj";
      set(name + ".weight", View(data.codes[m].data(), DSV4MX_DTYPE_U8, Rows(m), K(m) / 2));
      set(name + ".scales", View(data.scales[m].data(), DSV4MX_DTYPE_E8M0, Rows(m), K(m) / 32));
      set(name + ".bias", View(data.bias[m].data(), DSV4MX_DTYPE_F32, Rows(m), 0));
    }
  }
  void Prepare() { REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr)); }
  // What prepared expert e is, read back.
  Tensor3 Get(int32_t e) const {
    Tensor3 got;
    for (int m = 0; m < 3; ++m) {
      const auto get = [&](const std::string& name, dsv4mx_tensor t) {
        REQUIRE_OK(dsv4mx_weights_get(weights.get(), name.c_str(), e, &t, nullptr, kStream));
      };
      got.codes[m].resize(static_cast<size_t>(Rows(m) * K(m) / 2));
      got.scales[m].resize(static_cast<size_t>(Rows(m) * K(m) / 32));
      got.bias[m].resize(static_cast<size_t>(Rows(m)));
      const std::string name = kNames[m];
      get(name + ".weight", View(got.codes[m].data(), DSV4MX_DTYPE_U8, Rows(m), K(m) / 2));
      get(name + ".scale", View(got.scales[m].data(), DSV4MX_DTYPE_E8M0, Rows(m), K(m) / 32));
      get(kBiases[m], View(got.bias[m].data(), DSV4MX_DTYPE_F32, Rows(m), 0));
    }
    return got;
  }
  dsv4mx_slab Slab(int32_t e) const {
    dsv4mx_slab slab = DSV4MX_SLAB_INIT;
    REQUIRE_OK(dsv4mx_weights_get_slab(weights.get(), e, &slab));
    return slab;
  }
  std::string Plan(int64_t tokens) const {
    char text[1024];
    REQUIRE_OK(dsv4mx_layer_query_plan(layer.get(), weights.get(), tokens, text, sizeof text));
    return text;
  }
  std::unique_ptr<dsv4mx_context, Destroy> context;
  std::unique_ptr<dsv4mx_layer, Destroy> layer;
  std::unique_ptr<dsv4mx_weights, Destroy> weights;
};

bool Same(const Tensor3& a, const Tensor3& b) {
  for (int m = 0; m < 3; ++m) {
    if (a.codes[m] != b.codes[m] || a.scales[m] != b.scales[m] || a.bias[m] != b.bias[m])
      return false;
  }
  return true;
}

// The host program's thread.
struct Host {
  int context = 0;
  Host() {
    fake = FakeRuntime{};
    fake.current = fake.host = &context;
  }
  ~Host() { CHECK(fake.live.empty()); }
};

dsv4mx_status Copy(const Fake& to, std::vector<int32_t> to_experts, const Fake& from,
                   std::vector<int32_t> from_experts) {
  dsv4mx_copy_args args = DSV4MX_COPY_ARGS_INIT;
  args.to_experts = to_experts.data();
  args.from_experts = from_experts.data();
  args.count = static_cast<int32_t>(to_experts.size());
  return dsv4mx_weights_copy_experts(to.weights.get(), from.weights.get(), &args, kStream);
}

// The log without calls that look at or change the thread alone.
std::vector<std::string> Enqueued() {
  std::vector<std::string> calls;
  for (const std::string& call : fake.log) {
    if (call.find("cuCtx") != 0 && call.find("cudaThread") != 0 &&
        call.find("IsCapturing") == std::string::npos) {
      calls.push_back(call);
    }
  }
  return calls;
}
bool Begins(const std::string& text, const std::string& with) {
  return text.compare(0, with.size(), with) == 0;
}
std::string Last(const std::string& text) {
  return text.substr(text.rfind(' ') + 1);
}
bool AnyOf(const std::vector<std::string>& calls, const char* word) {
  return std::any_of(calls.begin(), calls.end(),
                     [&](const std::string& c) { return c.find(word) != std::string::npos; });
}

const std::vector<Tensor3> kOld = {MakeExpert(1), MakeExpert(2), MakeExpert(3)};
const std::vector<Tensor3> kNew = {MakeExpert(4), MakeExpert(5), MakeExpert(6)};

}  // namespace

TEST_CASE("cuda experts: what was set comes back, from host and device tensors", "[experts]") {
  const Host host;
  const Fake f(kOld);
  for (int32_t e = 0; e < kExperts; ++e) CHECK(Same(f.Get(e), kOld[static_cast<size_t>(e)]));
  // In device memory, transposed and with gaps.
  const int64_t rows = kHidden, columns = kIntermediate;
  void* memory = nullptr;
  REQUIRE_OK(dsv4mx_context_alloc(f.context.get(), rows * columns * 8, &memory));
  const auto* values = static_cast<const uint16_t*>(memory);
  std::vector<uint16_t> plain(static_cast<size_t>(rows * columns));
  dsv4mx_tensor t = View(plain.data(), DSV4MX_DTYPE_BF16, rows, columns);
  REQUIRE_OK(dsv4mx_weights_get(f.weights.get(), "w2.weight", 1, &t, nullptr, nullptr));
  const int64_t strides[][2] = {{0, 0}, {columns + 8, 1}, {1, rows}, {2 * columns, 2}};
  for (const auto& s : strides) {
    t.data = memory;
    t.memory = DSV4MX_MEMORY_DEVICE;
    t.stride[0] = s[0], t.stride[1] = s[1];
    REQUIRE_OK(dsv4mx_weights_get(f.weights.get(), "w2.weight", 1, &t, nullptr, nullptr));
    bool same = true;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const int64_t at = s[0] == 0 ? r * columns + c : r * s[0] + c * s[1];
        same = same && values[at] == plain[static_cast<size_t>(r * columns + c)];
      }
    }
    INFO("strides " << s[0] << ", " << s[1]);
    CHECK(same);
  }
  // Host memory is not device memory.
  t.data = plain.data();
  REQUIRE_REFUSED(dsv4mx_weights_get(f.weights.get(), "w2.weight", 1, &t, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_TENSOR, "the tensor,host memory,device 0");
  dsv4mx_context_free(f.context.get(), memory);
}

TEST_CASE("cuda experts: a copy is enqueued behind both objects' work, and waits for nothing",
          "[experts]") {
  const Host host;
  const Fake to(kOld), from(kNew);
  const std::string plan = to.Plan(64);
  fake.behind = true;  // no event is ever reached
  fake.log.clear();
  REQUIRE_OK(Copy(to, {2, 0}, from, {1, 1}));
  const std::vector<std::string> calls = Enqueued();
  REQUIRE(calls.size() == 8);
  for (size_t i = 0; i < 8; i += 4) {
    CHECK(Begins(calls[i], "cudaStreamWaitEvent 119 "));
    CHECK(Begins(calls[i + 1], "cudaStreamWaitEvent 119 "));
    CHECK(Last(calls[i]) != Last(calls[i + 1]));  // to's and from's
    CHECK(calls[i + 2] == "cudaMemcpyAsync 119");
    CHECK(calls[i + 3] == "cudaEventRecord 119 " + Last(calls[i]));
  }
  fake.behind = false;
  CHECK(Same(to.Get(2), kNew[1]));
  CHECK(Same(to.Get(0), kNew[1]));
  CHECK(Same(to.Get(1), kOld[1]));
  CHECK(to.Plan(64) == plan);
  // Within one object one event orders all.
  fake.log.clear();
  REQUIRE_OK(Copy(to, {1}, to, {2}));
  CHECK(Enqueued().size() == 3);
  CHECK(Same(to.Get(1), kNew[1]));
}

TEST_CASE("cuda experts: between two contexts and two devices", "[experts]") {
  const Host host;
  fake.devices = 2;
  const Fake to(kOld), beside(kNew, 0), far(kNew, 1);
  fake.log.clear();
  REQUIRE_OK(Copy(to, {0}, beside, {2}));
  CHECK(AnyOf(fake.log, "cudaMemcpyAsync 119"));
  CHECK(Same(to.Get(0), kNew[2]));
  fake.log.clear();
  REQUIRE_OK(Copy(to, {1}, far, {0}));
  CHECK(AnyOf(fake.log, "cudaMemcpyPeerAsync 119 1 to 0"));
  CHECK(Same(to.Get(1), kNew[0]));
  CHECK(fake.current == &host.context);
}

TEST_CASE("cuda experts: an expert that the path does not allow is refused with its census",
          "[experts]") {
  const Host host;
  std::vector<Tensor3> spread = kNew, high = kNew;
  spread[1] = MakeExpert(8, 90, 110);
  high[1] = MakeExpert(9, 125, 130);
  const Fake exact(kOld), spans(spread), wide(high);
  const auto refused = [&](const Fake& to, const Fake& from, const char* words) {
    fake.log.clear();
    REQUIRE_REFUSED(Copy(to, {0, 2}, from, {0, 1}), DSV4MX_STATUS_UNSUPPORTED,
                    std::string("expert 1 of from,") + words);
    CHECK(Enqueued().empty());
    dsv4mx_slab slab = from.Slab(1);
    const std::vector<uint8_t> before(static_cast<const uint8_t*>(to.Slab(2).data),
                                      static_cast<const uint8_t*>(to.Slab(2).data) + slab.bytes);
    REQUIRE_REFUSED(dsv4mx_weights_set_slab(to.weights.get(), 2, &slab, nullptr, nullptr),
                    DSV4MX_STATUS_UNSUPPORTED, std::string("the slab,") + words);
    CHECK(std::memcmp(to.Slab(2).data, before.data(), before.size()) == 0);
  };
  refused(exact, spans, "scale bytes up to 110,span of 20 binades,at most 128 and 11");
  refused(exact, wide, "scale bytes up to 130,span of,at most 128 and 11");
  // Prepared for bf16: any span, but not the wide form, which graphs captured before do not have.
  CHECK(spans.Plan(64).find("bf16") != std::string::npos);
  refused(spans, wide, "scale bytes up to 130,at most scale byte 128");
  // Prepared where f16 holds all: no scale byte below its least.
  std::vector<Tensor3> fit = {MakeExpert(10, 102, 110), MakeExpert(11, 102, 110),
                              MakeExpert(12, 102, 110)};
  const Fake halves(fit);
  fit[1] = MakeExpert(13, 101, 109);
  const Fake low(fit);
  CHECK(halves.Plan(2000).find("sm_90a f16:") != std::string::npos);
  CHECK(low.Plan(2000).find("sm_90a bf16:") != std::string::npos);
  refused(halves, low, "scale bytes from 101 on,wanted 102 or more");
  REQUIRE_OK(Copy(halves, {0}, low, {2}));
  REQUIRE_OK(Copy(low, {1}, halves, {1}));
  CHECK(low.Plan(2000).find("sm_90a bf16:") != std::string::npos);  // the path stays
  REQUIRE_OK(Copy(wide, {0}, spans, {1}));
  REQUIRE_OK(Copy(wide, {1}, exact, {1}));
  REQUIRE_OK(Copy(wide, {0}, exact, {1}));
  // The last expert that asked for it has gone; the path stays, and what is told is of the experts there are.
  CHECK(wide.Plan(64).find("wide bf16") != std::string::npos);
  dsv4mx_weights_census census = DSV4MX_WEIGHTS_CENSUS_INIT;
  REQUIRE_OK(dsv4mx_weights_query_census(wide.weights.get(), &census));
  CHECK(census.planes_exact == 1);
  REQUIRE_OK(dsv4mx_weights_query_expert_census(spans.weights.get(), 1, &census));
  CHECK(census.planes_exact == 0);
  CHECK(census.span_max == 20);
  dsv4mx_expert_info info = DSV4MX_EXPERT_INFO_INIT;
  REQUIRE_OK(dsv4mx_weights_query_expert(spans.weights.get(), 1, &info));
  CHECK(info.scale_min == 90);
  CHECK(info.scale_max == 110);
  // Reset and prepared anew, it may choose again.
  REQUIRE_OK(dsv4mx_weights_reset(wide.weights.get()));
  REQUIRE_OK(Copy(wide, {0, 1, 2}, exact, {0, 1, 2}));
  REQUIRE_OK(dsv4mx_weights_prepare(wide.weights.get(), nullptr, nullptr));
  CHECK(wide.Plan(64) == exact.Plan(64));
}

TEST_CASE("cuda experts: slabs from host and device memory, derived bytes made anew", "[experts]") {
  const Host host;
  const Fake to(kOld), from(kNew);
  const dsv4mx_slab slab = from.Slab(1);
  CHECK(slab.memory == DSV4MX_MEMORY_DEVICE);
  const auto* data = static_cast<const uint8_t*>(slab.data);
  std::vector<uint8_t> bytes(slab.bytes + 3);
  std::memcpy(bytes.data() + 3, data, slab.bytes);
  bytes[3 + slab.bytes - 1] = 9;  // rounds the slab up
  const size_t base = static_cast<size_t>(3 * 34 * kHidden + 3 * 34 * kIntermediate);
  bytes[3 + base] ^= 0x40;  // an exponent base
  dsv4mx_slab given = slab;
  given.data = bytes.data() + 3;
  given.memory = DSV4MX_MEMORY_HOST;
  const size_t live = fake.live.size();
  REQUIRE_OK(dsv4mx_weights_set_slab(to.weights.get(), 0, &given, nullptr, kStream));
  REQUIRE_OK(dsv4mx_weights_set_slab(to.weights.get(), 2, &slab, nullptr, kStream));
  CHECK(fake.live.size() == live);
  for (const int32_t e : {0, 2}) {
    CHECK(std::memcmp(to.Slab(e).data, data, slab.bytes) == 0);
    CHECK(Same(to.Get(e), kNew[1]));
  }
  // A NaN, wherever it comes from, and its place.
  const Fake filling({});
  void* memory = nullptr;
  REQUIRE_OK(dsv4mx_context_alloc(to.context.get(), slab.bytes, &memory));
  const size_t nan =
      32 * 128 + 5;  // of the first block of K, gate: warp 0, row 0's lane, second half
  bytes[3 + nan] = 255;
  std::memcpy(memory, bytes.data() + 3, slab.bytes);
  dsv4mx_slab device = slab;
  device.data = memory;
  for (const Fake* f : {&to, &filling}) {
    for (const dsv4mx_slab* s : {&given, &device}) {
      REQUIRE_REFUSED(dsv4mx_weights_set_slab(f->weights.get(), 0, s, nullptr, kStream),
                      DSV4MX_STATUS_INVALID_SCALE, "scale of expert 0,row,group 2,byte 255");
    }
  }
  CHECK(std::memcmp(to.Slab(0).data, data, slab.bytes) == 0);
  dsv4mx_weights_info info = DSV4MX_WEIGHTS_INFO_INIT;
  REQUIRE_OK(dsv4mx_weights_query(filling.weights.get(), &info));
  CHECK(info.tensors_missing == 9 * kExperts);
  // Host memory is not device memory.
  device.data = bytes.data();
  REQUIRE_REFUSED(dsv4mx_weights_set_slab(to.weights.get(), 0, &device, nullptr, kStream),
                  DSV4MX_STATUS_INVALID_TENSOR, "the slab,host memory");
  dsv4mx_context_free(to.context.get(), memory);
}

namespace {

// The map of ids on the device: the one block of its size.
const int32_t* MapOf() {
  const int32_t* map = nullptr;
  for (const auto& [start, block] : fake.live) {
    if (block.kind == 'd' && block.bytes == 29 * 4) map = static_cast<const int32_t*>(start);
  }
  return map;
}
int64_t Pinned() {
  return std::count_if(fake.live.begin(), fake.live.end(), [](const auto& entry) {
    return entry.second.kind == 'h' && entry.second.bytes == 29 * 4;
  });
}

}  // namespace

TEST_CASE("cuda experts: a placement changes in place, from memory that stays, without a wait",
          "[experts]") {
  const Host host;
  const Fake f(kOld);
  const int32_t* map = MapOf();
  REQUIRE(map != nullptr);
  CHECK(map[2] == 0);
  fake.behind = true;
  const int32_t places[][3] = {{5, 2, 5}, {0, 1, 28}, {28, 3, 4}};
  for (int i = 0; i < 3; ++i) {
    fake.log.clear();
    REQUIRE_OK(dsv4mx_layer_set_placement(f.layer.get(), places[i], kStream));
    CHECK(Pinned() == i + 1);  // none has been read, as far as anybody knows
    const std::vector<std::string> calls = Enqueued();
    CHECK_FALSE(AnyOf(calls, "Synchronize"));
    REQUIRE(calls.size() >= 2);
    CHECK(calls[calls.size() - 2] == "cudaMemcpyAsync 119");
    CHECK(Begins(calls.back(), "cudaEventRecord 119"));
    if (i > 0) CHECK(Begins(calls[calls.size() - 3], "cudaStreamWaitEvent 119"));
  }
  fake.behind = false;
  REQUIRE_OK(dsv4mx_layer_set_placement(f.layer.get(), places[0], kStream));
  CHECK(Pinned() == 3);
  CHECK(MapOf() == map);
  for (int32_t id = 0; id < 29; ++id) CHECK(map[id] == (id == 5 ? 0 : id == 2 ? 1 : -1));
}

TEST_CASE("cuda experts: nothing of this is captured", "[experts]") {
  const Host host;
  const Fake to(kOld), from(kNew);
  const dsv4mx_slab slab = from.Slab(0);
  const int32_t placement[] = {0, 1, 2};
  fake.capturing = true;
  fake.log.clear();
  REQUIRE_REFUSED(Copy(to, {0}, from, {0}), DSV4MX_STATUS_INVALID_STATE, "copied,captured");
  REQUIRE_REFUSED(dsv4mx_weights_set_slab(to.weights.get(), 0, &slab, nullptr, kStream),
                  DSV4MX_STATUS_INVALID_STATE, "replaced,captured");
  REQUIRE_REFUSED(dsv4mx_layer_set_placement(to.layer.get(), placement, kStream),
                  DSV4MX_STATUS_INVALID_STATE, "placed,captured");
  CHECK_FALSE(AnyOf(fake.log, "cudaMemcpy"));
  CHECK_FALSE(AnyOf(fake.log, "Wait"));
  CHECK_FALSE(AnyOf(fake.log, "Record"));
  fake.capturing = false;
}

}  // namespace dsv4mx::test
