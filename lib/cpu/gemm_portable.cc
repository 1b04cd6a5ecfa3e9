// The kernel in plain C++: a group of 32 x 32 codes is decoded once into the first-level cache and used for all tokens.
#include <cstring>

#include "lib/cpu/cpu_kernels.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = 32, kGroupK = 32, kUnitK = 4;

constexpr float kValue[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                              -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

float FromBits(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
// 2^(b - 127): the byte is the exponent field, but for 0, which is the subnormal 2^-127.
float ScaleOf(uint8_t b) {
  return FromBits(b == 0 ? 0x00400000u : static_cast<uint32_t>(b) << 23);
}
// The factor of a group's weights, and that of its sum.
float InnerScale(uint8_t b, bool wide) {
  return wide ? ScaleOf(b) : FromBits((127u - kHeadroom) << 23);
}
float OuterScale(uint8_t b, bool wide) {
  return wide ? 1.0f : FromBits(static_cast<uint32_t>(b + kHeadroom) << 23);
}

void Decode(const uint8_t* codes, const float* inner, float (*w)[kRows]) {
  for (int u = 0; u < kGroupK / kUnitK; ++u) {
    uint16_t units[kRows];
    std::memcpy(units, codes + u * 2 * kRows, sizeof units);
    for (int j = 0; j < kUnitK; ++j) {
      for (int r = 0; r < kRows; ++r) {
        w[u * kUnitK + j][r] = kValue[units[r] >> (4 * j) & 15] * inner[r];
      }
    }
  }
}

void Tile(const GemmArgs& a, int tile) {
  alignas(64) float w[kGroupK][kRows];
  float* out = a.out + tile * a.tokens * kRows;
  std::memset(out, 0, sizeof(float) * static_cast<size_t>(a.tokens * kRows));
  const uint8_t* codes = a.codes[tile];
  const uint8_t* scales = a.scales[tile];
  const float* x = static_cast<const float*>(a.x);
  for (int64_t k = 0; k < a.k; k += kGroupK) {
    float inner[kRows], outer[kRows];
    for (int r = 0; r < kRows; ++r) {
      inner[r] = InnerScale(scales[r], a.wide);
      outer[r] = OuterScale(scales[r], a.wide);
    }
    Decode(codes, inner, w);
    for (int t = 0; t < a.tokens; ++t) {
      float sum[kRows] = {};
      for (int i = 0; i < kGroupK; ++i) {
        const float value = x[i * a.tokens + t];
        for (int r = 0; r < kRows; ++r) sum[r] += w[i][r] * value;
      }
      for (int r = 0; r < kRows; ++r) out[t * kRows + r] += sum[r] * outer[r];
    }
    codes += kGroupK * kRows / 2;
    scales += kRows;
    x += kGroupK * a.tokens;
  }
}

void Gemm(const GemmArgs& args) {
  for (int tile = 0; tile < args.tiles; ++tile) Tile(args, tile);
}

}  // namespace

const CpuKernels kPortableKernels = {8, Gemm, nullptr};

}  // namespace dsv4mx::cpu
