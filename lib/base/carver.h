// Cuts the caller's workspace into arrays. The same code run over no memory gives the size that the query promises, so
// the two cannot differ.
#ifndef DSV4MX_LIB_BASE_CARVER_H_
#define DSV4MX_LIB_BASE_CARVER_H_

#include <cstddef>
#include <cstdint>

namespace dsv4mx {

class Carver {
 public:
  // `alignment` of every array: a cache line unless a device wants more.
  explicit Carver(void* memory, size_t alignment = 64)
      : memory_(static_cast<uint8_t*>(memory)), alignment_(alignment) {}

  // `count` elements; NULL when only the size is asked for.
  template <class T>
  T* Take(int64_t count) {
    const size_t at = bytes_;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + alignment_ - 1) / alignment_ * alignment_;
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + at);
  }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* memory_;
  size_t alignment_;
  size_t bytes_ = 0;
};

// The largest number of 1..most for which `fits` holds, at least 1; what fits n fits every smaller number.
template <class Fits>
int64_t LargestFitting(int64_t most, const Fits& fits) {
  if (most <= 1 || fits(most)) return most;
  int64_t low = 1, high = most;  // high does not fit
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_CARVER_H_
