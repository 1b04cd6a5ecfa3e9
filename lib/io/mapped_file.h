// A file mapped read-only: tensors are used where they lie, so a checkpoint of any size costs no
// memory beyond the pages that are read. A file that shrinks while it is mapped raises SIGBUS, as
// with every mapping; writers of checkpoints replace files instead.
#ifndef DSV4MX_LIB_IO_MAPPED_FILE_H_
#define DSV4MX_LIB_IO_MAPPED_FILE_H_

#include <cstddef>
#include <utility>

#include "lib/base/status.h"

namespace dsv4mx::io {

class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile();

  // Maps a regular file; anything else (a folder, a pipe) is an IO_ERROR. An empty file is legal
  // and has data() == nullptr.
  static Status Open(const char* path, MappedFile* out);

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Asks the system to read these bytes of a mapping ahead. Without it a cold file is read a few pages
// per fault, at a quarter of the disk's rate. Only a hint: nothing can go wrong.
void Prefetch(const void* data, size_t bytes);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_MAPPED_FILE_H_
