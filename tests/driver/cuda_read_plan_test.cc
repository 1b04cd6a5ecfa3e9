// How a list of tensors passes through staging: every row once, in pieces that fill whole tiles and fit a slot.
#include "lib/cuda/cuda_read_plan.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/launch_weights.h"
#include "tests/catch.h"

namespace dsv4mx::cuda {
namespace {

struct Rows final : RowSource {
  explicit Rows(int64_t bytes, int64_t of_file = 0)
      : bytes(bytes), of_file(of_file == 0 ? bytes : of_file) {}
  int64_t RowBytes() const override { return bytes; }
  int64_t FileBytes() const override { return of_file; }
  Status Read(int64_t, int64_t, uint8_t*) const override { return kOk; }
  int64_t bytes, of_file;
};

// "" or what is wrong.
std::string Check(const ReadPlan& plan, const std::vector<RowsToRead>& tensors,
                  const LayerSpec& spec, int64_t slot_bytes) {
  size_t tensor = 0;
  int64_t next = 0, file_bytes = 0;
  for (int64_t piece = 0; piece < plan.pieces(); ++piece) {
    const ReadPlan::Piece p = plan.At(piece);
    if (tensor == tensors.size()) return "pieces behind the last row";
    const RowsToRead& t = tensors[tensor];
    const int64_t unit = kRowRun * (t.paired ? 2 : 1);
    const int64_t rows = spec.Rows(t.matrix) * (t.paired ? 2 : 1);
    if (p.tensor != &t || p.first != next || p.rows < 1) return "a piece's place";
    if (p.rows * t.source->RowBytes() > slot_bytes) return "a piece's size";
    next += p.rows;
    if (next != rows && (t.parts == RowsToRead::kBias || next % unit != 0)) return "a cut tile";
    if (next < rows) continue;
    if (next > rows) return "rows";
    file_bytes += rows * t.source->FileBytes();
    ++tensor;
    next = 0;
  }
  return tensor != tensors.size() ? "tensors" : file_bytes != plan.file_bytes() ? "bytes" : "";
}

TEST_CASE("read plan: every row once, whatever the sizes", "[load]") {
  const int32_t experts[] = {0};
  for (const auto& [h, i] : std::vector<std::pair<int32_t, int32_t>>{{32, 32},
                                                                     {96, 160},
                                                                     {2880, 2880},
                                                                     {4096, 2048},
                                                                     {7168, 3072},
                                                                     {480, 576},
                                                                     {65536, 32}}) {
    LayerSpec spec;
    spec.hidden = h;
    spec.intermediate = i;
    const Rows w13(h / 2), s13(h / 32), w2(i / 2, 8 * i), s2(i / 8), both(h / 2 + h / 32), bias(4);
    using Parts = RowsToRead;
    std::vector<RowsToRead> tensors;
    for (int e = 0; e < 3; ++e) {
      tensors.push_back({&w13, Parts::kCodes, Matrix::kGate, e == 0, false, 0, experts});
      tensors.push_back({&s13, Parts::kScales, Matrix::kGate, e == 0, false, 0, experts});
      tensors.push_back({&both, Parts::kCodesAndScales, Matrix::kUp, false, false, 0, experts});
      tensors.push_back({&w2, Parts::kCodes, Matrix::kDown, false, false, 0, experts});
      tensors.push_back({&s2, Parts::kScales, Matrix::kDown, false, false, 0, experts});
      tensors.push_back({&bias, Parts::kBias, Matrix::kGate, true, false, 0, experts});
    }
    const int64_t least = ReadPlan::LeastSlot(spec);
    for (const int64_t slot : {least, least + 4096, int64_t{1} << 20, int64_t{16} << 20}) {
      if (slot < least) continue;
      for (const int slots : {1, 4, 24}) {
        const ReadPlan plan(tensors, spec, slot, slots);
        INFO("h=" << h << " i=" << i << " slot " << slot << " slots " << slots);
        CHECK(Check(plan, tensors, spec, slot) == "");
      }
    }
    // Pieces are large where there is much, and of rows that are read whole for a part of them no larger than a thread reads
    // while others wait.
    if (h == 4096) {
      const ReadPlan plan(tensors, spec, 1 << 20, 1);
      CHECK(plan.At(0).rows * w13.bytes == 1 << 20);
      for (int64_t piece = 0; piece < plan.pieces(); ++piece) {
        const ReadPlan::Piece p = plan.At(piece);
        CHECK(p.rows * p.tensor->source->FileBytes() <= 2 << 20);
      }
    }
  }
  CHECK(ReadPlan({}, LayerSpec{}, 1 << 20, 4).pieces() == 0);
}

}  // namespace
}  // namespace dsv4mx::cuda
