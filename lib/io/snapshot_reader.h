// A snapshot that is read: its header, checked in full when it is opened, and any section of it, checked before it counts.
#ifndef DSV4MX_LIB_IO_SNAPSHOT_READER_H_
#define DSV4MX_LIB_IO_SNAPSHOT_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "lib/base/status.h"
#include "lib/io/file.h"
#include "lib/io/snapshot_format.h"

namespace dsv4mx::io {

class SnapshotReader {
 public:
  static Status Open(const std::string& path, std::unique_ptr<SnapshotReader>* out);

  const SnapshotHeader& header() const { return header_; }
  const std::string& label() const { return label_; }  // for messages

  // Working memory of a thread that reads; aligned to 64.
  size_t ScratchBytes() const;
  // The bytes of a section (their number is in the header's plan) to `to`. After a failure what stands there means nothing.
  // Any number of threads may read.
  Status Read(size_t expert, size_t section, uint8_t* to, uint8_t* scratch) const;

 private:
  Status ReadSummed(const SnapshotEntry& entry, uint8_t* to, uint64_t* sum) const;

  File file_;
  std::string label_;
  SnapshotHeader header_;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SNAPSHOT_READER_H_
