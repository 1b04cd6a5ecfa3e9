// Values of x on their way into panel rows: a team of threads has one token, which it writes once for each pair that is computed
// here, or as f16 once for all of them. The row comes by bulk copy, kRowK values at a time, and stands in shared memory once more
// in the panel's order, not yet swizzled. Loops are not unrolled: a block does little with its code, which has to come from memory
// too.
#ifndef DSV4MX_KERNELS_GATHER_REWRITE_CUH_
#define DSV4MX_KERNELS_GATHER_REWRITE_CUH_

#include "kernels/mxfp4/layout.h"
#include "kernels/ptx/sync.cuh"
#include "kernels/routing.cuh"
#include "kernels/row.cuh"

namespace dsv4mx {

inline constexpr int kRowK = 8192;
// Of a team's row in the panel's order: two for a value, whole lines.
__host__ __device__ constexpr int RowBytes(int hidden) {
  return hidden < kRowK ? (hidden + 127) / 128 * 256 : 2 * kRowK;
}
// A team's shared memory: that, and behind it the values of x.
__host__ __device__ constexpr int TeamBytes(int hidden) {
  return 2 * RowBytes(hidden);
}

__device__ __forceinline__ bool OnePlane(Path path) {
  return path == Path::kE4m3 || path == Path::kE4m3Big || path == Path::kE4m3Wide;
}
__device__ __forceinline__ bool IsScaled(Path path) {
  return path == Path::kPlanes || path == Path::kF16 || OnePlane(path);
}

// Scales are copied four at a time, so those behind an expert's last one are read, though no product uses them.
__device__ __forceinline__ void ClearUnusedScales(const GatherArgs& a, int end) {
  if (!IsScaled(a.path) && !IsScaled(a.beside)) return;
  for (int p = end; p % 4 != 0; p++) a.row_scale[p] = 0.0f;
}

// What belongs to a pair's panel row beside its values.
__device__ __forceinline__ void WriteScalars(const GatherArgs& a, Path path, int pair, int place,
                                             float scale) {
  if (IsScaled(path)) a.row_scale[place] = path == Path::kF16 ? scale * kF16Unit : scale;
  if (a.hidden_weight != nullptr)
    a.hidden_weight[place] = LoadWeight(a.router_weights, a.weight_is_bf16, pair);
}

// Pieces of 256 bytes that a row of f16 has.
__device__ __forceinline__ int RowPieces(const GatherArgs& a) {
  return (a.hidden + 127) / 128;
}
// Of f16 a token's row stands once for all its pairs: tells where. Of a token's slots each has a lane of the calling warp; `place` < 0:
// not computed here.
__device__ __forceinline__ void WriteSources(const GatherArgs& a, int token, int place) {
  if (place >= 0) a.source[place] = token * RowPieces(a);
}

// What stands beside the panel row of a pair that takes this path.
__device__ __forceinline__ int SlotMark(const GatherArgs& a, Path path) {
  if (path == Path::kF16) return a.half_slots != 0 ? kHalfSlot : 0;
  return a.levelled != 0 && IsScaled(path) ? kLevelSlot : 0;
}

// Whether any pair of a token is computed here. All lanes of a warp take part.
__device__ __forceinline__ bool AnyOf(const int* experts, int top_k) {
  static_assert(kMostTopK <= 32, "a lane for each slot");
  const int lane = threadIdx.x % 32;
  return __any_sync(~0u, lane < top_k && experts[lane] >= 0);
}
// By one block of the kernel that comes first. The GEMMs look at it when they have waited for the one before them.
__device__ __forceinline__ void ClearTaken(const GatherArgs& a) {
  if (blockIdx.x == 0 && threadIdx.x < kClearedWords) a.taken[threadIdx.x] = 0;
}

// A token's router weight where that belongs to its x.
struct InputWeight {
  bool used;
  float value;
};
__device__ __forceinline__ InputWeight LoadInputWeight(const GatherArgs& a, int token) {
  if (a.weight_on_input == 0) return {false, 1.0f};
  return {true, LoadWeight(a.router_weights, a.weight_is_bf16, token)};
}

__device__ __forceinline__ uint32_t PeakOf(const float* v) {
  uint32_t top = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) top = max(top, __float_as_uint(v[i]) & 0x7FFFFFFFu);
  return top;
}
__device__ __forceinline__ float RowScale(Path path, uint32_t peak) {
  return !IsScaled(path)      ? 1.0f
         : OnePlane(path)     ? E4m3Scale(peak)
         : path == Path::kF16 ? F16Scale(peak)
                              : PlaneScale(peak);
}

// W4A8: the scale of 128 values, of which 16 neighbouring threads hold eight each. All lanes take part.
__device__ __forceinline__ float GroupScale(const float* v) {
  uint32_t top = PeakOf(v);
#pragma unroll
  for (int x = 1; x < 16; x *= 2) top = max(top, __shfl_xor_sync(~0u, top, x));
  return E4m3Scale(top);
}

// Where eight values from k on stand, which belong to one lane and step of a block (mxfp4/layout.h): Sm90PlaneIndex of the first, or
// Sm90Bf16Index and Sm90F16Index, without their divisions.
__device__ __forceinline__ uint32_t IndexOfEight(uint32_t hidden, uint32_t k, bool halves) {
  const uint32_t full = hidden & ~127u, half = hidden & ~63u;
  const int quarter = k < full ? 5 : k < half ? 4 : 3;  // of the block, its log2
  const uint32_t first = k < full ? k & ~127u : k < half ? full : half;
  const uint32_t j = k - first, t = j >> quarter, step = (j & ((1u << quarter) - 1)) / 8;
  return first + 32 * step + (halves ? 2 : 4) * t;
}

// What the order of values in a row depends on.
enum class Form { kPlanes, kOnePlane, kBf16, kF16 };
__host__ __device__ constexpr bool IsOfHalves(Form form) {
  return form == Form::kBf16 || form == Form::kF16;
}

// Eight values of one lane and step into their places in a row: planes [block][high 128, low 128], others in order.
template <Form kForm>
__device__ __forceinline__ void PutEight(uint32_t at, const float* v, float inverse, uint8_t* row) {
  if constexpr (kForm == Form::kPlanes) {
    uint32_t high[2], low[2];
    SplitEight(v, inverse, high, low);
    uint32_t* const to = reinterpret_cast<uint32_t*>(row + (at & ~127u) + at);
#pragma unroll
    for (int h = 0; h < 2; h++) to[4 * h] = high[h], to[4 * h + 32] = low[h];
  } else if constexpr (kForm == Form::kOnePlane) {
    uint32_t* const to = reinterpret_cast<uint32_t*>(row + at);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      to[4 * h] = E4m3Pair(v[h] * inverse, v[h + 2] * inverse) |
                  E4m3Pair(v[h + 4] * inverse, v[h + 6] * inverse) << 16;
    }
  } else if constexpr (kForm == Form::kF16) {
    uint32_t* const to = reinterpret_cast<uint32_t*>(row + at * 2);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float* const first = v + i % 2 * 4 + i / 2;
      to[4 * i] = F16Pair(first[0] * inverse, first[2] * inverse);
    }
  } else {
    uint32_t* const to = reinterpret_cast<uint32_t*>(row + at * 2);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      to[4 * i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
}

// Thread `me` of a team of kTeam threads.
template <int kTeam>
struct Team {
  const GatherArgs& a;
  int me;
  uint8_t* row;      // TeamBytes
  uint32_t arrived;  // barrier, for kRowK values of x
  uint32_t phase;

  __device__ __forceinline__ uint8_t* X() const { return row + RowBytes(a.hidden); }
  __device__ __forceinline__ int Left(int first) const { return min(kRowK, a.hidden - first); }

  // Before anything else; a barrier of the block follows.
  __device__ __forceinline__ void Init() const {
    if (me == 0) BarrierInit(arrived, 1);
    FenceAsyncProxy();
  }
  // Asks for a token's values from `first` on. The whole team has read the ones before.
  __device__ __forceinline__ void Ask(int token, int first) const {
    if (me != 0) return;
    const int bytes = Left(first) * 2;
    BarrierArriveExpect(arrived, bytes);
    BulkCopy(SharedAddress(X()), a.x + token * a.x_stride + first, bytes, arrived);
  }
  __device__ __forceinline__ void Wait() {
    BarrierWait(arrived, phase);
    phase ^= 1;
  }

  // The bits of the largest magnitude of a token's row, as far as this warp has it, when its first values are there.
  __device__ __forceinline__ uint32_t Peak(int token) const {
    const InputWeight w = LoadInputWeight(a, token);
    uint32_t top = 0;
    float v[8];
#pragma unroll 1
    for (int k = me * 8; k < Left(0); k += kTeam * 8) {
      LoadEight(reinterpret_cast<const uint16_t*>(X()) + k, w.value, w.used, v);
      top = max(top, PeakOf(v));
    }
#pragma unroll 1
    for (int k = kRowK + me * 8; k < a.hidden; k += kTeam * 8) {
      LoadEight(a.x + token * a.x_stride + k, w.value, w.used, v);
      top = max(top, PeakOf(v));
    }
    return __reduce_max_sync(~0u, top);
  }

  // The values that are there into the row. A barrier follows.
  __device__ __forceinline__ void Put(Path path, int token, int first, float inverse) const {
    const InputWeight w = LoadInputWeight(a, token);
    if (path == Path::kPlanes) {
      PutAs<Form::kPlanes>(w, first, inverse);
    } else if (OnePlane(path)) {
      PutAs<Form::kOnePlane>(w, first, inverse);
    } else if (path == Path::kF16) {
      PutAs<Form::kF16>(w, first, inverse);
    } else {
      PutAs<Form::kBf16>(w, first, inverse);
    }
  }
  template <Form kForm>
  __device__ __forceinline__ void PutAs(const InputWeight& w, int first, float inverse) const {
    constexpr bool kHalves = IsOfHalves(kForm);
    const int left = Left(first), whole = left & ~127;
    // In a whole block, where every eight of a thread have the same place.
    const uint32_t own_at = IndexOfEight(kRowK, me * 8, kHalves);
    float v[8];
#pragma unroll 1
    for (int begin = 0; begin < left; begin += kTeam * 8) {
      const int k = begin + me * 8;
      const uint4 q =
          k < left ? *reinterpret_cast<const uint4*>(X() + k * 2) : make_uint4(0, 0, 0, 0);
      WidenEight(q, w.value, w.used, v);
      if (a.quantised) {
        // What W4A8 computes with, by the scale of its 128 values; NaN by that scale, where there is one. On the E4M3 paths
        // all then take the scale of the row, which is not less: that moves an exponent and loses bits below 2^-9 of the
        // row's scale alone, 2^-17 of its peak, which is finer than what the tensor cores keep of a sum (2^-13).
        const float group = GroupScale(v), own = PlaneInverse(group);
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = RoundE4m3(v[j] * own) * group;
      }
      if (k >= left) continue;
      PutEight<kForm>(k < whole ? begin + own_at : IndexOfEight(left, k, kHalves), v, inverse, row);
    }
  }

  // The row, values from `first` on, to the panel rows `place` of the token's slots (-1: not computed here); of f16 to where it stands
  // for all of them, if there are sources.
  __device__ __forceinline__ void Write(Path path, int token, int first, const int* place) const {
    if (path == Path::kPlanes) {
      WriteAs<Form::kPlanes>(first, place);
    } else if (OnePlane(path)) {
      WriteAs<Form::kOnePlane>(first, place);
    } else if (path == Path::kF16 && a.source != nullptr) {
      WriteOnce(token, first, place);
    } else {
      WriteAs<Form::kBf16>(first, place);
    }
  }
  __device__ __forceinline__ void WriteOnce(int token, int first, const int* place) const {
    bool any = false;
#pragma unroll 1
    for (int slot = 0; slot < a.routing.top_k; slot++) any = any || place[slot] >= 0;
    if (!any) return;
    const int left = Left(first), chunks = (left + 127) / 128 * 16;
    uint4* const to = reinterpret_cast<uint4*>(
        a.panel + (static_cast<int64_t>(token) * RowPieces(a) + first / 128) * 256);
#pragma unroll 1
    for (int i = me; i < chunks; i += kTeam) {
      // A block is copied whole, as below.
      to[i] = i * 8 < left ? *reinterpret_cast<const uint4*>(row + i * 16) : make_uint4(0, 0, 0, 0);
    }
  }
  // A thread has the same chunk of 16 bytes in lines of 128 bytes, kStep apart, and keeps four of them while it goes through the
  // slots.
  template <Form kForm>
  __device__ __forceinline__ void WriteAs(int first, const int* place) const {
    constexpr int kStep = kTeam / 8, kLines = 4;
    constexpr int kLength = kForm == Form::kBf16 ? 64 : 128;  // values of a line
    constexpr int kEach = kForm == Form::kPlanes ? 2 : 1;  // lines of a panel row in a block of K
    const int left = Left(first), c = me % 8, top_k = a.routing.top_k;
    const int lines = (left + 127) / 128 * (kForm == Form::kOnePlane ? 1 : 2);
    const int64_t step = kStep * 128 * a.panel_rows;  // bytes from line to line in the panel
#pragma unroll 1
    for (int line = me / 8; line < lines; line += kStep * kLines) {
      const int plane = line % kEach, block = line / kEach;
      uint4 q[kLines];
#pragma unroll
      for (int i = 0; i < kLines; i++) {
        // A block is copied whole, so what K leaves of the last one is filled with zeros.
        const int at = (block + i * (kStep / kEach)) * kLength + c * (kLength / 8);
        q[i] = at < left ? *reinterpret_cast<const uint4*>(row + (line + i * kStep) * 128 + c * 16)
                         : make_uint4(0, 0, 0, 0);
      }
      // Of bf16, a block of 128 has two lines of each eight rows, one behind the other.
      constexpr int kOfBlock = kForm == Form::kBf16 ? 2 : 1;
      const int at_block = (first / kLength + block) / kOfBlock;
      uint8_t* const part =
          a.panel + at_block * a.panel_rows * (kEach * kOfBlock * 128) + block % kOfBlock * 1024;
      const int count = (lines - line + kStep - 1) / kStep;
#pragma unroll 1
      for (int s = 0; s < top_k; s++) {
        const int p = place[s];
        if (p < 0) continue;
        // The swizzle moves a chunk by the row's place in its group of 8.
        const uint32_t row_line = kForm == Form::kBf16 ? static_cast<uint32_t>(p) * 2 - p % 8
                                                       : static_cast<uint32_t>(p) * kEach + plane;
        uint8_t* to = part + (row_line * 128 + (c ^ (row_line & 7)) * 16);
#pragma unroll
        for (int i = 0; i < kLines; i++, to += step) {
          if (i < count) *reinterpret_cast<uint4*>(to) = q[i];
        }
      }
    }
  }
};

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_GATHER_REWRITE_CUH_
