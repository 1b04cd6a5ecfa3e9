#include "lib/core/tensor.h"

#include <cstdio>

#include "lib/base/dtype.h"
#include "lib/base/scales.h"

namespace dsv4mx {
namespace {

// Dimensions from the outermost on; for codes the last one counts bytes.
struct Dims {
  int rank = 0;
  int64_t size[5] = {};
  int64_t stride[5] = {};  // elements as the caller counts them
};

struct ShapeText {
  char text[112];
};
ShapeText Text(const int64_t* sizes, int rank) {
  ShapeText t;
  int n = std::snprintf(t.text, sizeof(t.text), "[");
  for (int i = 0; i < rank; ++i) {
    n += std::snprintf(t.text + n, sizeof(t.text) - static_cast<size_t>(n), "%s%lld",
                       i == 0 ? "" : ", ", static_cast<long long>(sizes[i]));
  }
  std::snprintf(t.text + n, sizeof(t.text) - static_cast<size_t>(n), "]");
  return t;
}

int64_t ElementBytes(TensorKind kind, dsv4mx_dtype dtype) {
  switch (kind) {
    case TensorKind::kCodes:
      return dtype == DSV4MX_DTYPE_I8 || dtype == DSV4MX_DTYPE_U8 || dtype == DSV4MX_DTYPE_E2M1 ||
                     dtype == DSV4MX_DTYPE_U32
                 ? 1  // U32 words are brought to bytes (Given)
                 : 0;
    case TensorKind::kScales:
      return ScaleElementBytes(dtype);
    case TensorKind::kBias:
      return dtype == DSV4MX_DTYPE_F32 ? 4 : dtype == DSV4MX_DTYPE_BF16 ? 2 : 0;
  }
  return 0;
}

const char* WantedDtypes(TensorKind kind) {
  switch (kind) {
    case TensorKind::kCodes:
      return "I8, U8, F4 (packed E2M1) or U32 (words of eight codes)";
    case TensorKind::kScales:
      return "F8_E8M0, I8, U8, F32, BF16 or F16";
    case TensorKind::kBias:
      return "BF16 or F32";
  }
  return "";
}

int64_t RowsOf(const LayerSpec& spec, TensorTarget target) {
  switch (target) {
    case TensorTarget::kW13:
      return 2 * static_cast<int64_t>(spec.intermediate);
    case TensorTarget::kGate:
    case TensorTarget::kUp:
      return spec.intermediate;
    case TensorTarget::kDown:
      return spec.hidden;
  }
  return 0;
}

Dims Wanted(const LayerSpec& spec, const TensorName& name, bool whole) {
  const int64_t k = name.target == TensorTarget::kDown ? spec.intermediate : spec.hidden;
  Dims d;
  if (whole) d.size[d.rank++] = spec.experts;
  d.size[d.rank++] = RowsOf(spec, name.target);
  if (name.kind == TensorKind::kCodes) d.size[d.rank++] = k / 2;
  if (name.kind == TensorKind::kScales) d.size[d.rank++] = k / kGroupSize;
  return d;
}

// The tensor's own dimensions; false if a size or stride makes no sense.
bool Given(const dsv4mx_tensor& t, Dims* d) {
  d->rank = t.rank;
  bool contiguous = true;
  for (int i = 0; i < t.rank; ++i) {
    d->size[i] = t.shape[i];
    d->stride[i] = t.stride[i];
    if (t.shape[i] < 1 || t.stride[i] < 0) return false;
    if (t.stride[i] != 0) contiguous = false;
  }
  // The last dimension of packed values becomes bytes, the unit that its strides count already.
  if (t.dtype == DSV4MX_DTYPE_E2M1) {
    if (d->size[t.rank - 1] % 2 != 0) return false;
    d->size[t.rank - 1] /= 2;
  }
  // A little-endian word is four bytes, low nibbles first.
  if (t.dtype == DSV4MX_DTYPE_U32) {
    const int last = t.rank - 1;
    if (!contiguous && d->stride[last] != 1) return false;
    if (__builtin_mul_overflow(d->size[last], int64_t{4}, &d->size[last])) return false;
    for (int i = 0; i < last; ++i) {
      if (__builtin_mul_overflow(d->stride[i], int64_t{4}, &d->stride[i])) return false;
    }
  }
  if (!contiguous) return true;
  int64_t stride = 1;
  for (int i = t.rank - 1; i >= 0; --i) {
    d->stride[i] = stride;
    if (__builtin_mul_overflow(stride, d->size[i], &stride)) return false;
  }
  return true;
}

// Codes whose last dimension is split in two that lie together ([.., K/32, 16], GPT-OSS) as one.
void JoinBlocks(const Dims& want, Dims* d) {
  const int last = d->rank - 1;
  int64_t joined;
  if (last < 1 || __builtin_mul_overflow(d->size[last], d->stride[last], &joined) ||
      d->stride[last - 1] != joined ||
      __builtin_mul_overflow(d->size[last - 1], d->size[last], &joined) ||
      joined != want.size[want.rank - 1]) {
    return;
  }
  d->size[last - 1] = joined;
  d->stride[last - 1] = d->stride[last];
  --d->rank;
}

// Brings the given dimensions to the wanted number: joins the last two of codes, drops a leading 1.
void Conform(TensorKind kind, const Dims& want, Dims* d) {
  if (kind == TensorKind::kCodes && d->rank > want.rank) JoinBlocks(want, d);
  if (d->rank == want.rank + 1 && d->size[0] == 1) {
    for (int i = 0; i + 1 < d->rank; ++i) {
      d->size[i] = d->size[i + 1];
      d->stride[i] = d->stride[i + 1];
    }
    --d->rank;
  }
}

// The farthest byte must be addressable, so that no view can wrap around.
bool Addressable(const Dims& d, int64_t element_bytes) {
  int64_t farthest = 0;
  for (int i = 0; i < d.rank; ++i) {
    int64_t step;
    if (__builtin_mul_overflow(d.stride[i], element_bytes, &step) ||
        __builtin_mul_overflow(step, d.size[i], &step) ||
        __builtin_add_overflow(farthest, step, &farthest)) {
      return false;
    }
  }
  return farthest < (int64_t{1} << 56);
}

// How the rows of a w13 tensor are ordered: as its reader knows, as its name says, or as the layer
// says.
Status ResolveOrder(const LayerSpec& spec, const TensorName& name, std::string_view full_name,
                    dsv4mx_w13_order* out) {
  if (name.target != TensorTarget::kW13) return kOk;
  const int length = static_cast<int>(full_name.size() < 200 ? full_name.size() : 200);
  *out = name.w13_order;
  if (*out != DSV4MX_W13_ORDER_UNSET) return kOk;
  const bool fixed = name.family != nullptr && name.family->fixed_order;
  *out = fixed ? name.family->w13_order : spec.w13_order;
  DSV4MX_RETURN_IF(*out == DSV4MX_W13_ORDER_UNSET, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "%.*s holds gate and up, but the layer's w13_order is unset, wanted an order",
                   length, full_name.data());
  DSV4MX_RETURN_IF(
      spec.w13_order != DSV4MX_W13_ORDER_UNSET && spec.w13_order != *out,
      DSV4MX_STATUS_INVALID_ARGUMENT,
      "%.*s is a %s name, whose w13_order is %d, but the layer's is %d, wanted the same "
      "or UNSET (0)",
      length, full_name.data(), name.family->writer, *out, spec.w13_order);
  return kOk;
}

// A name in messages.
struct NameText {
  explicit NameText(std::string_view name)
      : length(static_cast<int>(name.size() < 200 ? name.size() : 200)), data(name.data()) {}
  int length;
  const char* data;
};

Status CheckMemory(const NameText& name, const dsv4mx_tensor& tensor) {
  DSV4MX_RETURN_IF(tensor.memory < DSV4MX_MEMORY_HOST || tensor.memory > DSV4MX_MEMORY_PINNED,
                   DSV4MX_STATUS_INVALID_ARGUMENT,
                   "memory of %.*s is %d, wanted 0 (HOST), 1 (DEVICE) or 2 (PINNED)", name.length,
                   name.data, tensor.memory);
  DSV4MX_RETURN_IF(tensor.reserved != 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "reserved of %.*s is %d, wanted 0", name.length, name.data, tensor.reserved);
  return kOk;
}

// What is wanted of a tensor: elements of `bytes` bytes (0 = the dtype is none of `dtypes`) in these dimensions.
struct Wish {
  TensorKind kind;
  int64_t bytes;
  const char* dtypes;
  Dims dims;
};

// Brings the tensor's dimensions to those wanted.
Status CheckShape(const NameText& name, const dsv4mx_tensor& tensor, const Wish& wish, Dims* out) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_TENSOR;
  DSV4MX_RETURN_IF(tensor.data == nullptr, kCode, "data of %.*s is NULL", name.length, name.data);
  DSV4MX_RETURN_IF(wish.bytes == 0, kCode, "dtype of %.*s is %s (%d), wanted %s", name.length,
                   name.data, DtypeName(tensor.dtype), tensor.dtype, wish.dtypes);
  DSV4MX_RETURN_IF(tensor.rank < 1 || tensor.rank > 4, kCode, "rank of %.*s is %d, wanted 1..4",
                   name.length, name.data, tensor.rank);

  Dims want = wish.dims, given;
  const bool sensible = Given(tensor, &given);
  if (sensible) Conform(wish.kind, want, &given);
  bool same = sensible && given.rank == want.rank;
  for (int i = 0; same && i < want.rank; ++i) same = given.size[i] == want.size[i];
  if (!same) {
    // As the caller counts.
    if (tensor.dtype == DSV4MX_DTYPE_E2M1) want.size[want.rank - 1] *= 2;
    if (tensor.dtype == DSV4MX_DTYPE_U32) want.size[want.rank - 1] /= 4;
    for (int i = 0; i < tensor.rank; ++i) {
      DSV4MX_RETURN_IF(tensor.stride[i] < 0, kCode, "strides of %.*s are %s, wanted none below 0",
                       name.length, name.data, Text(tensor.stride, tensor.rank).text);
    }
    return Fail(kCode, "%.*s is %s, wanted %s", name.length, name.data,
                Text(tensor.shape, tensor.rank).text, Text(want.size, want.rank).text);
  }
  DSV4MX_RETURN_IF(!Addressable(given, wish.bytes), kCode,
                   "strides of %.*s are %s, wanted ones that stay below 2^56 bytes", name.length,
                   name.data, Text(tensor.stride, tensor.rank).text);
  *out = given;
  return kOk;
}

// Whether two elements of up to two dimensions share bytes.
bool Overlap(const Dims& d) {
  const int64_t rows = d.size[0], columns = d.rank > 1 ? d.size[1] : 1;
  const int64_t row = d.stride[0], column = d.rank > 1 ? d.stride[1] : 1;
  if (rows == 1 || columns == 1) return (rows > 1 && row < 1) || (columns > 1 && column < 1);
  const bool by_rows = column >= 1 && row >= column * columns;
  const bool by_columns = row >= 1 && column >= row * rows;
  return !by_rows && !by_columns;
}

}  // namespace

void CheckedTensor::Locate(int64_t index, Matrix m, const uint8_t** at, int64_t* stride) const {
  *at = data + index * expert_stride;
  *stride = row_stride;
  if (target != TensorTarget::kW13) return;
  const bool up = m == Matrix::kUp;
  if (order == DSV4MX_W13_ORDER_INTERLEAVED) {
    *at += up ? row_stride : 0;
    *stride = 2 * row_stride;
  } else if (up == (order == DSV4MX_W13_ORDER_GATE_UP)) {
    *at += half * row_stride;
  }
}

CodesView CheckedTensor::Codes(int64_t index, Matrix m) const {
  CodesView v{nullptr, 0, column_stride, high_first, device};
  Locate(index, m, &v.data, &v.row_stride);
  return v;
}

ScalesView CheckedTensor::Scales(int64_t index, Matrix m) const {
  ScalesView v{nullptr, 0, column_stride, dtype, device};
  Locate(index, m, &v.data, &v.row_stride);
  return v;
}

BiasView CheckedTensor::Bias(int64_t index, Matrix m) const {
  BiasView v{nullptr, 0, dtype, device};
  Locate(index, m, &v.data, &v.stride);
  return v;
}

Status CheckTensor(const LayerSpec& spec, const TensorName& name, std::string_view full_name,
                   bool whole, const dsv4mx_tensor& tensor, CheckedTensor* out) {
  const NameText text(full_name);
  DSV4MX_TRY(CheckMemory(text, tensor));
  dsv4mx_w13_order order = DSV4MX_W13_ORDER_UNSET;
  DSV4MX_TRY(ResolveOrder(spec, name, full_name, &order));
  const int64_t bytes = ElementBytes(name.kind, tensor.dtype);
  const Dims want = Wanted(spec, name, whole);
  Dims given;
  DSV4MX_TRY(CheckShape(text, tensor, {name.kind, bytes, WantedDtypes(name.kind), want}, &given));

  CheckedTensor t;
  t.data = static_cast<const uint8_t*>(tensor.data);
  t.dtype = tensor.dtype;
  t.device = tensor.memory == DSV4MX_MEMORY_DEVICE;
  t.high_first = spec.nibble_order == DSV4MX_NIBBLE_ORDER_HIGH_FIRST;
  t.target = name.target;
  t.order = order;
  t.half = spec.intermediate;
  int i = 0;
  if (whole) t.expert_stride = given.stride[i++] * bytes;
  t.row_stride = given.stride[i++] * bytes;
  if (name.kind != TensorKind::kBias) t.column_stride = given.stride[i] * bytes;
  t.rows = want.size[whole ? 1 : 0];
  t.row_bytes = bytes * (name.kind == TensorKind::kBias ? 1 : want.size[want.rank - 1]);
  *out = t;
  return kOk;
}

Status CheckSink(const LayerSpec& spec, const TensorName& name, std::string_view full_name,
                 const dsv4mx_tensor& tensor, TensorSink* out) {
  const NameText text(full_name);
  DSV4MX_TRY(CheckMemory(text, tensor));
  TensorSink sink{};
  const auto is = [&](dsv4mx_dtype dtype) { return tensor.dtype == dtype; };
  Wish wish{name.kind, 0, "", Wanted(spec, name, false)};
  bool fits = false;
  switch (name.kind) {
    case TensorKind::kCodes:
      wish.dtypes = "I8 or U8 for codes, BF16 for weights";
      sink.form = is(DSV4MX_DTYPE_BF16) ? TensorForm::kWeights : TensorForm::kCodes;
      fits = is(DSV4MX_DTYPE_I8) || is(DSV4MX_DTYPE_U8) || is(DSV4MX_DTYPE_BF16);
      if (sink.form == TensorForm::kWeights) {
        wish.kind = TensorKind::kScales;  // no blocks of codes to join
        wish.dims.size[1] *= 2;
      }
      break;
    case TensorKind::kScales:
      wish.dtypes = "F8_E8M0 or U8";
      sink.form = TensorForm::kScales;
      fits = is(DSV4MX_DTYPE_E8M0) || is(DSV4MX_DTYPE_U8);
      break;
    case TensorKind::kBias:
      wish.dtypes = "F32";
      sink.form = TensorForm::kBias;
      fits = is(DSV4MX_DTYPE_F32);
      break;
  }
  if (fits) wish.bytes = sink.ElementBytes();
  Dims given;
  DSV4MX_TRY(CheckShape(text, tensor, wish, &given));
  DSV4MX_RETURN_IF(Overlap(given), DSV4MX_STATUS_INVALID_TENSOR,
                   "strides of %.*s are %s, wanted ones under which elements do not overlap",
                   text.length, text.data, Text(tensor.stride, tensor.rank).text);
  sink.data = static_cast<uint8_t*>(const_cast<void*>(tensor.data));
  sink.row_stride = given.stride[0] * wish.bytes;
  sink.column_stride =
      given.rank > 1 && given.size[1] > 1 ? given.stride[1] * wish.bytes : sink.ElementBytes();
  sink.high_first = spec.nibble_order == DSV4MX_NIBBLE_ORDER_HIGH_FIRST;
  sink.device = tensor.memory == DSV4MX_MEMORY_DEVICE;
  *out = sink;
  return kOk;
}

}  // namespace dsv4mx
