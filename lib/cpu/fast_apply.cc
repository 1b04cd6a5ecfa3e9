// Pairs (token, slot) are sorted by expert and cut into blocks of up to max_tokens tokens of one expert. A block's x is
// packed as [k][tokens] in fp32, so that a kernel walks weights and x once, front to back; h is written in the same form
// for the second product; where the kernels take pairs of bf16, both are [k/2][tokens] of those. Every loop hands its items
// to the pool one by one.
#include "lib/cpu/fast_apply.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "lib/base/carver.h"
#include "lib/base/e4m3.h"
#include "lib/base/float_bits.h"
#include "lib/cpu/activation.h"
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
  // [place] whether x, or h, holds a number too small for the kernel of pairs
  uint8_t *small_x, *small_h;
  float* h;   // per block [intermediate][tokens], at first * intermediate
  float* xy;  // x: per block [hidden][tokens], at first * hidden; later y: [place][hidden]
};

Workspace Carve(const LayerSpec& spec, const CpuKernels& kernels, int64_t chunk, Carver* carver) {
  const int64_t pairs = chunk * spec.top_k;
  Workspace w;
  w.routing = CarveRouting(spec, chunk, carver);
  w.blocks = carver->Take<Block>(pairs);
  w.first_block = carver->Take<int32_t>(std::min<int64_t>(spec.experts, pairs) + 1);
  w.small_x = carver->Take<uint8_t>(pairs);
  w.small_h = carver->Take<uint8_t>(pairs);
  w.h = carver->Take<float>(pairs * spec.intermediate / (kernels.rest != nullptr ? 2 : 1));
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

// Where a chunk's tokens come from, and what is computed of them.
struct Source {
  const uint16_t* x;        // rows x_stride apart, or
  const void* const* rows;  // one by one
  int64_t x_stride;
  PairArray weights;
  bool weighted;  // results carry their router weight
  bool narrow;    // results are rounded to bf16
  int64_t channel_first, channels;

  const uint16_t* Row(int64_t token) const {
    return rows != nullptr ? static_cast<const uint16_t*>(rows[token]) : x + token * x_stride;
  }
};

class Chunk {
 public:
  // The source begins at the chunk's first token.
  Chunk(const LayerSpec& spec, const CpuStore& store, const CpuKernels& kernels,
        const Source& source, const Workspace& w)
      : store_(store), kernels_(kernels), spec_(spec), source_(source), w_(w) {}

  float WeightOf(int32_t place) const {
    return RouterWeight(spec_, source_.weights, w_.routing.pair[place]);
  }

  // x of one block, transposed.
  void Pack(const Block& block) const {
    if (kernels_.rest != nullptr) {
      PackPairs(block);
    } else {
      PackFloats(block);
    }
    if (spec_.compute == DSV4MX_COMPUTE_W4A8) Quantise(block, w_.xy, w_.small_x, spec_.hidden);
  }

  // W4A8: h of one block, which all of its tiles have written.
  void QuantiseHidden(const Block& block) const {
    Quantise(block, w_.h, w_.small_h, spec_.intermediate);
  }

  void PackFloats(const Block& block) const {
    const int64_t hidden = spec_.hidden, tokens = block.tokens;
    float* to = w_.xy + block.first * hidden;
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t place = block.first + static_cast<int32_t>(t);
      const uint16_t* x = source_.Row(w_.routing.pair[place] / spec_.top_k);
      if (spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT) {
        const float weight = WeightOf(place);
        for (int64_t k = 0; k < hidden; ++k) {
          to[k * tokens + t] = FloatFromBf16(Bf16FromFloat(FloatFromBf16(x[k]) * weight));
        }
      } else {
        for (int64_t k = 0; k < hidden; ++k) to[k * tokens + t] = FloatFromBf16(x[k]);
      }
    }
  }

  void PackPairs(const Block& block) const {
    const int64_t hidden = spec_.hidden, tokens = block.tokens;
    uint16_t* to = PairsOf(w_.xy, block, hidden);
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t place = block.first + static_cast<int32_t>(t);
      const uint16_t* x = source_.Row(w_.routing.pair[place] / spec_.top_k);
      const bool weighted = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_ON_INPUT;
      const float weight = weighted ? WeightOf(place) : 1.0f;
      bool small = false;
      for (int64_t k = 0; k < hidden; k += 2) {
        for (int64_t i = 0; i < 2; ++i) {
          const uint16_t v = weighted ? Bf16FromFloat(FloatFromBf16(x[k + i]) * weight) : x[k + i];
          small |= IsSmall(v);
          to[k * tokens + 2 * t + i] = v;
        }
      }
      w_.small_x[place] = small ? 1 : 0;
      w_.small_h[place] = 0;
    }
  }

  // 32 channels of h for all tokens of the `index`-th hit expert.
  void GateUp(int32_t index, int64_t tile) const {
    alignas(64) float sums[2][kMaxBlockTokens * kRows];
    const int32_t expert = w_.routing.experts[index];
    const int64_t hidden = spec_.hidden, channel = tile * kRows;
    GemmArgs args{};
    args.tiles = 2;
    args.k = hidden;
    args.wide = store_.Wide(expert);
    for (const Matrix m : {Matrix::kGate, Matrix::kUp}) {
      args.codes[static_cast<int>(m)] = store_.Codes(expert, m) + tile * kRows * hidden / 2;
      args.scales[static_cast<int>(m)] = store_.Scales(expert, m) + tile * hidden;
    }
    args.out = sums[0];
    const bool bias = store_.HasBias(Matrix::kGate);
    const bool weighted = spec_.router_weight_position == DSV4MX_ROUTER_WEIGHT_BEFORE_W2;
    for (int32_t b = w_.first_block[index]; b < w_.first_block[index + 1]; ++b) {
      const Block& block = w_.blocks[b];
      Multiply(block, w_.xy, spec_.hidden, 0, w_.small_x, &args);
      const float* gates = sums[0];
      const float* ups = sums[0] + block.tokens * kRows;
      float* h =
          w_.h + block.first * static_cast<int64_t>(spec_.intermediate) + channel * block.tokens;
      uint16_t* pairs = PairsOf(w_.h, block, spec_.intermediate) + channel * block.tokens;
      for (int32_t t = 0; t < block.tokens; ++t) {
        const float weight = weighted ? WeightOf(block.first + t) : 1.0f;
        bool small = false;
        for (int r = 0; r < kRows; ++r) {
          float gate = gates[t * kRows + r], up = ups[t * kRows + r];
          if (bias) gate += store_.Bias(expert, Matrix::kGate)[channel + r];
          if (bias) up += store_.Bias(expert, Matrix::kUp)[channel + r];
          const float value = Activate(spec_, gate, up);
          const uint16_t rounded = Bf16FromFloat(weighted ? value * weight : value);
          if (kernels_.rest == nullptr) {
            h[r * block.tokens + t] = FloatFromBf16(rounded);
          } else {
            small |= IsSmall(rounded);
            pairs[r / 2 * 2 * block.tokens + 2 * t + r % 2] = rounded;
          }
        }
        // Other tiles of the token may say the same at the same time.
        if (small) {
          std::atomic_ref<uint8_t>(w_.small_h[block.first + t]).store(1, std::memory_order_relaxed);
        }
      }
    }
  }

  // Up to 64 outputs of all tokens of the `index`-th hit expert, router weight included.
  void Down(int32_t index, int64_t tile, int tiles) const {
    alignas(64) float sums[2 * kMaxBlockTokens * kRows];
    const int32_t expert = w_.routing.experts[index];
    const int64_t k = spec_.intermediate, hidden = spec_.hidden, row = tile * kRows;
    const int64_t first = source_.channel_first;
    GemmArgs args{};
    args.tiles = tiles;
    args.k = source_.channels;
    args.wide = store_.Wide(expert);
    for (int i = 0; i < tiles; ++i) {
      // A tile's codes and scales follow K in groups of 32, so that a slice of K is a piece of them.
      args.codes[i] = store_.Codes(expert, Matrix::kDown) + ((tile + i) * k + first) * kRows / 2;
      args.scales[i] = store_.Scales(expert, Matrix::kDown) + (tile + i) * k + first;
    }
    args.out = sums;
    // The first slice carries the bias.
    const float* bias = store_.HasBias(Matrix::kDown) && first == 0
                            ? store_.Bias(expert, Matrix::kDown) + row
                            : nullptr;
    const bool weighted = source_.weighted, narrow = source_.narrow;
    for (int32_t b = w_.first_block[index]; b < w_.first_block[index + 1]; ++b) {
      const Block& block = w_.blocks[b];
      Multiply(block, w_.h, k, first, w_.small_h, &args);
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
  void Combine(const ApplyCall& call, int64_t first_token, int64_t token) const {
    constexpr int64_t kRun = 256;
    const int64_t hidden = spec_.hidden;
    const int32_t* place = w_.routing.place + token * spec_.top_k;
    const int64_t at = (first_token + token) * call.out_stride;
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
        float* out = static_cast<float*>(call.out) + at + begin;
        for (int64_t i = 0; i < count; ++i) out[i] = call.accumulate ? out[i] + sum[i] : sum[i];
      } else {
        uint16_t* out = static_cast<uint16_t*>(call.out) + at + begin;
        for (int64_t i = 0; i < count; ++i) {
          out[i] = Bf16FromFloat(call.accumulate ? FloatFromBf16(out[i]) + sum[i] : sum[i]);
        }
      }
    }
  }

  // The results of row `row` of the chunk, each to its place.
  void Deliver(const RowsCall& call, int64_t first_row, int64_t row) const {
    const int64_t hidden = spec_.hidden;
    const int32_t* place = w_.routing.place + row * spec_.top_k;
    for (int slot = 0; slot < spec_.top_k; ++slot) {
      if (place[slot] < 0) continue;
      const float* y = w_.xy + place[slot] * hidden;
      auto* to = static_cast<uint8_t*>(call.slots[first_row + row]) + slot * call.slot_stride;
      if (call.slot_dtype == DSV4MX_DTYPE_F32) {
        std::memcpy(to, y, static_cast<size_t>(hidden) * sizeof(float));
      } else {
        auto* narrow = reinterpret_cast<uint16_t*>(to);
        for (int64_t i = 0; i < hidden; ++i) narrow[i] = Bf16FromFloat(y[i]);
      }
    }
  }

 private:
  // A block of x or h as E4M3, which every kernel takes as what it is: numbers that bf16 holds.
  void Quantise(const Block& block, float* xh, uint8_t* small, int64_t k) const {
    const int64_t tokens = block.tokens;
    for (int64_t t = 0; t < tokens; ++t) {
      if (kernels_.rest == nullptr) {
        QuantiseE4m3(xh + block.first * k + t, k, tokens);
        continue;
      }
      uint16_t* pairs = PairsOf(xh, block, k) + 2 * t;
      bool any = false;
      for (int64_t first = 0; first < k; first += kE4m3Group) {
        float group[kE4m3Group];
        const int64_t n = std::min(kE4m3Group, k - first);
        const auto at = [&](int64_t i) -> uint16_t& {
          return pairs[(first + i) / 2 * 2 * tokens + i % 2];
        };
        for (int64_t i = 0; i < n; ++i) group[i] = FloatFromBf16(at(i));
        QuantiseE4m3(group, n, 1);
        for (int64_t i = 0; i < n; ++i) {
          at(i) = Bf16FromFloat(group[i]);
          any |= IsSmall(at(i));
        }
      }
      small[block.first + t] = any ? 1 : 0;
    }
  }

  static bool IsSmall(uint16_t bf16) {
    const uint16_t magnitude = bf16 & 0x7fff;
    return magnitude != 0 && magnitude < kSmallestFast;
  }

  // The block's part of x or h where it holds pairs.
  static uint16_t* PairsOf(float* xh, const Block& block, int64_t k) {
    return reinterpret_cast<uint16_t*>(xh) + block.first * k;
  }

  // The product for one block of x or h, which is `whole` long, from `first` of K on. `small` says by place which tokens the kernel of pairs cannot take: what kernel a
  // token goes through is its own matter, so that its bits do not depend on its neighbours.
  void Multiply(const Block& block, float* xh, int64_t whole, int64_t first, const uint8_t* small,
                GemmArgs* args) const {
    args->tokens = block.tokens;
    if (kernels_.rest == nullptr) {
      args->x = xh + block.first * whole + first * block.tokens;
      return kernels_.gemm(*args);
    }
    args->x = PairsOf(xh, block, whole) + first * block.tokens;
    const uint8_t* begin = small + block.first;
    const int64_t smalls = std::count(begin, begin + block.tokens, uint8_t{1});
    if (args->wide || smalls == block.tokens) return kernels_.rest(*args);
    kernels_.gemm(*args);
    if (smalls == 0) return;
    alignas(64) float sums[2 * kMaxBlockTokens * kRows];
    GemmArgs again = *args;
    again.out = sums;
    kernels_.rest(again);
    for (int i = 0; i < args->tiles; ++i) {
      for (int32_t t = 0; t < block.tokens; ++t) {
        const int at = (i * block.tokens + t) * kRows;
        if (begin[t] != 0) std::copy_n(sums + at, kRows, args->out + at);
      }
    }
  }

  const CpuStore& store_;
  const CpuKernels& kernels_;
  const LayerSpec& spec_;
  const Source& source_;
  const Workspace& w_;
};

// Hands neighbouring tiles to one thread, so that its weights arrive as one long stream, while every thread still gets
// many turns.
void ForRuns(ThreadPool* pool, int64_t items, absl::FunctionRef<void(int64_t item)> body) {
  constexpr int64_t kMostItems = 8, kTurns = 16;
  const int64_t run = std::clamp<int64_t>(items / (kTurns * pool->threads()), 1, kMostItems);
  pool->For((items + run - 1) / run, [&](int64_t r, int) {
    for (int64_t item = r * run; item < std::min(items, (r + 1) * run); ++item) body(item);
  });
}

// Everything of one chunk, whose pairs are sorted, but what becomes of the results.
void Compute(const LayerSpec& spec, const CpuKernels& kernels, const Source& source,
             const Chunk& chunk, Workspace* w, ThreadPool* pool) {
  const int32_t blocks = MakeBlocks(w->routing, kernels.max_tokens, w);
  pool->For(blocks, [&](int64_t b, int) { chunk.Pack(w->blocks[b]); });
  const int64_t first13 = source.channel_first / kRows, tiles13 = source.channels / kRows;
  ForRuns(pool, w->routing.hit * tiles13, [&](int64_t item) {
    chunk.GateUp(static_cast<int32_t>(item / tiles13), first13 + item % tiles13);
  });
  if (spec.compute == DSV4MX_COMPUTE_W4A8)
    pool->For(blocks, [&](int64_t b, int) { chunk.QuantiseHidden(w->blocks[b]); });
  const int64_t tiles2 = spec.hidden / kRows, twins = (tiles2 + 1) / 2;
  ForRuns(pool, w->routing.hit * twins, [&](int64_t item) {
    const int64_t tile = item % twins * 2;
    chunk.Down(static_cast<int32_t>(item / twins), tile,
               static_cast<int>(std::min<int64_t>(2, tiles2 - tile)));
  });
}

}  // namespace

int64_t FastChunkTokens(const LayerSpec& spec) {
  return kChunkPairs / spec.top_k;
}

size_t FastWorkspaceBytes(const LayerSpec& spec, const CpuKernels& kernels, int64_t tokens) {
  Carver carver(nullptr);
  Carve(spec, kernels, std::min(tokens, FastChunkTokens(spec)), &carver);
  return carver.bytes();
}

namespace {

// The largest chunk that the workspace holds; a token's bits do not depend on it.
int64_t ChunkOf(const LayerSpec& spec, const CpuKernels& kernels, int64_t tokens, size_t bytes) {
  return LargestFitting(std::min(tokens, FastChunkTokens(spec)), [&](int64_t chunk) {
    return FastWorkspaceBytes(spec, kernels, chunk) <= bytes;
  });
}

}  // namespace

void ApplyFast(const LayerSpec& spec, const CpuStore& store, const CpuKernels& kernels,
               const ApplyCall& call, int64_t tokens, ThreadPool* pool) {
  const int64_t most = ChunkOf(spec, kernels, tokens, call.workspace_bytes);
  Carver carver(call.workspace);
  Workspace w = Carve(spec, kernels, most, &carver);
  const int64_t parts = (tokens + most - 1) / most;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = tokens * part / parts, count = tokens * (part + 1) / parts - first;
    Route(spec, IdsOf(spec, call).From(first), count, &w.routing);
    CountPairs(w.routing, call.expert_counts);
    const Source source{static_cast<const uint16_t*>(call.x) + first * call.x_stride,
                        nullptr,
                        call.x_stride,
                        WeightsOf(spec, call).From(first),
                        spec.router_weight_position == DSV4MX_ROUTER_WEIGHT_AFTER_W2,
                        spec.slot_dtype == DSV4MX_DTYPE_BF16,
                        0,
                        spec.intermediate};
    const Chunk chunk(spec, store, kernels, source, w);
    Compute(spec, kernels, source, chunk, &w, pool);
    pool->For(count, [&](int64_t t, int) { chunk.Combine(call, first, t); });
  }
}

void ApplyRowsFast(const LayerSpec& spec, const CpuStore& store, const CpuKernels& kernels,
                   const RowsCall& call, ThreadPool* pool) {
  const int64_t most = ChunkOf(spec, kernels, call.rows, call.workspace_bytes);
  Carver carver(call.workspace);
  Workspace w = Carve(spec, kernels, most, &carver);
  for (int64_t first = 0; first < call.rows; first += most) {
    const int64_t count = std::min(most, call.rows - first);
    const int64_t pairs = first * spec.top_k;
    RouteLocal(spec, call.experts + pairs, count, &w.routing);
    const Source source{nullptr,
                        call.x + first,
                        0,
                        PairArray{call.weights + pairs, DSV4MX_DTYPE_F32, spec.top_k},
                        false,
                        call.slot_dtype == DSV4MX_DTYPE_BF16,
                        call.channel_first,
                        call.channel_count};
    const Chunk chunk(spec, store, kernels, source, w);
    Compute(spec, kernels, source, chunk, &w, pool);
    pool->For(count, [&](int64_t row, int) { chunk.Deliver(call, first, row); });
  }
}

}  // namespace dsv4mx::cpu
