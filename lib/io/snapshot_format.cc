#include "lib/io/snapshot_format.h"

#include <algorithm>
#include <bit>
#include <cinttypes>
#include <cstring>

#include "lib/base/printable.h"
#include "lib/io/little_endian.h"
#include "lib/io/xxh64.h"

namespace dsv4mx::io {
namespace {

constexpr uint8_t kMagic[8] = {0x89, 'D', 'S', 'V', '4', 'M', 'X', '\n'};
constexpr size_t kVersionAt = 8, kAlignmentAt = 12, kHeaderBytesAt = 16, kFileBytesAt = 24;
constexpr size_t kChecksumAt = 32, kLayoutAt = 40, kSlabIdAt = 72, kSlabBytesAt = 80;
constexpr size_t kPieceBytesAt = 88, kExpertsAt = 96, kSectionsAt = 100, kDeviceAt = 104;
constexpr size_t kCensusAt = 108, kLayerAt = 124;

constexpr auto kCode = DSV4MX_STATUS_FORMAT_ERROR;

// The fields of a layer that a file holds. New ones go behind: what stands behind today is zero.
using Desc = dsv4mx_layer_desc;
constexpr int32_t Desc::*kLayerNumbers[] = {&Desc::hidden,
                                            &Desc::intermediate,
                                            &Desc::experts,
                                            &Desc::top_k,
                                            &Desc::expert_first,
                                            &Desc::experts_global,
                                            &Desc::tp_rank,
                                            &Desc::tp_size,
                                            &Desc::intermediate_first,
                                            &Desc::intermediate_count,
                                            &Desc::weight_format,
                                            &Desc::group_size,
                                            &Desc::w13_order,
                                            &Desc::nibble_order,
                                            &Desc::activation,
                                            &Desc::w13_bias,
                                            &Desc::w2_bias,
                                            &Desc::router_weight_position,
                                            &Desc::x_dtype,
                                            &Desc::out_dtype,
                                            &Desc::ids_dtype,
                                            &Desc::router_weight_dtype,
                                            &Desc::slot_dtype,
                                            &Desc::compute};
constexpr float Desc::*kLayerFloats[] = {&Desc::clamp_limit,      &Desc::activation_alpha,
                                         &Desc::activation_beta,  &Desc::situ_beta,
                                         &Desc::situ_linear_beta, &Desc::routed_scaling_factor};
constexpr size_t kFlagsAt = kLayerAt + 4 * std::size(kLayerNumbers);
constexpr size_t kFloatsAt = kFlagsAt + 4;
static_assert(kFloatsAt + 4 * std::size(kLayerFloats) == 248 && kSnapshotFixedBytes >= 248);

void MergeCensus(const Census& from, Census* into) {
  into->any = into->any || from.any;
  into->scale_min = std::min(into->scale_min, from.scale_min);
  into->scale_max = std::max(into->scale_max, from.scale_max);
  into->span_max = std::max(into->span_max, from.span_max);
}

void StoreCensus(const Census& census, uint8_t* to) {
  StoreLittle<int32_t>(census.scale_min, to);
  StoreLittle<int32_t>(census.scale_max, to + 4);
  StoreLittle<int32_t>(census.span_max, to + 8);
  StoreLittle<int32_t>(census.any ? 1 : 0, to + 12);
}

Census LoadCensus(const uint8_t* from) {
  Census census;
  census.scale_min = LoadLittle<int32_t>(from);
  census.scale_max = LoadLittle<int32_t>(from + 4);
  census.span_max = LoadLittle<int32_t>(from + 8);
  census.any = LoadLittle<int32_t>(from + 12) != 0;
  return census;
}

uint64_t HeaderSum(const uint8_t* header, size_t bytes) {
  Xxh64 sum;
  sum.Add(header, kChecksumAt);
  sum.AddZeros(8);
  sum.Add(header + kChecksumAt + 8, bytes - kChecksumAt - 8);
  return sum.Sum();
}

// Piece by piece, each with kinds in their order, and no more than a slab in all.
Status CheckPlan(const std::string& label, const SnapshotHeader& h) {
  uint64_t left = h.slab_bytes, of_piece = 0;
  for (size_t s = 0; s < h.sections.size(); ++s) {
    const SnapshotSection& section = h.sections[s];
    const SnapshotSection* before = s == 0 ? nullptr : &h.sections[s - 1];
    const bool same = before != nullptr && before->piece == section.piece;
    const bool next = before == nullptr || section.piece > before->piece;
    of_piece = same ? of_piece : 0;
    DSV4MX_RETURN_IF(static_cast<uint32_t>(section.kind) >= kSectionKinds ||
                         !(next || (same && section.kind > before->kind)) || section.bytes == 0 ||
                         section.bytes > h.piece_bytes - of_piece || section.bytes > left ||
                         section.piece > (h.slab_bytes - 1) / h.piece_bytes,
                     kCode,
                     "%s: section %zu of the header's plan is of kind %u, piece %u and %" PRIu64
                     " bytes, which is no part of a slab of %" PRIu64 " bytes",
                     label.c_str(), s, static_cast<unsigned>(section.kind), section.piece,
                     section.bytes, h.slab_bytes);
    of_piece += section.bytes;
    left -= section.bytes;
  }
  return kOk;
}

Status CheckExperts(const std::string& label, const SnapshotHeader& h) {
  int64_t before = -1;
  Census all;
  for (const SnapshotExpert& e : h.experts) {
    DSV4MX_RETURN_IF(
        e.id <= before || e.id >= h.layer.experts_global, kCode,
        "%s: the header has expert %d behind expert %lld of %d, wanted ascending numbers",
        label.c_str(), e.id, static_cast<long long>(before), h.layer.experts_global);
    before = e.id;
    MergeCensus(e.census, &all);
  }
  DSV4MX_RETURN_IF(!SameCensus(all, h.census), kCode,
                   "%s: the header says scales %d..%d of all experts, but %d..%d of each",
                   label.c_str(), h.census.scale_min, h.census.scale_max, all.scale_min,
                   all.scale_max);
  return kOk;
}

Status CheckTable(const std::string& label, const SnapshotHeader& h, uint64_t header_bytes) {
  uint64_t at = header_bytes;
  for (size_t i = 0; i < h.entries.size(); ++i) {
    const SnapshotEntry& entry = h.entries[i];
    const uint64_t bytes = h.sections[i % h.sections.size()].bytes;
    const bool raw = entry.codec == Codec::kRaw;
    DSV4MX_RETURN_IF(
        entry.offset != at || static_cast<uint32_t>(entry.codec) > 1 || entry.stored == 0 ||
            entry.stored > bytes || (raw && entry.stored != bytes),
        kCode,
        "%s: the header has %s at byte %" PRIu64 ", %" PRIu64
        " bytes of codec %u, wanted byte %" PRIu64 " and %s %" PRIu64 " bytes",
        label.c_str(), h.Name(i / h.sections.size(), i % h.sections.size()).c_str(), entry.offset,
        entry.stored, static_cast<unsigned>(entry.codec), at, raw ? "exactly" : "at most", bytes);
    at += SnapshotAligned(entry.stored);  // at most 2^20 sections of 2^26 bytes
  }
  DSV4MX_RETURN_IF(at != h.file_bytes, kCode,
                   "%s: the header's sections end at byte %" PRIu64 " of %" PRIu64, label.c_str(),
                   at, h.file_bytes);
  return kOk;
}

}  // namespace

bool SameCensus(const Census& a, const Census& b) {
  return a.any == b.any && (!a.any || (a.scale_min == b.scale_min && a.scale_max == b.scale_max &&
                                       a.span_max == b.span_max));
}

size_t SnapshotHeader::Find(int32_t id) const {
  const auto at = std::lower_bound(experts.begin(), experts.end(), id,
                                   [](const SnapshotExpert& e, int32_t n) { return e.id < n; });
  return at == experts.end() || at->id != id ? experts.size()
                                             : static_cast<size_t>(at - experts.begin());
}

std::string SnapshotHeader::Name(size_t expert, size_t section) const {
  constexpr const char* kNames[] = {"codes", "scales", "biases"};
  const SnapshotSection& s = sections[section];
  std::string name = kNames[static_cast<uint32_t>(s.kind)];
  name += " of expert " + std::to_string(experts[expert].id);
  if (pieces() > 1) {
    name += ", piece " + std::to_string(s.piece + 1) + " of " + std::to_string(pieces());
  }
  return name;
}

uint64_t SnapshotHeaderBytes(uint64_t experts, uint64_t sections) {
  if (experts > kSnapshotMaxExperts || sections > kSnapshotMaxEntries) return UINT64_MAX;
  return SnapshotAligned(kSnapshotFixedBytes + sections * kSnapshotPlanBytes +
                         experts * (kSnapshotExpertBytes + sections * kSnapshotEntryBytes));
}

std::vector<uint8_t> EncodeSnapshotHeader(const SnapshotHeader& h) {
  const uint64_t bytes = SnapshotHeaderBytes(h.experts.size(), h.sections.size());
  std::vector<uint8_t> header(static_cast<size_t>(bytes));
  uint8_t* const p = header.data();
  std::memcpy(p, kMagic, sizeof kMagic);
  StoreLittle<int32_t>(kSnapshotVersion, p + kVersionAt);
  StoreLittle<uint32_t>(kSnapshotAlignment, p + kAlignmentAt);
  StoreLittle<uint64_t>(bytes, p + kHeaderBytesAt);
  StoreLittle<uint64_t>(h.file_bytes, p + kFileBytesAt);
  h.layout.copy(reinterpret_cast<char*>(p + kLayoutAt), kSnapshotLayoutBytes - 1);
  StoreLittle<uint64_t>(h.slab_id, p + kSlabIdAt);
  StoreLittle<uint64_t>(h.slab_bytes, p + kSlabBytesAt);
  StoreLittle<uint64_t>(h.piece_bytes, p + kPieceBytesAt);
  StoreLittle<uint32_t>(static_cast<uint32_t>(h.experts.size()), p + kExpertsAt);
  StoreLittle<uint32_t>(static_cast<uint32_t>(h.sections.size()), p + kSectionsAt);
  StoreLittle<int32_t>(h.device, p + kDeviceAt);
  StoreCensus(h.census, p + kCensusAt);
  for (size_t i = 0; i < std::size(kLayerNumbers); ++i) {
    StoreLittle<int32_t>(h.layer.*kLayerNumbers[i], p + kLayerAt + 4 * i);
  }
  StoreLittle<uint32_t>(h.layer.flags, p + kFlagsAt);
  for (size_t i = 0; i < std::size(kLayerFloats); ++i) {
    StoreLittle<uint32_t>(std::bit_cast<uint32_t>(h.layer.*kLayerFloats[i]), p + kFloatsAt + 4 * i);
  }
  uint8_t* to = p + kSnapshotFixedBytes;
  for (const SnapshotSection& s : h.sections) {
    StoreLittle<uint32_t>(static_cast<uint32_t>(s.kind), to);
    StoreLittle<uint32_t>(s.piece, to + 4);
    StoreLittle<uint64_t>(s.bytes, to + 8);
    to += kSnapshotPlanBytes;
  }
  for (const SnapshotExpert& e : h.experts) {
    StoreLittle<int32_t>(e.id, to);
    StoreCensus(e.census, to + 4);
    to += kSnapshotExpertBytes;
  }
  for (const SnapshotEntry& e : h.entries) {
    StoreLittle<uint64_t>(e.offset, to);
    StoreLittle<uint64_t>(e.stored, to + 8);
    StoreLittle<uint64_t>(e.checksum, to + 16);
    StoreLittle<uint32_t>(static_cast<uint32_t>(e.codec), to + 24);
    to += kSnapshotEntryBytes;
  }
  StoreLittle<uint64_t>(HeaderSum(p, header.size()), p + kChecksumAt);
  return header;
}

Status CheckSnapshotStart(const std::string& label, const uint8_t* fixed, uint64_t file_bytes,
                          uint64_t* header_bytes) {
  DSV4MX_RETURN_IF(std::memcmp(fixed, kMagic, sizeof kMagic) != 0, kCode,
                   "%s: not a snapshot: its first bytes are no magic number", label.c_str());
  const auto version = LoadLittle<int32_t>(fixed + kVersionAt);
  DSV4MX_RETURN_IF(version != kSnapshotVersion, DSV4MX_STATUS_UNSUPPORTED,
                   "%s: a snapshot of version %d, this library reads %d: save it anew",
                   label.c_str(), version, kSnapshotVersion);
  const auto says = LoadLittle<uint64_t>(fixed + kFileBytesAt);
  DSV4MX_RETURN_IF(says != file_bytes, kCode,
                   "%s: the file has %" PRIu64 " bytes, its header says %" PRIu64, label.c_str(),
                   file_bytes, says);
  const auto experts = LoadLittle<uint32_t>(fixed + kExpertsAt);
  const auto sections = LoadLittle<uint32_t>(fixed + kSectionsAt);
  const auto alignment = LoadLittle<uint32_t>(fixed + kAlignmentAt);
  const auto bytes = LoadLittle<uint64_t>(fixed + kHeaderBytesAt);
  const uint64_t wanted = SnapshotHeaderBytes(experts, sections);
  DSV4MX_RETURN_IF(alignment != kSnapshotAlignment || bytes != wanted ||
                       bytes > kSnapshotMaxHeader || bytes > file_bytes || experts == 0 ||
                       sections == 0 || uint64_t{experts} * sections > kSnapshotMaxEntries,
                   kCode,
                   "%s: the header has %" PRIu64
                   " bytes for %u experts of %u sections, aligned to %u, wanted "
                   "1..%" PRIu64 " experts, at most %" PRIu64
                   " sections in all, aligned to %" PRIu64,
                   label.c_str(), bytes, experts, sections, alignment, kSnapshotMaxExperts,
                   kSnapshotMaxEntries, kSnapshotAlignment);
  *header_bytes = bytes;
  return kOk;
}

Status DecodeSnapshotHeader(const std::string& label, const std::vector<uint8_t>& bytes,
                            uint64_t file_bytes, SnapshotHeader* out) {
  SnapshotHeader h;
  DSV4MX_RETURN_IF(bytes.size() < kSnapshotFixedBytes, kCode, "%s: the header is cut off",
                   label.c_str());
  const uint8_t* const p = bytes.data();
  uint64_t header_bytes = 0;
  DSV4MX_TRY(CheckSnapshotStart(label, p, file_bytes, &header_bytes));
  DSV4MX_RETURN_IF(header_bytes != bytes.size(), kCode, "%s: the header is cut off", label.c_str());
  const auto sum = HeaderSum(p, bytes.size()), says = LoadLittle<uint64_t>(p + kChecksumAt);
  DSV4MX_RETURN_IF(sum != says, kCode,
                   "%s: the header is damaged: its checksum is %016" PRIx64 ", wanted %016" PRIx64,
                   label.c_str(), sum, says);
  const char* layout = reinterpret_cast<const char*>(p + kLayoutAt);
  h.layout = Printable(std::string_view(layout, strnlen(layout, kSnapshotLayoutBytes - 1)));
  h.slab_id = LoadLittle<uint64_t>(p + kSlabIdAt);
  h.slab_bytes = LoadLittle<uint64_t>(p + kSlabBytesAt);
  h.piece_bytes = LoadLittle<uint64_t>(p + kPieceBytesAt);
  h.file_bytes = file_bytes;
  h.device = LoadLittle<int32_t>(p + kDeviceAt);
  h.census = LoadCensus(p + kCensusAt);
  h.layer.struct_size = sizeof h.layer;
  for (size_t i = 0; i < std::size(kLayerNumbers); ++i) {
    h.layer.*kLayerNumbers[i] = LoadLittle<int32_t>(p + kLayerAt + 4 * i);
  }
  h.layer.flags = LoadLittle<uint32_t>(p + kFlagsAt);
  for (size_t i = 0; i < std::size(kLayerFloats); ++i) {
    h.layer.*kLayerFloats[i] = std::bit_cast<float>(LoadLittle<uint32_t>(p + kFloatsAt + 4 * i));
  }
  DSV4MX_RETURN_IF(h.slab_bytes == 0 || h.slab_bytes > INT64_MAX / kSnapshotMaxExperts ||
                       h.piece_bytes < kSnapshotMinPiece || h.piece_bytes > kSnapshotMaxPiece,
                   kCode,
                   "%s: the header has slabs of %" PRIu64 " bytes in pieces of %" PRIu64
                   ", wanted pieces of %" PRIu64 "..%" PRIu64,
                   label.c_str(), h.slab_bytes, h.piece_bytes, kSnapshotMinPiece,
                   kSnapshotMaxPiece);
  h.sections.resize(LoadLittle<uint32_t>(p + kSectionsAt));
  h.experts.resize(LoadLittle<uint32_t>(p + kExpertsAt));
  h.entries.resize(h.experts.size() * h.sections.size());
  const uint8_t* from = p + kSnapshotFixedBytes;
  for (SnapshotSection& s : h.sections) {
    s.kind = static_cast<SectionKind>(LoadLittle<uint32_t>(from));
    s.piece = LoadLittle<uint32_t>(from + 4);
    s.bytes = LoadLittle<uint64_t>(from + 8);
    from += kSnapshotPlanBytes;
  }
  for (SnapshotExpert& e : h.experts) {
    e.id = LoadLittle<int32_t>(from);
    e.census = LoadCensus(from + 4);
    from += kSnapshotExpertBytes;
  }
  for (SnapshotEntry& e : h.entries) {
    e.offset = LoadLittle<uint64_t>(from);
    e.stored = LoadLittle<uint64_t>(from + 8);
    e.checksum = LoadLittle<uint64_t>(from + 16);
    e.codec = static_cast<Codec>(LoadLittle<uint32_t>(from + 24));
    from += kSnapshotEntryBytes;
  }
  DSV4MX_TRY(CheckPlan(label, h));
  DSV4MX_TRY(CheckExperts(label, h));
  DSV4MX_TRY(CheckTable(label, h, header_bytes));
  *out = std::move(h);
  return kOk;
}

}  // namespace dsv4mx::io
