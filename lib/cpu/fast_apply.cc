// Pairs (token, slot) are sorted by expert and cut into blocks of up to max_tokens tokens of one expert. A block's x is
// packed as [k][tokens] in fp32, so that a kernel walks weights and x once, front to back; h is written in the same form
// for the second product. Every loop hands its items to the pool one by one.
#include "lib/cpu/fast_apply.h"

#include <algorithm>
#include <cmath>

#include "lib/base/carver.h"
#include "lib/base/e4m3.h"
#include "lib/base/float_bits.h"
#include "lib/cpu/routing.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = kCpuTileRows;

// Enough pairs that a layer of 256 experts gets two full blocks each, few enough that the packed form stays small.
constexpr int64_t kChunkPairs = 8192;

struct Block {
  int32_t index;  // of the hit expert
  int32_t first;  // place of its first pair
  int32_t tokens;
};

struct Workspace {
  Routing routing;
  Block* blocks;         // [pairs] at most
  int32_t* first_block;  // [hit + 1] an expert's first block
  float* h;              // per block [intermediate][tokens], at first * intermediate
  float* xy;  // x: per block [hidden][tokens], at first * hidden; later y: [place][hidden]
};

int64_t ChunkOf(const LayerSpec& spec, int64_t tokens) {
  const int64_t most = FastChunkTokens(spec);
  return std::min(tokens, most);
}

Workspace Carve(const LayerSpec& spec, int64_t tokens, Carver* carver) {
  const int64_t chunk = ChunkOf(spec, tokens), pairs = chunk * spec.top_k;
  Workspace w;
  w.routing = CarveRouting(spec, chunk, carver);
  w.blocks = carver->Take<Block>(pairs);
  w.first_block = carver->Take<int32_t>(std::min<int64_t>(spec.experts, pairs) + 1);
  w.h = carver->Take<float>(pairs * spec.intermediate);
  w.xy = carver->Take<float>(pairs * spec.hidden);
  return w;
}

// Cuts each expert's pairs into as few blocks as possible, of nearly equal size. Returns how many.
int32_t MakeBlocks(const Routing& r, int max_tokens, Workspace* w) {
  int32_t blocks = 0;
  for (int32_t index = 0; index < r.hit; ++index) {
    w->first_block[index] = blocks;
    const int32_t begin = r.begin[index], count = r.begin[index + 1] - begin;
    const int32_t parts = (count + max_tokens - 1) / max_tokens;
    for (int32_t part = 0, first = 0; part < parts; ++part) {
      const int32_t end = static_cast<int32_t>(static_cast<int64_t>(count) * (part + 1) / parts);
      w->blocks[blocks++] = Block{index, begin + first, end - first};
      first = end;
    }
  }
  w->first_block[r.hit] = blocks;
  return blocks;
}

float Activate(const LayerSpec& spec, float gate, float up) {
  if (spec.clamp_limit > 0) {  // comparisons with a NaN are false: it stays
    gate = gate > spec.clamp_limit ? spec.clamp_limit : gate;
    up = up > spec.clamp_limit ? spec.clamp_limit : up;
    up = up < -spec.clamp_limit ? -spec.clamp_limit : up;
  }
  const float sigmoid = 1.0f / (1.0f + std::exp(-spec.alpha * gate));
  return gate * sigmoid * (up + spec.beta);
}

class Chunk {
 public:
  Chunk(const CpuStore& store, const CpuKernels& kernels, const ApplyCall& call,
        int64_t first_token, Workspace* w)
      : store_(store),
        kernels_(kernels),
        spec_(store.spec()),
        call_(call),
        first_token_(first_token),
        w_(*w),
        weights_(TokenRow(spec_, call.topk_weights, spec_.router_weight_dtype, first_token)) {}

  float WeightOf(int32_t place) const {
    return RouterWeight(spec_, weights_, w_.routing.pair[place]);
  }

  // x of one block, widened and transposed.
  void Pack(const Block& block) const {
    const int64_t hidden = spec_.hidden, tokens = block.tokens;
    float* to = w_.xy + block.first * hidden;
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t place = block.first + static_cast<int32_t>(t);
      const int64_t token = first_token_ + w_.routing.pair[place] / spec_.top_k;
      const uint16_t* x = static_cast<const uint16_t*>(call_.x) + token * call_.x_stride;
      if (spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT) {
        const float weight = WeightOf(place);
        for (int64_t k = 0; k < hidden; ++k) {
          to[k * tokens + t] = FloatFromBf16(Bf16FromFloat(FloatFromBf16(x[k]) * weight));
        }
      } else {
        for (int64_t k = 0; k < hidden; ++k) to[k * tokens + t] = FloatFromBf16(x[k]);
      }
      if (spec_.compute == DSV4MX_COMPUTE_W4A8) QuantiseE4m3(to + t, hidden, tokens);
    }
  }

  // W4A8: h of one block, which all of its tiles have written.
  void QuantiseHidden(const Block& block) const {
    float* h = w_.h + block.first * static_cast<int64_t>(spec_.intermediate);
    for (int64_t t = 0; t < block.tokens; ++t)
      QuantiseE4m3(h + t, spec_.intermediate, block.tokens);
  }

  // 32 channels of h for all tokens of the `index`-th hit expert.
  void GateUp(int32_t index, int64_t tile) const {
    alignas(64) float sums[2][kMaxBlockTokens * kRows];
    const int32_t expert = w_.routing.experts[index];
    const int64_t hidden = spec_.hidden, channel = tile * kRows;
    GemmArgs args{};
    args.tiles = 2;
    args.k = hidden;
    args.overflow = store_.Overflows(expert);
    for (const Matrix m : {Matrix::kGate, Matrix::kUp}) {
      args.codes[static_cast<int>(m)] = store_.Codes(expert, m) + tile * kRows * hidden / 2;
      args.scales[static_cast<int>(m)] = store_.Scales(expert, m) + tile * hidden;
    }
    args.out = sums[0];
    const bool bias = store_.HasBias(Matrix::kGate);
    const bool weighted = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_BEFORE_W2;
    for (int32_t b = w_.first_block[index]; b < w_.first_block[index + 1]; ++b) {
      const Block& block = w_.blocks[b];
      args.tokens = block.tokens;
      args.x = w_.xy + block.first * hidden;
      kernels_.gemm(args);
      const float* gates = sums[0];
      const float* ups = sums[0] + block.tokens * kRows;
      float* h =
          w_.h + block.first * static_cast<int64_t>(spec_.intermediate) + channel * block.tokens;
      for (int32_t t = 0; t < block.tokens; ++t) {
        const float weight = weighted ? WeightOf(block.first + t) : 1.0f;
        for (int r = 0; r < kRows; ++r) {
          float gate = gates[t * kRows + r], up = ups[t * kRows + r];
          if (bias) gate += store_.Bias(expert, Matrix::kGate)[channel + r];
          if (bias) up += store_.Bias(expert, Matrix::kUp)[channel + r];
          const float value = Activate(spec_, gate, up);
          h[r * block.tokens + t] = FloatFromBf16(Bf16FromFloat(weighted ? value * weight : value));
        }
      }
    }
  }

  // Up to 64 outputs of all tokens of the `index`-th hit expert, router weight included.
  void Down(int32_t index, int64_t tile, int tiles) const {
    alignas(64) float sums[2 * kMaxBlockTokens * kRows];
    const int32_t expert = w_.routing.experts[index];
    const int64_t k = spec_.intermediate, hidden = spec_.hidden, row = tile * kRows;
    GemmArgs args{};
    args.tiles = tiles;
    args.k = k;
    args.overflow = store_.Overflows(expert);
    for (int i = 0; i < tiles; ++i) {
      args.codes[i] = store_.Codes(expert, Matrix::kDown) + (tile + i) * kRows * k / 2;
      args.scales[i] = store_.Scales(expert, Matrix::kDown) + (tile + i) * k;
    }
    args.out = sums;
    const float* bias =
        store_.HasBias(Matrix::kDown) ? store_.Bias(expert, Matrix::kDown) + row : nullptr;
    const bool weighted = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2;
    const bool narrow = spec_.slot_dtype == DSV4MX_DTYPE_BF16;
    for (int32_t b = w_.first_block[index]; b < w_.first_block[index + 1]; ++b) {
      const Block& block = w_.blocks[b];
      args.tokens = block.tokens;
      args.x = w_.h + block.first * k;
      kernels_.gemm(args);
      for (int32_t t = 0; t < block.tokens; ++t) {
        const float weight = weighted ? WeightOf(block.first + t) : 1.0f;
        float* y = w_.xy + (block.first + t) * hidden + row;
        for (int i = 0; i < tiles; ++i) {
          const float* from = sums + (i * block.tokens + t) * kRows;
          for (int r = 0; r < kRows; ++r) {
            float value = from[r];
            if (bias != nullptr) value += bias[i * kRows + r];
            if (narrow) value = FloatFromBf16(Bf16FromFloat(value));
            y[i * kRows + r] = weighted ? value * weight : value;
          }
        }
      }
    }
  }

  // The sum over the slots of token `token` of the chunk, in slot order, times the routed scale, rounded once.
  void Combine(int64_t token) const {
    constexpr int64_t kRun = 256;
    const int64_t hidden = spec_.hidden;
    const int32_t* place = w_.routing.place + token * spec_.top_k;
    const int64_t at = (first_token_ + token) * call_.out_stride;
    for (int64_t begin = 0; begin < hidden; begin += kRun) {
      const int64_t count = std::min(kRun, hidden - begin);
      float sum[kRun] = {};
      for (int slot = 0; slot < spec_.top_k; ++slot) {
        if (place[slot] < 0) continue;
        const float* y = w_.xy + place[slot] * hidden + begin;
        for (int64_t i = 0; i < count; ++i) sum[i] += y[i];
      }
      for (int64_t i = 0; i < count; ++i) sum[i] *= spec_.routed_scaling_factor;
      if (spec_.out_dtype == DSV4MX_DTYPE_F32) {
        std::copy_n(sum, count, static_cast<float*>(call_.out) + at + begin);
      } else {
        uint16_t* out = static_cast<uint16_t*>(call_.out) + at + begin;
        for (int64_t i = 0; i < count; ++i) out[i] = Bf16FromFloat(sum[i]);
      }
    }
  }

 private:
  const CpuStore& store_;
  const CpuKernels& kernels_;
  const LayerSpec& spec_;
  const ApplyCall& call_;
  int64_t first_token_;
  const Workspace& w_;
  const void* weights_;
};

// Hands neighbouring tiles to one thread, so that its weights arrive as one long stream, while every thread still gets
// many turns.
template <class Body>
void ForRuns(ThreadPool* pool, int64_t items, const Body& body) {
  constexpr int64_t kMostItems = 8, kTurns = 16;
  const int64_t run = std::clamp<int64_t>(items / (kTurns * pool->threads()), 1, kMostItems);
  pool->For((items + run - 1) / run, [&](int64_t r, int) {
    for (int64_t item = r * run; item < std::min(items, (r + 1) * run); ++item) body(item);
  });
}

}  // namespace

int64_t FastChunkTokens(const LayerSpec& spec) {
  return kChunkPairs / spec.top_k;
}

size_t FastWorkspaceBytes(const LayerSpec& spec, int64_t tokens) {
  Carver carver(nullptr);
  Carve(spec, tokens, &carver);
  return carver.bytes();
}

void ApplyFast(const CpuStore& store, const CpuKernels& kernels, const ApplyCall& call,
               int64_t tokens, ThreadPool* pool) {
  const LayerSpec& spec = store.spec();
  Carver carver(call.workspace);
  Workspace w = Carve(spec, tokens, &carver);
  const int64_t parts = (tokens + FastChunkTokens(spec) - 1) / FastChunkTokens(spec);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = tokens * part / parts, count = tokens * (part + 1) / parts - first;
    Route(spec, TokenRow(spec, call.topk_ids, spec.ids_dtype, first), count, &w.routing);
    const int32_t blocks = MakeBlocks(w.routing, kernels.max_tokens, &w);
    const Chunk chunk(store, kernels, call, first, &w);

    pool->For(blocks, [&](int64_t b, int) { chunk.Pack(w.blocks[b]); });
    const int64_t tiles13 = spec.intermediate / kRows;
    ForRuns(pool, w.routing.hit * tiles13, [&](int64_t item) {
      chunk.GateUp(static_cast<int32_t>(item / tiles13), item % tiles13);
    });
    if (spec.compute == DSV4MX_COMPUTE_W4A8)
      pool->For(blocks, [&](int64_t b, int) { chunk.QuantiseHidden(w.blocks[b]); });
    const int64_t tiles2 = spec.hidden / kRows, twins = (tiles2 + 1) / 2;
    ForRuns(pool, w.routing.hit * twins, [&](int64_t item) {
      const int64_t tile = item % twins * 2;
      chunk.Down(static_cast<int32_t>(item / twins), tile,
                 static_cast<int>(std::min<int64_t>(2, tiles2 - tile)));
    });
    pool->For(count, [&](int64_t t, int) { chunk.Combine(t); });
  }
}

}  // namespace dsv4mx::cpu
