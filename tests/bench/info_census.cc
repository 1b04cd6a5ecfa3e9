#include "tests/bench/info_census.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace dsv4mx::bench {
namespace {

constexpr int64_t kRunGroups = 16;       // 512 values
constexpr int64_t kReadBytes = 8 << 20;  // at once, and at least a row
constexpr int64_t kBlockBytes = 17;      // of 32 values in GGUF: the scale, then the codes

// How a scale lies in the file.
struct Form {
  int64_t bytes;  // of one
  int32_t (*byte)(const uint8_t* at);
};

template <class T>
T Load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

Form FormOf(dsv4mx_dtype dtype) {
  switch (dtype) {
    case DSV4MX_DTYPE_F32:
      return {4, [](const uint8_t* at) {
                return static_cast<int32_t>(Load<uint32_t>(at) >> 23 & 255);
              }};
    case DSV4MX_DTYPE_BF16:
      return {2, [](const uint8_t* at) { return Load<uint16_t>(at) >> 7 & 255; }};
    case DSV4MX_DTYPE_F16:  // exponent 31 is no number
      return {2, [](const uint8_t* at) {
                const int32_t exponent = Load<uint16_t>(at) >> 10 & 31;
                return exponent == 31 ? 255 : exponent + 112;
              }};
    case DSV4MX_DTYPE_OTHER:
      return {kBlockBytes, [](const uint8_t* at) { return int32_t{*at}; }};
    default:
      return {1, [](const uint8_t* at) { return int32_t{*at}; }};
  }
}

void AddRow(const uint8_t* row, int64_t groups, const Form& form, Census* census) {
  for (int64_t first = 0; first < groups; first += kRunGroups) {
    int32_t least = 255, most = 0;
    for (int64_t g = first; g < std::min(groups, first + kRunGroups); ++g) {
      const int32_t byte = form.byte(row + g * form.bytes);
      ++census->scales;
      if (byte == 255) {
        ++census->nans;
        continue;
      }
      least = std::min(least, byte);
      most = std::max(most, byte);
    }
    if (least > most) continue;
    census->min = std::min(census->min, least);
    census->max = std::max(census->max, most);
    census->span = std::max(census->span, most - least);
  }
}

}  // namespace

void AddScales(const dsv4mx_checkpoint* checkpoint, const char* name, const dsv4mx_tensor& tensor,
               Census* census) {
  const bool blocks = tensor.dtype == DSV4MX_DTYPE_OTHER;
  int64_t rows = 1;
  for (int i = 0; i + 1 < tensor.rank; ++i) rows *= tensor.shape[i];
  const int64_t groups = tensor.shape[tensor.rank - 1] / (blocks ? 32 : 1);
  const Form form = FormOf(tensor.dtype);
  const int64_t row_bytes = groups * form.bytes;
  if (rows == 0 || row_bytes == 0) return;
  const int64_t at_once = std::max<int64_t>(1, kReadBytes / row_bytes);
  std::vector<uint8_t> buffer(static_cast<size_t>(std::min(rows, at_once) * row_bytes));
  for (int64_t row = 0; row < rows; row += at_once) {
    const int64_t count = std::min(at_once, rows - row);
    if (dsv4mx_checkpoint_read(checkpoint, name, row * row_bytes, buffer.data(),
                               static_cast<size_t>(count * row_bytes)) != DSV4MX_STATUS_OK) {
      census->error = dsv4mx_last_error();
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      AddRow(buffer.data() + i * row_bytes, groups, form, census);
    }
  }
}

}  // namespace dsv4mx::bench
