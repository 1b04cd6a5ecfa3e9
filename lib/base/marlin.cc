#include "lib/base/marlin.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/mxfp4/layout.h"
#include "lib/base/float_bits.h"
#include "lib/base/scales.h"

namespace dsv4mx {
namespace {

int64_t RoundUp(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

// One of the two tensors pairs: w13 = [w1; w3] with padded halves, or w2. Row n of the padded
// tensor is a row of a matrix or padding.
struct Side {
  bool w13;
  int64_t rows, k;                  // padded
  int64_t half, half_real, k_real;  // rows of one matrix, padded and real; real k
  uint8_t* codes;
  uint8_t* scales;
  uint8_t* bias;

  // Matrix and row that stand in padded row n; false for padding.
  bool At(int64_t n, Matrix* m, int64_t* row) const {
    *m = !w13 ? Matrix::kDown : n < half ? Matrix::kGate : Matrix::kUp;
    *row = n < half ? n : n - half;
    return *row < half_real;
  }
};

Side W13Side(const LayerSpec& spec, const dsv4mx_marlin& slab) {
  return {true,
          2 * static_cast<int64_t>(slab.intermediate_padded),
          slab.hidden_padded,
          slab.intermediate_padded,
          spec.intermediate,
          spec.hidden,
          static_cast<uint8_t*>(slab.w13),
          static_cast<uint8_t*>(slab.w13_scale),
          static_cast<uint8_t*>(slab.w13_bias)};
}

Side W2Side(const LayerSpec& spec, const dsv4mx_marlin& slab) {
  return {false,
          slab.hidden_padded,
          slab.intermediate_padded,
          slab.hidden_padded,
          spec.hidden,
          spec.intermediate,
          static_cast<uint8_t*>(slab.w2),
          static_cast<uint8_t*>(slab.w2_scale),
          static_cast<uint8_t*>(slab.w2_bias)};
}

// Codes of one word: nibbles 0..3 are (n,k) (n,k+8) (n+8,k) (n+8,k+8), nibbles 4..7 the same with
// k+1. A raw byte holds k and k+1, so a word is four bytes whose low nibbles go down and whose high
// nibbles go up.
constexpr int kTileRows = 64;
constexpr int kTileK = 16;

uint32_t Word(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  const uint32_t low = (a & 15u) | (b & 15u) << 4 | (c & 15u) << 8 | (d & 15u) << 12;
  const uint32_t high =
      static_cast<uint32_t>(a >> 4) | (b >> 4) << 4 | (c >> 4) << 8 | (d >> 4) << 12;
  return low | high << 16;
}
uint8_t ByteOf(uint32_t word, int i) {
  return static_cast<uint8_t>((word >> (4 * i) & 15u) | (word >> (16 + 4 * i) & 15u) << 4);
}

// Calls f(words offset in bytes, row n inside the 64, raw byte b of the row) for every word of 64
// rows and k of begin..end; the word holds bytes (n, b) (n, b+4) (n+8, b) (n+8, b+4).
template <class F>
void ForWords(int64_t rows, int64_t first_row, int64_t begin, int64_t end, F&& f) {
  for (int64_t k0 = begin; k0 < end; k0 += kTileK) {
    for (int64_t n = 0; n < kTileRows; n += n % 8 == 7 ? 9 : 1) {  // rows n and n+8 share a word
      for (int64_t kk = 0; kk < 8; kk += 2) {
        f(4 * MarlinCode(rows, first_row + n, k0 + kk).word, n, (k0 + kk) / 2);
      }
    }
  }
}

// Raw rows hold the real K alone, so that a caller's padding, of any size, costs no memory.
void PackCodes(const Side& s, const ExpertReader& rows) {
  const int64_t row_bytes = s.k_real / 2;
  std::vector<uint8_t> raw(static_cast<size_t>(kTileRows * row_bytes));
  for (int64_t n0 = 0; n0 < s.rows; n0 += kTileRows) {
    std::fill(raw.begin(), raw.end(), uint8_t{0});
    for (int64_t n = 0; n < kTileRows; ++n) {
      Matrix m;
      int64_t row;
      if (s.At(n0 + n, &m, &row)) rows.ReadCodes(m, row, raw.data() + n * row_bytes);
    }
    ForWords(s.rows, n0, 0, s.k_real, [&](int64_t at, int64_t n, int64_t b) {
      const uint8_t* p = raw.data() + n * row_bytes + b;
      const uint8_t* q = p + 8 * row_bytes;
      const uint32_t word = Word(p[0], p[4], q[0], q[4]);
      std::memcpy(s.codes + at, &word, 4);
    });
    ForWords(s.rows, n0, s.k_real, s.k,
             [&](int64_t at, int64_t, int64_t) { std::memset(s.codes + at, 0, 4); });
  }
}

void UnpackCodes(const Side& s, ExpertWriter* rows) {
  const int64_t row_bytes = s.k_real / 2;
  std::vector<uint8_t> raw(static_cast<size_t>(kTileRows * row_bytes));
  for (int64_t n0 = 0; n0 < s.rows; n0 += kTileRows) {
    ForWords(s.rows, n0, 0, s.k_real, [&](int64_t at, int64_t n, int64_t b) {
      uint32_t word;
      std::memcpy(&word, s.codes + at, 4);
      uint8_t* p = raw.data() + n * row_bytes + b;
      uint8_t* q = p + 8 * row_bytes;
      p[0] = ByteOf(word, 0);
      p[4] = ByteOf(word, 1);
      q[0] = ByteOf(word, 2);
      q[4] = ByteOf(word, 3);
    });
    for (int64_t n = 0; n < kTileRows; ++n) {
      Matrix m;
      int64_t row;
      if (s.At(n0 + n, &m, &row)) rows->WriteCodes(m, row, raw.data() + n * row_bytes);
    }
  }
}

void PackScales(const Side& s, const ExpertReader& rows) {
  const int64_t groups = s.k / kGroupSize, real = s.k_real / kGroupSize;
  std::vector<uint8_t> raw(static_cast<size_t>(real));
  for (int64_t n = 0; n < s.rows; ++n) {
    Matrix m;
    int64_t row;
    std::fill(raw.begin(), raw.end(), uint8_t{0});
    if (s.At(n, &m, &row)) rows.ReadScales(m, row, raw.data());
    for (int64_t g = 0; g < groups; ++g) {
      s.scales[MarlinScale(s.rows, n, g)] = g < real ? raw[static_cast<size_t>(g)] : uint8_t{0};
    }
  }
}

Status CheckScales(const Side& s, int32_t expert) {
  for (int64_t n = 0; n < s.rows; ++n) {
    Matrix m;
    int64_t row;
    if (!s.At(n, &m, &row)) continue;
    for (int64_t g = 0; g < s.k_real / kGroupSize; ++g) {
      const uint8_t* p = s.scales + MarlinScale(s.rows, n, g);
      if (*p == 255) return BadScale(expert, m, row, g, p, DSV4MX_DTYPE_E8M0);
    }
  }
  return kOk;
}

void UnpackScales(const Side& s, ExpertWriter* rows) {
  const int64_t groups = s.k_real / kGroupSize;
  std::vector<uint8_t> raw(static_cast<size_t>(groups));
  for (int64_t n = 0; n < s.rows; ++n) {
    Matrix m;
    int64_t row;
    if (!s.At(n, &m, &row)) continue;
    for (int64_t g = 0; g < groups; ++g)
      raw[static_cast<size_t>(g)] = s.scales[MarlinScale(s.rows, n, g)];
    rows->WriteScales(m, row, raw.data());
  }
}

void PackBias(const Side& s, dsv4mx_dtype dtype, const ExpertReader& rows) {
  for (int64_t n = 0; n < s.rows; ++n) {
    Matrix m;
    int64_t row;
    const float value = s.At(n, &m, &row) ? rows.ReadBias(m, row) : 0.0f;
    if (dtype == DSV4MX_DTYPE_F32) {
      std::memcpy(s.bias + 4 * MarlinBias(n), &value, 4);
    } else {
      const uint16_t half = Bf16FromFloat(value);
      std::memcpy(s.bias + 2 * MarlinBias(n), &half, 2);
    }
  }
}

void UnpackBias(const Side& s, dsv4mx_dtype dtype, ExpertWriter* rows) {
  for (int64_t n = 0; n < s.rows; ++n) {
    Matrix m;
    int64_t row;
    if (!s.At(n, &m, &row)) continue;
    float value;
    if (dtype == DSV4MX_DTYPE_F32) {
      std::memcpy(&value, s.bias + 4 * MarlinBias(n), 4);
    } else {
      uint16_t half;
      std::memcpy(&half, s.bias + 2 * MarlinBias(n), 2);
      value = FloatFromBf16(half);
    }
    rows->WriteBias(m, row, value);
  }
}

constexpr int64_t kMaxPadded = 1 << 20;

Status CheckPadded(const char* name, int64_t padded, int64_t real, int64_t unit) {
  if (padded >= real && padded <= kMaxPadded && padded % unit == 0) return kOk;
  return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "%s is %lld, wanted a multiple of %lld in %lld..%lld",
              name, static_cast<long long>(padded), static_cast<long long>(unit),
              static_cast<long long>(RoundUp(real, unit)), static_cast<long long>(kMaxPadded));
}

}  // namespace

MarlinShape DefaultMarlinShape(const LayerSpec& spec) {
  MarlinShape shape;
  shape.hidden = RoundUp(spec.hidden, 64);
  shape.intermediate = RoundUp(spec.intermediate, spec.hidden % 128 == 0 ? 64 : 128);
  return shape;
}

Status ResolveMarlin(const LayerSpec& spec, dsv4mx_marlin* marlin) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  const MarlinShape standard = DefaultMarlinShape(spec);
  if (marlin->hidden_padded == 0) marlin->hidden_padded = static_cast<int32_t>(standard.hidden);
  if (marlin->intermediate_padded == 0)
    marlin->intermediate_padded = static_cast<int32_t>(standard.intermediate);
  DSV4MX_TRY(CheckPadded("hidden_padded", marlin->hidden_padded, spec.hidden, 64));
  DSV4MX_TRY(
      CheckPadded("intermediate_padded", marlin->intermediate_padded, spec.intermediate, 32));
  DSV4MX_RETURN_IF(marlin->expert_first < 0 || marlin->expert_first >= spec.experts, kCode,
                   "expert_first is %d, wanted 0..%d", marlin->expert_first, spec.experts - 1);
  const int32_t most = spec.experts - marlin->expert_first;
  if (marlin->expert_count == 0) marlin->expert_count = most;
  DSV4MX_RETURN_IF(marlin->expert_count < 0 || marlin->expert_count > most, kCode,
                   "expert_count is %d from expert %d on, wanted 0..%d", marlin->expert_count,
                   marlin->expert_first, most);
  DSV4MX_RETURN_IF(marlin->memory != DSV4MX_MEMORY_HOST && marlin->memory != DSV4MX_MEMORY_DEVICE,
                   kCode, "memory is %d, wanted 0 (HOST) or 1 (DEVICE)", marlin->memory);
  if (marlin->bias_dtype == DSV4MX_DTYPE_DEFAULT) marlin->bias_dtype = DSV4MX_DTYPE_BF16;
  DSV4MX_RETURN_IF(
      marlin->bias_dtype != DSV4MX_DTYPE_BF16 && marlin->bias_dtype != DSV4MX_DTYPE_F32, kCode,
      "bias_dtype is dtype %d, wanted BF16 or F32", marlin->bias_dtype);
  DSV4MX_RETURN_IF(marlin->w13_bias != nullptr && spec.w13_bias == 0, kCode,
                   "w13_bias is given, but the layer has no w13 bias");
  DSV4MX_RETURN_IF(marlin->w2_bias != nullptr && spec.w2_bias == 0, kCode,
                   "w2_bias is given, but the layer has no w2 bias");
  return kOk;
}

dsv4mx_marlin MarlinSlab(const dsv4mx_marlin& resolved, int64_t index) {
  const MarlinShape shape{resolved.hidden_padded, resolved.intermediate_padded};
  const int64_t bias = resolved.bias_dtype == DSV4MX_DTYPE_F32 ? 4 : 2;
  const auto move = [index](void* p, int64_t bytes) -> void* {
    return p == nullptr ? nullptr : static_cast<uint8_t*>(p) + index * bytes;
  };
  dsv4mx_marlin slab = resolved;
  slab.expert_first = static_cast<int32_t>(resolved.expert_first + index);
  slab.expert_count = 1;
  slab.w13 = move(resolved.w13, shape.W13Bytes());
  slab.w13_scale = move(resolved.w13_scale, shape.W13ScaleBytes());
  slab.w13_bias = move(resolved.w13_bias, shape.Rows13() * bias);
  slab.w2 = move(resolved.w2, shape.W2Bytes());
  slab.w2_scale = move(resolved.w2_scale, shape.W2ScaleBytes());
  slab.w2_bias = move(resolved.w2_bias, shape.hidden * bias);
  return slab;
}

void PackMarlin(const LayerSpec& spec, const ExpertReader& rows, const dsv4mx_marlin& slab) {
  for (const Side& s : {W13Side(spec, slab), W2Side(spec, slab)}) {
    if (s.codes != nullptr) PackCodes(s, rows);
    if (s.scales != nullptr) PackScales(s, rows);
    if (s.bias != nullptr) PackBias(s, slab.bias_dtype, rows);
  }
}

Status CheckMarlinScales(const LayerSpec& spec, int32_t expert, const dsv4mx_marlin& slab) {
  for (const Side& s : {W13Side(spec, slab), W2Side(spec, slab)}) {
    if (s.scales != nullptr) DSV4MX_TRY(CheckScales(s, expert));
  }
  return kOk;
}

Status UnpackMarlin(const LayerSpec& spec, int32_t expert, const dsv4mx_marlin& slab,
                    ExpertWriter* rows) {
  DSV4MX_TRY(CheckMarlinScales(spec, expert, slab));
  for (const Side& s : {W13Side(spec, slab), W2Side(spec, slab)}) {
    if (s.codes != nullptr) UnpackCodes(s, rows);
    if (s.scales != nullptr) UnpackScales(s, rows);
    if (s.bias != nullptr) UnpackBias(s, slab.bias_dtype, rows);
  }
  return kOk;
}

}  // namespace dsv4mx
