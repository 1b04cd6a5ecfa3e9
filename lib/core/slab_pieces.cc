#include "lib/core/slab_pieces.h"

#include <algorithm>
#include <cstring>

namespace dsv4mx {
namespace {

// Stays in a core's own cache while it is read, checked and unpacked.
constexpr int64_t kPieceBytes = int64_t{2} << 20;
static_assert(kPieceBytes >= int64_t{io::kSnapshotMinPiece});

int KindOf(SlabPart part) {
  switch (part) {
    case SlabPart::kCodes:
      return static_cast<int>(io::SectionKind::kCodes);
    case SlabPart::kScales:
      return static_cast<int>(io::SectionKind::kScales);
    case SlabPart::kBias:
      return static_cast<int>(io::SectionKind::kBiases);
    case SlabPart::kDerived:
      break;
  }
  return -1;
}

}  // namespace

SlabPieces SlabPieces::Cut(const ExpertStore& store, int64_t piece_bytes) {
  SlabPieces cut;
  cut.piece_bytes_ = piece_bytes;
  const int64_t slab_bytes = store.Form().bytes;
  std::vector<io::Stretch> runs[io::kSectionKinds];  // of the piece that is being cut
  cut.begin_.push_back(0);
  const auto close = [&] {
    Piece& piece = cut.pieces_.back();
    int64_t gathered = 0;
    for (uint32_t kind = 0; kind < io::kSectionKinds; ++kind) {
      if (runs[kind].empty()) continue;
      int64_t bytes = 0;
      for (const io::Stretch& run : runs[kind]) bytes += run.bytes;
      cut.sections_.push_back({static_cast<io::SectionKind>(kind),
                               static_cast<uint32_t>(cut.pieces_.size() - 1),
                               static_cast<uint64_t>(bytes)});
      cut.stretches_.insert(cut.stretches_.end(), runs[kind].begin(), runs[kind].end());
      cut.begin_.push_back(cut.stretches_.size());
      cut.bytes_ += bytes;
      if (runs[kind].size() > 1) gathered += bytes;
      runs[kind].clear();
    }
    piece.end = cut.sections_.size();
    cut.most_gathered_ = std::max(cut.most_gathered_, gathered);
  };
  const auto open = [&](int64_t first) {
    cut.pieces_.push_back(
        {first, std::min(piece_bytes, slab_bytes - first), cut.sections_.size(), 0});
  };
  open(0);
  store.ForSlab([&](SlabPart part, int64_t offset, int64_t bytes) {
    while (bytes > 0) {
      const int64_t end = cut.pieces_.back().first + piece_bytes;
      if (offset == end) {
        close();
        open(end);
        continue;
      }
      const int64_t here = std::min(bytes, end - offset);
      if (const int kind = KindOf(part); kind >= 0) {
        std::vector<io::Stretch>& of_kind = runs[kind];
        const int64_t at = offset - cut.pieces_.back().first;
        if (!of_kind.empty() && of_kind.back().offset + of_kind.back().bytes == at) {
          of_kind.back().bytes += here;
        } else {
          of_kind.push_back({at, here});
        }
      }
      offset += here;
      bytes -= here;
    }
  });
  close();
  return cut;
}

Status SlabPieces::Cut(const ExpertStore& store, size_t experts, SlabPieces* out) {
  for (int64_t bytes = kPieceBytes; bytes <= int64_t{io::kSnapshotMaxPiece}; bytes *= 2) {
    *out = Cut(store, bytes);
    if (out->sections_.size() * experts <= io::kSnapshotMaxEntries) return kOk;
  }
  return Fail(DSV4MX_STATUS_UNSUPPORTED,
              "%zu experts of %lld bytes are too many for one snapshot, wanted fewer: a part of "
              "the experts in each file",
              experts, static_cast<long long>(store.Form().bytes));
}

int64_t SlabPieces::Place(size_t section) const {
  const absl::Span<const io::Stretch> all = Stretches(section);
  return all.size() == 1 ? all[0].offset : -1;
}

void SlabPieces::Gather(size_t section, const uint8_t* piece, uint8_t* to) const {
  for (const io::Stretch& s : Stretches(section)) {
    std::memcpy(to, piece + s.offset, static_cast<size_t>(s.bytes));
    to += s.bytes;
  }
}

void SlabPieces::Scatter(size_t section, const uint8_t* from, uint8_t* piece) const {
  for (const io::Stretch& s : Stretches(section)) {
    std::memcpy(piece + s.offset, from, static_cast<size_t>(s.bytes));
    from += s.bytes;
  }
}

}  // namespace dsv4mx
