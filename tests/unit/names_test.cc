// The table of tensor names: what each name means, which wins, and what is refused.
#include "lib/base/names.h"

#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/catch.h"

using namespace dsv4mx;

namespace {

TensorName Parse(const std::string& name) {
  TensorName parsed;
  INFO(name << ": " << LastError());
  REQUIRE(ParseTensorName(name, &parsed).ok());
  return parsed;
}

}  // namespace

TEST_CASE("names: DeepSeek, SGLang and Hugging Face spellings", "[unit]") {
  struct Case {
    const char* name;
    TensorTarget target;
    TensorKind kind;
    int64_t expert;  // -1 = not in the name
  };
  const Case cases[] = {
      {"layers.3.ffn.experts.17.w1.weight", TensorTarget::kGate, TensorKind::kCodes, 17},
      {"layers.3.ffn.experts.17.w1.scale", TensorTarget::kGate, TensorKind::kScales, 17},
      {"model.layers.0.mlp.experts.0.up_proj.weight_scale_inv", TensorTarget::kUp,
       TensorKind::kScales, 0},
      {"mtp.0.ffn.experts.255.w3.weight", TensorTarget::kUp, TensorKind::kCodes, 255},
      {"model.layers.60.mlp.experts.383.down_proj.weight_scale", TensorTarget::kDown,
       TensorKind::kScales, 383},
      {"w2.weight", TensorTarget::kDown, TensorKind::kCodes, -1},
      {"model.layers.5.mlp.experts.w13_weight", TensorTarget::kW13, TensorKind::kCodes, -1},
      {"experts.4.w13_weight_scale_inv", TensorTarget::kW13, TensorKind::kScales, 4},
      {"w13_weight_scale", TensorTarget::kW13, TensorKind::kScales, -1},
      {"a.w13_weight_bias", TensorTarget::kW13, TensorKind::kBias, -1},
      {"w2_bias", TensorTarget::kDown, TensorKind::kBias, -1},
      {"experts.7.gate_proj.weight", TensorTarget::kGate, TensorKind::kCodes, 7},
  };
  for (const Case& c : cases) {
    const TensorName parsed = Parse(c.name);
    INFO(c.name);
    CHECK(parsed.target == c.target);
    CHECK(parsed.kind == c.kind);
    CHECK(parsed.has_expert == (c.expert >= 0));
    CHECK(parsed.expert_id == c.expert);
  }
}

TEST_CASE("names: precedence is the order of the public table", "[unit]") {
  const std::vector<std::vector<const char*>> chains = {
      {"w13_weight", "w1.weight", "gate_proj.weight"},
      {"w13_weight", "w3.weight", "up_proj.weight"},
      {"w13_weight_scale", "w13_weight_scale_inv", "w1.scale", "w1.weight_scale",
       "w1.weight_scale_inv", "gate_proj.scale", "gate_proj.weight_scale"},
      {"w2_weight_scale", "w2_weight_scale_inv", "w2.scale", "w2.weight_scale_inv",
       "down_proj.weight_scale_inv"},
      {"w13_bias", "w13_weight_bias"},
      {"w2_bias", "w2_weight_bias"},
  };
  for (const auto& chain : chains) {
    for (size_t i = 1; i < chain.size(); ++i) {
      INFO(chain[i - 1] << " before " << chain[i]);
      CHECK(Parse(chain[i - 1]).rank < Parse(chain[i]).rank);
    }
  }
}

TEST_CASE("names: the table by rows", "[unit]") {
  TensorName row;
  int rows = 0;
  for (; TensorNameRow(rows, &row); ++rows) {
    CAPTURE(row.suffix);
    CHECK(row.rank == rows);  // no row hides a later one
    CHECK(row.family != nullptr);
    // Gate and up are in one tensor exactly in the families that order it.
    if (row.target == TensorTarget::kW13) CHECK(row.family->w13_order != DSV4MX_W13_ORDER_UNSET);
    if (row.target == TensorTarget::kGate) CHECK(row.family->w13_order == DSV4MX_W13_ORDER_UNSET);
  }
  CHECK(rows > 40);
  CHECK_FALSE(TensorNameRow(-1, &row));
}

// The names of the public header's table, in its order; ".x" continues the name before it.
std::vector<std::string> HeaderNames(int kind, const std::string& of) {
  std::ifstream file("include/dsv4mx.h");
  std::string line, stem;
  std::vector<std::string> names;
  size_t begin = 0;
  while (std::getline(file, line)) {
    if (line.find(" *   of    codes ") == 0) {
      begin = line.find("codes");
      continue;
    }
    if (begin == 0) continue;
    if (line.size() < begin) break;
    if (line.substr(5, 3).find(of) != 0 || line[5 + of.size()] != ' ') continue;
    std::istringstream words(line.substr(begin));
    std::string word;
    while (words >> word) {
      if (word.back() == ',') word.pop_back();
      if (word[0] != '.') stem = word.substr(0, word.find('.'));
      const std::string name = word[0] == '.' ? stem + word : word;
      TensorName parsed;
      CAPTURE(name);
      REQUIRE(FindTensorName(name, &parsed));
      if (static_cast<int>(parsed.kind) == kind) names.push_back(name);
    }
  }
  return names;
}

TEST_CASE("names: the header's table is this one", "[unit]") {
  const std::pair<TensorTarget, const char*> targets[] = {{TensorTarget::kW13, "w13"},
                                                          {TensorTarget::kGate, "w1"},
                                                          {TensorTarget::kUp, "w3"},
                                                          {TensorTarget::kDown, "w2"}};
  size_t all = 0, of_files = 0;
  for (const auto& [target, of] : targets) {
    for (int kind = 0; kind < 3; ++kind) {
      std::vector<std::string> rows;
      TensorName row;
      of_files = 0;
      for (int i = 0; TensorNameRow(i, &row); ++i) {
        if (row.family->blocks) {
          ++of_files;  // names that no one sets
        } else if (row.target == target && static_cast<int>(row.kind) == kind) {
          rows.emplace_back(row.suffix);
        }
      }
      all += rows.size();
      CAPTURE(of, kind);
      CHECK(HeaderNames(kind, of) == rows);
    }
  }
  TensorName row;
  CHECK_FALSE(TensorNameRow(static_cast<int>(all + of_files), &row));
}

TEST_CASE("names: where experts stand", "[unit]") {
  const std::pair<const char*, const char*> rows[] = {
      {"model.layers.3.mlp.experts.0.w1.weight", "model.layers.3.mlp."},
      {"model.layers.3.mlp.experts.gate_up_proj_blocks", "model.layers.3.mlp."},
      {"lm.layers.3.mlp.switch_mlp.up_proj.weight", "lm.layers.3.mlp."},
      {"experts.0.anything", ""},
      {"layers.3.ffn.shared_experts.w1.weight", nullptr},
      {"layers.3.ffn.my_experts.w1.weight", nullptr},
      {"layers.3.ffn.gate.weight", nullptr},
      {"blk.3.ffn_gate_exps.weight", "blk.3."},
      {"blk.3.ffn_gate_inp.weight", nullptr},
      {"blk.3.ffn_gate_shexp.weight", nullptr},
      {"blk.3.xffn_gate_exps.weight", nullptr},
      {"blk.3.ffn_gate_up_exps.weight", "blk.3."},
      {"block.3.mlp.mlp1_weight.blocks", "block.3.mlp."},
      {"block.3.mlp.mlp2_bias", "block.3.mlp."},
      {"block.3.mlp.mlp1_weight", "block.3.mlp."},  // not quantised
      {"block.3.mlp.mlp1_weights", nullptr},
      {"vision.mlp1.0.weight", nullptr},
      {"block.3.mlp.norm.scale", nullptr},
  };
  for (const auto& [name, want] : rows) {
    CAPTURE(name);
    std::string_view stem, rest;
    CHECK(FindExpertsStem(name, &stem, &rest) == (want != nullptr));
    if (want != nullptr) CHECK(stem == want);
  }
}

TEST_CASE("names: an id too large for an integer stays a foreign id", "[unit]") {
  const TensorName parsed = Parse("experts.99999999999999999999999999.w1.weight");
  CHECK(parsed.has_expert);
  CHECK(parsed.expert_id > INT32_MAX);
}

TEST_CASE("names: what is no routed expert's tensor is refused by name", "[unit]") {
  const char* const names[] = {
      "",
      "weight",
      "layers.3.ffn.gate.weight",
      "layers.3.ffn.gate.e_score_correction_bias",
      "xw1.weight",  // the suffix must stand behind a dot
      "experts.3.w4.weight",
      "layers.3.ffn.experts.0.w1",
      "w13_weight.extra",
      "layers.3.ffn.shared_experts.w1.weight",
      "layers.3.ffn.shared_experts.0.w1.weight",
      "shared_expert.gate_proj.weight",
      "blk.3.ffn_gate_exps.weight",  // of files alone
  };
  for (const char* name : names) {
    TensorName parsed;
    INFO(name);
    CHECK(ParseTensorName(name, &parsed).code == DSV4MX_STATUS_NOT_FOUND);
    if (*name != '\0') CHECK(std::string(LastError()).find(name) != std::string::npos);
  }
}

TEST_CASE("names: a number elsewhere is not an expert id", "[unit]") {
  CHECK_FALSE(Parse("layers.3.ffn.experts.w1.weight").has_expert);
  CHECK_FALSE(Parse("experts.3x.w1.weight").has_expert);
  CHECK_FALSE(Parse("my_experts.3.w1.weight").has_expert);
  CHECK_FALSE(Parse("experts.-1.w1.weight").has_expert);
}
