// Device memory that shows when somebody writes or reads outside it. Two kinds:
//
//   bands   an ordinary allocation with bands of a known pattern on both sides; what is written there is found
//   pages   a mapping of whole pages between unmapped addresses, the data pushed against its end: an access past the end
//           faults, be it a read or a write; before the data stands the pattern. A fault ends the CUDA context, and with
//           it every later test of the process: [guard-pages] tests run last
//
// Made and checked on the device, so buffers may be large. Everything has finished on return; failures are thrown.
#ifndef DSV4MX_TESTS_GPU_GUARD_PAGES_H_
#define DSV4MX_TESTS_GPU_GUARD_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dsv4mx::test {

enum class Guard { kBands, kPages };

class DeviceBuffer {
 public:
  // The data are not initialised: Fill or Upload does it, and a sanitizer sees what nobody wrote.
  DeviceBuffer(size_t bytes, size_t alignment, Guard guard = Guard::kBands);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void Fill(int value);
  void Upload(const void* from, size_t bytes);
  std::vector<uint8_t> Download(size_t first, size_t bytes) const;
  std::vector<uint8_t> Download() const { return Download(0, bytes_); }
  // "" if every byte around the data still carries the pattern, else the first that does not.
  std::string Damage() const;

 private:
  uint8_t *all_ = nullptr, *data_ = nullptr;
  size_t all_bytes_ = 0, bytes_ = 0;
  Guard guard_;
  uint64_t reserved_ = 0, handle_ = 0;  // pages: first reserved address, memory object
  size_t page_ = 0;
};

// "" if guard pages work here, else why not (a device or driver without virtual memory management).
std::string WhyNoGuardPages();

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GUARD_PAGES_H_
