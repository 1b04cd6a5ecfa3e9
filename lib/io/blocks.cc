#include "lib/io/blocks.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "lib/base/printable.h"

namespace dsv4mx::io {
namespace {

// What a stem says about its block. Its pattern is the stem with N for the number.
struct StemParts {
  BlockName::Kind kind = BlockName::kPrefix;
  int64_t index = 0;
  std::string pattern;
};

bool PlainNumber(std::string_view text, int64_t* out) {
  if (text.empty() || text.size() > 9 || (text.size() > 1 && text[0] == '0')) return false;
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return false;
  }
  std::from_chars(text.data(), text.data() + text.size(), *out);
  return true;
}

StemParts Parse(std::string_view stem) {
  std::vector<std::string_view> words;
  for (size_t at = 0; at < stem.size();) {
    const size_t dot = std::min(stem.find('.', at), stem.size());
    words.push_back(stem.substr(at, dot - at));
    at = dot + 1;
  }
  StemParts parts;
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    int64_t number = 0;
    if (!PlainNumber(words[i + 1], &number)) continue;
    const bool layers = words[i] == "layers" || words[i] == "block" || words[i] == "blk";
    const bool draft = words[i] == "mtp" || (layers && i > 0 && words[i - 1] == "mtp");
    if (!layers && !draft) continue;
    // The last number counts: a prefix may have one of its own.
    parts.kind = draft ? BlockName::kMtp : BlockName::kLayer;
    parts.index = number;
    const auto at = static_cast<size_t>(words[i + 1].data() - stem.data());
    parts.pattern =
        std::string(stem.substr(0, at)) + "N" + std::string(stem.substr(at + words[i + 1].size()));
  }
  if (parts.kind == BlockName::kPrefix) parts.pattern = stem;
  return parts;
}

// "layers 1..92 (model.layers.N.mlp.), mtp 0 (mtp.N.ffn.)"
std::string BlocksPresent(const Checkpoint& checkpoint) {
  std::map<std::pair<int, std::string>, std::vector<int64_t>> groups;
  for (const std::string& stem : checkpoint.stems()) {
    StemParts parts = Parse(stem);
    groups[{parts.kind, std::move(parts.pattern)}].push_back(parts.index);
  }
  if (groups.empty()) return "none, no tensor's name has 'experts.' in it";
  constexpr const char* kWords[] = {"layers ", "mtp ", "prefix "};
  std::string text;
  size_t told = 0;
  for (auto& [key, numbers] : groups) {
    if (text.size() > 150) break;
    std::sort(numbers.begin(), numbers.end());
    if (!text.empty()) text += ", ";
    text += kWords[key.first];
    if (key.first != BlockName::kPrefix) text += Ranges(numbers) + " ";
    text.append("(").append(Printable(key.second)).append(")");
    ++told;
  }
  if (told < groups.size())
    text += " and " + std::to_string(groups.size() - told) + " more prefixes";
  return text;
}

// A prefix may be given with or without its last dot and "experts.".
bool IsPrefix(std::string_view prefix, std::string_view stem) {
  constexpr std::string_view kExperts = "experts.";
  if (prefix == stem) return true;
  if (!prefix.empty() && prefix.back() != '.') return IsPrefix(std::string(prefix) + ".", stem);
  return prefix.ends_with(kExperts) && prefix.substr(0, prefix.size() - kExperts.size()) == stem;
}

}  // namespace

std::string BlockText(const BlockName& block) {
  std::string prefix = "'";
  prefix.append(Printable(block.prefix)).append("'");
  if (block.kind == BlockName::kPrefix) return prefix;
  std::string number = block.kind == BlockName::kLayer ? "layers." : "mtp.";
  number += std::to_string(block.index);
  return block.prefix.empty() ? number : number + " under " + prefix;
}

std::vector<BlockName> ListBlocks(const Checkpoint& checkpoint) {
  std::vector<BlockName> blocks;
  blocks.reserve(checkpoint.stems().size());
  for (const std::string& stem : checkpoint.stems()) {
    const StemParts parts = Parse(stem);
    blocks.push_back({parts.kind, static_cast<int32_t>(parts.index), stem});
  }
  std::sort(blocks.begin(), blocks.end(), [](const BlockName& a, const BlockName& b) {
    return std::tie(a.kind, a.index, a.prefix) < std::tie(b.kind, b.index, b.prefix);
  });
  return blocks;
}

Status FindBlock(const Checkpoint& checkpoint, const BlockName& block, std::string* stem) {
  std::vector<std::string> found;
  for (const std::string& candidate : checkpoint.stems()) {
    if (block.kind == BlockName::kPrefix) {
      if (IsPrefix(block.prefix, candidate)) found.push_back(candidate);
      continue;
    }
    const StemParts parts = Parse(candidate);
    if (parts.kind == block.kind && parts.index == block.index &&
        (block.prefix.empty() || IsPrefix(block.prefix, candidate))) {
      found.push_back(candidate);
    }
  }
  DSV4MX_RETURN_IF(found.empty(), DSV4MX_STATUS_NOT_FOUND,
                   "%s: no experts in %s; layers with experts: %s%s", checkpoint.label().c_str(),
                   BlockText(block).c_str(), BlocksPresent(checkpoint).c_str(),
                   checkpoint.ShardHint().c_str());
  DSV4MX_RETURN_IF(found.size() > 1, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "%s: %s stands under %zu prefixes, '%s' and '%s' among them: name the prefix",
                   checkpoint.label().c_str(), BlockText(block).c_str(), found.size(),
                   Printable(found[0]).c_str(), Printable(found[1]).c_str());
  *stem = std::move(found[0]);
  return kOk;
}

}  // namespace dsv4mx::io
