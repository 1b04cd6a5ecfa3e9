// Finds the routed experts of one MoE layer in a checkpoint by their names, and says what they are.
//
// Names:   [model.]layers.N.{ffn,mlp}.experts.M.{w1,w3,w2}.{weight,scale}      as released
//          [model.]mtp.K.{ffn,mlp}.experts...                                 draft blocks
//          ...experts.{w13,w2}_weight[_scale[_inv]]                           fused, SGLang
// The format is probed from dtypes and shapes, never from a config file: the releases say
// quant_method "fp8" and name a block size that is not the experts' (see DeepSeek-V4's config.json),
// and one checkpoint may mix formats between layers.
#ifndef DSV4MX_LIB_IO_DEEPSEEK_H_
#define DSV4MX_LIB_IO_DEEPSEEK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx::io {

struct LayerTensors {
  std::string prefix;  // "layers.3.ffn.": what the router's names start with too
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int32_t experts = 0;
  bool fused = false;  // w13 holds [w1; w3] of all experts
  // Every tensor that makes up the experts, in the order to load them: expert by expert, gate, up,
  // down, codes before scales. Exactly one spelling of each.
  std::vector<const TensorView*> tensors;
};

// `layer` N >= 0 is layers.N; N < 0 is mtp.(-1-N). All shapes and dtypes of all experts are checked,
// no tensor byte is read.
// NOT_FOUND: no such layer, or a tensor of it is missing. FORMAT_ERROR: shapes that contradict each
// other. UNSUPPORTED_DTYPE: experts of another format (FP8, NVFP4, INT4, ...), named.
Status FindLayer(const Checkpoint& checkpoint, int32_t layer, LayerTensors* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_DEEPSEEK_H_
