// What a figure of loading needs of a device: memory that is counted as the library takes it, and on CUDA the plain copy that
// loading is judged by, and repacking alone.
#ifndef DSV4MX_TESTS_BENCH_LOAD_DEVICE_H_
#define DSV4MX_TESTS_BENCH_LOAD_DEVICE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <thread>

#include "dsv4mx.h"
#include "tests/problems.h"

namespace dsv4mx::bench {

// What the library takes by the hook.
class Ledger {
 public:
  void Hook(dsv4mx_context_desc* desc);
  size_t now() const { return now_; }
  // From here on.
  void BeginPeak() {
    peak_ = now_;
    seconds_ = 0;
  }
  size_t peak() const { return peak_; }
  double seconds() const { return seconds_; }  // that its system calls took

 private:
  static void* Alloc(void* user, size_t bytes, size_t alignment, dsv4mx_memory memory,
                     dsv4mx_stream);
  static void Free(void* user, void* p, size_t bytes, dsv4mx_memory memory, dsv4mx_stream);
  std::map<void*, size_t> live_;
  size_t now_ = 0, peak_ = 0;
  double seconds_ = 0;
};

#if DSV4MX_HAVE_CUDA
// The driver's own count of device memory, looked at every millisecond: the most that was taken since.
class DeviceWatch {
 public:
  DeviceWatch();
  ~DeviceWatch();
  int64_t Most();  // ends it

 private:
  size_t before_ = 0;
  std::atomic<size_t> least_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Seconds that so many bytes take from pinned memory to the device: two blocks of 32 MiB in turn, as often as it takes.
double PinnedCopy(int64_t bytes);

struct RepackRate {
  int64_t bytes;            // packed codes of the whole layer
  double call_s, device_s;  // of the calls until all is done, and between events on the stream
};
// Sets codes of all experts from device memory, a tensor of all experts a call.
RepackRate Repack(const test::Problem& problem, dsv4mx_weights* weights);
#endif

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_LOAD_DEVICE_H_
