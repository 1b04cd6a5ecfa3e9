#include "tests/file_faults.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <thread>

namespace dsv4mx::test {
namespace {

std::mutex mutex;
FileFaults faults;
Reads reads;

FileFaults Now() {
  const std::lock_guard<std::mutex> lock(mutex);
  return faults;
}

// Whether a call fails with `error`, which becomes errno.
bool Fails(int error) {
  if (error != 0) errno = error;
  return error != 0;
}

}  // namespace

WithFaults::WithFaults(const FileFaults& wanted) {
  const std::lock_guard<std::mutex> lock(mutex);
  faults = wanted;
}
WithFaults::~WithFaults() {
  const std::lock_guard<std::mutex> lock(mutex);
  faults = FileFaults{};
}

Reads ReadsSoFar() {
  const std::lock_guard<std::mutex> lock(mutex);
  return reads;
}

}  // namespace dsv4mx::test

using dsv4mx::test::Fails;
using dsv4mx::test::faults;
using dsv4mx::test::mutex;
using dsv4mx::test::Now;
using dsv4mx::test::reads;

extern "C" {
ssize_t __real_pread64(int fd, void* to, size_t bytes, off64_t offset);
ssize_t __wrap_pread64(int fd, void* to, size_t bytes, off64_t offset) {
  int delay;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (faults.interrupts > 0) {
      --faults.interrupts;
      errno = EINTR;
      return -1;
    }
    if (faults.reads_left > 0) {
      --faults.reads_left;
    } else if (Fails(faults.pread_error)) {
      return -1;
    }
    if (faults.pread_most > 0) bytes = std::min(bytes, faults.pread_most);
    delay = faults.pread_delay_us;
  }
  if (delay > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay));
  const ssize_t n = __real_pread64(fd, to, bytes, offset);
  const int error = errno;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    ++reads.calls;
    if (n > 0) reads.bytes += n;
  }
  errno = error;
  return n;
}

void* __real_mmap64(void* at, size_t bytes, int protection, int flags, int fd, off64_t offset);
void* __wrap_mmap64(void* at, size_t bytes, int protection, int flags, int fd, off64_t offset) {
  if (fd >= 0 && Fails(Now().mmap_error)) return MAP_FAILED;
  // A file system without shared mappings.
  if (fd >= 0 && (flags & MAP_SHARED) != 0 && Fails(ENODEV)) return MAP_FAILED;
  return __real_mmap64(at, bytes, protection, flags, fd, offset);
}

DIR* __real_opendir(const char* path);
DIR* __wrap_opendir(const char* path) {
  return Fails(Now().opendir_error) ? nullptr : __real_opendir(path);
}

dirent64* __real_readdir64(DIR* dir);
dirent64* __wrap_readdir64(DIR* dir) {
  return Fails(Now().readdir_error) ? nullptr : __real_readdir64(dir);
}
}
