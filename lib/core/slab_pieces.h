// A slab cut for a file (lib/io/snapshot_format.h): pieces of one size, and in each the stretches of a kind that make one
// section. Where the kinds of a piece lie among each other, a section is gathered from its stretches and scattered to them.
#ifndef DSV4MX_LIB_CORE_SLAB_PIECES_H_
#define DSV4MX_LIB_CORE_SLAB_PIECES_H_

#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lib/base/backend.h"
#include "lib/base/status.h"
#include "lib/io/snapshot_format.h"
#include "lib/io/snapshot_reader.h"

namespace dsv4mx {

class SlabPieces {
 public:
  // Bytes [first, first + bytes) of a slab, of which sections [begin, end) hold what is not derived.
  struct Piece {
    int64_t first, bytes;
    size_t begin, end;
  };

  // In pieces of `piece_bytes` bytes.
  static SlabPieces Cut(const ExpertStore& store, int64_t piece_bytes);
  // In pieces that suit a file of so many experts: small, and not too many. UNSUPPORTED where both is not to be had.
  static Status Cut(const ExpertStore& store, size_t experts, SlabPieces* out);

  int64_t piece_bytes() const { return piece_bytes_; }
  const std::vector<Piece>& pieces() const { return pieces_; }
  const std::vector<io::SnapshotSection>& sections() const { return sections_; }
  int64_t bytes() const { return bytes_; }  // of all sections

  // Where in its piece a section stands.
  absl::Span<const io::Stretch> Stretches(size_t section) const {
    return absl::MakeConstSpan(stretches_.data() + begin_[section],
                               begin_[section + 1] - begin_[section]);
  }
  // Where it begins, if it lies there as one; else -1.
  int64_t Place(size_t section) const;
  // Most bytes of the sections of a piece that do not.
  int64_t most_gathered() const { return most_gathered_; }
  // Between a section's bytes and those of its piece.
  void Gather(size_t section, const uint8_t* piece, uint8_t* to) const;
  void Scatter(size_t section, const uint8_t* from, uint8_t* piece) const;

 private:
  int64_t piece_bytes_ = 0, bytes_ = 0, most_gathered_ = 0;
  std::vector<Piece> pieces_;
  std::vector<io::SnapshotSection> sections_;
  std::vector<size_t> begin_;  // of each section, and the end of the last one
  std::vector<io::Stretch> stretches_;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_SLAB_PIECES_H_
