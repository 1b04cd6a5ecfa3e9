// From a file to prepared weights. Threads take pieces of slabs: read, check, unpack, and put them where they belong; what is
// derived is made anew by prepare, whose census must be the file's.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/base/carver.h"
#include "lib/base/crew.h"
#include "lib/base/printable.h"
#include "lib/base/text.h"
#include "lib/core/slab_pieces.h"
#include "lib/core/snapshot.h"
#include "lib/core/snapshot_work.h"
#include "lib/io/snapshot_reader.h"

namespace dsv4mx {
namespace {

using io::SnapshotHeader;

// The layout by its name first: what a CPU prepared is nothing to a GPU, whatever its shape.
Status CheckForm(const io::SnapshotReader& file, const LayerSpec& spec, const SlabForm& form) {
  const SnapshotHeader& h = file.header();
  const char* label = file.label().c_str();
  DSV4MX_RETURN_IF(h.layout != form.layout, DSV4MX_STATUS_UNSUPPORTED,
                   "%s: its experts are in the layout '%s', wanted '%s': save a snapshot anew, of "
                   "weights that were prepared for this device by this version",
                   label, h.layout.c_str(), form.layout);
  const struct {
    const char* name;
    int32_t got, wanted;
  } sizes[] = {{"hidden", h.layer.hidden, spec.hidden},
               {"intermediate", h.layer.intermediate, spec.intermediate_global},
               {"intermediate_first", h.layer.intermediate_first, spec.intermediate_first},
               {"intermediate_count", h.layer.intermediate_count, spec.intermediate},
               {"experts_global", h.layer.experts_global, spec.placement.experts_global},
               {"a w13 bias", h.layer.w13_bias != 0, spec.w13_bias != 0},
               {"a w2 bias here", h.layer.w2_bias != 0 && h.layer.tp_rank == 0, spec.w2_bias != 0}};
  for (const auto& size : sizes) {
    DSV4MX_RETURN_IF(size.got != size.wanted, DSV4MX_STATUS_INVALID_TENSOR,
                     "%s: its layer has %s = %d, wanted %d", label, size.name, size.got,
                     size.wanted);
  }
  DSV4MX_RETURN_IF(
      h.slab_id != form.id || h.slab_bytes != static_cast<uint64_t>(form.bytes),
      DSV4MX_STATUS_UNSUPPORTED,
      "%s: its slabs are of form %016llx and %llu bytes, wanted %016llx and %lld: save a "
      "snapshot anew",
      label, static_cast<unsigned long long>(h.slab_id),
      static_cast<unsigned long long>(h.slab_bytes), static_cast<unsigned long long>(form.id),
      static_cast<long long>(form.bytes));
  return kOk;
}

Status CheckPlan(const io::SnapshotReader& file, const SlabPieces& cut) {
  const std::vector<io::SnapshotSection>& wanted = cut.sections();
  const std::vector<io::SnapshotSection>& got = file.header().sections;
  const bool same =
      std::equal(got.begin(), got.end(), wanted.begin(), wanted.end(),
                 [](const io::SnapshotSection& a, const io::SnapshotSection& b) {
                   return a.kind == b.kind && a.piece == b.piece && a.bytes == b.bytes;
                 });
  DSV4MX_RETURN_IF(!same, DSV4MX_STATUS_FORMAT_ERROR,
                   "%s: its header's %zu sections of an expert are not the %zu of the layout '%s'",
                   file.label().c_str(), got.size(), wanted.size(), file.header().layout.c_str());
  return kOk;
}

// Weights are the same whatever is computed with them; but a clamp that was forgotten gives fluent nonsense.
void WarnOfSemantics(const io::SnapshotReader& file, const Layer& layer) {
  const dsv4mx_layer_desc& saved = file.header().layer;
  const dsv4mx_layer_desc here = DescOf(layer.spec());
  const struct {
    const char* name;
    double saved, here;
  } fields[] = {{"activation", double(saved.activation), double(here.activation)},
                {"clamp_limit", saved.clamp_limit, here.clamp_limit},
                {"activation_alpha", saved.activation_alpha, here.activation_alpha},
                {"activation_beta", saved.activation_beta, here.activation_beta},
                {"situ_beta", saved.situ_beta, here.situ_beta},
                {"situ_linear_beta", saved.situ_linear_beta, here.situ_linear_beta},
                {"router_weight_position", double(saved.router_weight_position),
                 double(here.router_weight_position)},
                {"routed_scaling_factor", saved.routed_scaling_factor, here.routed_scaling_factor},
                {"top_k", double(saved.top_k), double(here.top_k)}};
  for (const auto& field : fields) {
    if (field.saved == field.here) continue;
    layer.context().Log(
        DSV4MX_LOG_WARNING, "%s was saved from a layer whose %s is %s; here it is %s",
        file.label().c_str(), field.name, Text(static_cast<float>(field.saved)).text,
        Text(static_cast<float>(field.here)).text);
  }
}

// Where an expert of the file goes: its copies here.
struct Target {
  size_t expert;
  std::vector<int32_t> locals;
};

Status FindTargets(const io::SnapshotReader& file, const Placement& placement,
                   std::vector<Target>* targets) {
  const SnapshotHeader& h = file.header();
  std::vector<std::vector<int32_t>> locals(h.experts.size());
  std::vector<int64_t> missing;
  for (int32_t local = 0; local < placement.experts; ++local) {
    const int32_t id = placement.ExpertAt(local);
    const size_t at = h.Find(id);
    if (at < locals.size()) {
      locals[at].push_back(local);
    } else {
      missing.push_back(id);
    }
  }
  if (!missing.empty()) {
    std::sort(missing.begin(), missing.end());
    missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
    std::vector<int64_t> has;
    has.reserve(h.experts.size());
    for (const io::SnapshotExpert& e : h.experts) has.push_back(e.id);
    return Fail(DSV4MX_STATUS_NOT_FOUND,
                "%s: has no experts %s of the layer, which are held here; it has %s",
                file.label().c_str(), Ranges(missing).c_str(), Ranges(has).c_str());
  }
  for (size_t e = 0; e < locals.size(); ++e) {
    if (!locals[e].empty()) targets->push_back({e, std::move(locals[e])});
  }
  return kOk;
}

class Restoring {
 public:
  Restoring(const io::SnapshotReader& file, const SlabPieces& cut,
            const std::vector<Target>& targets, const Backend& backend, ExpertStore* store,
            const Weights::Call& call)
      : file_(file),
        cut_(cut),
        targets_(targets),
        backend_(backend),
        store_(store),
        call_(call),
        memory_(&backend),
        on_device_(store->SlabMemory() != DSV4MX_MEMORY_HOST) {
    for (const SlabPieces::Piece& piece : cut.pieces()) {
      for (size_t s = piece.begin; s < piece.end; ++s) {
        const bool all = std::all_of(targets.begin(), targets.end(),
                                     [&](const Target& t) { return Straight(t.expert, s); });
        if (!all) most_gathered_ = std::max(most_gathered_, SectionBytes(s));
      }
    }
  }

  Status Run(int threads) {
    const size_t items = targets_.size() * cut_.pieces().size();
    const size_t bytes = Lay(nullptr).bytes;
    threads = SnapshotThreads(backend_, threads, items, bytes);
    const int64_t total = cut_.bytes() * static_cast<int64_t>(targets_.size());
    DSV4MX_TRY(call_.control.Report(DSV4MX_STAGE_LOAD, 0, total));
    DSV4MX_TRY(memory_.Alloc(threads, bytes));
    if (on_device_) {
      buffers_ = std::vector<Buffer>(static_cast<size_t>(threads) * kCopiesAhead);
      turns_.assign(static_cast<size_t>(threads), 0);
      posted_.reserve(buffers_.size());
      taken_.reserve(buffers_.size());
      sending_.reserve(buffers_.size());
      DSV4MX_TRY(store_->MakeSlabCopies(threads * kCopiesAhead, call_, &copies_));
    }
    const auto poll = [&](bool* busy) { return on_device_ ? Attend(busy) : kOk; };
    DSV4MX_TRY(crew_.Run(
        threads, static_cast<int64_t>(items),
        [&](int64_t item, int worker) { return RestorePiece(item, worker); },
        [&] { return call_.control.Report(DSV4MX_STAGE_LOAD, done_.load(), total); }, poll));
    if (on_device_) {
      bool busy = true;
      DSV4MX_TRY(Attend(&busy));  // what came last
      DSV4MX_TRY(copies_->End());
    }
    DSV4MX_TRY(memory_.Free());
    return call_.control.Report(DSV4MX_STAGE_LOAD, total, total);
  }

 private:
  // A thread's memory.
  struct Memory {
    uint8_t *slab, *gathered, *scratch;
    size_t bytes;
  };
  // A piece on its way to the device: kCopiesAhead for each thread, which fills one while others are copied.
  struct Buffer {
    std::atomic<bool> free{true};
    const Target* target = nullptr;
    const SlabPieces::Piece* piece = nullptr;
    const uint8_t* slab = nullptr;
  };

  // Below that a stretch is not worth a read of its own.
  static constexpr int64_t kLeastStretch = int64_t{16} << 10;
  int64_t SectionBytes(size_t section) const {
    return static_cast<int64_t>(cut_.sections()[section].bytes);
  }
  // Whether a section is read to its place. Others are gathered bytes that are put there.
  bool Straight(size_t expert, size_t section) const {
    const auto stretches = static_cast<int64_t>(cut_.Stretches(section).size());
    return stretches == 1 ||
           (file_.IsRaw(expert, section) && SectionBytes(section) >= stretches * kLeastStretch);
  }

  Memory Lay(uint8_t* block) const {
    Carver carver(block);
    Memory m{};
    m.slab = carver.Take<uint8_t>(on_device_ ? kCopiesAhead * PieceBytes() : 0);
    m.gathered = carver.Take<uint8_t>(most_gathered_);
    m.scratch = carver.Take<uint8_t>(static_cast<int64_t>(file_.ScratchBytes()));
    m.bytes = carver.bytes();
    return m;
  }

  int64_t PieceBytes() const { return std::min<int64_t>(cut_.piece_bytes(), store_->Form().bytes); }

  // Bytes 255 are NaN, which no kernel asks for.
  Status CheckScales(size_t expert, size_t section, const uint8_t* at,
                     absl::Span<const io::Stretch> stretches) const {
    if (cut_.sections()[section].kind != io::SectionKind::kScales) return kOk;
    for (const io::Stretch& s : stretches) {
      DSV4MX_RETURN_IF(std::memchr(at + s.offset, 255, static_cast<size_t>(s.bytes)) != nullptr,
                       DSV4MX_STATUS_INVALID_SCALE,
                       "%s: %s: has scale byte 255 (NaN), wanted 0..254", file_.label().c_str(),
                       file_.header().Name(expert, section).c_str());
    }
    return kOk;
  }

  Status ReadSection(size_t expert, size_t section, uint8_t* slab, const Memory& memory) const {
    if (Straight(expert, section)) {
      const absl::Span<const io::Stretch> places = cut_.Stretches(section);
      DSV4MX_TRY(file_.Read(expert, section, slab, places, memory.scratch));
      return CheckScales(expert, section, slab, places);
    }
    DSV4MX_TRY(file_.Read(expert, section, memory.gathered, memory.scratch));
    const io::Stretch all{0, SectionBytes(section)};
    DSV4MX_TRY(CheckScales(expert, section, memory.gathered, absl::MakeConstSpan(&all, 1)));
    cut_.Scatter(section, memory.gathered, slab);
    return kOk;
  }

  Status RestorePiece(int64_t item, int worker) {
    const auto pieces = static_cast<int64_t>(cut_.pieces().size());
    const Target& target = targets_[static_cast<size_t>(item / pieces)];
    const SlabPieces::Piece& piece = cut_.pieces()[static_cast<size_t>(item % pieces)];
    if (piece.begin == piece.end) return kOk;
    const Memory memory = Lay(memory_.At(worker));
    uint8_t* slab = nullptr;
    Buffer* buffer = nullptr;
    if (on_device_) {
      const int turn = turns_[static_cast<size_t>(worker)]++ % kCopiesAhead;
      buffer = &buffers_[static_cast<size_t>(worker) * kCopiesAhead + static_cast<size_t>(turn)];
      slab = memory.slab + turn * PieceBytes();
      DSV4MX_TRY(crew_.Await(item, [&] { return buffer->free.load(); }));
    } else {
      slab = store_->HostSlab(target.locals[0]) + piece.first;
    }
    int64_t raw_bytes = 0;
    for (size_t s = piece.begin; s < piece.end; ++s) {
      DSV4MX_TRY(ReadSection(target.expert, s, slab, memory));
      raw_bytes += SectionBytes(s);
    }
    if (on_device_) {
      buffer->target = &target;
      buffer->piece = &piece;
      buffer->slab = slab;
      buffer->free = false;
      {
        const std::lock_guard<std::mutex> lock(posting_);
        posted_.push_back(buffer);  // there is room
      }
      crew_.Wake();
    } else {
      for (size_t i = 1; i < target.locals.size(); ++i) {
        std::memcpy(store_->HostSlab(target.locals[i]) + piece.first, slab,
                    static_cast<size_t>(piece.bytes));
      }
    }
    done_ += raw_bytes;
    return kOk;
  }

  // The owner, again and again: starts copies of what is full, and gives buffers back whose copies are done. It waits for none,
  // and stays awake for a while when there is nothing to do: waking it takes as long as a part of a copy.
  Status Attend(bool* busy) {
    constexpr auto kPatience = std::chrono::milliseconds(1);
    constexpr auto kYieldAfter = std::chrono::microseconds(50);
    {
      const std::lock_guard<std::mutex> lock(posting_);
      taken_.swap(posted_);
    }
    bool news = !taken_.empty();
    for (Buffer* buffer : taken_) {
      const auto number = static_cast<int>(buffer - buffers_.data());
      for (const int32_t local : buffer->target->locals) {
        DSV4MX_TRY(copies_->Write(number, local, buffer->piece->first, buffer->piece->bytes,
                                  buffer->slab));
      }
      sending_.push_back(buffer);
    }
    taken_.clear();
    size_t done = 0;  // copies end in the order in which they began
    for (bool is_done = true; done < sending_.size(); ++done) {
      DSV4MX_TRY(copies_->IsDone(static_cast<int>(sending_[done] - buffers_.data()), &is_done));
      if (!is_done) break;
      sending_[done]->free = true;
    }
    sending_.erase(sending_.begin(), sending_.begin() + static_cast<std::ptrdiff_t>(done));
    if (done > 0) crew_.Changed();
    news = news || done > 0;
    const auto now = std::chrono::steady_clock::now();
    if (news) {
      last_ = now;
    } else if (now - last_ > kYieldAfter) {
      std::this_thread::yield();
    }
    *busy = !sending_.empty() || now - last_ < kPatience;
    return kOk;
  }

  const io::SnapshotReader& file_;
  const SlabPieces& cut_;
  const std::vector<Target>& targets_;
  const Backend& backend_;
  ExpertStore* store_;
  const Weights::Call& call_;
  ThreadMemory memory_;
  bool on_device_;
  int64_t most_gathered_ = 0;
  std::vector<Buffer> buffers_;
  std::vector<int> turns_;              // of each thread
  std::unique_ptr<SlabCopies> copies_;  // goes before the memory
  std::mutex posting_;
  std::vector<Buffer*> posted_;  // full, and no copy begun
  // The owner's.
  std::vector<Buffer*> taken_, sending_;
  std::chrono::steady_clock::time_point last_{};
  std::atomic<int64_t> done_{0};
  Crew crew_;
};

Status CheckCensus(const io::SnapshotReader& file, const std::vector<Target>& targets,
                   const Weights& weights) {
  for (const Target& target : targets) {
    const io::SnapshotExpert& saved = file.header().experts[target.expert];
    for (const int32_t local : target.locals) {
      const Census& found = weights.expert_census(local);
      DSV4MX_RETURN_IF(!io::SameCensus(found, saved.census), DSV4MX_STATUS_FORMAT_ERROR,
                       "%s: expert %d has scales %d..%d, but the header says %d..%d",
                       file.label().c_str(), saved.id, found.scale_min, found.scale_max,
                       saved.census.scale_min, saved.census.scale_max);
    }
  }
  return kOk;
}

}  // namespace

Status RestoreSnapshot(Weights* weights, const std::string& path, const SnapshotOptions& options,
                       const Weights::Call& call) {
  DSV4MX_TRY(weights->CheckEmpty("a snapshot was restored"));
  const Layer& layer = weights->layer();
  const LayerSpec& spec = layer.spec();
  std::unique_ptr<io::SnapshotReader> file;
  DSV4MX_TRY(io::SnapshotReader::Open(path, &file));
  DSV4MX_TRY(CheckForm(*file, spec, weights->store().Form()));
  const SlabPieces cut =
      SlabPieces::Cut(weights->store(), static_cast<int64_t>(file->header().piece_bytes));
  DSV4MX_TRY(CheckPlan(*file, cut));
  std::vector<Target> targets;
  DSV4MX_TRY(FindTargets(*file, spec.placement, &targets));
  WarnOfSemantics(*file, layer);
  return weights->Restore(
      [&](ExpertStore* store) {
        return Restoring(*file, cut, targets, layer.context().backend(), store, call)
            .Run(options.threads);
      },
      [&] { return CheckCensus(*file, targets, *weights); }, call);
}

}  // namespace dsv4mx
