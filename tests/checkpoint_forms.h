// One layer as each writer of checkpoints leaves it: the same experts under other names, in other orders, joined or apart.
#ifndef DSV4MX_TESTS_CHECKPOINT_FORMS_H_
#define DSV4MX_TESTS_CHECKPOINT_FORMS_H_

#include <cstdint>
#include <string>

#include "tests/layer_data.h"

namespace dsv4mx::test {

enum class Form {
  kDeepSeek,           // experts.E.w1.weight, scales E8M0
  kCompressedTensors,  // experts.E.gate_proj.weight_packed, scales U8
  kSglang,             // experts.w13_weight, [w1; w3]
  kMlx,                // switch_mlp.gate_proj.weight, words of eight codes
  kNumbers,            // experts.w13_weight with F32 numbers as scales
  kGptOss,             // experts.gate_up_proj_blocks, alternately
  kOpenAi,             // mlp1_weight.blocks, alternately
  kGguf,               // ffn_gate_exps, blocks
  kGgufFused,          // ffn_gate_up_exps, [gate; up]
};
inline constexpr Form kForms[] = {Form::kDeepSeek, Form::kCompressedTensors,
                                  Form::kSglang,   Form::kMlx,
                                  Form::kNumbers,  Form::kGptOss,
                                  Form::kOpenAi,   Form::kGguf,
                                  Form::kGgufFused};
const char* NameOf(Form form);
// Names of this form exist for biases.
bool HasBiases(Form form);

// Writes all experts of the case as layer 0 into a folder and gives the file's path. Bytes of their tensors go to *bytes.
std::string WriteForm(const std::string& folder, Form form, const Case& c,
                      int64_t* bytes = nullptr);

// A GGUF file: keys as they are, then tensors.
struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;  // outermost first, values
  bool blocks;                 // else F32
  std::string bytes;
};
std::string GgufFile(const std::string& keys, int64_t key_count,
                     const std::vector<GgufTensor>& tensors);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_CHECKPOINT_FORMS_H_
