// What dsv4mx-info found in a checkpoint, as a table and as JSON.
#include <algorithm>
#include <cstdio>
#include <map>

#include "tests/bench/info_checkpoint.h"

namespace dsv4mx::bench {
namespace {

using Json = nlohmann::ordered_json;

std::string Size(int64_t bytes) {
  char text[32];
  const auto b = static_cast<double>(bytes);
  if (bytes >= int64_t{1} << 30) {
    std::snprintf(text, sizeof text, "%.2f GiB", b / (1 << 30));
  } else if (bytes >= 1 << 20) {
    std::snprintf(text, sizeof text, "%.2f MiB", b / (1 << 20));
  } else {
    std::snprintf(text, sizeof text, "%lld B", static_cast<long long>(bytes));
  }
  return text;
}

const char* ActivationName(dsv4mx_activation activation) {
  constexpr const char* kNames[] = {"swiglu", "swiglu_gptoss", "gated", "situ"};
  const auto i = static_cast<size_t>(activation);
  return i < std::size(kNames) ? kNames[i] : "unknown";
}

// The fields that config.json filled, in words and values.
Json Filled(const BlockReport& b) {
  Json j = Json::object();
  if ((b.filled & DSV4MX_CONFIG_FIELD_TOP_K) != 0) j["top_k"] = b.desc.top_k;
  if ((b.filled & DSV4MX_CONFIG_FIELD_ACTIVATION) != 0) {
    j["activation"] = ActivationName(b.desc.activation);
    if (b.desc.activation_alpha != 0) j["activation_alpha"] = b.desc.activation_alpha;
    if (b.desc.activation_beta != 0) j["activation_beta"] = b.desc.activation_beta;
    if (b.desc.situ_beta != 0) j["situ_beta"] = b.desc.situ_beta;
    if (b.desc.situ_linear_beta != 0) j["situ_linear_beta"] = b.desc.situ_linear_beta;
  }
  if ((b.filled & DSV4MX_CONFIG_FIELD_CLAMP_LIMIT) != 0) j["clamp_limit"] = b.desc.clamp_limit;
  if ((b.filled & DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR) != 0) {
    j["routed_scaling_factor"] = b.desc.routed_scaling_factor;
  }
  return j;
}

Json ToJson(const Outcome& outcome) {
  if (outcome.good()) return nullptr;
  return Json{{"status", outcome.status}, {"error", outcome.error}};
}

Json ToJson(const BlockReport& b, bool census) {
  Json j;
  j["name"] = b.name;
  j["prefix"] = b.prefix;
  j["refused"] = ToJson(b.outcome);
  j["family"] = b.family;
  j["tensors"] = b.tensors;
  j["bytes"] = b.bytes;
  j["codes"] = b.codes;
  j["scales"] = b.scales;
  if (!b.outcome.good()) return j;
  j["hidden"] = b.desc.hidden;
  j["intermediate"] = b.desc.intermediate;
  j["expert_first"] = b.desc.expert_first;
  j["experts"] = b.desc.experts;
  j["experts_global"] = b.desc.experts_global;
  j["w13_bias"] = b.desc.w13_bias != 0;
  j["w2_bias"] = b.desc.w2_bias != 0;
  j["config"] = Filled(b);
  j["config_refused"] = ToJson(b.config);
  if (census) {
    const bool any = b.census.scales > b.census.nans;
    j["census"] = {{"scales", b.census.scales},
                   {"min", any ? Json(b.census.min) : Json(nullptr)},
                   {"max", any ? Json(b.census.max) : Json(nullptr)},
                   {"span", b.census.span},
                   {"nans", b.census.nans},
                   {"error", b.census.error.empty() ? Json(nullptr) : Json(b.census.error)}};
  }
  return j;
}

Json ToJson(const dsv4mx_snapshot_info& s) {
  return {{"version", s.version},
          {"layout", s.layout},
          {"experts", s.experts},
          {"expert_first", s.expert_first},
          {"experts_global", s.experts_global},
          {"slab_bytes", s.slab_bytes},
          {"file_bytes", s.file_bytes},
          {"scale_min", s.scale_min},
          {"scale_max", s.scale_max}};
}

void Print(const BlockReport& b, bool census) {
  if (!b.outcome.good()) {
    std::printf("  %-10s refused: %s: %s\n", b.name.c_str(), b.outcome.status.c_str(),
                b.outcome.error.c_str());
    return;
  }
  std::string experts = std::to_string(b.desc.experts);
  if (b.desc.experts_global != b.desc.experts) {
    experts = std::to_string(b.desc.expert_first) + ".." +
              std::to_string(b.desc.expert_first + b.desc.experts - 1) + "/" +
              std::to_string(b.desc.experts_global);
  }
  const char* bias = b.desc.w13_bias != 0 || b.desc.w2_bias != 0 ? ", biases" : "";
  std::printf("  %-10s %6d %6d %9s %12s  %s, %s %s%s", b.name.c_str(), b.desc.hidden,
              b.desc.intermediate, experts.c_str(), Size(b.bytes).c_str(), b.family.c_str(),
              b.codes.c_str(), b.scales.c_str(), bias);
  if (census && b.census.scales > b.census.nans) {
    std::printf("  scales %d..%d span %d", b.census.min, b.census.max, b.census.span);
  }
  std::printf("\n");
  if (b.census.nans != 0) {
    std::printf("  %-10s refused: %lld scales are byte 255 (NaN)\n", b.name.c_str(),
                static_cast<long long>(b.census.nans));
  }
  if (!b.census.error.empty()) std::printf("  %-10s %s\n", b.name.c_str(), b.census.error.c_str());
  if (!b.config.good()) {
    std::printf("  %-10s config: %s: %s\n", b.name.c_str(), b.config.status.c_str(),
                b.config.error.c_str());
  }
}

// Blocks whose config filled the same things are told together.
void PrintConfig(const CheckpointReport& r) {
  std::map<std::string, std::vector<std::string>> groups;
  for (const BlockReport& b : r.blocks) {
    if (!b.outcome.good() || !b.config.good()) continue;
    std::string text;
    const Json filled = Filled(b);
    for (const auto& [key, value] : filled.items()) {
      text += (text.empty() ? "" : ", ") + key + " " +
              (value.is_string() ? value.get<std::string>() : value.dump());
    }
    groups[b.filled == 0  ? "no config.json"
           : text.empty() ? "nothing filled"
                          : text]
        .push_back(b.name);
  }
  for (const auto& [text, names] : groups) {
    std::printf("config      %s: %s%s%s\n", text.c_str(), names.front().c_str(),
                names.size() > 1 ? " .. " : "", names.size() > 1 ? names.back().c_str() : "");
  }
}

void PrintModel(const CheckpointReport& r) {
  const dsv4mx_model_info& m = r.model;
  std::printf("needs       on %s, --tp %d --ep %d --tokens %lld\n", r.device.c_str(), r.question.tp,
              r.question.ep, static_cast<long long>(r.question.tokens));
  if (!r.model_outcome.good()) {
    std::printf("  not known: %s: %s\n", r.model_outcome.status.c_str(),
                r.model_outcome.error.c_str());
    return;
  }
  std::printf("  prepared  %s in %d blocks, the largest %s\n", Size(m.prepared_bytes).c_str(),
              m.blocks, Size(m.largest_block_bytes).c_str());
  std::printf("  beside    %s workspace, %s more while loading\n", Size(m.workspace_bytes).c_str(),
              Size(m.peak_extra_bytes).c_str());
  std::printf("  device    %s, of which %s free", Size(m.total_bytes).c_str(),
              m.free_bytes < 0 ? "an unknown part" : Size(m.free_bytes).c_str());
  if (m.blocks_fitting >= 0) std::printf(": %d of %d blocks fit", m.blocks_fitting, m.blocks);
  std::printf("\n");
}

}  // namespace

void Print(const CheckpointReport& r) {
  if (!r.outcome.good()) return;  // it went to stderr
  if (r.snapshot) {
    const dsv4mx_snapshot_info& s = r.snapshot_info;
    std::printf("snapshot    %s\n", r.path.c_str());
    std::printf("  layout    %s, version %d\n", s.layout, s.version);
    std::printf("  experts   %d from %d on, of %d, %s each\n", s.experts, s.expert_first,
                s.experts_global, Size(s.slab_bytes).c_str());
    std::printf("  scales    %d..%d\n", s.scale_min, s.scale_max);
    std::printf("  file      %s\n", Size(s.file_bytes).c_str());
    return;
  }
  int64_t tensors = 0, bytes = 0, refused = 0;
  for (const BlockReport& b : r.blocks) {
    tensors += b.tensors;
    bytes += b.bytes;
    refused += b.outcome.good() ? 0 : 1;
  }
  std::printf("checkpoint  %s\n", r.path.c_str());
  std::printf(
      "tensors     %lld, of which %lld (%s) are of experts in %zu blocks, %lld of them refused\n",
      static_cast<long long>(r.tensors), static_cast<long long>(tensors), Size(bytes).c_str(),
      r.blocks.size(), static_cast<long long>(refused));
  for (const std::string& file : r.unreadable) std::printf("unreadable  %s\n", file.c_str());
  PrintConfig(r);
  if (!r.blocks.empty()) {
    std::printf("  %-10s %6s %6s %9s %12s  %s\n", "block", "hidden", "inter", "experts", "size",
                "names, codes, scales");
  }
  for (const BlockReport& b : r.blocks) Print(b, r.census);
  PrintModel(r);
}

Json ToJson(const CheckpointReport& r) {
  Json j;
  j["path"] = r.path;
  j["refused"] = ToJson(r.outcome);
  if (!r.outcome.good()) return j;
  j["snapshot"] = r.snapshot ? ToJson(r.snapshot_info) : Json(nullptr);
  if (r.snapshot) return j;
  j["tensors"] = r.tensors;
  j["unreadable"] = r.unreadable;
  j["blocks"] = Json::array();
  for (const BlockReport& b : r.blocks) j["blocks"].push_back(ToJson(b, r.census));
  Json& model = j["model"];
  model["device"] = r.device;
  model["tp_size"] = r.question.tp;
  model["ep_size"] = r.question.ep;
  model["max_tokens"] = r.question.tokens;
  model["refused"] = ToJson(r.model_outcome);
  if (!r.model_outcome.good()) return j;
  model["blocks"] = r.model.blocks;
  model["blocks_fitting"] =
      r.model.blocks_fitting < 0 ? Json(nullptr) : Json(r.model.blocks_fitting);
  model["source_bytes"] = r.model.source_bytes;
  model["prepared_bytes"] = r.model.prepared_bytes;
  model["largest_block_bytes"] = r.model.largest_block_bytes;
  model["peak_extra_bytes"] = r.model.peak_extra_bytes;
  model["workspace_bytes"] = r.model.workspace_bytes;
  model["total_bytes"] = r.model.total_bytes;
  model["free_bytes"] = r.model.free_bytes < 0 ? Json(nullptr) : Json(r.model.free_bytes);
  return j;
}

}  // namespace dsv4mx::bench
