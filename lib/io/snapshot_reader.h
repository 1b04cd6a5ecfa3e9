// A snapshot that is read: its header, checked in full when it is opened, and any section of it, checked before it counts.
#ifndef DSV4MX_LIB_IO_SNAPSHOT_READER_H_
#define DSV4MX_LIB_IO_SNAPSHOT_READER_H_

#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "lib/base/status.h"
#include "lib/io/file.h"
#include "lib/io/snapshot_format.h"

namespace dsv4mx::io {

// Where a part of a section goes, from the first byte of what it is one of several parts of.
struct Stretch {
  int64_t offset, bytes;
};

class SnapshotReader {
 public:
  static Status Open(const std::string& path, std::unique_ptr<SnapshotReader>* out);

  const SnapshotHeader& header() const { return header_; }
  const std::string& label() const { return label_; }  // for messages

  // Working memory of a thread that reads; aligned to 64.
  size_t ScratchBytes() const;
  // Whether a section stands in the file as it is, and so may be read straight to several stretches.
  bool IsRaw(size_t expert, size_t section) const {
    return header_.At(expert, section).codec == Codec::kRaw;
  }
  // The bytes of a section (their number is in the header's plan), one after the other into stretches behind `to`, of which one
  // that is not raw has one. After a failure what stands there means nothing. Any number of threads may read.
  Status Read(size_t expert, size_t section, uint8_t* to, absl::Span<const Stretch> stretches,
              uint8_t* scratch) const;
  // All in one.
  Status Read(size_t expert, size_t section, uint8_t* to, uint8_t* scratch) const {
    const Stretch one{0, static_cast<int64_t>(header_.sections[section].bytes)};
    return Read(expert, section, to, absl::MakeConstSpan(&one, 1), scratch);
  }

 private:
  Status ReadSummed(const SnapshotEntry& entry, uint8_t* to, absl::Span<const Stretch> stretches,
                    uint64_t* sum) const;

  File file_;
  std::string label_;
  SnapshotHeader header_;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SNAPSHOT_READER_H_
