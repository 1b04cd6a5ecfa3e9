// Devices before a context exists, and what the log says at which level.
#include <clocale>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("devices: count and description need no context", "[context]") {
  int32_t count = -1;
  REQUIRE_OK(dsv4mx_device_get_count(DSV4MX_DEVICE_CPU, &count));
  CHECK(count == 1);
  dsv4mx_device_info info = DSV4MX_DEVICE_INFO_INIT;
  REQUIRE_OK(dsv4mx_device_query(DSV4MX_DEVICE_CPU, 0, &info));
  CHECK(info.device == DSV4MX_DEVICE_CPU);
  CHECK(info.supported == 1);
  CHECK(info.total_bytes > 0);
  CHECK(info.free_bytes > 0);
  CHECK(info.free_bytes < info.total_bytes);
  CHECK(std::string(info.name) == "CPU");
  CHECK(std::string(info.reason).empty());
  REQUIRE_REFUSED(dsv4mx_device_query(DSV4MX_DEVICE_CPU, 1, &info), DSV4MX_STATUS_NO_DEVICE,
                  "ordinal,1");
  CHECK(info.supported == 0);
  REQUIRE_REFUSED(dsv4mx_device_query(DSV4MX_DEVICE_CPU, -1, &info), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "ordinal,-1");
  REQUIRE_REFUSED(dsv4mx_device_get_count(DSV4MX_DEVICE_AUTO, &count),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "device,0");
  REQUIRE_REFUSED(dsv4mx_device_query(9, 0, &info), DSV4MX_STATUS_INVALID_ARGUMENT, "device,9");

  REQUIRE_OK(dsv4mx_device_get_count(DSV4MX_DEVICE_CUDA, &count));
  REQUIRE(count >= 0);
  CHECK((count > 0) == WhyNoGpu().empty());
  for (int32_t ordinal = 0; ordinal < count; ++ordinal) {
    REQUIRE_OK(dsv4mx_device_query(DSV4MX_DEVICE_CUDA, ordinal, &info));
    CHECK(info.total_bytes > 0);
    CHECK((info.supported == 1) == std::string(info.reason).empty());
  }
  const dsv4mx_status beyond = dsv4mx_device_query(DSV4MX_DEVICE_CUDA, count, &info);
  CHECK((beyond == DSV4MX_STATUS_NO_DEVICE || beyond == DSV4MX_STATUS_UNSUPPORTED));
}

struct Line {
  dsv4mx_log_level level;
  std::string text;
};

ContextPtr Logging(std::vector<Line>* lines, dsv4mx_log_level level) {
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device = DSV4MX_DEVICE_CPU;
  d.threads = 1;
  d.log_level = level;
  d.log_user = lines;
  d.log = [](void* user, dsv4mx_log_level l, const char* text) {
    static_cast<std::vector<Line>*>(user)->push_back({l, text});
  };
  dsv4mx_context* made = nullptr;
  Must(dsv4mx_context_create(&d, &made), "context_create");
  return ContextPtr(made);
}

bool Has(const std::vector<Line>& lines, dsv4mx_log_level level, const std::string& words) {
  for (const Line& line : lines) {
    if (line.level == level && MissingWords(line.text, words).empty()) return true;
  }
  return false;
}

TEST_CASE("the log: one line per object, per tensor, and what no status can say", "[context]") {
  std::vector<Line> lines;
  const ContextPtr context = Logging(&lines, DSV4MX_LOG_DEBUG);
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=4 tp=1");
  dsv4mx_layer_desc d = DescOf(c);
  d.w2_bias = DSV4MX_DTYPE_F32;
  d.intermediate = 64;
  d.tp_size = 2;
  d.tp_rank = 1;
  const LayerPtr layer = MakeLayer(context.get(), d);
  const WeightsPtr w = MakeWeights(layer.get());
  const NamedTensor t = TensorsOf(c.p, 0, *c.experts[0])[0];
  const dsv4mx_tensor view = t.View();
  REQUIRE_OK(dsv4mx_weights_set(w.get(), "experts.2.w1.weight", -1, &view, nullptr, nullptr));
  REQUIRE_OK(dsv4mx_weights_set(w.get(), "experts.9.w1.weight", -1, &view, nullptr, nullptr));
  REQUIRE_OK(
      dsv4mx_weights_set(w.get(), "experts.2.gate_proj.weight", -1, &view, nullptr, nullptr));
  const std::vector<float> bias(64);
  const dsv4mx_tensor bias_view = Tensor(bias.data(), DSV4MX_DTYPE_F32, {64});
  REQUIRE_OK(dsv4mx_weights_set(w.get(), "w2_bias", 0, &bias_view, nullptr, nullptr));
  int foreign = 0;
  dsv4mx_context_free(context.get(), &foreign);
  CHECK(Has(lines, DSV4MX_LOG_INFO, "context on cpu"));
  CHECK(Has(lines, DSV4MX_LOG_INFO, "layer,hidden 64,32 of 64"));
  CHECK(Has(lines, DSV4MX_LOG_INFO, "weights of 3 experts"));
  CHECK(Has(lines, DSV4MX_LOG_DEBUG, "experts.2.w1.weight,set,1024 bytes"));
  CHECK(Has(lines, DSV4MX_LOG_DEBUG, "experts.9.w1.weight,ignored,not held"));
  CHECK(Has(lines, DSV4MX_LOG_DEBUG, "w2_bias,ignored,rank 0"));
  CHECK(Has(lines, DSV4MX_LOG_WARNING, "gate_proj.weight,another source"));
  CHECK(Has(lines, DSV4MX_LOG_ERROR, "pointer,not allocated"));

  // The default is warnings and errors alone.
  std::vector<Line> quiet;
  const ContextPtr standard = Logging(&quiet, 0);
  MakeLayer(standard.get(), DescOf(c));
  CHECK(quiet.empty());
  dsv4mx_context_free(standard.get(), &foreign);
  CHECK(quiet.size() == 1);
}

TEST_CASE("[J] numbers in messages do not follow the locale", "[errors]") {
  // What a host with a decimal comma has set; without that locale the test still checks the text.
  const std::string before = std::setlocale(LC_ALL, nullptr);
  for (const char* name : {"de_DE.UTF-8", "fr_FR.UTF-8", "C"}) {
    if (std::setlocale(LC_ALL, name) != nullptr) break;
  }
  dsv4mx_layer_desc d = DescOf(MakeCase("h=64 i=32 e=3 k=2 m=0"));
  d.clamp_limit = -1.5f;
  dsv4mx_layer* layer = nullptr;
  const dsv4mx_status status = dsv4mx_layer_create(CpuContext(), &d, &layer);
  const std::string text = dsv4mx_last_error();
  std::setlocale(LC_ALL, before.c_str());
  CHECK(status == DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(text.find("clamp_limit is -1.5,") != std::string::npos);
}

DEVICE_TEST_CASE(
    "[J8] activations: GATED is SWIGLU bit for bit at alpha 1 and beta 0, and takes zeros",
    "[api]") {
  Case swiglu = MakeCase("h=96 i=64 e=4 k=2 m=9 clamp=2");
  swiglu.p.device = device;
  Case gated = swiglu;
  gated.p.activation = DSV4MX_ACTIVATION_GATED;
  gated.p.alpha = 1;
  CHECK(CheckSame(Runner(swiglu).Apply(), Runner(gated).Apply()) == "");
  for (const char* text : {"h=96 i=64 e=4 k=2 m=9 act=gated alpha=0 beta=0",
                           "h=96 i=64 e=4 k=2 m=9 act=gated alpha=1.702",
                           "h=64 i=96 e=3 k=2 m=70 act=gated alpha=-0.5 beta=3 clamp=1",
                           "h=96 i=64 e=4 k=2 m=9 act=situ situb=4 situl=25",
                           "h=64 i=96 e=3 k=2 m=70 act=situ situb=0.5 situl=2 bias=1"}) {
    Case c = MakeCase(text);
    c.p.device = device;
    INFO(text);
    CHECK(RunAndCheck(c) == "");
  }
}

TEST_CASE("activations: what each takes is checked", "[errors]") {
  const struct {
    const char* words;
    void (*change)(dsv4mx_layer_desc&);
  } cases[] = {
      {"clamp_limit,SITU", [](dsv4mx_layer_desc& d) { d.clamp_limit = 7; }},
      {"situ_beta,0", [](dsv4mx_layer_desc& d) { d.situ_beta = 0; }},
      {"situ_linear_beta,-1", [](dsv4mx_layer_desc& d) { d.situ_linear_beta = -1; }},
      {"activation_alpha,SITU", [](dsv4mx_layer_desc& d) { d.activation_alpha = 1; }},
      {"situ_beta,GATED", [](dsv4mx_layer_desc& d) { d.activation = DSV4MX_ACTIVATION_GATED; }},
  };
  for (const auto& bad : cases) {
    dsv4mx_layer_desc d = DescOf(MakeCase("h=64 i=32 e=3 k=2 m=0 act=situ situb=4 situl=25"));
    bad.change(d);
    dsv4mx_layer* layer = nullptr;
    REQUIRE_REFUSED(dsv4mx_layer_create(CpuContext(), &d, &layer), DSV4MX_STATUS_INVALID_ARGUMENT,
                    bad.words);
  }
}

}  // namespace
}  // namespace dsv4mx::test
