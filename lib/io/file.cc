#include "lib/io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "lib/base/printable.h"

namespace dsv4mx::io {

Status FailErrno(const std::string& path, const char* what, int error) {
  return Fail(error == ENOMEM ? DSV4MX_STATUS_OUT_OF_MEMORY : DSV4MX_STATUS_IO_ERROR,
              "%s: cannot %s: %s", PrintablePath(path).c_str(), what, ErrnoText(error).c_str());
}

File::~File() {
  if (mapping_ != nullptr) munmap(mapping_, static_cast<size_t>(size_));
  if (fd_ >= 0) close(fd_);
}

Status File::Open(const std::string& path, File* out) {
  *out = File();
  File file;
  file.path_ = path;
  // O_NONBLOCK: opening a pipe must not wait for a writer. It means nothing for a regular file.
  do {
    file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (file.fd_ < 0 && errno == EINTR);
  if (file.fd_ < 0) return FailErrno(path, "open", errno);
  struct stat info {};
  if (fstat(file.fd_, &info) != 0) return FailErrno(path, "stat", errno);
  DSV4MX_RETURN_IF(!S_ISREG(info.st_mode), DSV4MX_STATUS_IO_ERROR, "%s: not a regular file",
                   PrintablePath(path).c_str());
  file.size_ = static_cast<uint64_t>(info.st_size);
  *out = std::move(file);
  return kOk;
}

Status File::Read(uint64_t offset, size_t bytes, void* to) const {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    // The kernel copies at most 2 GiB in one call.
    const ssize_t n = pread(fd_, at, std::min(bytes, size_t{1} << 30), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno(path_, "read", errno);
    DSV4MX_RETURN_IF(
        n == 0, DSV4MX_STATUS_IO_ERROR,
        "%s: the file became shorter while it was open: it ends before byte %llu of %llu",
        PrintablePath(path_).c_str(), static_cast<unsigned long long>(offset),
        static_cast<unsigned long long>(size_));
    at += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return kOk;
}

void File::Prefetch(uint64_t offset, size_t bytes) const {
  // Asking walks all pages, also where they are in the page cache already: a look at a few of them is cheaper.
  const auto cached = [&](uint64_t at) {
    char byte;
    const iovec one{&byte, 1};
    return preadv2(fd_, &one, 1, static_cast<off_t>(at), RWF_NOWAIT) == 1;
  };
  if (bytes == 0) return;
  if (cached(offset + bytes - 1) && cached(offset + bytes / 2) && cached(offset)) return;
  (void)posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes),
                      POSIX_FADV_WILLNEED);
}

Status File::Map(const std::byte** out) {
  if (mapping_ == nullptr && size_ > 0) {
    // Private: some network and FUSE file systems refuse shared mappings, even read-only ones.
    void* mapping = mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, fd_, 0);
    if (mapping == MAP_FAILED) {
      const int error = errno;
      if (error == ENOMEM) return FailErrno(path_, "map", error);
      return Fail(DSV4MX_STATUS_UNSUPPORTED,
                  "%s: cannot map: %s; dsv4mx_checkpoint_read and dsv4mx_weights_load can read it",
                  PrintablePath(path_).c_str(), ErrnoText(error).c_str());
    }
    mapping_ = mapping;
  }
  *out = static_cast<const std::byte*>(mapping_);
  return kOk;
}

Status ReadWhole(const std::string& path, size_t most, const char* kind, std::string* out) {
  File file;
  DSV4MX_TRY(File::Open(path, &file));
  DSV4MX_RETURN_IF(file.size() > most, DSV4MX_STATUS_FORMAT_ERROR,
                   "%s: %s of %llu bytes, at most %zu are read", PrintablePath(path).c_str(), kind,
                   static_cast<unsigned long long>(file.size()), most);
  out->resize(static_cast<size_t>(file.size()));
  return file.Read(0, out->size(), out->data());
}

}  // namespace dsv4mx::io
