// What run_sanitizer.sh runs: the smallest cases that together reach every dispatchable kernel (each number path, every
// tile width, both ways of counting pairs, every branch of the epilogues; every way of setting, importing and exporting
// experts). Output, workspace and weights are left unwritten, so that initcheck sees a read of what no kernel wrote.
#include <algorithm>
#include <bit>
#include <cstring>

#include "tests/catch.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/gpu_plan.h"
#include "tests/gpu/marlin_tensors.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

// By name, so that each can be run alone (-c): racecheck takes minutes for one. f16 also with an h that it cannot hold. W4A8 with a
// scale of h for each 128 channels.
struct Way {
  std::string name, words;
};
std::vector<Way> Ways() {
  const std::string f16 = PlanOfRule("path", "f16", 144).substr(1);
  return {{"planes", "path=planes"},
          {"bf16", "path=bf16"},
          {"wide scales", "path=bf16 scales=120..140"},
          {"w4a8", "compute=w4a8" + PlanOfLines({"level,0,0"})},
          {"f16", f16},
          {"f16 again", f16 + " amp=1e-8"}};
}

void CheckUnwritten(const std::string& text) {
  GpuCallOptions options;
  options.fill = false;
  CHECK(RunAndJudge(text, options) == "");
}

TEST_CASE("sanitize: every path and width", "[gpu][sanitize]") {
  REQUIRE_GPU();
  for (const auto& [name, way] : Ways()) {
    DYNAMIC_SECTION(name) {
      const std::string words = " " + way + " m=";
      const auto check = [&](const char* sizes, const char* tokens) {
        CheckUnwritten(sizes + words + tokens);
      };
      // Two experts, one id each: m / 2 rows an expert meet every width of the plan and many between.
      for (const char* m : {"1", "6", "10", "14", "22", "30", "46", "66", "88", "108", "130", "150",
                            "250", "600"}) {
        check("h=160 i=96 e=2 k=1", m);
      }
      // 1025 pairs: counted by a kernel of its own.
      check("h=160 i=96 e=6 k=5 dist=half", "820");
      check("h=288 i=160 e=6 k=4", "256");
      check("h=544 i=544 e=3 k=2", "20");
    }
  }
}

// The kernel that levels reads what GEMM1's bulk copies have stored, of which initcheck knows nothing: here the workspace is filled.
TEST_CASE("sanitize: h with one scale a row, and paths that others leave out", "[gpu][sanitize]") {
  REQUIRE_GPU();
  const auto judge = [](const std::string& text) { CHECK(RunAndJudge(text, {}) == ""); };
  const auto check = [&](const std::string& plan, const std::vector<const char*>& tokens) {
    for (const char* m : tokens) judge("h=160 i=96 e=2 k=1" + plan + " m=" + m);
    judge("h=288 i=160 e=6 k=4 m=120" + plan);
  };
  const auto w4a8 = [](const char* path, int width, const char* level) {
    return " compute=w4a8" + PlanOfRule("w4a8", path, width, {level});
  };
  const std::string planes = PlanOfRule("path", "planes", 32, {"level,0,1"});
  check(planes, {"1", "6", "14", "22", "30", "46", "66"});
  for (const char* words :
       {"wpos=before", "k=1 wpos=input rw=bf16", "ids=i64 xs=168 os=176 out=f32",
        "e=16 ep=4 rank=1", "dist=none", "m=0"})
    judge("h=160 i=544 e=4 k=3 m=9" + planes + " " + words);
  judge("h=160 i=96 e=24 k=3 m=1400 dist=zipf" +
        PlanOfLines({"few,0,0", "path,0,planes", "mixed,0,0", "hot,0,250", "level,0,1"}));
  check(w4a8("e4m3", 56, "level,0,1"), {"6", "30", "66", "108"});
  check(w4a8("e4m3_big", 104, "level,0,1"), {"108", "150", "200"});
  check(w4a8("e4m3_wide", 208, "level,0,1"), {"108", "250", "400"});
  check(w4a8("e4m3", 56, "level,0,0"), {"30", "66", "108"});
  check(w4a8("e4m3_big", 104, "level,0,0"), {"108", "150", "200"});
  check(w4a8("e4m3_wide", 208, "level,0,0"), {"108", "250", "400"});
}

// Two CTAs with many items each, whose rings go round several times: all other cases here hardly fill theirs once. Kernels for few
// pairs, which take no fewer CTAs, have longer rows instead: of a multiple of 512, or the others would run.
TEST_CASE("sanitize: rings that go round", "[gpu][sanitize]") {
  REQUIRE_GPU();
  const auto check = [](const std::string& name, const std::string& words, int multiprocessors) {
    DYNAMIC_SECTION(name) {
      const Case c = GpuCase("e=3 k=2 " + words);
      const GpuLayer layer(c);
      GpuCall call(layer, c.in);
      call.args().multiprocessors = multiprocessors;
      CHECK(RunAndJudge(&call) == "");
    }
  };
  const auto path = [&](const char* rule, const char* name, int width, const char* level) {
    const std::string plan = PlanOfRule(rule, name, width, {std::string("level,0,") + level});
    for (const char* sizes : {"h=544 i=544 m=20", "h=544 i=288 m=200"}) {
      const bool w4a8 = std::string(rule) == "w4a8";
      check(std::string(name) + " level " + level + " " + sizes,
            sizes + std::string(w4a8 ? " compute=w4a8" : "") + plan, 2);
    }
  };
  for (const char* level : {"0", "1"}) {
    path("path", "planes", 32, level);
    path("w4a8", "e4m3", 56, level);
    path("w4a8", "e4m3_big", 104, level);
    path("w4a8", "e4m3_wide", 208, level);
  }
  path("path", "planes_big", 64, "0");
  path("path", "bf16", 144, "0");
  path("path", "f16", 144, "0");
  check("wide scales", "h=544 i=288 m=200 path=bf16 scales=120..140", 2);
  check("few pairs", "h=4096 i=2048 m=3", 0);
  check("few pairs of e4m3", "h=4096 i=2048 m=3 compute=w4a8", 0);
}

TEST_CASE("sanitize: every epilogue", "[gpu][sanitize]") {
  REQUIRE_GPU();
  for (const auto& [name, way] : Ways()) {
    DYNAMIC_SECTION(name)
    for (const char* words :
         {"k=3 bias=bf16 act=gptoss clamp=7", "k=3 bias=f32 clamp=10 rsf=1.5 out=f32",
          "k=3 wpos=before slot=bf16", "k=1 wpos=input rw=bf16", "k=3 ids=i64 xs=168 os=176",
          "k=3 e=16 ep=4 rank=1", "k=3 dist=none", "k=3 dist=dup invariant=1", "k=3 m=0"}) {
      CheckUnwritten(std::string("h=160 i=96 e=4 m=9 ") + way + " " + words);
    }
  }
}

TEST_CASE("sanitize: experts shared out to several paths", "[gpu][sanitize]") {
  REQUIRE_GPU();
  for (const char* main : {"planes", "planes_big", "bf16", "f16"}) {
    const std::string plan = PlanOfLines({"few,0,0", std::string("path,0,") + main, "mixed,0,0",
                                          "hot,0,250", "cold,0,100", "level,0,0"});
    CheckUnwritten("h=160 i=96 e=24 k=3 m=1400 dist=zipf" + plan);
  }
}

TEST_CASE("sanitize: device count and placement", "[gpu][sanitize]") {
  REQUIRE_GPU();
  for (const auto& [name, way] : Ways()) {
    DYNAMIC_SECTION(name)
    for (const char* m : {" m=40", " m=400"}) {
      Case c = GpuCase(std::string("h=160 i=96 e=12 ep=3 k=3 ") + way + m);
      c.placement = {3, 6, 10, 1};
      const GpuLayer layer(c);
      GpuCallOptions options;
      options.fill = false;
      options.tokens_device = 17;
      CHECK(RunAndJudge(layer, c.in, options) == "");
    }
  }
}

// A tensor's scale bytes as numbers of that type.
NamedTensor WithScalesAs(NamedTensor t, dsv4mx_dtype type) {
  if (t.dtype != DSV4MX_DTYPE_E8M0 || type == DSV4MX_DTYPE_E8M0) return t;
  std::vector<uint8_t> numbers;
  for (const uint8_t b : t.bytes) {
    const uint32_t f32 = std::bit_cast<uint32_t>(std::ldexp(1.0f, b - 127));
    uint8_t bytes[4];
    size_t n = 2;
    if (type == DSV4MX_DTYPE_F32) {
      n = 4;
      std::memcpy(bytes, &f32, n);
    } else {
      const auto half =
          type == DSV4MX_DTYPE_F16 ? PowerOfTwoF16(b - 127) : static_cast<uint16_t>(f32 >> 16);
      std::memcpy(bytes, &half, n);
    }
    numbers.insert(numbers.end(), bytes, bytes + n);
  }
  t.bytes = std::move(numbers);
  t.dtype = type;
  return t;
}

// The tensor at an odd address, in device memory or in host memory; lives as long as this.
struct AtOddAddress {
  AtOddAddress(const NamedTensor& t, dsv4mx_memory memory) : host(1), view(t.View()) {
    host.insert(host.end(), t.bytes.begin(), t.bytes.end());  // behind one byte of an aligned block
    view.data = host.data() + 1;
    view.memory = memory;
    if (memory != DSV4MX_MEMORY_DEVICE) return;
    device = std::make_unique<DeviceBuffer>(host.size(), 16);
    device->Upload(host.data(), host.size());
    view.data = device->data() + 1;
  }
  std::vector<uint8_t> host;
  std::unique_ptr<DeviceBuffer> device;
  dsv4mx_tensor view;
};

TEST_CASE("sanitize: experts set as numbers and bytes, from host and device, and in Marlin form",
          "[gpu][sanitize]") {
  REQUIRE_GPU();
  struct Way {
    dsv4mx_memory memory;
    dsv4mx_dtype scales;
    const char* bias;
  };
  for (const Way& way : {Way{DSV4MX_MEMORY_HOST, DSV4MX_DTYPE_E8M0, "bf16"},
                         {DSV4MX_MEMORY_HOST, DSV4MX_DTYPE_F32, "f32"},
                         {DSV4MX_MEMORY_DEVICE, DSV4MX_DTYPE_E8M0, "f32"},
                         {DSV4MX_MEMORY_DEVICE, DSV4MX_DTYPE_F32, "bf16"},
                         {DSV4MX_MEMORY_DEVICE, DSV4MX_DTYPE_BF16, "0"},
                         {DSV4MX_MEMORY_DEVICE, DSV4MX_DTYPE_F16, "0"}}) {
    const Case c =
        MakeCase(GpuProblem(std::string("h=160 i=96 e=2 k=2 m=5 order=up_gate bias=") + way.bias));
    INFO(ProblemText(c.p) << " memory " << way.memory << " scales " << way.scales);
    const GpuLayer layer(c);
    GpuCallOptions options;
    options.fill = false;
    GpuCall want(layer, c.in, options), got(layer, c.in, options);
    CHECK(RunAndJudge(&want) == "");
    const WeightsPtr weights = MakeWeights(layer.layer());
    for (int32_t e = 0; e < c.p.LocalExperts(); ++e) {
      for (const NamedTensor& t : TensorsOf(c.p, e, *c.Expert(e))) {
        const AtOddAddress given(WithScalesAs(t, way.scales), way.memory);
        REQUIRE_OK(
            dsv4mx_weights_set(weights.get(), t.name.c_str(), e, &given.view, nullptr, nullptr));
        REQUIRE_OK(dsv4mx_context_synchronize(layer.context(), nullptr));
      }
    }
    REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
    REQUIRE_OK(dsv4mx_layer_apply(layer.layer(), weights.get(), &got.args(), nullptr));
    REQUIRE_OK(dsv4mx_context_synchronize(layer.context(), nullptr));
    CHECK(SameRows(want, got) == "");
    CHECK(got.Damage() == "");
    const std::vector<std::vector<uint8_t>> tensors = ExportMarlin(layer, layer.weights());
    CHECK(ExportMarlin(layer, weights.get()) == tensors);
    if (way.scales != DSV4MX_DTYPE_E8M0) continue;

    // Once for each type of bias, by host and device.
    MarlinTensors host(layer, DSV4MX_MEMORY_HOST), device(layer, DSV4MX_MEMORY_DEVICE);
    REQUIRE_OK(dsv4mx_weights_export_marlin(weights.get(), &host.desc(), nullptr, nullptr));
    CHECK(host.Read() == tensors);
    device.Write(tensors);
    for (const MarlinTensors* from : {&host, &device}) {
      const WeightsPtr imported = MakeWeights(layer.layer());
      REQUIRE_OK(dsv4mx_weights_import_marlin(imported.get(), &from->desc(), nullptr, nullptr));
      REQUIRE_OK(dsv4mx_weights_prepare(imported.get(), nullptr, nullptr));
      CHECK(ExportMarlin(layer, imported.get()) == tensors);
      CHECK(from->Damage() == "");
    }
    // The first scale of both tensors is none.
    std::vector<std::vector<uint8_t>> bad = tensors;
    bad[1][0] = bad[4][0] = 255;
    device.Write(bad);
    const WeightsPtr refused = MakeWeights(layer.layer());
    REQUIRE_REFUSED(dsv4mx_weights_import_marlin(refused.get(), &device.desc(), nullptr, nullptr),
                    DSV4MX_STATUS_INVALID_SCALE, "expert 0,255");
  }
}

}  // namespace
}  // namespace dsv4mx::test
