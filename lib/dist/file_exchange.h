// Open files of ranks that are processes of one host, to all of them.
#ifndef DSV4MX_LIB_DIST_FILE_EXCHANGE_H_
#define DSV4MX_LIB_DIST_FILE_EXCHANGE_H_

#include <vector>

#include "lib/dist/bootstrap.h"

namespace dsv4mx::dist {

// Descriptors that are closed with it; -1 = none.
class Files {
 public:
  explicit Files(int32_t count) : files_(static_cast<size_t>(count), -1) {}
  ~Files();
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  int& operator[](int32_t i) { return files_[static_cast<size_t>(i)]; }

 private:
  std::vector<int> files_;
};

// Collective: `mine` goes to every other rank, theirs come by rank. Through sockets beside the segments of region.h, so that
// ranks must see one /dev/shm, and be of one user: both ends ask the kernel who is at the other one, and a file goes to nobody
// and is taken from nobody but this process's effective user and root. Nothing stays behind.
Status ExchangeFiles(Bootstrap* bootstrap, const CommSpec& spec, int mine, const Control& control,
                     Files* theirs);

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_FILE_EXCHANGE_H_
