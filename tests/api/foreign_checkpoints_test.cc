// Checkpoints of every family that another program wrote (tests/io/foreign_checkpoints.py, with the safetensors package
// and NumPy), read back through the oracle: files, names, formats, config and arithmetic at once. Hidden: the folder comes
// in DSV4MX_FOREIGN_CHECKPOINTS.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/runner.h"

namespace dsv4mx::test {
namespace {

struct Close {
  void operator()(dsv4mx_checkpoint* p) const { dsv4mx_checkpoint_destroy(p); }
};

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
std::vector<T> Take(const std::string& bytes, size_t* at, size_t count) {
  std::vector<T> out(count);
  REQUIRE(*at + count * sizeof(T) <= bytes.size());
  std::memcpy(out.data(), bytes.data() + *at, count * sizeof(T));
  *at += count * sizeof(T);
  return out;
}

double RelativeError(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / norm);
}

struct Foreign {
  int64_t tokens = 0;
  std::vector<uint16_t> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<double> want;
};

// The layer's output, summed over tensor-parallel ranks.
std::vector<double> Run(const dsv4mx_checkpoint* checkpoint, const dsv4mx_block& block,
                        dsv4mx_layer_desc desc, int32_t ranks, const Foreign& problem) {
  std::vector<double> sum(problem.want.size());
  for (int32_t rank = 0; rank < ranks; ++rank) {
    desc.tp_rank = rank;
    desc.tp_size = ranks;
    const LayerPtr layer = MakeLayer(CpuContext(), desc);
    const WeightsPtr weights = MakeWeights(layer.get());
    Must(dsv4mx_weights_load(weights.get(), checkpoint, &block, nullptr, nullptr), "load");
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
    dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
    Must(dsv4mx_layer_query_workspace(layer.get(), problem.tokens, nullptr, &info), "workspace");
    void* workspace = nullptr;
    Must(dsv4mx_context_alloc(CpuContext(), info.bytes, &workspace), "alloc");
    std::vector<float> y(sum.size());
    dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
    args.x = problem.x.data();
    args.topk_ids = problem.ids.data();
    args.topk_weights = problem.weights.data();
    args.out = y.data();
    args.tokens = problem.tokens;
    args.workspace = workspace;
    args.workspace_bytes = info.bytes;
    const dsv4mx_status status = dsv4mx_layer_apply(layer.get(), weights.get(), &args, nullptr);
    dsv4mx_context_free(CpuContext(), workspace);
    Must(status, "apply");
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(y[i]);
  }
  return sum;
}

TEST_CASE("[J12] checkpoints of other writers give what other arithmetic gives", "[.foreign]") {
  const char* folder = std::getenv("DSV4MX_FOREIGN_CHECKPOINTS");
  REQUIRE(folder != nullptr);
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    CAPTURE(name);
    ++count;
    dsv4mx_checkpoint* opened = nullptr;
    REQUIRE_OK(dsv4mx_checkpoint_create(entry.path().c_str(), nullptr, &opened));
    const std::unique_ptr<dsv4mx_checkpoint, Close> checkpoint(opened);
    std::istringstream words(ReadText(entry.path() / "block.txt"));
    std::string kind, which;
    words >> kind >> which;
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    block.kind = kind == "prefix" ? DSV4MX_BLOCK_PREFIX
                 : kind == "mtp"  ? DSV4MX_BLOCK_MTP
                                  : DSV4MX_BLOCK_LAYER;
    if (kind == "prefix") {
      block.prefix = which.c_str();
    } else {
      block.index = std::stoi(which);
    }
    dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
    uint32_t filled = 0;
    REQUIRE_OK(dsv4mx_checkpoint_query_config(opened, &block, 0, &desc, &filled));
    CHECK((filled & DSV4MX_CONFIG_FIELD_TOP_K) != 0);
    CHECK((filled & DSV4MX_CONFIG_FIELD_ACTIVATION) != 0);

    Foreign problem;
    const std::string bytes = ReadText(entry.path() / "io.bin");
    size_t at = 0;
    problem.tokens = Take<int64_t>(bytes, &at, 1)[0];
    const auto tokens = static_cast<size_t>(problem.tokens);
    problem.x = Take<uint16_t>(bytes, &at, tokens * static_cast<size_t>(desc.hidden));
    problem.ids = Take<int32_t>(bytes, &at, tokens * static_cast<size_t>(desc.top_k));
    problem.weights = Take<float>(bytes, &at, problem.ids.size());
    problem.want = Take<double>(bytes, &at, problem.x.size());
    REQUIRE(at == bytes.size());

    desc.out_dtype = DSV4MX_DTYPE_F32;
    CHECK(RelativeError(Run(opened, block, desc, 1, problem), problem.want) < 3e-3);
    desc.experimental = Experimental(DSV4MX_NUMBER_PATH_AUTO, DSV4MX_ORACLE_TRUTH);
    for (const int32_t ranks : {1, 2}) {
      CHECK(RelativeError(Run(opened, block, desc, ranks, problem), problem.want) < 1e-6);
    }
  }
  CHECK(count >= 18);
}

}  // namespace
}  // namespace dsv4mx::test
