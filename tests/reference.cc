#include "tests/reference.h"

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

struct Pair {
  size_t row;
  int64_t slot;
};

// Row `n` of a matrix as numbers.
void DecodeRow(const ExpertData& e, int m, int64_t n, std::vector<double>* out) {
  static const std::vector<double>* const table = [] {  // every (byte, code), as Weight() gives it
    auto* t = new std::vector<double>(256 * 16);
    for (int i = 0; i < 256 * 16; ++i) (*t)[static_cast<size_t>(i)] = Weight(i & 15, i >> 4);
    return t;
  }();
  const int64_t k = e.k[m];
  const uint8_t* codes = &e.codes[m][static_cast<size_t>(n * k / 2)];
  const uint8_t* scales = &e.scales[m][static_cast<size_t>(n * k / 32)];
  out->resize(static_cast<size_t>(k));
  for (int64_t j = 0; j < k; ++j) {
    (*out)[static_cast<size_t>(j)] =
        (*table)[static_cast<size_t>(scales[j / 32] * 16 + CodeAt(codes, j))];
  }
}

double Dot(const std::vector<double>& a, const double* b) {
  std::array<double, 8> sum{};
  for (size_t j = 0; j < a.size(); j += 8) {
    for (size_t lane = 0; lane < 8; ++lane) sum[lane] += a[j + lane] * b[j + lane];
  }
  return std::accumulate(sum.begin(), sum.end(), 0.0);
}

double Clamp(double v, double lo, double hi) {
  return v < lo ? lo : v > hi ? hi : v;
}  // NaN stays

double Activate(const Problem& p, double g, double u) {
  const double limit = static_cast<double>(p.clamp), inf = std::numeric_limits<double>::infinity();
  if (limit > 0) {
    g = Clamp(g, -inf, limit);
    u = Clamp(u, -limit, limit);
  }
  if (p.activation == DSV4MX_ACTIVATION_SWIGLU_GPTOSS) {
    const double alpha = p.alpha == 0 ? static_cast<double>(1.702f) : static_cast<double>(p.alpha);
    const double beta = p.beta == 0 ? 1.0 : static_cast<double>(p.beta);
    return g / (1 + std::exp(-alpha * g)) * (u + beta);
  }
  if (p.activation == DSV4MX_ACTIVATION_GATED) {
    return g / (1 + std::exp(-static_cast<double>(p.alpha) * g)) *
           (u + static_cast<double>(p.beta));
  }
  if (p.activation == DSV4MX_ACTIVATION_SITU) {
    const double b = static_cast<double>(p.situ_beta), l = static_cast<double>(p.situ_linear_beta);
    return b * std::tanh(g / b) / (1 + std::exp(-g)) * l * std::tanh(u / l);
  }
  return g / (1 + std::exp(-g)) * u;
}

}  // namespace

Reference Compute(const Case& c, std::vector<int64_t> tokens) {
  const Problem& p = c.p;
  if (tokens.empty()) {
    tokens.resize(static_cast<size_t>(p.tokens));
    std::iota(tokens.begin(), tokens.end(), 0);
  }
  const size_t h = static_cast<size_t>(p.hidden), i = static_cast<size_t>(p.LocalIntermediate()),
               rows = tokens.size();
  Reference r{static_cast<int64_t>(rows), p.hidden, tokens, {}, {}, {}};
  r.truth.assign(rows * h, 0.0);
  r.spec.assign(rows * h, 0.0);
  r.bound.assign(rows * h, 0.0);
  const double rsf = p.rsf == 0 ? 1.0 : static_cast<double>(p.rsf);

  std::map<int32_t, std::vector<Pair>> pairs;
  for (size_t row = 0; row < rows; ++row) {
    for (int64_t s = 0; s < p.top_k; ++s) {
      const int32_t e = c.LocalExpert(c.in.ids[static_cast<size_t>(tokens[row] * p.top_k + s)]);
      if (e >= 0) pairs[e].push_back({row, s});
    }
  }
  std::vector<double> weight_row;
  for (const auto& [index, list] : pairs) {
    const std::shared_ptr<const ExpertData> e = c.Expert(index);
    std::vector<double> x(list.size() * h), gate(list.size() * i), up(list.size() * i),
        hidden(list.size() * i), rounded(list.size() * i), absolute(list.size() * i),
        w(list.size());
    for (size_t n = 0; n < list.size(); ++n) {
      const size_t token = static_cast<size_t>(tokens[list[n].row]);
      w[n] = static_cast<double>(
          c.in.weights[token * static_cast<size_t>(p.top_k) + static_cast<size_t>(list[n].slot)]);
      for (size_t j = 0; j < h; ++j) {
        const float v = FromBf16(c.in.x[token * h + j]);
        // On the input the product is fp32, then bf16: part of what the layer is given.
        x[n * h + j] = p.wpos == DSV4MX_ROUTER_WEIGHT_ON_INPUT
                           ? RoundBf16(static_cast<double>(v * static_cast<float>(w[n])))
                           : static_cast<double>(v);
      }
    }
    for (size_t row = 0; row < i; ++row) {
      for (int m : {kGate, kUp}) {
        DecodeRow(*e, m, static_cast<int64_t>(row), &weight_row);
        for (size_t n = 0; n < list.size(); ++n) {
          const double bias = e->bias[m].empty() ? 0.0 : static_cast<double>(e->bias[m][row]);
          (m == kGate ? gate : up)[n * i + row] = Dot(weight_row, &x[n * h]) + bias;
        }
      }
    }
    for (size_t n = 0; n < list.size(); ++n) {
      for (size_t j = 0; j < i; ++j) {
        double v = Activate(p, gate[n * i + j], up[n * i + j]);
        if (p.wpos == DSV4MX_ROUTER_WEIGHT_BEFORE_W2) v *= w[n];
        hidden[n * i + j] = v;
        rounded[n * i + j] = RoundBf16(v);
        absolute[n * i + j] = std::fabs(v);
      }
      if (p.wpos != DSV4MX_ROUTER_WEIGHT_AFTER_W2) w[n] = 1.0;  // already used
    }
    for (size_t row = 0; row < h; ++row) {
      DecodeRow(*e, kDown, static_cast<int64_t>(row), &weight_row);
      const double bias = e->bias[kDown].empty() ? 0.0 : static_cast<double>(e->bias[kDown][row]);
      for (size_t n = 0; n < list.size(); ++n) {
        const size_t at = list[n].row * h + row;
        r.truth[at] += rsf * w[n] * (Dot(weight_row, &hidden[n * i]) + bias);
        r.spec[at] += rsf * w[n] * (Dot(weight_row, &rounded[n * i]) + bias);
      }
      for (double& v : weight_row) v = std::fabs(v);
      for (size_t n = 0; n < list.size(); ++n) {
        r.bound[list[n].row * h + row] +=
            std::fabs(rsf * w[n]) * (Dot(weight_row, &absolute[n * i]) + std::fabs(bias));
      }
    }
  }
  return r;
}

}  // namespace dsv4mx::test
