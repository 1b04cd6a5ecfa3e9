// Snapshots: a header by itself, and a whole file, queried, read section by section and restored into a small layer. The first byte
// of the input says which sums are made right first, so that mutations reach what stands behind them:
//
//   1   lengths of header and file       2   checksum of the header       4   checksums of the sections
//
// What follows is the header without the zeros at its end, then the sections without theirs. After a refusal the weights are empty.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "lib/io/little_endian.h"
#include "lib/io/snapshot_reader.h"
#include "lib/io/xxh64.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using namespace dsv4mx;        // NOLINT: one short file
using namespace dsv4mx::fuzz;  // NOLINT

// The layer's slabs are of 4 KiB. Larger claims are left as they are.
constexpr uint64_t kMostBytes = uint64_t{1} << 16;

// A file that exists in memory alone, opened anew by its name.
class MemoryFile {
 public:
  MemoryFile()
      : fd_(memfd_create("snapshot", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(fd_)) {
    Require(fd_ >= 0, "a file in memory can be made");
  }
  void Set(const std::vector<uint8_t>& bytes) const {
    Require(ftruncate(fd_, 0) == 0 &&
                pwrite(fd_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
            "a file in memory can be written");
  }
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

// One layer, made once.
struct Layer {
  dsv4mx_context* context = nullptr;
  dsv4mx_layer* layer = nullptr;
  dsv4mx_weights* weights = nullptr;
  MemoryFile file;

  Layer() {
    dsv4mx_context_desc cpu = DSV4MX_CONTEXT_DESC_INIT;
    cpu.device = DSV4MX_DEVICE_CPU;
    cpu.threads = 1;
    Must(dsv4mx_context_create(&cpu, &context));
    dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
    d.hidden = d.intermediate = 32;
    d.experts = 2;
    d.top_k = 1;
    d.w13_bias = DSV4MX_DTYPE_F32;
    Must(dsv4mx_layer_create(context, &d, &layer));
    Must(dsv4mx_weights_create(layer, nullptr, &weights));
  }
  static void Must(dsv4mx_status status) {
    Require(status == DSV4MX_STATUS_OK, "the layer can be made");
  }
};

// Header and sections at their places, and the sums that `fix` asks for.
std::vector<uint8_t> Build(const uint8_t* data, size_t size, int fix) {
  std::vector<uint8_t> file(data, data + size);
  if (size < io::kSnapshotFixedBytes) return file;
  const auto experts = io::LoadLittle<uint32_t>(data + 96),
             sections = io::LoadLittle<uint32_t>(data + 100);
  const uint64_t header = io::SnapshotHeaderBytes(experts, sections);
  if (header > kMostBytes || experts == 0 || sections == 0) return file;
  const size_t tables = io::kSnapshotFixedBytes + sections * io::kSnapshotPlanBytes +
                        experts * (io::kSnapshotExpertBytes + sections * io::kSnapshotEntryBytes);
  file.resize(std::min(size, tables));
  file.resize(static_cast<size_t>(header));
  size_t at = std::min(size, tables);  // of the sections' bytes
  if ((fix & 1) != 0) io::StoreLittle<uint64_t>(header, file.data() + 16);
  for (uint64_t i = 0; i < uint64_t{experts} * sections; ++i) {
    uint8_t* entry = file.data() + io::kSnapshotFixedBytes + sections * io::kSnapshotPlanBytes +
                     experts * io::kSnapshotExpertBytes + i * io::kSnapshotEntryBytes;
    const uint64_t stored = std::min(io::LoadLittle<uint64_t>(entry + 8), kMostBytes);
    const size_t bytes = std::min<size_t>(static_cast<size_t>(stored), size - at);
    const size_t place = file.size();
    if (place + io::SnapshotAligned(stored) > kMostBytes) break;
    file.insert(file.end(), data + at, data + at + bytes);
    file.resize(place + static_cast<size_t>(io::SnapshotAligned(stored)));
    at += bytes;
    entry = file.data() + io::kSnapshotFixedBytes + sections * io::kSnapshotPlanBytes +
            experts * io::kSnapshotExpertBytes + i * io::kSnapshotEntryBytes;
    if ((fix & 4) != 0) {
      io::StoreLittle<uint64_t>(place, entry);
      io::StoreLittle<uint64_t>(io::Xxh64Of(file.data() + place, file.size() - place), entry + 16);
    }
  }
  if ((fix & 1) != 0) io::StoreLittle<uint64_t>(file.size(), file.data() + 24);
  if ((fix & 2) != 0) {
    io::StoreLittle<uint64_t>(0, file.data() + 32);
    io::StoreLittle<uint64_t>(io::Xxh64Of(file.data(), static_cast<size_t>(header)),
                              file.data() + 32);
  }
  return file;
}

void CheckHeader(const io::SnapshotHeader& h, uint64_t file_bytes) {
  Require(!h.experts.empty() && !h.sections.empty(), "a header has experts and sections");
  for (size_t e = 0; e < h.experts.size(); ++e) {
    Require(h.Find(h.experts[e].id) == e, "an expert is found");
    for (size_t s = 0; s < h.sections.size(); ++s) {
      const io::SnapshotEntry& entry = h.At(e, s);
      Require(entry.offset % io::kSnapshotAlignment == 0 && entry.offset <= file_bytes &&
                  io::SnapshotAligned(entry.stored) <= file_bytes - entry.offset,
              "a section lies inside its file");
      Require(entry.stored <= h.sections[s].bytes && h.sections[s].bytes <= h.slab_bytes,
              "a section is no longer than a slab");
      Require(!h.Name(e, s).empty(), "a section has a name");
    }
  }
}

void ReadSections(const io::SnapshotReader& file) {
  const io::SnapshotHeader& h = file.header();
  std::vector<uint8_t> scratch(file.ScratchBytes() + 64);
  uint8_t* aligned = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
  for (size_t e = 0; e < h.experts.size(); ++e) {
    for (size_t s = 0; s < h.sections.size(); ++s) {
      if (h.sections[s].bytes > kMostBytes) continue;  // a claim, which zstd may make good
      // Of the exact size: sanitizers see a byte too many.
      const std::unique_ptr<uint8_t[]> to(new uint8_t[static_cast<size_t>(h.sections[s].bytes)]);
      const Status status = file.Read(e, s, to.get(), aligned);
      if (!status.ok()) CheckRefusal(status, {DSV4MX_STATUS_FORMAT_ERROR});
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Layer* const layer = new Layer;
  if (size == 0) return 0;
  const std::vector<uint8_t> bytes = Build(data + 1, size - 1, data[0]);
  layer->file.Set(bytes);
  const std::string& path = layer->file.path();
  std::unique_ptr<io::SnapshotReader> reader;
  const Status opened = io::SnapshotReader::Open(path, &reader);
  if (!opened.ok()) {  // which is all that a query or a restore would do
    CheckRefusal(opened, {DSV4MX_STATUS_FORMAT_ERROR, DSV4MX_STATUS_UNSUPPORTED});
    return 0;
  }
  CheckHeader(reader->header(), bytes.size());
  ReadSections(*reader);
  dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  const Status queried{dsv4mx_snapshot_query(path.c_str(), &info, &desc)};
  if (!queried.ok()) CheckRefusal(queried, {DSV4MX_STATUS_FORMAT_ERROR});
  dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
  args.threads = 1;
  const Status restored{dsv4mx_weights_restore(layer->weights, path.c_str(), &args, nullptr)};
  dsv4mx_weights_info state = DSV4MX_WEIGHTS_INFO_INIT;
  Require(dsv4mx_weights_query(layer->weights, &state) == DSV4MX_STATUS_OK, "weights can be asked");
  if (!restored.ok()) {
    CheckRefusal(restored, {DSV4MX_STATUS_FORMAT_ERROR, DSV4MX_STATUS_UNSUPPORTED,
                            DSV4MX_STATUS_INVALID_TENSOR, DSV4MX_STATUS_INVALID_SCALE,
                            DSV4MX_STATUS_NOT_FOUND});
    Require(state.state == DSV4MX_WEIGHTS_EMPTY, "weights are empty after a refusal");
    return 0;
  }
  Require(state.state == DSV4MX_WEIGHTS_PREPARED, "restored weights are prepared");
  dsv4mx_weights_destroy(layer->weights);
  Layer::Must(dsv4mx_weights_create(layer->layer, nullptr, &layer->weights));
  return 0;
}
