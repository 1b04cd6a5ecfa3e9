// From prepared weights to a file. Threads take pieces of slabs, compress what is worth it, and write; where a section stands
// follows from the lengths before it, so that equal weights give equal files.
#include <absl/types/span.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "lib/base/carver.h"
#include "lib/base/crew.h"
#include "lib/core/slab_pieces.h"
#include "lib/core/snapshot.h"
#include "lib/core/snapshot_work.h"
#include "lib/io/snapshot_writer.h"
#include "lib/io/xxh64.h"
#include "lib/io/zstd_codec.h"

namespace dsv4mx {
namespace {

// Scales shrink to a fifth or a quarter, and are a seventeenth of the bytes. Codes would give up 4 % to 11 %, and a core
// unpacks them slower than a disk reads them. (Figures: tests/bench/results/snapshot-compression.json.)
constexpr int kLevel = 3;  // 1 writes no faster and reads slower, higher ones find a percent more
bool Compresses(io::SectionKind kind) {
  return kind == io::SectionKind::kScales;
}
// A frame that saves less than this share is not worth a reader's time.
constexpr uint64_t kWorthwhile = 16;

// The first copy of each expert, by its number in the whole layer.
struct Held {
  int32_t id, local;
};
std::vector<Held> HeldOf(const Placement& placement) {
  std::vector<Held> held;
  held.reserve(static_cast<size_t>(placement.experts));
  for (int32_t local = 0; local < placement.experts; ++local) {
    held.push_back({placement.ExpertAt(local), local});
  }
  std::stable_sort(held.begin(), held.end(),
                   [](const Held& a, const Held& b) { return a.id < b.id; });
  held.erase(std::unique(held.begin(), held.end(),
                         [](const Held& a, const Held& b) { return a.id == b.id; }),
             held.end());
  return held;
}

io::SnapshotHeader HeaderOf(const Weights& weights, const SlabPieces& cut,
                            const std::vector<Held>& held) {
  io::SnapshotHeader header;
  const SlabForm form = weights.store().Form();
  dsv4mx_context_info device{};
  weights.layer().context().backend().Query(&device);
  header.layout = form.layout;
  header.slab_id = form.id;
  header.slab_bytes = static_cast<uint64_t>(form.bytes);
  header.piece_bytes = static_cast<uint64_t>(cut.piece_bytes());
  header.device = device.device;
  header.census = *weights.census();
  header.layer = DescOf(weights.layer().spec());
  header.layer.expert_first = held.front().id;
  header.layer.experts = static_cast<int32_t>(held.size());
  header.sections = cut.sections();
  for (const Held& h : held) header.experts.push_back({h.id, weights.expert_census(h.local)});
  header.entries.resize(held.size() * cut.sections().size());
  return header;
}

class Saving {
 public:
  Saving(const Weights& weights, const SlabPieces& cut, const std::vector<Held>& held, int level,
         const Weights::Call& call)
      : weights_(weights),
        cut_(cut),
        held_(held),
        level_(level),
        call_(call),
        memory_(&weights.layer().context().backend()),
        on_device_(weights.store().SlabMemory() != DSV4MX_MEMORY_HOST),
        ahead_(on_device_ ? kCopiesAhead : 1),
        header_(HeaderOf(weights, cut, held)) {
    end_ = io::SnapshotHeaderBytes(held.size(), cut.sections().size());
    for (const io::SnapshotSection& section : cut.sections()) {
      if (Compresses(section.kind)) most_encoded_ = std::max(most_encoded_, section.bytes);
    }
    if (level_ < 0) most_encoded_ = 0;
  }

  Status Run(const std::string& path, int threads) {
    const auto pieces = static_cast<int64_t>(held_.size() * cut_.pieces().size());
    const int64_t items = (pieces + ahead_ - 1) / ahead_;
    threads = SnapshotThreads(weights_.layer().context().backend(), threads,
                              static_cast<size_t>(items), Lay(nullptr).bytes);
    const int64_t header_bytes = static_cast<int64_t>(end_);
    const int64_t total = header_bytes + cut_.bytes() * static_cast<int64_t>(held_.size());
    DSV4MX_TRY(call_.control.Report(DSV4MX_STAGE_SAVE, 0, total));
    DSV4MX_TRY(io::SnapshotWriter::Create(path, &writer_));
    DSV4MX_TRY(memory_.Alloc(threads, Lay(nullptr).bytes));
    const auto tick = [&] { return call_.control.Report(DSV4MX_STAGE_SAVE, done_.load(), total); };
    if (on_device_) {
      DSV4MX_TRY(weights_.store().MakeSlabCopies(threads * ahead_, call_, &copies_));
    }
    Crew sections;
    DSV4MX_TRY(sections.Run(
        threads, items,
        [&](int64_t item, int worker) -> Status {
          const int64_t end = std::min((item + 1) * ahead_, pieces);
          return SavePieces(&sections, item * ahead_, end, worker);
        },
        tick));
    if (on_device_) DSV4MX_TRY(copies_->End());
    DSV4MX_TRY(memory_.Free());
    // Waiting for the disk takes as long as it takes.
    header_.file_bytes = end_;
    const std::vector<uint8_t> header = io::EncodeSnapshotHeader(header_);
    Crew last;
    DSV4MX_TRY(last.Run(
        1, 1, [&](int64_t, int) { return writer_->Complete(header, end_); }, tick));
    DSV4MX_TRY(tick());  // the last chance to end it
    DSV4MX_TRY(writer_->Publish());
    // Nobody can take back what is there: what the callback says counts no more.
    const KeepError keep;
    if (!call_.control.Report(DSV4MX_STAGE_SAVE, total, total).ok()) keep.Restore();
    return kOk;
  }

 private:
  // A thread's memory.
  struct Memory {
    uint8_t *slab, *gathered, *encoded, *encoder;
    size_t bytes;
  };
  Memory Lay(uint8_t* block) const {
    Carver carver(block);
    Memory m{};
    m.slab = carver.Take<uint8_t>(on_device_ ? ahead_ * PieceBytes() : 0);
    m.gathered = carver.Take<uint8_t>(cut_.most_gathered());
    m.encoded = carver.Take<uint8_t>(static_cast<int64_t>(most_encoded_));
    m.encoder = carver.Take<uint8_t>(
        most_encoded_ == 0
            ? 0
            : static_cast<int64_t>(io::ZstdEncoder::MemoryBytes(level_, most_encoded_)));
    m.bytes = carver.bytes();
    return m;
  }

  int64_t PieceBytes() const {
    return std::min<int64_t>(cut_.piece_bytes(), weights_.store().Form().bytes);
  }

  // The bytes of a section, and where they are.
  struct Stored {
    const uint8_t* data;
    io::SnapshotEntry* entry;
  };

  void Encode(size_t section, const uint8_t* raw, const Memory& memory, Stored* stored) const {
    io::SnapshotEntry& entry = *stored->entry;
    const uint64_t bytes = cut_.sections()[section].bytes;
    entry.codec = io::Codec::kRaw;
    entry.stored = bytes;
    stored->data = raw;
    if (level_ > 0 && Compresses(cut_.sections()[section].kind)) {
      const uint64_t room = bytes - bytes / kWorthwhile;
      io::ZstdEncoder encoder(level_, most_encoded_, memory.encoder);
      const size_t frame = encoder.Encode(raw, static_cast<size_t>(bytes), memory.encoded,
                                          static_cast<size_t>(room));
      if (frame != 0 && frame < bytes) {
        entry.codec = io::Codec::kZstd;
        entry.stored = frame;
        stored->data = memory.encoded;
      }
    }
    io::Xxh64 sum;
    sum.Add(stored->data, static_cast<size_t>(entry.stored));
    sum.AddZeros(static_cast<size_t>(io::SnapshotAligned(entry.stored) - entry.stored));
    entry.checksum = sum.Sum();
  }

  // A piece of an expert, by its number in the file.
  struct PieceOf {
    size_t expert;
    const SlabPieces::Piece* piece;
  };
  PieceOf At(int64_t number) const {
    const auto pieces = static_cast<int64_t>(cut_.pieces().size());
    return {static_cast<size_t>(number / pieces),
            &cut_.pieces()[static_cast<size_t>(number % pieces)]};
  }

  // Pieces [begin, end), at most ahead_: of what a device holds all are on their way before the first is worked on.
  Status SavePieces(Crew* crew, int64_t begin, int64_t end, int worker) {
    const Memory memory = Lay(memory_.At(worker));
    const int first = worker * ahead_;
    if (on_device_) {
      DSV4MX_TRY(crew->OnOwner([&]() -> Status {
        for (int64_t i = begin; i < end; ++i) {
          const PieceOf of = At(i);
          const auto buffer = static_cast<int>(i - begin);
          DSV4MX_TRY(copies_->Read(first + buffer, held_[of.expert].local, of.piece->first,
                                   of.piece->bytes, memory.slab + buffer * PieceBytes()));
        }
        return kOk;
      }));
    }
    for (int64_t i = begin; i < end; ++i) {
      const PieceOf of = At(i);
      const auto buffer = static_cast<int>(i - begin);
      const uint8_t* slab = memory.slab + buffer * PieceBytes();
      if (on_device_) {
        DSV4MX_TRY(crew->OnOwner([&] { return copies_->Wait(first + buffer); }));
      } else {
        slab = weights_.store().Slab(held_[of.expert].local) + of.piece->first;
      }
      DSV4MX_TRY(SavePiece(crew, i, slab, memory));
    }
    return kOk;
  }

  Status SavePiece(Crew* crew, int64_t number, const uint8_t* slab, const Memory& memory) {
    const size_t expert = At(number).expert;
    const SlabPieces::Piece& piece = *At(number).piece;
    uint8_t* gathered = memory.gathered;
    Stored stored[io::kSectionKinds];
    size_t count = 0;
    int64_t raw_bytes = 0;
    for (size_t s = piece.begin; s < piece.end; ++s) {
      const auto bytes = static_cast<int64_t>(cut_.sections()[s].bytes);
      const int64_t place = cut_.Place(s);
      const uint8_t* raw = slab + place;
      if (place < 0) {
        cut_.Gather(s, slab, gathered);
        raw = gathered;
        gathered += bytes;
      }
      stored[count] = {nullptr, &header_.entries[expert * cut_.sections().size() + s]};
      Encode(s, raw, memory, &stored[count++]);
      raw_bytes += bytes;
    }
    DSV4MX_TRY(crew->InOrder(number, [&] {
      for (size_t i = 0; i < count; ++i) {
        stored[i].entry->offset = end_;
        end_ += io::SnapshotAligned(stored[i].entry->stored);
      }
      return kOk;
    }));
    for (size_t i = 0; i < count; ++i) {
      DSV4MX_TRY(writer_->Write(stored[i].entry->offset, stored[i].data,
                                static_cast<size_t>(stored[i].entry->stored)));
    }
    done_ += raw_bytes;
    return kOk;
  }

  const Weights& weights_;
  const SlabPieces& cut_;
  const std::vector<Held>& held_;
  int level_;
  const Weights::Call& call_;
  ThreadMemory memory_;
  bool on_device_;
  int ahead_;                           // pieces that a thread has on their way
  std::unique_ptr<SlabCopies> copies_;  // goes before the memory
  uint64_t most_encoded_ = 0;
  io::SnapshotHeader header_;
  std::unique_ptr<io::SnapshotWriter> writer_;
  uint64_t end_ = 0;  // of what has its place
  std::atomic<int64_t> done_{0};
};

}  // namespace

Status SaveSnapshot(const Weights& weights, const std::string& path, const SnapshotOptions& options,
                    const Weights::Call& call) {
  DSV4MX_RETURN_IF(weights.census() == nullptr, DSV4MX_STATUS_INVALID_STATE,
                   "the weights are not prepared, wanted dsv4mx_weights_prepare before a snapshot");
  const std::vector<Held> held = HeldOf(weights.layer().spec().placement);
  SlabPieces cut;
  DSV4MX_TRY(SlabPieces::Cut(weights.store(), held.size(), &cut));
  Saving saving(weights, cut, held, options.level == 0 ? kLevel : options.level, call);
  return saving.Run(path, options.threads);
}

}  // namespace dsv4mx
