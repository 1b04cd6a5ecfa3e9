// config.json: what a model's own description says about its routed experts. Tensors decide sizes and
// format; this adds what no tensor tells: ids per token, activation, clamp, scaling.
#ifndef DSV4MX_LIB_IO_MODEL_CONFIG_H_
#define DSV4MX_LIB_IO_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "lib/base/status.h"

namespace dsv4mx::io {

struct ModelConfig {
  enum Field : uint32_t {
    kHidden = 1u << 0,
    kIntermediate = 1u << 1,
    kExperts = 1u << 2,
    kTopK = 1u << 3,
    kActivation = 1u << 4,  // with the numbers that belong to it: alpha and beta, or SiTU's two
    kClampLimit = 1u << 5,
    kRoutedScalingFactor = 1u << 6,
  };
  uint32_t filled = 0;  // of Field: zero is a legal value
  const char* source = "config.json";
  int32_t hidden = 0, intermediate = 0, experts = 0, top_k = 0;
  dsv4mx_activation activation = DSV4MX_ACTIVATION_SWIGLU;
  float alpha = 0, beta = 0, situ_beta = 0, situ_linear_beta = 0;
  float clamp_limit = 0;
  float routed_scaling_factor = 0;
};

// Reads the text of a config.json; what stands under text_config counts as if it stood on top, and goes
// before it. `label` names the file in messages. FORMAT_ERROR for a value that cannot be;
// UNSUPPORTED for an activation that this library does not compute. On failure *out is left empty.
Status ParseModelConfig(std::string_view text, const char* label, ModelConfig* out);

// The config.json of a checkpoint's path: beside the file, or in the folder. NOT_FOUND if there is none.
Status ReadModelConfig(const std::string& checkpoint_path, ModelConfig* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_MODEL_CONFIG_H_
