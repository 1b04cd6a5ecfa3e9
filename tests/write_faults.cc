#include "tests/write_faults.h"

#include <fcntl.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <mutex>

namespace dsv4mx::test {
namespace {

std::mutex mutex;
WriteFaults faults;
bool was_met = false;

// Whether this call fails; errno is set then.
bool Fails(WriteCall call) {
  const std::lock_guard<std::mutex> lock(mutex);
  const bool interrupts = call == WriteCall::kWrite || call == WriteCall::kSync;
  if (interrupts && faults.interrupts > 0) {
    --faults.interrupts;
    errno = EINTR;
    return true;
  }
  if (faults.call != call) return false;
  if (faults.left > 0) {
    --faults.left;
    return false;
  }
  was_met = true;
  errno = faults.error;
  return true;
}

size_t Most(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  return faults.most > 0 ? std::min(bytes, faults.most) : bytes;
}

}  // namespace

WithWriteFaults::WithWriteFaults(const WriteFaults& wanted) {
  const std::lock_guard<std::mutex> lock(mutex);
  faults = wanted;
  was_met = false;
}
WithWriteFaults::~WithWriteFaults() {
  const std::lock_guard<std::mutex> lock(mutex);
  faults = WriteFaults{};
}
bool WithWriteFaults::met() const {
  const std::lock_guard<std::mutex> lock(mutex);
  return was_met;
}

}  // namespace dsv4mx::test

using dsv4mx::test::Fails;
using dsv4mx::test::Most;
using dsv4mx::test::WriteCall;

extern "C" {
int __real_openat64(int folder, const char* name, int flags, ...);
int __wrap_openat64(int folder, const char* name, int flags, ...) {
  std::va_list rest;
  va_start(rest, flags);
  const auto mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : mode_t{0};
  va_end(rest);
  return Fails(WriteCall::kOpen) ? -1 : __real_openat64(folder, name, flags, mode);
}

ssize_t __real_pwrite64(int fd, const void* from, size_t bytes, off64_t offset);
ssize_t __wrap_pwrite64(int fd, const void* from, size_t bytes, off64_t offset) {
  return Fails(WriteCall::kWrite) ? -1 : __real_pwrite64(fd, from, Most(bytes), offset);
}

int __real_ftruncate64(int fd, off64_t bytes);
int __wrap_ftruncate64(int fd, off64_t bytes) {
  return Fails(WriteCall::kTruncate) ? -1 : __real_ftruncate64(fd, bytes);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd) {
  return Fails(WriteCall::kSync) ? -1 : __real_fsync(fd);
}

int __real_close(int fd);
int __wrap_close(int fd) {
  const int result = __real_close(fd);  // a descriptor is closed whatever is said of it
  return Fails(WriteCall::kClose) ? -1 : result;
}

int __real_renameat(int from_folder, const char* from, int to_folder, const char* to);
int __wrap_renameat(int from_folder, const char* from, int to_folder, const char* to) {
  return Fails(WriteCall::kRename) ? -1 : __real_renameat(from_folder, from, to_folder, to);
}
}
