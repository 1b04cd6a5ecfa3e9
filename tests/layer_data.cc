#include "tests/layer_data.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

enum Stream : uint64_t { kX = 1, kIds = 2, kWeights = 3, kExperts = 16 };

// Draws k distinct ids of 0..n-1, each with probability in proportion to weight[id] (Efraimidis and Spirakis).
void DrawDistinct(Rng* rng, const std::vector<double>& weight, int64_t k, int64_t* out) {
  std::vector<std::pair<double, int64_t>> key(weight.size());
  for (size_t i = 0; i < weight.size(); ++i) {
    key[i] = {std::log(1.0 - rng->Uniform()) / weight[i], static_cast<int64_t>(i)};
  }
  const size_t n = std::min(static_cast<size_t>(k), key.size());
  std::partial_sort(key.begin(), key.begin() + static_cast<int64_t>(n), key.end(),
                    std::greater<>());
  for (size_t i = 0; i < static_cast<size_t>(k); ++i) out[i] = i < n ? key[i].second : -1;
}

void DrawUniform(Rng* rng, int64_t n, int64_t k, int64_t* out) {
  for (int64_t i = 0; i < k; ++i) {
    if (i >= n) {
      out[i] = -1;
      continue;
    }
    do {
      out[i] = rng->Below(n);
    } while (std::find(out, out + i, out[i]) != out + i);
  }
}

// No duplicates unless asked for; where there are fewer experts than slots the rest is -1.
void DrawRow(const Problem& p, Rng* rng, int64_t token, int64_t* out) {
  const int64_t n = p.experts, k = p.top_k;
  switch (p.dist) {
    case Dist::kUniform:
      return DrawUniform(rng, n, k, out);
    case Dist::kZipf: {
      std::vector<double> weight(static_cast<size_t>(n));
      // The hot experts are spread over the ids, so that ranks of an expert-parallel group differ.
      for (int64_t r = 0; r < n; ++r)
        weight[static_cast<size_t>(r)] = 1.0 / (static_cast<double>((r * 7 + 3) % n) + 1);
      return DrawDistinct(rng, weight, k, out);
    }
    case Dist::kOne: {
      const int64_t hot = n / 2, slot = token % k;
      DrawUniform(rng, n, k, out);
      int64_t* at = std::find(out, out + k, hot);
      if (at == out + k) at = &out[slot], *at = hot;
      std::swap(*at, out[slot]);
      return;
    }
    case Dist::kSix: {
      const int64_t few = std::min(n, std::max<int64_t>(6, k));
      DrawUniform(rng, few, k, out);
      for (int64_t i = 0; i < k; ++i) {
        if (out[i] >= 0) out[i] = out[i] * n / few;
      }
      return;
    }
    case Dist::kNone:
      std::fill(out, out + k, -1);
      return;
    case Dist::kHalf:
      DrawUniform(rng, n, k, out);
      for (int64_t i = 0; i < k; ++i) {
        if (rng->Next() & 1) out[i] = -1;
      }
      return;
    case Dist::kDup:
      for (int64_t i = 0; i < k; ++i)
        out[i] = rng->Below(std::min<int64_t>(n, std::max<int64_t>(1, k / 2)));
      return;
  }
}

std::vector<float> MakeBias(Rng* rng, int64_t rows, dsv4mx_dtype type) {
  std::vector<float> bias;
  if (type == 0) return bias;
  bias.resize(static_cast<size_t>(rows));
  for (float& b : bias) {
    const double v = rng->Normal();
    b = static_cast<float>(type == DSV4MX_DTYPE_BF16 ? RoundBf16(v) : v);
  }
  return bias;
}

}  // namespace

ExpertData MakeExpert(const Problem& p, int32_t e) {
  const int64_t h = p.hidden, i = p.LocalIntermediate();
  ExpertData data{{i, i, h}, {h, h, i}, {}, {}, {}};
  const uint64_t id = static_cast<uint64_t>(p.ExpertFirst() + e);
  for (int m = 0; m < 3; ++m) {
    Rng rng(p.seed, kExperts + 4 * id + static_cast<uint64_t>(m));
    data.codes[m].resize(static_cast<size_t>(data.rows[m] * data.k[m] / 2));
    data.scales[m].resize(static_cast<size_t>(data.rows[m] * data.k[m] / 32));
    rng.Bytes(data.codes[m].data(), data.codes[m].size());
    rng.Bytes(data.scales[m].data(), data.scales[m].size());
    const int span = p.scale_hi - p.scale_lo + 1;
    for (uint8_t& s : data.scales[m]) s = static_cast<uint8_t>(p.scale_lo + s % span);
    data.bias[m] = MakeBias(&rng, data.rows[m], m == kDown ? p.w2_bias : p.w13_bias);
  }
  return data;
}

Inputs MakeInputs(const Problem& p) {
  Inputs in;
  const size_t tokens = static_cast<size_t>(p.tokens), k = static_cast<size_t>(p.top_k);
  in.x.resize(tokens * static_cast<size_t>(p.hidden));
  in.ids.resize(tokens * k);
  in.weights.resize(tokens * k);
  Rng x(p.seed, kX), ids(p.seed, kIds), weights(p.seed, kWeights);
  const double amplitude = p.Amplitude();
  for (uint16_t& v : in.x) v = ToBf16(amplitude * x.Normal());
  for (size_t t = 0; t < tokens; ++t) {
    DrawRow(p, &ids, static_cast<int64_t>(t), &in.ids[t * k]);
    double sum = 0;
    std::vector<double> w(k);
    for (double& v : w) sum += v = 0.05 + weights.Uniform();
    for (size_t s = 0; s < k; ++s) {
      in.weights[t * k + s] =
          static_cast<float>(p.rw == DSV4MX_DTYPE_BF16 ? RoundBf16(w[s] / sum) : w[s] / sum);
    }
  }
  return in;
}

int32_t Case::LocalExpert(int64_t id) const {
  if (id < 0 || id >= p.experts) return -1;
  if (!placement.empty()) {
    const auto first = std::find(placement.begin(), placement.end(), id);
    return first == placement.end() ? -1 : static_cast<int32_t>(first - placement.begin());
  }
  const int64_t e = id - p.ExpertFirst();
  return e >= 0 && e < p.LocalExperts() ? static_cast<int32_t>(e) : -1;
}

Case MakeCase(const Problem& problem, bool hold_experts) {
  Case c{problem, {}, {}, MakeInputs(problem)};
  for (int32_t e = 0; hold_experts && e < problem.LocalExperts(); ++e) {
    c.experts.push_back(std::make_shared<ExpertData>(MakeExpert(problem, e)));
  }
  return c;
}

std::vector<uint8_t> FuseRows(const std::vector<uint8_t>& gate, const std::vector<uint8_t>& up,
                              int64_t bytes, dsv4mx_w13_order order) {
  std::vector<uint8_t> fused;
  fused.reserve(gate.size() + up.size());
  const auto append = [&](const std::vector<uint8_t>& from, size_t at, size_t n) {
    fused.insert(fused.end(), from.begin() + static_cast<int64_t>(at),
                 from.begin() + static_cast<int64_t>(at + n));
  };
  if (order == DSV4MX_W13_ORDER_INTERLEAVED) {
    for (size_t at = 0; at < gate.size(); at += static_cast<size_t>(bytes)) {
      append(gate, at, static_cast<size_t>(bytes));
      append(up, at, static_cast<size_t>(bytes));
    }
    return fused;
  }
  const bool up_first = order == DSV4MX_W13_ORDER_UP_GATE;
  append(up_first ? up : gate, 0, gate.size());
  append(up_first ? gate : up, 0, gate.size());
  return fused;
}

}  // namespace dsv4mx::test
