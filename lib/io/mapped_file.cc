#include "lib/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include "dsv4mx.h"
#include "lib/io/safetensors.h"

namespace dsv4mx::io {
namespace {

Status FailErrno(const char* path, const char* what, int error) {
  // std::system_category instead of strerror, which is not thread-safe.
  return Fail(DSV4MX_STATUS_IO_ERROR, "%s: cannot %s: %s", Printable(path).c_str(), what,
              std::system_category().message(error).c_str());
}

}  // namespace

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

Status MappedFile::Open(const char* path, MappedFile* out) {
  *out = MappedFile();
  // O_NONBLOCK: opening a pipe must not wait for a writer. It means nothing for a regular file.
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return FailErrno(path, "open", errno);
  struct stat info {};
  void* mapping = nullptr;
  int error = 0;
  const char* what = nullptr;
  if (fstat(fd, &info) != 0) {
    what = "stat";
    error = errno;
  } else if (S_ISREG(info.st_mode) && info.st_size > 0) {
    mapping = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
      what = "map";
      error = errno;
    }
  }
  close(fd);
  if (what != nullptr) return FailErrno(path, what, error);
  if (!S_ISREG(info.st_mode)) {
    return Fail(DSV4MX_STATUS_IO_ERROR, "%s: not a regular file", Printable(path).c_str());
  }
  out->data_ = static_cast<const std::byte*>(mapping);
  out->size_ = static_cast<size_t>(info.st_size);
  return Status{};
}

void Prefetch(const void* data, size_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(data) + bytes;
  // Whole pages around the bytes all belong to the mapping, which is whole pages itself.
  if (bytes > 0) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

}  // namespace dsv4mx::io
