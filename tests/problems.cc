#include "tests/problems.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <stdexcept>

namespace dsv4mx::test {
namespace {

struct Word {
  const char* name;
  int value;
};

const std::vector<Word> kDists = {{"uniform", 0}, {"zipf", 1}, {"one", 2}, {"six", 3},
                                  {"none", 4},    {"half", 5}, {"dup", 6}};
const std::vector<Word> kActivations = {{"swiglu", DSV4MX_ACTIVATION_SWIGLU},
                                        {"gptoss", DSV4MX_ACTIVATION_SWIGLU_GPTOSS},
                                        {"gated", DSV4MX_ACTIVATION_GATED},
                                        {"situ", DSV4MX_ACTIVATION_SITU}};
const std::vector<Word> kOrders = {
    {"unset", 0}, {"gate_up", 1}, {"up_gate", 2}, {"interleaved", 3}};
const std::vector<Word> kNibbles = {{"low", 0}, {"high", 1}};
const std::vector<Word> kPositions = {{"after", 0}, {"before", 1}, {"input", 2}};
const std::vector<Word> kFloats = {
    {"default", 0}, {"bf16", DSV4MX_DTYPE_BF16}, {"f32", DSV4MX_DTYPE_F32}};
const std::vector<Word> kIntegers = {
    {"default", 0}, {"i32", DSV4MX_DTYPE_I32}, {"i64", DSV4MX_DTYPE_I64}};
const std::vector<Word> kBias = {
    {"0", 0}, {"1", DSV4MX_DTYPE_BF16}, {"bf16", DSV4MX_DTYPE_BF16}, {"f32", DSV4MX_DTYPE_F32}};
const std::vector<Word> kPaths = {{"auto", 0}, {"bf16", 1}, {"planes", 2}};
const std::vector<Word> kComputes = {{"w4a16", 0}, {"w4a8", 1}};
const std::vector<Word> kOracles = {{"none", 0}, {"truth", 1}, {"spec", 2}};
const std::vector<Word> kDevices = {{"auto", 0}, {"cpu", 1}, {"cuda", 2}};
const std::vector<Word> kIsas = {
    {"best", 0}, {"portable", 1}, {"avx2", 2}, {"avx512", 3}, {"avx512bf16", 4}};

std::string Join(const std::vector<Word>& words) {
  std::string all;
  for (const Word& w : words) all += (all.empty() ? "" : " | ") + std::string(w.name);
  return all;
}

std::string NumberText(double v) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", v);
  return text;
}

// One key: how its value is read into a problem and written back.
struct Key {
  std::string name, wanted;
  std::function<bool(Problem&, const std::string&)> set;
  std::function<std::string(const Problem&)> get;
};

template <typename T>
Key Integer(const char* name, const char* wanted, T Problem::*field, int64_t lo, int64_t hi) {
  return {name, wanted,
          [=](Problem& p, const std::string& v) {
            char* end;
            const long long n = std::strtoll(v.c_str(), &end, 10);
            if (v.empty() || *end != 0 || n < lo || n > hi) return false;
            p.*field = static_cast<T>(n);
            return true;
          },
          [=](const Problem& p) { return std::to_string(p.*field); }};
}

template <typename T>
Key Real(const char* name, const char* wanted, T Problem::*field) {
  return {name, wanted,
          [=](Problem& p, const std::string& v) {
            char* end;
            p.*field = static_cast<T>(std::strtod(v.c_str(), &end));
            return !v.empty() && *end == 0;
          },
          [=](const Problem& p) { return NumberText(static_cast<double>(p.*field)); }};
}

template <typename T>
Key Choice(const char* name, const std::vector<Word>& words, T Problem::*field) {
  return {name, Join(words),
          [=](Problem& p, const std::string& v) {
            for (const Word& w : words) {
              if (v == w.name) return p.*field = static_cast<T>(w.value), true;
            }
            return false;
          },
          [=](const Problem& p) -> std::string {
            for (const Word& w : words) {
              if (static_cast<int>(p.*field) == w.value) return w.name;
            }
            return std::to_string(static_cast<int>(p.*field));
          }};
}

const std::vector<Key>& Keys() {
  static const std::vector<Key> keys = {
      Integer("h", "hidden size", &Problem::hidden, 0, 1 << 20),
      Integer("i", "intermediate size of the whole model", &Problem::intermediate, 0, 1 << 20),
      Integer("e", "experts of the whole model", &Problem::experts, 0, 1 << 16),
      Integer("k", "ids per token", &Problem::top_k, 0, 64),
      Integer("m", "tokens", &Problem::tokens, 0, 1 << 20),
      Integer("tp", "tensor-parallel ranks: one rank's share of i is run", &Problem::tp, 1, 64),
      Integer("ep", "expert-parallel ranks: one rank's share of e is run", &Problem::ep, 1, 4096),
      Integer("rank", "expert-parallel rank", &Problem::ep_rank, 0, 4095),
      Choice("act", kActivations, &Problem::activation),
      Real("clamp", "limit, 0 = off", &Problem::clamp),
      Real("alpha", "of gptoss (0 = 1.702) and gated", &Problem::alpha),
      Real("beta", "of gptoss (0 = 1) and gated", &Problem::beta),
      Real("situb", "SiTU's beta", &Problem::situ_beta),
      Real("situl", "SiTU's linear beta", &Problem::situ_linear_beta),
      Choice("bias13", kBias, &Problem::w13_bias),
      Choice("bias2", kBias, &Problem::w2_bias),
      {"bias", Join(kBias) + " (both matrices)",
       [](Problem& p, const std::string& v) {
         for (const Word& w : kBias) {
           if (v == w.name) return p.w13_bias = p.w2_bias = w.value, true;
         }
         return false;
       },
       nullptr},
      Choice("order", kOrders, &Problem::order),
      Choice("nibble", kNibbles, &Problem::nibble),
      Choice("wpos", kPositions, &Problem::wpos),
      Real("rsf", "routed scaling factor, 0 = 1", &Problem::rsf),
      Choice("dist", kDists, &Problem::dist),
      Choice("out", kFloats, &Problem::out),
      Choice("ids", kIntegers, &Problem::ids),
      Choice("rw", kFloats, &Problem::rw),
      Choice("slot", kFloats, &Problem::slot),
      Integer("seed", "any number", &Problem::seed, 0, INT64_MAX),
      {"scales", "lo..hi, bytes 0..255",
       [](Problem& p, const std::string& v) {
         int lo, hi, used = 0;
         if (std::sscanf(v.c_str(), "%d..%d%n", &lo, &hi, &used) != 2 ||
             v[static_cast<size_t>(used)] != 0)
           return false;
         if (lo < 0 || hi > 255 || lo > hi) return false;
         p.scale_lo = lo, p.scale_hi = hi;
         return true;
       },
       [](const Problem& p) {
         return std::to_string(p.scale_lo) + ".." + std::to_string(p.scale_hi);
       }},
      Real("amp", "standard deviation of x, 0 = gate and up near 3", &Problem::amp),
      Choice("compute", kComputes, &Problem::compute),
      Choice("oracle", kOracles, &Problem::oracle),
      Choice("path", kPaths, &Problem::path),
      Integer("invariant", "0 | 1: batch invariance", &Problem::flags, 0, 1),
      Integer("xs", "row stride of x in elements, 0 = h", &Problem::x_stride, 0, 1 << 24),
      Integer("os", "row stride of out in elements, 0 = h", &Problem::out_stride, 0, 1 << 24),
      Integer("is", "row stride of ids in elements, 0 = k", &Problem::ids_stride, 0, 1 << 20),
      Integer("ws", "row stride of router weights in elements, 0 = k", &Problem::weights_stride, 0,
              1 << 20),
      Choice("dev", kDevices, &Problem::device),
      Choice("isa", kIsas, &Problem::isa),
      Integer("threads", "CPU threads, 0 = all that the machine allows", &Problem::threads, 0,
              4096),
  };
  return keys;
}

struct Model {
  const char* name;
  const char* words;
};

// Released sizes; model.md section 1 and 7.
const Model kModels[] = {
    {"flash", "h=4096 i=2048 e=256 k=6 clamp=10 rsf=1.5"},
    {"pro", "h=7168 i=3072 e=384 k=6 clamp=10 rsf=2.5"},
    {"v41", "h=5120 i=2304 e=384 k=6 clamp=10 rsf=1.5"},
    {"gptoss", "h=2880 i=2880 e=128 k=4 act=gptoss clamp=7 bias=1 order=interleaved"},
    {"k3", "h=3584 i=3072 e=896 k=16 act=situ situb=4 situl=25"},
};

bool Apply(const std::string& words, Problem* p, std::string* error) {
  std::istringstream in(words);
  std::string word;
  while (in >> word) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) {
      const Model* found = nullptr;
      for (const Model& m : kModels) {
        if (word == m.name) found = &m;
      }
      if (found == nullptr) {
        std::string names;
        for (const Model& m : kModels) names += std::string(" ") + m.name;
        *error = "problem: got \"" + word + "\", wanted key=value or one of" + names;
        return false;
      }
      if (!Apply(found->words, p, error)) return false;
      continue;
    }
    const std::string name = word.substr(0, equals), value = word.substr(equals + 1);
    const Key* key = nullptr;
    for (const Key& k : Keys()) {
      if (k.name == name) key = &k;
    }
    if (key == nullptr) {
      std::string names;
      for (const Key& k : Keys()) names += " " + k.name;
      *error = "problem: unknown key \"" + name + "\", wanted one of" + names;
      return false;
    }
    if (!key->set(*p, value)) {
      *error = "problem: " + name + ": got \"" + value + "\", wanted " + key->wanted;
      return false;
    }
  }
  return true;
}

}  // namespace

double Problem::Amplitude() const {
  if (amp != 0) return amp;
  // Root mean square of a weight: 2.926 of the codes times that of the scales.
  double mean = 0;
  for (int b = scale_lo; b <= scale_hi; ++b) mean += std::ldexp(1.0, 2 * (b - 127));
  const double rms = 2.926 * std::sqrt(mean / (scale_hi - scale_lo + 1));
  return 3.0 / (std::sqrt(static_cast<double>(hidden)) * rms);
}

bool ParseProblem(const std::string& text, Problem* out, std::string* error) {
  *out = Problem();
  if (!Apply(text, out, error)) return false;
  if (out->intermediate % out->tp != 0) {
    *error = "problem: i=" + std::to_string(out->intermediate) +
             " is no multiple of tp=" + std::to_string(out->tp);
    return false;
  }
  if (out->experts % out->ep != 0 || out->ep_rank >= out->ep) {
    *error = "problem: e=" + std::to_string(out->experts) +
             " rank=" + std::to_string(out->ep_rank) +
             ": wanted e a multiple of ep=" + std::to_string(out->ep) + " and rank below it";
    return false;
  }
  // A w13 bias is a fused tensor, so the order of its rows must be known.
  if (out->w13_bias != 0 && out->order == DSV4MX_W13_ORDER_UNSET)
    out->order = DSV4MX_W13_ORDER_GATE_UP;
  return true;
}

Problem Parse(const std::string& text) {
  Problem p;
  std::string error;
  if (!ParseProblem(text, &p, &error)) throw std::invalid_argument(error);
  return p;
}

std::string ProblemText(const Problem& problem) {
  static const char* kAlways[] = {"h", "i", "e", "k", "m", "seed"};
  const Problem standard;
  std::string text;
  for (const Key& key : Keys()) {
    if (!key.get) continue;
    bool show = key.get(problem) != key.get(standard);
    for (const char* name : kAlways) show = show || key.name == name;
    if (show) text += (text.empty() ? "" : " ") + key.name + "=" + key.get(problem);
  }
  return text;
}

std::vector<std::string> ExpandProblems(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> all = {""};
  std::string word;
  while (in >> word) {
    const size_t equals = word.find('=');
    const std::string key = equals == std::string::npos ? "" : word.substr(0, equals + 1);
    std::istringstream values(equals == std::string::npos ? word : word.substr(equals + 1));
    std::vector<std::string> next;
    std::string value;
    std::vector<std::string> list;
    while (std::getline(values, value, ',')) list.push_back(value);
    if (list.empty()) list.push_back("");  // "m=" stays as it is and is refused by the parser
    for (const std::string& before : all) {
      for (const std::string& v : list)
        next.push_back(before + (before.empty() ? "" : " ") + key + v);
    }
    all = next;
  }
  return all;
}

std::string ProblemHelp() {
  std::string text = "A problem is a list of words, model names or key=value:\n";
  for (const Model& m : kModels) text += "  " + std::string(m.name) + "  =  " + m.words + "\n";
  for (const Key& k : Keys()) text += "  " + k.name + "=  " + k.wanted + "\n";
  return text;
}

}  // namespace dsv4mx::test
