#include "tests/bench/info_checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string_view>

#include "tests/bench/cpu_ceilings.h"
#include "tests/runner.h"

namespace dsv4mx::bench {
namespace {

struct DestroyCheckpoint {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};

Outcome OutcomeOf(dsv4mx_status status) {
  if (status == DSV4MX_STATUS_OK) return {};
  return {dsv4mx_status_name(status), dsv4mx_last_error()};
}

constexpr const char* kDtypes[] = {"none", "BF16", "F32", "F16", "I8",  "U8",    "E2M1", "E8M0",
                                   "E4M3", "E5M2", "I32", "I64", "F64", "other", "U32"};
const char* DtypeText(dsv4mx_dtype dtype) {
  const auto i = static_cast<size_t>(dtype);
  return i < std::size(kDtypes) ? kDtypes[i] : "unknown";
}

int64_t BitsOf(dsv4mx_dtype dtype) {
  switch (dtype) {
    case DSV4MX_DTYPE_E2M1:
      return 4;
    case DSV4MX_DTYPE_BF16:
    case DSV4MX_DTYPE_F16:
      return 16;
    case DSV4MX_DTYPE_F32:
    case DSV4MX_DTYPE_I32:
    case DSV4MX_DTYPE_U32:
      return 32;
    case DSV4MX_DTYPE_I64:
    case DSV4MX_DTYPE_F64:
      return 64;
    default:
      return 8;
  }
}

// Who names tensors so. `rest` is what stands behind the prefix of the block: "experts.0.w1.weight".
struct Family {
  const char* part;
  const char* name;
};
constexpr Family kFamilies[] = {
    {"ffn_", "llama.cpp (GGUF)"},
    {"switch_mlp.", "MLX"},
    {"gate_up_proj_blocks", "GPT-OSS"},
    {"gate_up_proj_scales", "GPT-OSS"},
    {"down_proj_blocks", "GPT-OSS"},
    {"weight_packed", "compressed-tensors"},
    {"w13_weight", "SGLang and vLLM"},
    {"w2_weight", "SGLang and vLLM"},
    {"gate_proj.", "Hugging Face"},
    {"up_proj.", "Hugging Face"},
    {"down_proj.", "Hugging Face"},
    {".w1.", "DeepSeek"},
    {".w2.", "DeepSeek"},
    {".w3.", "DeepSeek"},
};

// The names of a block's tensors, and what they say.
class BlockReader {
 public:
  BlockReader(const dsv4mx_checkpoint* checkpoint, const std::vector<std::string_view>& names,
              CheckpointReport* report)
      : checkpoint_(checkpoint), names_(names), report_(*report) {}

  BlockReport Read(const dsv4mx_block& block, bool census) {
    BlockReport b;
    b.prefix = block.prefix;
    b.name =
        block.kind == DSV4MX_BLOCK_PREFIX
            ? b.prefix
            : (block.kind == DSV4MX_BLOCK_MTP ? "mtp." : "layers.") + std::to_string(block.index);
    b.outcome = OutcomeOf(dsv4mx_checkpoint_query_layer(checkpoint_, &block, &b.desc));
    if (b.outcome.good()) {
      const dsv4mx_status status =
          dsv4mx_checkpoint_query_config(checkpoint_, &block, kAllFields, &b.desc, &b.filled);
      if (status != DSV4MX_STATUS_NOT_FOUND) b.config = OutcomeOf(status);
    }
    for (auto at = std::lower_bound(names_.begin(), names_.end(), std::string_view(b.prefix));
         at != names_.end() && at->starts_with(b.prefix); ++at) {
      const std::string_view rest = at->substr(b.prefix.size());
      if (IsOfExperts(rest)) AddTensor(at->data(), rest, census && b.outcome.good(), &b);
    }
    return b;
  }

 private:
  static constexpr uint32_t kAllFields = 0x1f;

  static bool IsOfExperts(std::string_view rest) {
    return rest.starts_with("experts.") || rest.starts_with("switch_mlp.") ||
           (rest.starts_with("ffn_") && rest.find("_exps.") != std::string_view::npos);
  }

  void AddTensor(const char* name, std::string_view rest, bool census, BlockReport* b) {
    ++b->tensors;
    if (b->family.empty()) {
      for (const Family& family : kFamilies) {
        if (rest.find(family.part) == std::string_view::npos) continue;
        b->family = family.name;
        break;
      }
    }
    dsv4mx_tensor tensor = DSV4MX_TENSOR_INIT;
    const dsv4mx_status status = dsv4mx_checkpoint_get_tensor(checkpoint_, name, &tensor);
    if (status != DSV4MX_STATUS_OK) {
      if (status == DSV4MX_STATUS_IO_ERROR || status == DSV4MX_STATUS_FORMAT_ERROR) {
        if (told_.insert(dsv4mx_last_error()).second) {
          report_.unreadable.emplace_back(dsv4mx_last_error());
        }
      }
      return;
    }
    int64_t items = 1;
    for (int i = 0; i < tensor.rank; ++i) items *= tensor.shape[i];
    const bool blocks = tensor.dtype == DSV4MX_DTYPE_OTHER && rest.starts_with("ffn_");
    b->bytes += blocks ? items / 32 * 17 : (items * BitsOf(tensor.dtype) + 7) / 8;
    const bool bias = rest.ends_with("bias");
    const bool scales = !bias && (rest.ends_with("scale") || rest.ends_with("scales") ||
                                  rest.ends_with("scale_inv"));
    std::string* dtype = bias ? nullptr : scales ? &b->scales : &b->codes;
    if (dtype != nullptr && dtype->empty()) {
      *dtype = blocks ? "MXFP4 blocks" : DtypeText(tensor.dtype);
    }
    if (census && (scales || blocks)) AddScales(checkpoint_, name, tensor, &b->census);
  }

  const dsv4mx_checkpoint* checkpoint_;
  const std::vector<std::string_view>& names_;
  CheckpointReport& report_;
  std::set<std::string> told_;
};

std::string DeviceText(const dsv4mx_context* context) {
  dsv4mx_context_info info = DSV4MX_CONTEXT_INFO_INIT;
  test::Must(dsv4mx_context_query(context, &info), "context_query");
  if (info.device == DSV4MX_DEVICE_CPU) {
    return std::string(info.name) + ", " + IsaName(info.cpu_isa);
  }
  return std::string(info.name) + ", cuda " + std::to_string(info.device_ordinal);
}

void AskModel(const dsv4mx_checkpoint* checkpoint, CheckpointReport* r) {
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = r->question.device;
  dsv4mx_context* made = nullptr;
  r->model_outcome = OutcomeOf(dsv4mx_context_create(&desc, &made));
  if (!r->model_outcome.good()) return;
  const test::ContextPtr context(made);
  r->device = DeviceText(context.get());
  dsv4mx_model_args args = DSV4MX_MODEL_ARGS_INIT;
  args.tp_size = r->question.tp;
  args.ep_size = r->question.ep;
  args.max_tokens = r->question.tokens;
  r->model_outcome =
      OutcomeOf(dsv4mx_checkpoint_query_model(checkpoint, context.get(), &args, &r->model));
}

}  // namespace

bool CheckpointReport::good() const {
  const bool blocks_good = std::all_of(blocks.begin(), blocks.end(), [](const BlockReport& b) {
    return b.outcome.good() && b.config.good() && b.census.error.empty() && b.census.nans == 0;
  });
  return outcome.good() && blocks_good && unreadable.empty() && (snapshot || model_outcome.good());
}

bool IsPath(const std::string& operand) {
  struct stat info {};
  if (stat(operand.c_str(), &info) == 0) return true;
  return operand.find('/') != std::string::npos || operand.ends_with(".safetensors") ||
         operand.ends_with(".gguf") || operand.ends_with(".json");
}

CheckpointReport DescribeCheckpoint(const std::string& path, const CheckpointQuestion& question) {
  CheckpointReport r;
  r.path = path;
  r.question = question;
  r.census = question.census;
  struct stat info {};
  const bool file = stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
  if (file && dsv4mx_snapshot_query(path.c_str(), &r.snapshot_info, nullptr) == DSV4MX_STATUS_OK) {
    r.snapshot = true;
    return r;
  }
  dsv4mx_checkpoint* made = nullptr;
  r.outcome = OutcomeOf(dsv4mx_checkpoint_create(path.c_str(), nullptr, &made));
  if (!r.outcome.good()) return r;
  const std::unique_ptr<dsv4mx_checkpoint, DestroyCheckpoint> checkpoint(made);
  r.tensors = dsv4mx_checkpoint_get_count(made);
  std::vector<std::string_view> names;
  names.reserve(static_cast<size_t>(r.tensors));
  for (int64_t i = 0; i < r.tensors; ++i) names.emplace_back(dsv4mx_checkpoint_get_name(made, i));
  BlockReader reader(made, names, &r);
  for (int64_t i = 0; i < dsv4mx_checkpoint_get_block_count(made); ++i) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    test::Must(dsv4mx_checkpoint_get_block(made, i, &block), "get_block");
    r.blocks.push_back(reader.Read(block, question.census));
  }
  AskModel(made, &r);
  return r;
}

}  // namespace dsv4mx::bench
