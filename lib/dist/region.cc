#include "lib/dist/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "lib/base/printable.h"

namespace dsv4mx::dist {
namespace {

struct flock WholeFile() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

bool IsTrusted(uid_t user) {
  return user == geteuid() || user == 0;
}

Status Region::Map(const char* what) {
  const int flags = file_ < 0 ? MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, file_, 0);
  DSV4MX_RETURN_IF(memory == MAP_FAILED, DSV4MX_STATUS_OUT_OF_MEMORY, "no %zu bytes for %s: %s",
                   bytes_, what, ErrnoText(errno).c_str());
  data_ = static_cast<uint8_t*>(memory);
  return kOk;
}

Status Region::MakePrivate(size_t bytes, std::shared_ptr<Region>* out) {
  std::shared_ptr<Region> region(new Region);
  region->bytes_ = bytes;
  DSV4MX_TRY(region->Map("a window"));
  *out = std::move(region);
  return kOk;
}

Status Region::MakeShared(size_t bytes, char* name, std::shared_ptr<Region>* out) {
  uint64_t random[2] = {};
  if (getentropy(random, sizeof(random)) != 0) {
    random[0] = static_cast<uint64_t>(std::time(nullptr));
    random[1] = reinterpret_cast<uintptr_t>(out) ^ static_cast<uint64_t>(getpid()) << 32;
  }
  std::snprintf(name, kNameBytes, "/dsv4mx-%016llx%016llx",
                static_cast<unsigned long long>(random[0]),
                static_cast<unsigned long long>(random[1]));
  std::shared_ptr<Region> region(new Region);
  region->bytes_ = bytes;
  region->file_ = shm_open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  DSV4MX_RETURN_IF(region->file_ < 0, DSV4MX_STATUS_COMM_ERROR,
                   "shared memory %s cannot be made: %s; wanted a /dev/shm that this process may "
                   "write",
                   name, ErrnoText(errno).c_str());
  const int full = posix_fallocate(region->file_, 0, static_cast<off_t>(bytes));
  if (full != 0) Unlink(name);
  DSV4MX_RETURN_IF(full != 0, DSV4MX_STATUS_OUT_OF_MEMORY,
                   "no %zu bytes of shared memory for a window: %s; wanted a larger /dev/shm or a "
                   "smaller max_tokens",
                   bytes, ErrnoText(full).c_str());
  struct flock lock = WholeFile();
  // Where the file system has no such locks, a lost rank is found by the timeout alone.
  (void)fcntl(region->file_, F_OFD_SETLK, &lock);
  const Status mapped = region->Map("a window in shared memory");
  if (!mapped.ok()) Unlink(name);
  DSV4MX_TRY(mapped);
  *out = std::move(region);
  return kOk;
}

Status Region::Open(const char* name, size_t bytes, std::shared_ptr<Region>* out) {
  std::shared_ptr<Region> region(new Region);
  region->bytes_ = bytes;
  region->file_ = shm_open(name, O_RDWR | O_CLOEXEC, 0);
  DSV4MX_RETURN_IF(region->file_ < 0, DSV4MX_STATUS_COMM_ERROR,
                   "shared memory %s of another rank cannot be opened: %s; wanted ranks of one "
                   "host and user that see one /dev/shm, or transport COLLECTIVE",
                   name, ErrnoText(errno).c_str());
  struct stat about {};
  const bool known = fstat(region->file_, &about) == 0;
  DSV4MX_RETURN_IF(!known || !IsTrusted(about.st_uid), DSV4MX_STATUS_COMM_ERROR,
                   "shared memory %s of another rank is user %u's, wanted user %u's, or root's",
                   name, about.st_uid, geteuid());
  DSV4MX_TRY(region->Map("a window of another rank"));
  *out = std::move(region);
  return kOk;
}

void Region::Unlink(const char* name) {
  (void)shm_unlink(name);
}

Region::~Region() {
  if (data_ != nullptr) (void)munmap(data_, bytes_);
  if (file_ >= 0) (void)close(file_);
}

bool Region::OwnerLives() const {
  if (file_ < 0) return true;
  struct flock lock = WholeFile();
  if (fcntl(file_, F_OFD_GETLK, &lock) != 0) return true;
  return lock.l_type != F_UNLCK;
}

}  // namespace dsv4mx::dist
