// Memory that shows when somebody writes or reads outside it. On the CPU a mapping between two unreadable pages, the data
// pushed against one of them; on a device an allocation with bands of a known pattern. What alignment leaves over on
// either side carries the pattern too.
#ifndef DSV4MX_TESTS_GUARDED_H_
#define DSV4MX_TESTS_GUARDED_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "dsv4mx.h"

namespace dsv4mx::test {

enum class Edge { kStart, kEnd };

class Guarded {
 public:
  // `context` NULL or a CPU one: host memory. The data begin as 0xFF everywhere, NaN in every float type.
  Guarded(const dsv4mx_context* context, size_t bytes, size_t alignment, Edge edge = Edge::kEnd);
  Guarded(const dsv4mx_context* context, const void* from, size_t bytes, size_t alignment,
          Edge edge = Edge::kEnd);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void Write(const void* from, size_t bytes);
  void Fill(int value);
  std::vector<uint8_t> Read() const;
  // "" if every byte around the data still carries the pattern, else the first that does not.
  std::string Damage() const;

 private:
  std::vector<uint8_t> ReadAll() const;
  const dsv4mx_context* device_ = nullptr;  // NULL = host
  uint8_t *all_ = nullptr, *data_ = nullptr;
  size_t all_bytes_ = 0, bytes_ = 0;
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GUARDED_H_
