// ORACLE_TRUTH computes in fp64 without any rounding but the inputs' and the output's; ORACLE_SPEC also rounds h once to
// bf16 (and x times w, where the router weight goes onto the input), and passes them through E4M3 for W4A8.
// Nothing here is shared with the fast path but the
// store and the sorting of pairs by expert; that sorting lets each row of weights be decoded once for all its tokens.
#include "lib/cpu/oracle.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "lib/base/carver.h"
#include "lib/base/float_bits.h"
#include "lib/base/host_layout.h"
#include "lib/cpu/activation.h"
#include "lib/cpu/routing.h"

namespace dsv4mx::cpu {
namespace {

constexpr int64_t kChunkTokens =
    256;  // bounds the workspace; a token's result does not depend on it

// fp64 to bf16 in one rounding: to fp32 towards zero with what was cut off kept in the last bit, which leaves the second
// step the truth about ties.
double RoundBf16(double v) {
  float f = static_cast<float>(v);
  if (std::isfinite(v) && static_cast<double>(f) != v) {
    uint32_t bits = BitsOfFloat(f);
    if (std::fabs(static_cast<double>(f)) > std::fabs(v)) --bits;
    f = FloatFromBits(bits | 1);
  }
  return FloatFromBf16(Bf16FromFloat(f));
}

// What W4A8 computes with: each 128 of K over the least power of two that brings its peak, 1e-4 at least, to 448 or less,
// as the nearest E4M3 number (3 bits of mantissa, exponents from -6 on, ties to even).
void QuantiseE4m3(double* v, int64_t count) {
  for (int64_t first = 0; first < count; first += 128) {
    const int64_t end = std::min(first + 128, count);
    double peak = static_cast<double>(1e-4f);
    bool finite = true;
    for (int64_t i = first; i < end; ++i) {
      finite = finite && std::isfinite(v[i]);
      peak = std::max(peak, std::fabs(v[i]));
    }
    int exponent = 0;
    while (finite && std::ldexp(peak, -exponent) > 448) ++exponent;
    while (finite && std::ldexp(peak, 1 - exponent) <= 448) --exponent;
    for (int64_t i = first; i < end; ++i) {
      if (!finite) {
        v[i] = std::numeric_limits<double>::quiet_NaN();
        continue;
      }
      const double y = std::ldexp(v[i], -exponent);
      const int last = y == 0 ? 0 : std::max(std::ilogb(y), -6) - 3;  // of its last bit
      v[i] = std::ldexp(std::nearbyint(std::ldexp(y, -last)), last + exponent);
    }
  }
}

// bf16(code * 2^(scale - 127)): exact, but for overflow to infinity.
double Weight(uint32_t code, int scale) {
  constexpr double kMagnitude[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const double magnitude = std::ldexp(kMagnitude[code & 7], scale - 127);
  const double weight = magnitude >= 0x1p128 ? std::numeric_limits<double>::infinity() : magnitude;
  return (code & 8) != 0 ? -weight : weight;
}

struct Rows {  // of one thread: what a row of weights is decoded through and into
  uint8_t* codes;
  uint8_t* scales;
  double* first;
  double* second;
};

void DecodeRow(const CpuStore& store, int32_t expert, Matrix m, int64_t row, const Rows& rows,
               double* out) {
  store.ReadCodes(expert, m, row, rows.codes);
  store.ReadScales(expert, m, row, rows.scales);
  const int64_t k = store.spec().K(m);
  for (int64_t g = 0; g < k / kGroupSize; ++g) {
    double value[16];
    for (uint32_t code = 0; code < 16; ++code) value[code] = Weight(code, rows.scales[g]);
    for (int64_t i = g * kGroupSize; i < (g + 1) * kGroupSize; ++i)
      out[i] = value[RawCode(rows.codes, i)];
  }
}

double Dot(const double* a, const double* b, int64_t n) {
  double sum[8] = {};  // n is a multiple of 32
  for (int64_t i = 0; i < n; i += 8) {
    for (int64_t j = 0; j < 8; ++j) sum[j] += a[i + j] * b[i + j];
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

struct Workspace {
  Routing routing;
  double* x;       // [chunk, hidden]
  double* h;       // [pairs, intermediate], in the order of routing.pair
  double* y;       // [pairs, hidden]
  uint8_t* codes;  // [threads][...] what Rows points into
  uint8_t* scales;
  double* rows;
};

int64_t LongestRow(const LayerSpec& spec) {
  return std::max(spec.hidden, spec.intermediate);
}

Workspace Carve(const LayerSpec& spec, int64_t tokens, int threads, Carver* carver) {
  const int64_t chunk = std::min(tokens, kChunkTokens), pairs = chunk * spec.top_k;
  const int64_t row = LongestRow(spec);
  Workspace w;
  w.routing = CarveRouting(spec, chunk, carver);
  w.x = carver->Take<double>(chunk * spec.hidden);
  w.h = carver->Take<double>(pairs * spec.intermediate);
  w.y = carver->Take<double>(pairs * spec.hidden);
  w.codes = carver->Take<uint8_t>(threads * row / 2);
  w.scales = carver->Take<uint8_t>(threads * row / kGroupSize);
  w.rows = carver->Take<double>(2 * threads * row);
  return w;
}

Rows RowsOf(const LayerSpec& spec, const Workspace& w, int thread) {
  const int64_t row = LongestRow(spec);
  return Rows{w.codes + thread * row / 2, w.scales + thread * row / kGroupSize,
              w.rows + 2 * thread * row, w.rows + (2 * thread + 1) * row};
}

class Chunk {
 public:
  Chunk(const LayerSpec& spec, const CpuStore& store, const Workspace& w, const PairArray& weights)
      : store_(store),
        spec_(spec),
        w_(w),
        weights_(weights),
        rounds_(spec.oracle == DSV4MX_ORACLE_SPEC) {}

  double RouterWeightOf(int32_t place) const {
    return RouterWeight(spec_, weights_, w_.routing.pair[place]);
  }

  // h of channel `channel` for all tokens of the `index`-th hit expert.
  void GateUp(int32_t index, int64_t channel, const Rows& rows) const {
    const int32_t expert = w_.routing.experts[index];
    DecodeRow(store_, expert, Matrix::kGate, channel, rows, rows.first);
    DecodeRow(store_, expert, Matrix::kUp, channel, rows, rows.second);
    const bool bias = store_.HasBias(Matrix::kGate);
    for (int32_t p = w_.routing.begin[index]; p < w_.routing.begin[index + 1]; ++p) {
      const double* x =
          w_.x + w_.routing.pair[p] / spec_.top_k * static_cast<int64_t>(spec_.hidden);
      double gate = Dot(x, rows.first, spec_.hidden), up = Dot(x, rows.second, spec_.hidden);
      if (bias) gate += static_cast<double>(store_.Bias(expert, Matrix::kGate)[channel]);
      if (bias) up += static_cast<double>(store_.Bias(expert, Matrix::kUp)[channel]);
      double h = Activate(spec_, gate, up);
      if (spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_BEFORE_W2) h *= RouterWeightOf(p);
      w_.h[p * static_cast<int64_t>(spec_.intermediate) + channel] = rounds_ ? RoundBf16(h) : h;
    }
  }

  void QuantiseHidden(int64_t place) const {
    QuantiseE4m3(w_.h + place * static_cast<int64_t>(spec_.intermediate), spec_.intermediate);
  }

  // y of output `row` for all tokens of the `index`-th hit expert, router weight included.
  void Down(int32_t index, int64_t row, const Rows& rows) const {
    const int32_t expert = w_.routing.experts[index];
    DecodeRow(store_, expert, Matrix::kDown, row, rows, rows.first);
    for (int32_t p = w_.routing.begin[index]; p < w_.routing.begin[index + 1]; ++p) {
      double y =
          Dot(w_.h + p * static_cast<int64_t>(spec_.intermediate), rows.first, spec_.intermediate);
      if (store_.HasBias(Matrix::kDown))
        y += static_cast<double>(store_.Bias(expert, Matrix::kDown)[row]);
      if (spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2) y *= RouterWeightOf(p);
      w_.y[p * static_cast<int64_t>(spec_.hidden) + row] = y;
    }
  }

  // Sum over the slots of token `token` of the chunk, routed scale, one rounding.
  void Combine(int64_t token, void* out, bool accumulate) const {
    for (int64_t i = 0; i < spec_.hidden; ++i) {
      double sum = 0;
      for (int64_t slot = 0; slot < spec_.top_k; ++slot) {
        const int32_t place = w_.routing.place[token * spec_.top_k + slot];
        if (place >= 0) sum += w_.y[place * static_cast<int64_t>(spec_.hidden) + i];
      }
      sum *= static_cast<double>(spec_.routed_scaling_factor);
      if (spec_.out_dtype == DSV4MX_DTYPE_F32) {
        float* y = static_cast<float*>(out) + i;
        *y = static_cast<float>(accumulate ? sum + static_cast<double>(*y) : sum);
      } else {
        uint16_t* y = static_cast<uint16_t*>(out) + i;
        if (accumulate) sum += static_cast<double>(FloatFromBf16(*y));
        *y = Bf16FromFloat(static_cast<float>(RoundBf16(sum)));
      }
    }
  }

 private:
  const CpuStore& store_;
  const LayerSpec& spec_;
  const Workspace& w_;
  PairArray weights_;
  bool rounds_;
};

}  // namespace

size_t OracleWorkspaceBytes(const LayerSpec& spec, int64_t tokens, int threads) {
  Carver carver(nullptr);
  Carve(spec, tokens, threads, &carver);
  return carver.bytes();
}

void ApplyOracle(const LayerSpec& spec, const CpuStore& store, const ApplyCall& call,
                 int64_t tokens, ThreadPool* pool) {
  const int64_t most = LargestFitting(std::min(tokens, kChunkTokens), [&](int64_t chunk) {
    return OracleWorkspaceBytes(spec, chunk, pool->threads()) <= call.workspace_bytes;
  });
  Carver carver(call.workspace);
  Workspace w = Carve(spec, most, pool->threads(), &carver);
  const bool quantises = spec.compute == DSV4MX_COMPUTE_W4A8 && spec.oracle == DSV4MX_ORACLE_SPEC;
  const int64_t out_bytes = spec.out_dtype == DSV4MX_DTYPE_F32 ? 4 : 2;
  for (int64_t first = 0; first < tokens; first += most) {
    const int64_t count = std::min(most, tokens - first);
    const PairArray weights = WeightsOf(spec, call).From(first);
    Route(spec, IdsOf(spec, call).From(first), count, &w.routing);
    CountPairs(w.routing, call.expert_counts);
    const Chunk chunk(spec, store, w, weights);

    pool->For(count, [&](int64_t t, int) {
      const uint16_t* x = static_cast<const uint16_t*>(call.x) + (first + t) * call.x_stride;
      const bool scaled =
          spec.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT;  // top_k is 1
      const double weight =
          scaled && w.routing.place[t] >= 0 ? RouterWeight(spec, weights, t) : 1.0;
      for (int64_t i = 0; i < spec.hidden; ++i) {
        const double v = FloatFromBf16(x[i]) * weight;
        const bool rounds = scaled && spec.oracle == DSV4MX_ORACLE_SPEC;
        // The product of a bf16 and an fp32 number as the contract says it: in fp32, then to bf16.
        w.x[t * spec.hidden + i] = rounds ? FloatFromBf16(Bf16FromFloat(static_cast<float>(v))) : v;
      }
      if (quantises) QuantiseE4m3(w.x + t * spec.hidden, spec.hidden);
    });
    pool->For(static_cast<int64_t>(w.routing.hit) * spec.intermediate,
              [&](int64_t item, int thread) {
                chunk.GateUp(static_cast<int32_t>(item / spec.intermediate),
                             item % spec.intermediate, RowsOf(spec, w, thread));
              });
    if (quantises)
      pool->For(w.routing.pairs, [&](int64_t place, int) { chunk.QuantiseHidden(place); });
    pool->For(static_cast<int64_t>(w.routing.hit) * spec.hidden, [&](int64_t item, int thread) {
      chunk.Down(static_cast<int32_t>(item / spec.hidden), item % spec.hidden,
                 RowsOf(spec, w, thread));
    });
    pool->For(count, [&](int64_t t, int) {
      chunk.Combine(t, static_cast<uint8_t*>(call.out) + (first + t) * call.out_stride * out_bytes,
                    call.accumulate);
    });
  }
}

}  // namespace dsv4mx::cpu
