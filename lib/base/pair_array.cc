#include "lib/base/pair_array.h"

#include "lib/base/float_bits.h"

namespace dsv4mx {
namespace {

template <class T>
T At(const void* data, int64_t index) {
  return static_cast<const T*>(data)[index];
}

}  // namespace

PairArray PairArray::From(int64_t token) const {
  const int64_t bytes = dtype == DSV4MX_DTYPE_I64 ? 8 : dtype == DSV4MX_DTYPE_BF16 ? 2 : 4;
  return PairArray{static_cast<const uint8_t*>(data) + token * stride * bytes, dtype, stride};
}

int64_t PairArray::Id(int64_t token, int slot) const {
  const int64_t i = token * stride + slot;
  return dtype == DSV4MX_DTYPE_I64 ? At<int64_t>(data, i) : At<int32_t>(data, i);
}

float PairArray::Weight(int64_t token, int slot) const {
  const int64_t i = token * stride + slot;
  return dtype == DSV4MX_DTYPE_BF16 ? FloatFromBf16(At<uint16_t>(data, i)) : At<float>(data, i);
}

PairArray IdsOf(const LayerSpec& spec, const ApplyCall& call) {
  return PairArray{call.topk_ids, spec.ids_dtype, call.topk_ids_stride};
}

PairArray WeightsOf(const LayerSpec& spec, const ApplyCall& call) {
  return PairArray{call.topk_weights, spec.router_weight_dtype, call.topk_weights_stride};
}

}  // namespace dsv4mx
