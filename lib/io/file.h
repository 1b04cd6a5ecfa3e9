// A regular file that is read in pieces. Reading and not mapping: a mapped page whose file became
// shorter, or whose disk fails, raises SIGBUS, and some file systems cannot map at all. Measured from
// page cache, reading into staging that stays in the processor's caches costs no more than the page
// faults of a mapping.
#ifndef DSV4MX_LIB_IO_FILE_H_
#define DSV4MX_LIB_IO_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "lib/base/status.h"

namespace dsv4mx::io {

// `what` failed with `error` on `path`: OUT_OF_MEMORY for ENOMEM, else IO_ERROR.
Status FailErrno(const std::string& path, const char* what, int error);

class File {
 public:
  File() = default;
  File(File&& other) noexcept { *this = std::move(other); }
  File& operator=(File&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(fd_, other.fd_);
    std::swap(size_, other.size_);
    std::swap(mapping_, other.mapping_);
    return *this;
  }
  ~File();

  // Opens a regular file; anything else (a folder, a pipe) is an IO_ERROR.
  static Status Open(const std::string& path, File* out);

  // Copies bytes [offset, offset + bytes), which lie inside size(). IO_ERROR where the file no longer
  // has them. Any number of threads may read.
  Status Read(uint64_t offset, size_t bytes, void* to) const;
  // Asks the system to read these bytes ahead. Only a hint: nothing can go wrong.
  void Prefetch(uint64_t offset, size_t bytes) const;
  // A mapping of the whole file, made by the first call; one call at a time. UNSUPPORTED where the
  // file cannot be mapped.
  Status Map(const std::byte** out);

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // when it was opened

 private:
  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  void* mapping_ = nullptr;
};

// The whole of a file of at most `most` bytes; `kind` names it in the message ("index").
Status ReadWhole(const std::string& path, size_t most, const char* kind, std::string* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_FILE_H_
