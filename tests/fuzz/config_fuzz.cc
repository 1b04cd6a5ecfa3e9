// config.json.
#include <cmath>

#include "lib/io/model_config.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using dsv4mx::fuzz::Require;
  using dsv4mx::io::ModelConfig;
  ModelConfig config;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const dsv4mx::Status status = dsv4mx::io::ParseModelConfig(text, "c", &config);
  if (!status.ok()) {
    dsv4mx::fuzz::CheckRefusal(status, {DSV4MX_STATUS_FORMAT_ERROR, DSV4MX_STATUS_UNSUPPORTED});
    Require(config.filled == 0, "a refused config fills nothing");
    return 0;
  }
  const auto size_of = [&](ModelConfig::Field field, int32_t value) {
    Require((config.filled & field) != 0 ? value > 0 : value == 0, "a filled size is above 0");
  };
  size_of(ModelConfig::kHidden, config.hidden);
  size_of(ModelConfig::kIntermediate, config.intermediate);
  size_of(ModelConfig::kExperts, config.experts);
  size_of(ModelConfig::kTopK, config.top_k);
  for (const float value : {config.alpha, config.beta, config.situ_beta, config.situ_linear_beta,
                            config.clamp_limit, config.routed_scaling_factor}) {
    Require(std::isfinite(value), "a number is finite");
  }
  Require(config.clamp_limit >= 0, "a clamp is not below 0");
  return 0;
}
