// The file format of snapshots: prepared experts of one layer, as they stand in memory. All numbers are little-endian.
//
//   0                 fixed part     320 bytes   what is below, and which layer this was
//   320               plan           16 bytes    for each section of an expert: kind, piece, length
//                     experts        24 bytes    for each: its number in the whole layer (ascending), its census
//                     table          32 bytes    for each expert's sections: where, how long, how stored, checksum
//                     zeros                      up to a multiple of 4096, the header's end
//   4096 n            sections                   expert by expert, in the order of the table, each from a multiple of 4096
//                                                on, filled up with zeros; the last one's end is the file's
//
// A slab (lib/base/slab.h) is cut into pieces of piece_bytes bytes, and what a piece holds of codes, scales and biases makes
// up to three sections: kinds compress differently, and a piece is what a thread reads, checks and unpacks in bounded memory.
// What prepare derives from the rest is not stored. Where sections stand is no choice: it follows from their stored lengths,
// so a table in which they overlap or leave the file is none.
//
// The header's checksum covers the header with the checksum's own bytes as zeros; that of a section its stored bytes and the
// zeros behind them. Together they cover every byte of the file. A checksum is looked at before what it covers.
//
// The fixed part, by offset:
//
//     0  magic          8 bytes: 0x89 "DSV4MX" 0x0a
//     8  version        u32: kSnapshotVersion; nothing else of other versions is read
//    12  alignment      u32: 4096
//    16  header_bytes   u64
//    24  file_bytes     u64
//    32  checksum       u64: XXH64 of the header
//    40  layout         32 bytes: name of the slab's layout, filled up with zeros
//    72  slab_id        u64
//    80  slab_bytes     u64
//    88  piece_bytes    u64
//    96  experts        u32
//   100  sections       u32: of each expert
//   104  device         i32: class of the device that prepared (dsv4mx_device)
//   108  census         i32 x 4: all experts' scale_min, scale_max, span_max; 1 if any group is not all zero
//   124  layer          i32 x 25, f32 x 6 as their bits: kLayerNumbers and kLayerFloats of snapshot_format.cc
//   248  zeros
//
// An entry of the table: offset u64, stored u64, checksum u64, codec u32, zero u32. Of the plan: kind u32, piece u32, bytes
// u64. Of the experts: id i32, census as above, zero u32.
#ifndef DSV4MX_LIB_IO_SNAPSHOT_FORMAT_H_
#define DSV4MX_LIB_IO_SNAPSHOT_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/status.h"

namespace dsv4mx::io {

inline constexpr int32_t kSnapshotVersion = 1;
inline constexpr uint64_t kSnapshotAlignment = 4096;
inline constexpr size_t kSnapshotFixedBytes = 320;
inline constexpr size_t kSnapshotPlanBytes = 16, kSnapshotExpertBytes = 24,
                        kSnapshotEntryBytes = 32;
// Bounds that every file keeps, so that a header is small whatever it says.
inline constexpr uint64_t kSnapshotMaxExperts = 4096;
inline constexpr uint64_t kSnapshotMaxEntries = uint64_t{1} << 20;
inline constexpr uint64_t kSnapshotMinPiece = uint64_t{1} << 20,
                          kSnapshotMaxPiece = uint64_t{1} << 26;
inline constexpr uint64_t kSnapshotMaxHeader = uint64_t{1} << 26;
inline constexpr size_t kSnapshotLayoutBytes = 32;

enum class SectionKind : uint32_t { kCodes = 0, kScales = 1, kBiases = 2 };
inline constexpr uint32_t kSectionKinds = 3;
enum class Codec : uint32_t { kRaw = 0, kZstd = 1 };

// A section that every expert has: what piece `piece` of a slab holds of one kind.
struct SnapshotSection {
  SectionKind kind;
  uint32_t piece;
  uint64_t bytes;
};

// Where one expert's section stands.
struct SnapshotEntry {
  uint64_t offset, stored, checksum;
  Codec codec;
};

struct SnapshotExpert {
  int32_t id;  // in the whole layer
  Census census;
};

struct SnapshotHeader {
  std::string layout;
  uint64_t slab_id = 0, slab_bytes = 0, piece_bytes = 0, file_bytes = 0;
  dsv4mx_device device = 0;
  Census census;
  dsv4mx_layer_desc layer{};  // without pointers
  std::vector<SnapshotExpert> experts;
  std::vector<SnapshotSection> sections;
  std::vector<SnapshotEntry> entries;  // [experts][sections]

  const SnapshotEntry& At(size_t expert, size_t section) const {
    return entries[expert * sections.size() + section];
  }
  uint32_t pieces() const { return sections.empty() ? 0 : sections.back().piece + 1; }
  // The place of expert `id` in the file, or experts.size().
  size_t Find(int32_t id) const;
  // "scales of expert 17, piece 2 of 7".
  std::string Name(size_t expert, size_t section) const;
};

// Whether two say the same; without a group that counts the numbers say nothing.
bool SameCensus(const Census& a, const Census& b);

// Bytes with the zeros behind them.
inline uint64_t SnapshotAligned(uint64_t bytes) {
  return (bytes + kSnapshotAlignment - 1) / kSnapshotAlignment * kSnapshotAlignment;
}

// Length of the header of so many experts and sections, zeros included. Saturates instead of wrapping around.
uint64_t SnapshotHeaderBytes(uint64_t experts, uint64_t sections);

// The header's bytes: SnapshotHeaderBytes of it.
std::vector<uint8_t> EncodeSnapshotHeader(const SnapshotHeader& header);

// What the first kSnapshotFixedBytes bytes say of the length of the header, once magic, version and lengths are found good in
// a file of `file_bytes` bytes. `label` begins every message.
Status CheckSnapshotStart(const std::string& label, const uint8_t* fixed, uint64_t file_bytes,
                          uint64_t* header_bytes);
// Checks all of a header (header_bytes long) and takes it apart. The layer's fields are not judged.
Status DecodeSnapshotHeader(const std::string& label, const std::vector<uint8_t>& bytes,
                            uint64_t file_bytes, SnapshotHeader* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SNAPSHOT_FORMAT_H_
