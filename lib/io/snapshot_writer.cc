#include "lib/io/snapshot_writer.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <ctime>

#include "lib/base/printable.h"
#include "lib/io/file.h"

namespace dsv4mx::io {
namespace {

// A write beyond the process' limit of a file's size sends SIGXFSZ to the thread, which ends the process unless it is blocked;
// then the write alone fails. What came meanwhile is taken back, so that the caller never sees it.
class NoSizeSignal {
 public:
  NoSizeSignal() {
    sigemptyset(&size_);
    sigaddset(&size_, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &size_, &before_);
  }
  ~NoSizeSignal() {
    if (sigismember(&before_, SIGXFSZ) == 0) {
      const timespec now{};
      while (sigtimedwait(&size_, nullptr, &now) < 0 && errno == EINTR) {
      }
      pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
  }
  NoSizeSignal(const NoSizeSignal&) = delete;
  NoSizeSignal& operator=(const NoSizeSignal&) = delete;

 private:
  sigset_t size_, before_;
};

// Calls until no signal interrupts.
template <class Call>
auto Repeat(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Names that no two writers of a machine share.
std::string TemporaryName() {
  static std::atomic<uint32_t> count{0};
  return ".dsv4mx-snapshot-" + std::to_string(getpid()) + "-" + std::to_string(count.fetch_add(1)) +
         ".part";
}

}  // namespace

Status SnapshotWriter::Create(const std::string& path, std::unique_ptr<SnapshotWriter>* out) {
  std::unique_ptr<SnapshotWriter> writer(new SnapshotWriter);
  writer->path_ = path;
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  writer->name_ = slash == std::string::npos ? path : path.substr(slash + 1);
  DSV4MX_RETURN_IF(writer->name_.empty(), DSV4MX_STATUS_IO_ERROR,
                   "'%s' names no file, wanted a folder and a name in it",
                   PrintablePath(path).c_str());
  // By its descriptor the folder stays the same, whatever becomes of its name or of the working folder.
  writer->folder_ =
      Repeat([&] { return open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (writer->folder_ < 0) return FailErrno(path, "open the folder", errno);
  // A device or a pipe that has the name is nothing to replace by a file.
  struct stat info {};
  if (fstatat(writer->folder_, writer->name_.c_str(), &info, 0) == 0) {
    DSV4MX_RETURN_IF(!S_ISREG(info.st_mode), DSV4MX_STATUS_IO_ERROR,
                     "%s: not a regular file, wanted one or nothing under this name",
                     PrintablePath(path).c_str());
  }
  constexpr int kTries = 100;  // names that a process of another machine or time has left
  for (int i = 0; i < kTries && writer->fd_ < 0; ++i) {
    writer->temporary_ = TemporaryName();
    writer->fd_ = Repeat([&] {
      return openat(writer->folder_, writer->temporary_.c_str(),
                    O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    });
    if (writer->fd_ < 0 && errno != EEXIST) break;
  }
  if (writer->fd_ < 0) {
    const int error = errno;
    writer->temporary_.clear();
    return FailErrno(path, "make a temporary file in the folder", error);
  }
  *out = std::move(writer);
  return kOk;
}

SnapshotWriter::~SnapshotWriter() {
  if (fd_ >= 0) close(fd_);
  if (folder_ < 0) return;
  if (!temporary_.empty()) unlinkat(folder_, temporary_.c_str(), 0);
  close(folder_);
}

Status SnapshotWriter::Write(uint64_t offset, const void* data, size_t bytes) const {
  const NoSizeSignal scope;
  const auto* from = static_cast<const char*>(data);
  const auto first = static_cast<off_t>(offset);
  const auto whole = static_cast<off_t>(bytes);
  while (bytes > 0) {
    const ssize_t n = Repeat([&] {
      return pwrite(fd_, from, std::min(bytes, size_t{1} << 30), static_cast<off_t>(offset));
    });
    if (n <= 0) return FailErrno(path_, "write", n == 0 ? EIO : errno);
    from += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  // The disk is to work while the rest is made, instead of all at once at the end. Only a hint.
  (void)sync_file_range(fd_, first, whole, SYNC_FILE_RANGE_WRITE);
  return kOk;
}

Status SnapshotWriter::Complete(const std::vector<uint8_t>& header, uint64_t file_bytes) {
  {
    const NoSizeSignal scope;
    if (Repeat([&] { return ftruncate(fd_, static_cast<off_t>(file_bytes)); }) != 0) {
      return FailErrno(path_, "write", errno);
    }
  }
  DSV4MX_TRY(Write(0, header.data(), header.size()));
  if (Repeat([&] { return fsync(fd_); }) != 0) return FailErrno(path_, "sync", errno);
  const int fd = fd_;
  fd_ = -1;  // closed whatever close says
  if (close(fd) != 0 && errno != EINTR) return FailErrno(path_, "close", errno);
  return kOk;
}

Status SnapshotWriter::Publish() {
  if (renameat(folder_, temporary_.c_str(), folder_, name_.c_str()) != 0) {
    return FailErrno(path_, "give the complete file its name", errno);
  }
  temporary_.clear();
  // Some file systems have nothing to sync of a folder.
  if (Repeat([&] { return fsync(folder_); }) != 0 && errno != EINVAL && errno != ENOTSUP) {
    return FailErrno(path_, "sync the folder (the file is complete; a crash may lose its name)",
                     errno);
  }
  return kOk;
}

}  // namespace dsv4mx::io
