// Snapshots that are damaged or made to harm: every bit counts, nothing is allocated or waited for on the word of a file, and
// after a refusal the weights are empty and take a good file.
#include <sys/resource.h>
#include <zstd.h>

#include <chrono>
#include <cstring>
#include <functional>

#include "lib/api/handles.h"
#include "lib/core/slab_pieces.h"
#include "lib/io/snapshot_format.h"
#include "lib/io/xxh64.h"
#include "tests/catch.h"
#include "tests/file_faults.h"
#include "tests/random.h"
#include "tests/run_seed.h"
#include "tests/snapshot_cases.h"

namespace dsv4mx::test {
namespace {

using io::Codec;
using io::SectionKind;
using io::SnapshotHeader;

// A layer and its snapshot as bytes.
class Victim {
 public:
  explicit Victim(const char* problem, int32_t level = 0)
      : case_(MakeCase(problem)), run_(case_), path_(folder_ / "file.snapshot") {
    Save(run_.weights(), path_, 2, level);
    good_ = ReadFile(path_);
    layer_ = MakeLayer(run_.context(), DescOf(case_));
    weights_ = MakeWeights(layer_.get());
  }
  const std::string& good() const { return good_; }
  const std::string& path() const { return path_; }
  dsv4mx_weights* weights() { return weights_.get(); }

  SnapshotHeader Header() const {
    SnapshotHeader header;
    const std::vector<uint8_t> bytes = HeaderBytes(good_);
    if (!io::DecodeSnapshotHeader("good", bytes, good_.size(), &header).ok()) {
      throw std::runtime_error(dsv4mx_last_error());
    }
    return header;
  }
  // The file with another header before the same sections.
  std::string With(const SnapshotHeader& header) const {
    const std::vector<uint8_t> bytes = io::EncodeSnapshotHeader(header);
    return std::string(bytes.begin(), bytes.end()) + good_.substr(HeaderBytes(good_).size());
  }

  dsv4mx_status Query() {
    dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
    dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
    return dsv4mx_snapshot_query(path_.c_str(), &info, &desc);
  }
  // The status of restoring a file of these bytes; the weights are seen to be empty after a failure.
  dsv4mx_status Try(const std::string& bytes, int32_t threads = 2) {
    WriteFile(path_, bytes);
    const dsv4mx_status status = Restore(weights_.get(), path_, threads);
    if (status == DSV4MX_STATUS_OK) {
      weights_ = MakeWeights(layer_.get());
    } else if (StateOf(weights_.get()) != DSV4MX_WEIGHTS_EMPTY) {
      throw std::runtime_error("the weights are not empty");
    }
    return status;
  }
  // The good file still gives the layer, into the weights that met all the others.
  void CheckUsable() {
    WriteFile(path_, good_);
    REQUIRE_OK(Restore(weights_.get(), path_));
    CHECK(CheckSame(run_.Apply(), ApplyGuarded(run_.context(), layer_.get(), weights_.get(),
                                               case_.p, case_.in)) == "");
    weights_ = MakeWeights(layer_.get());
  }

 private:
  static std::vector<uint8_t> HeaderBytes(const std::string& file) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, file.data() + 16, 8);
    return {file.begin(), file.begin() + static_cast<std::ptrdiff_t>(bytes)};
  }

  TempFolder folder_;
  Case case_;
  Runner run_;
  std::string path_, good_;
  LayerPtr layer_;
  WeightsPtr weights_;
};

TEST_CASE("a flipped bit in any byte of a snapshot's header is refused", "[snapshot]") {
  Victim victim("h=64 i=32 e=2 k=1 m=2 order=gate_up bias=1");
  std::string bytes = victim.good();
  Rng random(SeedOf("header"));
  uint64_t header = 0;
  std::memcpy(&header, bytes.data() + 16, 8);
  REQUIRE(header == 4096);
  for (size_t at = 0; at < header; ++at) {
    const char before = bytes[at];
    bytes[at] = static_cast<char>(before ^ 1 << random.Next() % 8);
    const dsv4mx_status status = victim.Try(bytes, 1);
    INFO(at << ": " << dsv4mx_last_error());
    REQUIRE((status == DSV4MX_STATUS_FORMAT_ERROR || status == DSV4MX_STATUS_UNSUPPORTED));
    REQUIRE(MissingWords(dsv4mx_last_error(), "file.snapshot") == "");
    REQUIRE(victim.Query() == status);
    if (at < 8) REQUIRE(MissingWords(dsv4mx_last_error(), "magic") == "");
    if (at >= 8 && at < 12) REQUIRE(status == DSV4MX_STATUS_UNSUPPORTED);
    bytes[at] = before;
  }
  victim.CheckUsable();
}

TEST_CASE("a flipped bit in any section of a snapshot is refused by the section's name",
          "[snapshot]") {
  for (const int32_t level : {0, -1}) {
    Victim victim("h=1024 i=1024 e=3 k=1 m=2 order=gate_up bias=1", level);
    const SnapshotHeader header = victim.Header();
    CHECK(header.sections.size() == 3);
    std::string bytes = victim.good();
    Rng random(SeedOf("sections"));
    for (size_t e = 0; e < header.experts.size(); ++e) {
      for (size_t s = 0; s < header.sections.size(); ++s) {
        const io::SnapshotEntry& entry = header.At(e, s);
        const uint64_t length = io::SnapshotAligned(entry.stored);
        std::vector<uint64_t> places = {0, entry.stored - 1,
                                        length - 1};  // the zeros behind it too
        for (int i = 0; i < 5; ++i) places.push_back(random.Next() % length);
        for (const uint64_t place : places) {
          const size_t at = entry.offset + place;
          const char before = bytes[at];
          bytes[at] = static_cast<char>(before ^ 1 << random.Next() % 8);
          REQUIRE(victim.Try(bytes) == DSV4MX_STATUS_FORMAT_ERROR);
          REQUIRE(std::string(dsv4mx_last_error()).find(header.Name(e, s) + ": damaged") !=
                  std::string::npos);
          bytes[at] = before;
        }
      }
    }
    victim.CheckUsable();
  }
}

TEST_CASE("a snapshot that is cut off, too long, empty or no snapshot is refused", "[snapshot]") {
  Victim victim("h=128 i=64 e=3 k=1 m=2 order=gate_up");
  const std::string& good = victim.good();
  for (const size_t bytes :
       {size_t{0}, size_t{1}, size_t{8}, size_t{319}, size_t{320}, size_t{4095}, size_t{4096},
        size_t{4097}, good.size() / 2, good.size() - 4096, good.size() - 1}) {
    INFO(bytes);
    CHECK(victim.Try(good.substr(0, bytes)) == DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(victim.Query() == DSV4MX_STATUS_FORMAT_ERROR);
  }
  CHECK(victim.Try(good + 'x') == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(MissingWords(dsv4mx_last_error(), "its header says") == "");
  CHECK(victim.Try(good + std::string(4096, '\0')) == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(victim.Try(good + good) == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(victim.Try(std::string(100000, '\0')) == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(victim.Try(WithHeader("{}", std::string(1000, 'x'))) == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(MissingWords(dsv4mx_last_error(), "not a snapshot") == "");
  victim.CheckUsable();
}

// Sums of what the header's fixed part alone says, made right.
void FixHeader(std::string* file) {
  auto* p = reinterpret_cast<uint8_t*>(file->data());
  uint64_t bytes = 0;
  std::memcpy(&bytes, p + 16, 8);
  if (bytes < 320 || bytes > file->size()) return;
  std::memset(p + 32, 0, 8);
  const uint64_t sum = io::Xxh64Of(p, bytes);
  std::memcpy(p + 32, &sum, 8);
}

TEST_CASE("headers that say what cannot be are refused, in no time and no memory", "[snapshot]") {
  Victim victim("h=128 i=64 e=3 k=1 m=2 order=gate_up");
  const auto begin = std::chrono::steady_clock::now();
  struct rusage before {};
  getrusage(RUSAGE_SELF, &before);
  const auto refused = [&](const char* what, const std::function<void(SnapshotHeader*)>& change,
                           dsv4mx_status code = DSV4MX_STATUS_FORMAT_ERROR) {
    SnapshotHeader header = victim.Header();
    change(&header);
    const dsv4mx_status status = victim.Try(victim.With(header));
    INFO(what << ": " << dsv4mx_last_error());
    CHECK(status == code);
    (void)victim.Query();
  };
  using H = SnapshotHeader*;
  refused("overlap", [](H h) { h->entries[1].offset = h->entries[0].offset; });
  refused("in the header", [](H h) { h->entries[0].offset = 0; });
  refused("beyond the file", [](H h) { h->entries[2].offset = uint64_t{1} << 63; });
  refused("not aligned", [](H h) { h->entries[1].offset += 1; });
  refused("wrapping around", [](H h) { h->entries[1].stored = UINT64_MAX; });
  refused("wrapping around", [](H h) { h->entries[1].stored = UINT64_MAX - 4096; });
  refused("nothing", [](H h) { h->entries[1].stored = 0; });
  refused("raw of another length", [](H h) { h->entries[0].stored -= 1; });
  refused("zstd longer than raw", [](H h) {
    h->entries[0].codec = Codec::kZstd;
    h->entries[0].stored += 1;
  });
  refused("no codec", [](H h) { h->entries[0].codec = static_cast<Codec>(2); });
  refused("raw called zstd", [](H h) { h->entries[0].codec = Codec::kZstd; });
  refused("order of experts", [](H h) { std::swap(h->experts[0].id, h->experts[1].id); });
  refused("an expert twice", [](H h) { h->experts[1].id = h->experts[0].id; });
  refused("an expert below 0", [](H h) { h->experts[0].id = -1; });
  refused("an expert beyond all", [](H h) { h->experts[2].id = 3; });
  refused("a kind that there is not",
          [](H h) { h->sections[1].kind = static_cast<SectionKind>(3); });
  refused("kinds in another order",
          [](H h) { std::swap(h->sections[0].kind, h->sections[1].kind); });
  refused("a piece that there is not", [](H h) { h->sections[1].piece = 1; });
  refused("more than a slab", [](H h) { h->sections[0].bytes += h->slab_bytes; });
  refused("a huge section", [](H h) { h->sections[0].bytes = UINT64_MAX; });
  refused("other sections", [](H h) { h->sections[0].bytes -= 1, h->entries[0].stored -= 1; });
  refused("other sections in every expert", [](H h) {
    h->sections[0].bytes -= 1;
    for (size_t e = 0; e < h->experts.size(); ++e) h->entries[e * h->sections.size()].stored -= 1;
  });
  CHECK(MissingWords(dsv4mx_last_error(), "sections of an expert,layout 'cpu 1'") == "");
  refused("no slab", [](H h) { h->slab_bytes = 0; });
  refused("a huge slab", [](H h) { h->slab_bytes = UINT64_MAX; });
  refused(
      "a larger slab", [](H h) { h->slab_bytes += 64; }, DSV4MX_STATUS_UNSUPPORTED);
  refused(
      "another form", [](H h) { h->slab_id ^= 1; }, DSV4MX_STATUS_UNSUPPORTED);
  refused("small pieces", [](H h) { h->piece_bytes = 1; });
  refused("huge pieces", [](H h) { h->piece_bytes = UINT64_MAX; });
  refused("a census of all that is not that of each", [](H h) { h->census.scale_max += 1; });
  refused("a census that the bytes do not have", [](H h) {
    h->experts[1].census.scale_min -= 1;
    h->census.scale_min = std::min(h->census.scale_min, h->experts[1].census.scale_min);
  });
  CHECK(MissingWords(dsv4mx_last_error(), "expert 1 has scales,header says") == "");
  refused(
      "no layer", [](H h) { h->layer.hidden = 33; }, DSV4MX_STATUS_INVALID_TENSOR);
  CHECK(victim.Query() == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(MissingWords(dsv4mx_last_error(), "describes no layer,hidden is 33") == "");
  refused(
      "another layout", [](H h) { h->layout = "sm90 1"; }, DSV4MX_STATUS_UNSUPPORTED);
  CHECK(MissingWords(dsv4mx_last_error(), "'sm90 1',wanted 'cpu 1',save a snapshot anew") == "");
  refused(
      "a layout with no end", [](H h) { h->layout = std::string(200, '\xff'); },
      DSV4MX_STATUS_UNSUPPORTED);

  {
    SnapshotHeader longer = victim.Header();
    longer.file_bytes += 4096;
    CHECK(victim.Try(victim.With(longer) + std::string(4096, '\0')) == DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(MissingWords(dsv4mx_last_error(), "sections end at byte") == "");
    SnapshotHeader out;
    std::vector<uint8_t> header = io::EncodeSnapshotHeader(victim.Header());
    const uint64_t file_bytes = victim.good().size();
    header.resize(header.size() - 1);
    CHECK(io::DecodeSnapshotHeader("short", header, file_bytes, &out).code ==
          DSV4MX_STATUS_FORMAT_ERROR);
    header.resize(100);
    CHECK(io::DecodeSnapshotHeader("short", header, file_bytes, &out).code ==
          DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(MissingWords(dsv4mx_last_error(), "short,header is cut off") == "");
  }

  // The fixed part alone: counts that no memory would do for.
  const auto fixed = [&](const char* what, size_t at, uint64_t value, size_t bytes) {
    std::string file = victim.good();
    std::memcpy(file.data() + at, &value, bytes);
    FixHeader(&file);
    INFO(what);
    CHECK(victim.Try(file) == DSV4MX_STATUS_FORMAT_ERROR);
  };
  for (const uint64_t count : {uint64_t{0}, uint64_t{4}, uint64_t{4096}, uint64_t{4097},
                               uint64_t{1} << 31, uint64_t{0xffffffff}}) {
    fixed("experts", 96, count, 4);
    fixed("sections", 100, count, 4);
  }
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{319}, uint64_t{4095}, uint64_t{8192},
                               uint64_t{1} << 40, UINT64_MAX, UINT64_MAX - 4095}) {
    fixed("header_bytes", 16, bytes, 8);
    fixed("file_bytes", 24, bytes, 8);
    fixed("alignment", 12, bytes, 4);
  }
  struct rusage after {};
  getrusage(RUSAGE_SELF, &after);
  CHECK(after.ru_maxrss - before.ru_maxrss < 64 * 1024);  // KiB
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
  victim.CheckUsable();
}

TEST_CASE("frames of zstd that give more, less or nothing are refused", "[snapshot]") {
  Victim victim("h=512 i=256 e=2 k=1 m=2 order=gate_up scales=120..121");
  const SnapshotHeader good = victim.Header();
  const size_t scales = 1;  // of expert 0
  REQUIRE(good.sections[scales].kind == SectionKind::kScales);
  REQUIRE(good.entries[scales].codec == Codec::kZstd);
  const auto raw = static_cast<size_t>(good.sections[scales].bytes);
  const auto with = [&](std::string frame) {
    SnapshotHeader h = good;
    std::string sections = victim.good().substr(h.entries[0].offset);
    frame.resize(io::SnapshotAligned(frame.size() < 4096 ? 4096 : frame.size()));
    io::SnapshotEntry& entry = h.entries[scales];
    REQUIRE(io::SnapshotAligned(entry.stored) == frame.size());
    entry.stored = std::min<uint64_t>(entry.stored, raw);
    entry.checksum = io::Xxh64Of(frame.data(), frame.size());
    std::string file = victim.With(h);
    std::memcpy(file.data() + entry.offset, frame.data(), frame.size());
    return file;
  };
  const auto frame_of = [](const std::string& content, bool with_size) {
    std::string frame(ZSTD_compressBound(content.size()), '\0');
    ZSTD_CCtx* context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, with_size ? 1 : 0);
    frame.resize(
        ZSTD_compress2(context, frame.data(), frame.size(), content.data(), content.size()));
    ZSTD_freeCCtx(context);
    return frame;
  };
  for (const bool with_size : {true, false}) {
    for (const size_t bytes : {raw + 1, raw - 1, size_t{0}, size_t{1} << 24}) {
      INFO(bytes << " of " << raw << ", " << with_size);
      CHECK(victim.Try(with(frame_of(std::string(bytes, 'x'), with_size))) ==
            DSV4MX_STATUS_FORMAT_ERROR);
      CHECK(MissingWords(dsv4mx_last_error(), "file.snapshot,scales of expert 0,zstd") == "");
    }
  }
  CHECK(victim.Try(with("not a frame")) == DSV4MX_STATUS_FORMAT_ERROR);
  victim.CheckUsable();
}

TEST_CASE("a scale byte that is NaN is refused, whatever the checksums say", "[snapshot]") {
  Victim victim("h=128 i=64 e=3 k=1 m=2 order=gate_up", -1);
  SnapshotHeader h = victim.Header();
  const size_t scales = h.sections.size() + 1;  // of expert 1
  io::SnapshotEntry& entry = h.entries[scales];
  std::string sections = victim.good();
  sections[entry.offset + 7] = '\xff';
  entry.checksum = io::Xxh64Of(sections.data() + entry.offset, io::SnapshotAligned(entry.stored));
  const std::vector<uint8_t> header = io::EncodeSnapshotHeader(h);
  std::memcpy(sections.data(), header.data(), header.size());
  CHECK(victim.Try(sections) == DSV4MX_STATUS_INVALID_SCALE);
  CHECK(MissingWords(dsv4mx_last_error(), "file.snapshot,scales of expert 1,255") == "");
  victim.CheckUsable();
}

TEST_CASE("more sections than a file has place for are refused", "[snapshot]") {
  Victim victim("h=64 i=32 e=1 k=1 m=2");
  SlabPieces cut;
  const ExpertStore& store = victim.weights()->impl->store();
  REQUIRE(SlabPieces::Cut(store, 4096, &cut).ok());
  CHECK(cut.pieces().size() == 1);
  CHECK(SlabPieces::Cut(store, size_t{1} << 20, &cut).code == DSV4MX_STATUS_UNSUPPORTED);
  CHECK(MissingWords(dsv4mx_last_error(), "too many for one snapshot,wanted fewer") == "");
}

TEST_CASE("a disk that fails while a snapshot is read, and reads that are short", "[snapshot]") {
  Victim victim("h=1056 i=2048 e=2 k=1 m=2 order=gate_up");
  for (const int reads : {0, 1, 2, 3, 5, 9}) {
    FileFaults faults;
    faults.pread_error = EIO;
    faults.reads_left = reads;
    const WithFaults with(faults);
    INFO(reads);
    CHECK(Restore(victim.weights(), victim.path(), 3) == DSV4MX_STATUS_IO_ERROR);
    CHECK(MissingWords(dsv4mx_last_error(), "file.snapshot,cannot read,Input/output error") == "");
    CHECK(StateOf(victim.weights()) == DSV4MX_WEIGHTS_EMPTY);
  }
  {
    FileFaults faults;
    faults.pread_most = 1013;
    faults.interrupts = 20;
    const WithFaults with(faults);
    CHECK(victim.Try(victim.good()) == DSV4MX_STATUS_OK);
  }
  victim.CheckUsable();
}

}  // namespace
}  // namespace dsv4mx::test
