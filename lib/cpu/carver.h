// Cuts the caller's workspace into arrays. The same code run over no memory gives the size that the query promises, so
// the two cannot differ.
#ifndef DSV4MX_LIB_CPU_CARVER_H_
#define DSV4MX_LIB_CPU_CARVER_H_

#include <cstddef>
#include <cstdint>

namespace dsv4mx::cpu {

class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<uint8_t*>(memory)) {}

  // `count` elements on a cache line; NULL when only the size is asked for.
  template <class T>
  T* Take(int64_t count) {
    const size_t at = bytes_;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + at);
  }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* memory_;
  size_t bytes_ = 0;
};

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_CARVER_H_
