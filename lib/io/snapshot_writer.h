// A snapshot while it is written: under a temporary name in the folder of its own, without a header, so that nothing can take
// it for one. The name appears in one step, when every byte is on disk.
#ifndef DSV4MX_LIB_IO_SNAPSHOT_WRITER_H_
#define DSV4MX_LIB_IO_SNAPSHOT_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx::io {

class SnapshotWriter {
 public:
  // Makes the temporary file. What has the name already must be a regular file, which is replaced at the end.
  static Status Create(const std::string& path, std::unique_ptr<SnapshotWriter>* out);
  // Removes the temporary file unless it was published.
  ~SnapshotWriter();
  SnapshotWriter(const SnapshotWriter&) = delete;
  SnapshotWriter& operator=(const SnapshotWriter&) = delete;

  // Any number of threads may write. What is never written between is zeros.
  Status Write(uint64_t offset, const void* data, size_t bytes) const;
  // Writes the header, which makes a snapshot of the file, and waits until all `file_bytes` bytes are on disk.
  Status Complete(const std::vector<uint8_t>& header, uint64_t file_bytes);
  // Gives the complete file its name, and waits until that is on disk too.
  Status Publish();

 private:
  SnapshotWriter() = default;

  std::string path_, name_, temporary_;
  int folder_ = -1, fd_ = -1;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SNAPSHOT_WRITER_H_
