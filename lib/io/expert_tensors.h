// Finds the routed experts of one block in a checkpoint by their names, and says what they are.
//
// Names are those of lib/base/names.h behind "experts.M." (one expert) or "experts." (all of them).
// The format is probed from dtypes and shapes, never from a config file: the releases say quant_method
// "fp8" and name a block size that is not the experts' (see DeepSeek-V4's config.json), and one
// checkpoint may mix formats between layers.
#ifndef DSV4MX_LIB_IO_EXPERT_TENSORS_H_
#define DSV4MX_LIB_IO_EXPERT_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/names.h"
#include "lib/base/status.h"
#include "lib/io/blocks.h"
#include "lib/io/checkpoint_reader.h"

namespace dsv4mx::io {

// What the names of a block's tensors say. No file is opened for it.
struct LayerNames {
  std::string stem;  // "layers.3.ffn.": what the router's names start with too
  struct Entry {
    TensorName name;   // expert_id -1 = all experts in one tensor
    size_t index = 0;  // in the checkpoint
  };
  std::vector<Entry> entries;
  std::vector<int64_t> ids;  // of experts that have tensors of their own, ascending
};

// NOT_FOUND: no such block. FORMAT_ERROR: a tensor that no MXFP4 expert has. UNSUPPORTED_DTYPE: the
// names are of another format.
Status FindLayer(const Checkpoint& checkpoint, const BlockName& block, LayerNames* out);

// One tensor of the experts: of one (name.expert_id) or of all of them (its first dimension).
struct ExpertTensor {
  TensorName name;
  TensorPlace place;
  int64_t rows = 0;       // of one expert
  int64_t row_bytes = 0;  // of codes, scales or bias
  bool blocks = false;    // codes with their scales in MXFP4 blocks of a GGUF file
};

struct LayerTensors {
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int64_t all = 0;  // experts in tensors that hold all of them; 0 = each has its own
  // Of fused gate and up; UNSET where they are apart.
  dsv4mx_w13_order w13_order = DSV4MX_W13_ORDER_UNSET;
  dsv4mx_dtype w13_bias = 0, w2_bias = 0;
  // In the order to load them: expert by expert, gate, up, down, codes before scales, then biases.
  // Codes and scales of a matrix come from one family of names.
  std::vector<ExpertTensor> tensors;
};

// The tensors of experts `ids` (ascending). Opens the files that hold them; all their shapes and dtypes
// are checked, no tensor byte is read.
// NOT_FOUND: a tensor is missing. FORMAT_ERROR: shapes that contradict each other. UNSUPPORTED_DTYPE:
// experts of another format (FP8, NVFP4, INT4, ...), named.
Status CollectTensors(const Checkpoint& checkpoint, const LayerNames& layer,
                      const std::vector<int64_t>& ids, LayerTensors* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_EXPERT_TENSORS_H_
