#include "lib/dist/sums.h"

#include <cstring>
#include <limits>

#include "lib/base/float_bits.h"

namespace dsv4mx::dist {

void Weigh(const void* row, dsv4mx_dtype dtype, float weight, int64_t count, float* y) {
  Widen(row, dtype, count, y);
  for (int64_t i = 0; i < count; ++i) y[i] *= weight;
}

void Widen(const void* row, dsv4mx_dtype dtype, int64_t count, float* y) {
  if (dtype == DSV4MX_DTYPE_F32) {
    std::memcpy(y, row, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const auto* narrow = static_cast<const uint16_t*>(row);
  for (int64_t i = 0; i < count; ++i) y[i] = FloatFromBf16(narrow[i]);
}

void Add(const float* y, int64_t count, float* sum) {
  for (int64_t i = 0; i < count; ++i) sum[i] += y[i];
}

void Narrow(const float* y, dsv4mx_dtype dtype, int64_t count, void* row) {
  if (dtype == DSV4MX_DTYPE_F32) {
    std::memcpy(row, y, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  auto* narrow = static_cast<uint16_t*>(row);
  for (int64_t i = 0; i < count; ++i) narrow[i] = Bf16FromFloat(y[i]);
}

namespace {

// Out of line, so that the product is rounded before it is added.
[[gnu::noinline]] void Scale(const float* sum, float factor, int64_t count, float* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = sum[i] * factor;
}

}  // namespace

void Write(const LayerSpec& spec, const ApplyCall& call, int64_t token, int64_t begin,
           int64_t count, const float* sum) {
  float y[kRun];
  Scale(sum, spec.routed_scaling_factor, count, y);
  const int64_t at = token * call.out_stride + begin;
  if (spec.out_dtype == DSV4MX_DTYPE_F32) {
    float* out = static_cast<float*>(call.out) + at;
    for (int64_t i = 0; i < count; ++i) out[i] = call.accumulate ? out[i] + y[i] : y[i];
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(call.out) + at;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = Bf16FromFloat(call.accumulate ? FloatFromBf16(out[i]) + y[i] : y[i]);
  }
}

void Poison(const LayerSpec& spec, const ApplyCall& call, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < spec.hidden; ++i) {
      if (spec.out_dtype == DSV4MX_DTYPE_F32) {
        static_cast<float*>(call.out)[t * call.out_stride + i] =
            std::numeric_limits<float>::quiet_NaN();
      } else {
        static_cast<uint16_t*>(call.out)[t * call.out_stride + i] = 0x7fc0;
      }
    }
  }
}

}  // namespace dsv4mx::dist
