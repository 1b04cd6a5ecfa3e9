#include "lib/io/snapshot_reader.h"

#include <algorithm>
#include <cinttypes>
#include <vector>

#include "lib/base/printable.h"
#include "lib/io/xxh64.h"
#include "lib/io/zstd_codec.h"

namespace dsv4mx::io {
namespace {

// What is read is added to the checksum while the processor's cache still holds it.
constexpr size_t kReadBytes = size_t{256} << 10;

size_t DecoderBytes() {
  return (ZstdDecoder::MemoryBytes() + 63) / 64 * 64;
}

}  // namespace

Status SnapshotReader::Open(const std::string& path, std::unique_ptr<SnapshotReader>* out) {
  std::unique_ptr<SnapshotReader> reader(new SnapshotReader);
  reader->label_ = PrintablePath(path);
  const std::string& label = reader->label_;
  DSV4MX_TRY(File::Open(path, &reader->file_));
  const File& file = reader->file_;
  DSV4MX_RETURN_IF(file.size() < kSnapshotFixedBytes, DSV4MX_STATUS_FORMAT_ERROR,
                   "%s: not a snapshot: it has %" PRIu64 " bytes, wanted at least %zu",
                   label.c_str(), file.size(), kSnapshotFixedBytes);
  std::vector<uint8_t> header(kSnapshotFixedBytes);
  DSV4MX_TRY(file.Read(0, header.size(), header.data()));
  uint64_t bytes = 0;
  DSV4MX_TRY(CheckSnapshotStart(label, header.data(), file.size(), &bytes));
  header.resize(static_cast<size_t>(bytes));  // at most the file
  DSV4MX_TRY(file.Read(kSnapshotFixedBytes, header.size() - kSnapshotFixedBytes,
                       header.data() + kSnapshotFixedBytes));
  DSV4MX_TRY(DecodeSnapshotHeader(label, header, file.size(), &reader->header_));
  *out = std::move(reader);
  return kOk;
}

size_t SnapshotReader::ScratchBytes() const {
  uint64_t stored = 0;
  for (const SnapshotEntry& entry : header_.entries) {
    if (entry.codec == Codec::kZstd) stored = std::max(stored, entry.stored);
  }
  return DecoderBytes() + static_cast<size_t>(stored);
}

Status SnapshotReader::ReadSummed(const SnapshotEntry& entry, uint8_t* to,
                                  absl::Span<const Stretch> stretches, uint64_t* sum) const {
  Xxh64 sum_of;
  file_.Prefetch(entry.offset, static_cast<size_t>(entry.stored));
  uint64_t from = entry.offset;
  for (const Stretch& stretch : stretches) {
    uint8_t* at = to + stretch.offset;
    for (auto left = static_cast<size_t>(stretch.bytes); left > 0;) {
      const size_t bytes = std::min(left, kReadBytes);
      DSV4MX_TRY(file_.Read(from, bytes, at));
      sum_of.Add(at, bytes);
      from += bytes;
      at += bytes;
      left -= bytes;
    }
  }
  uint8_t zeros[kSnapshotAlignment];
  const auto behind = static_cast<size_t>(SnapshotAligned(entry.stored) - entry.stored);
  DSV4MX_TRY(file_.Read(entry.offset + entry.stored, behind, zeros));
  sum_of.Add(zeros, behind);
  *sum = sum_of.Sum();
  return kOk;
}

Status SnapshotReader::Read(size_t expert, size_t section, uint8_t* to,
                            absl::Span<const Stretch> stretches, uint8_t* scratch) const {
  const SnapshotEntry& entry = header_.At(expert, section);
  const bool raw = entry.codec == Codec::kRaw;
  uint8_t* const stored = scratch + DecoderBytes();
  const Stretch all{0, static_cast<int64_t>(entry.stored)};
  uint64_t sum = 0;
  DSV4MX_TRY(raw ? ReadSummed(entry, to, stretches, &sum)
                 : ReadSummed(entry, stored, absl::MakeConstSpan(&all, 1), &sum));
  DSV4MX_RETURN_IF(sum != entry.checksum, DSV4MX_STATUS_FORMAT_ERROR,
                   "%s: %s: damaged: the checksum is %016" PRIx64 ", wanted %016" PRIx64,
                   label_.c_str(), header_.Name(expert, section).c_str(), sum, entry.checksum);
  if (raw) return kOk;
  const char* wrong = ZstdDecoder(scratch).Decode(
      stored, static_cast<size_t>(entry.stored), to + stretches[0].offset,
      static_cast<size_t>(header_.sections[section].bytes));
  DSV4MX_RETURN_IF(wrong != nullptr, DSV4MX_STATUS_FORMAT_ERROR, "%s: %s: zstd: %s", label_.c_str(),
                   header_.Name(expert, section).c_str(), wrong);
  return kOk;
}

}  // namespace dsv4mx::io
