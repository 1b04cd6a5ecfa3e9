#include "tests/file_faults.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>

namespace dsv4mx::test {
namespace {

thread_local FileFaults faults;

// Whether a call fails with `error`, which becomes errno.
bool Fails(int error) {
  if (error != 0) errno = error;
  return error != 0;
}

}  // namespace

WithFaults::WithFaults(const FileFaults& wanted) {
  faults = wanted;
}
WithFaults::~WithFaults() {
  faults = FileFaults{};
}

}  // namespace dsv4mx::test

using dsv4mx::test::Fails;
using dsv4mx::test::faults;

extern "C" {
ssize_t __real_pread64(int fd, void* to, size_t bytes, off64_t offset);
ssize_t __wrap_pread64(int fd, void* to, size_t bytes, off64_t offset) {
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
  return __real_pread64(fd, to, bytes, offset);
}

void* __real_mmap64(void* at, size_t bytes, int protection, int flags, int fd, off64_t offset);
void* __wrap_mmap64(void* at, size_t bytes, int protection, int flags, int fd, off64_t offset) {
  if (fd >= 0 && Fails(faults.mmap_error)) return MAP_FAILED;
  // A file system without shared mappings.
  if (fd >= 0 && (flags & MAP_SHARED) != 0 && Fails(ENODEV)) return MAP_FAILED;
  return __real_mmap64(at, bytes, protection, flags, fd, offset);
}

DIR* __real_opendir(const char* path);
DIR* __wrap_opendir(const char* path) {
  return Fails(faults.opendir_error) ? nullptr : __real_opendir(path);
}

dirent64* __real_readdir64(DIR* dir);
dirent64* __wrap_readdir64(DIR* dir) {
  return Fails(faults.readdir_error) ? nullptr : __real_readdir64(dir);
}
}
