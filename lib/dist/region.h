// Memory that ranks share: of this process alone, or a segment of POSIX shared memory under a random name, which goes away
// as soon as every rank has it.
//
// Every rank of a segment locks its own as long as it lives (a lock of the open file, which the kernel takes back however
// the process ends), so that the others can ask whether it still does. Neither /proc nor pids, which containers hide, nor
// abstract sockets are needed: ranks must only see one /dev/shm.
#ifndef DSV4MX_LIB_DIST_REGION_H_
#define DSV4MX_LIB_DIST_REGION_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "lib/base/status.h"

namespace dsv4mx::dist {

// Whether memory of this user's may be shared: this process's effective user's, or root's.
bool IsTrusted(uid_t user);

class Region {
 public:
  static constexpr size_t kNameBytes = 64;

  // Zeroed memory of this process.
  static Status MakePrivate(size_t bytes, std::shared_ptr<Region>* out);
  // A new segment, zeroed and backed (a full /dev/shm is an error here, not a fault later). Writes its name.
  static Status MakeShared(size_t bytes, char* name, std::shared_ptr<Region>* out);
  // Another rank's segment. Refuses one of a user that is not trusted.
  static Status Open(const char* name, size_t bytes, std::shared_ptr<Region>* out);
  // No further rank can open it.
  static void Unlink(const char* name);

  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // Whether the process that made it still has it. True where that cannot be asked.
  bool OwnerLives() const;

 private:
  Region() = default;
  Status Map(const char* what);

  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  int file_ = -1;
};

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_REGION_H_
