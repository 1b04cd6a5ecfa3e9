// config.json of every family, and of none.
#include "lib/io/model_config.h"

#include <string>
#include <utility>

#include "dsv4mx.h"
#include "tests/catch.h"

namespace {

using dsv4mx::io::ModelConfig;
using dsv4mx::io::ParseModelConfig;

ModelConfig Parse(const std::string& text) {
  ModelConfig config;
  const dsv4mx::Status status = ParseModelConfig(text, "config.json", &config);
  INFO(text << ": " << dsv4mx::LastError());
  REQUIRE(status.ok());
  return config;
}

constexpr uint32_t kSizes =
    ModelConfig::kHidden | ModelConfig::kIntermediate | ModelConfig::kExperts | ModelConfig::kTopK;

TEST_CASE("config: DeepSeek-V4 and its relatives", "[io]") {
  // model.md section 1
  const ModelConfig flash = Parse(R"({"model_type":"deepseek_v4","hidden_size":4096,
      "intermediate_size":18432,"moe_intermediate_size":2048,"n_routed_experts":256,
      "n_shared_experts":1,"num_experts_per_tok":6,"routed_scaling_factor":1.5,"swiglu_limit":10.0,
      "hidden_act":"silu","expert_dtype":"fp4","rope_scaling":{"hidden_size":7,"factor":[1,2]},
      "quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]}})");
  CHECK(flash.filled == (kSizes | ModelConfig::kActivation | ModelConfig::kClampLimit |
                         ModelConfig::kRoutedScalingFactor));
  CHECK(flash.hidden == 4096);
  CHECK(flash.intermediate == 2048);
  CHECK(flash.experts == 256);
  CHECK(flash.top_k == 6);
  CHECK(flash.activation == DSV4MX_ACTIVATION_SWIGLU);
  CHECK(flash.clamp_limit == 10.0f);
  CHECK(flash.routed_scaling_factor == 1.5f);

  const ModelConfig v41 = Parse(R"({"model_type":"deepseek_v41","hidden_size":1,"vision_config":
      {"hidden_size":3,"hidden_act":"gelu"},"text_config":{"hidden_size":5120,
      "moe_intermediate_size":2304,"n_routed_experts":384,"num_experts_per_tok":6,
      "swiglu_limit":10,"hidden_act":"silu","routed_scaling_factor":null}})");
  CHECK(v41.hidden == 5120);
  CHECK(v41.experts == 384);
  CHECK(v41.clamp_limit == 10.0f);
  CHECK((v41.filled & ModelConfig::kRoutedScalingFactor) == 0);
}

TEST_CASE("config: GPT-OSS, Kimi K3", "[io]") {
  const ModelConfig oss = Parse(R"({"model_type":"gpt_oss","hidden_size":2880,"hidden_act":"silu",
      "intermediate_size":2880,"num_local_experts":128,"num_experts_per_tok":4,
      "experts_per_token":4,"swiglu_limit":7.0})");
  CHECK(oss.filled == (kSizes | ModelConfig::kActivation | ModelConfig::kClampLimit));
  CHECK(oss.intermediate == 2880);
  CHECK(oss.experts == 128);
  CHECK(oss.top_k == 4);
  CHECK(oss.activation == DSV4MX_ACTIVATION_SWIGLU_GPTOSS);
  CHECK(oss.alpha == 1.702f);
  CHECK(oss.beta == 1.0f);
  CHECK(oss.clamp_limit == 7.0f);

  const ModelConfig k3 = Parse(R"({"text_config":{"hidden_size":7168,"intermediate_size":33792,
      "routed_expert_hidden_size":3584,"moe_intermediate_size":3072,"num_experts":896,
      "num_experts_per_token":16,"hidden_act":"situ","activation_situ_beta":4.0,
      "activation_situ_linear_beta":25,"routed_scaling_factor":1.0}})");
  CHECK(k3.hidden == 3584);
  CHECK(k3.intermediate == 3072);
  CHECK(k3.experts == 896);
  CHECK(k3.top_k == 16);
  CHECK(k3.activation == DSV4MX_ACTIVATION_SITU);
  CHECK(k3.situ_beta == 4.0f);
  CHECK(k3.situ_linear_beta == 25.0f);
  CHECK((k3.filled & ModelConfig::kClampLimit) == 0);
}

TEST_CASE("config: what is not said is not filled", "[io]") {
  CHECK(Parse("{}").filled == 0);
  CHECK(Parse(R"({"hidden_size":null})").filled == 0);
  // Dense layers have this size; experts need not.
  CHECK(Parse(R"({"intermediate_size":18432,"num_experts":8})").filled == ModelConfig::kExperts);
  const ModelConfig zero = Parse(R"({"swiglu_limit":0,"routed_scaling_factor":0})");
  CHECK(zero.filled == (ModelConfig::kClampLimit | ModelConfig::kRoutedScalingFactor));
  CHECK(Parse(R"({"tie_word_embeddings":true,"text_config":{"use_cache":false}})").filled == 0);
  // Beside a file without a folder in its name, which is the folder that the process stands in.
  ModelConfig config;
  CHECK(dsv4mx::io::ReadModelConfig("nowhere.safetensors", &config).code ==
        DSV4MX_STATUS_NOT_FOUND);
  CHECK(std::string(dsv4mx::LastError()).starts_with("config.json: there is no config.json"));
}

TEST_CASE("config: damaged and foreign ones are refused with one line", "[io]") {
  std::string many = "{";
  for (int i = 0; i < 4097; ++i) many += "\"k" + std::to_string(i) + "\":1,";
  const std::pair<std::string, const char*> rows[] = {
      {"", "is not valid JSON"},
      {"[]", "has an array where an object belongs"},
      {"7", "has a number where an object belongs"},
      {"-7.5", "has a number where an object belongs"},
      {"null", "has null where an object belongs"},
      {"true", "has a boolean where an object belongs"},
      {"\"a\"", "has a string where an object belongs"},
      {"{\"a\":1,\"a\":2}", "has the key 'a' twice"},
      {"{\"a\":{},\"a\":2}", "has the key 'a' twice"},
      {"{\"text_config\":{\"a\":1,\"a\":2}}", "has the key 'a' twice"},
      {many + "\"k\":1}", "has more than 4096 keys"},
      {std::string("{}\0", 3), "NUL byte"},
      {R"({"hidden_size":"x"})", "hidden_size is no positive whole number"},
      {R"({"hidden_size":0})", "hidden_size is no positive whole number"},
      {R"({"hidden_size":-5})", "hidden_size is no positive whole number"},
      {R"({"hidden_size":1.5})", "hidden_size is no positive whole number"},
      {R"({"hidden_size":4294967296})", "hidden_size is no positive whole number"},
      {R"({"num_experts_per_tok":[6]})", "num_experts_per_tok is no positive whole number"},
      {R"({"swiglu_limit":"10"})", "swiglu_limit is no finite number"},
      {R"({"swiglu_limit":1e60})", "swiglu_limit is no finite number"},
      {R"({"swiglu_limit":-1})", "swiglu_limit is below 0"},
      {R"({"hidden_act":"situ","activation_situ_beta":4})", "activation_situ_linear_beta above 0"},
  };
  for (const auto& [text, want] : rows) {
    ModelConfig config;
    CAPTURE(text.substr(0, 100), want);
    CHECK(ParseModelConfig(text, "config.json", &config).code == DSV4MX_STATUS_FORMAT_ERROR);
    CAPTURE(dsv4mx::LastError());
    CHECK(std::string(dsv4mx::LastError()).find(want) != std::string::npos);
    CHECK(config.filled == 0);
  }
  ModelConfig config;
  CHECK(ParseModelConfig(R"({"hidden_act":"gelu"})", "c", &config).code ==
        DSV4MX_STATUS_UNSUPPORTED);
  CHECK(std::string(dsv4mx::LastError()).find("hidden_act is 'gelu'") != std::string::npos);
  CHECK(ParseModelConfig(R"({"swiglu_limits":[1,2]})", "c", &config).code ==
        DSV4MX_STATUS_UNSUPPORTED);
  CHECK(std::string(dsv4mx::LastError()).find("a limit per layer") != std::string::npos);
}

}  // namespace
