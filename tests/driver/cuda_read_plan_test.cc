// How a list of tensors passes through staging: every row once, in runs that fill whole tiles, in blocks that fit.
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
                  const LayerSpec& spec, int64_t block_bytes) {
  std::vector<int64_t> next(tensors.size(), 0);
  size_t run_index = 0;
  int64_t all = 0;
  for (const ReadPlan::Block& b : plan.blocks()) {
    if (b.bytes > block_bytes) return "a block of " + std::to_string(b.bytes);
    if (b.begin != run_index || b.end <= b.begin) return "runs of a block";
    int64_t end = 0, file_bytes = 0;
    for (; run_index < b.end; ++run_index) {
      const ReadPlan::Run& run = plan.runs()[run_index];
      const auto t = static_cast<size_t>(run.tensor - tensors.data());
      const int64_t unit = kRowRun * (run.tensor->paired ? 2 : 1);
      const int64_t rows = spec.Rows(run.tensor->matrix) * (run.tensor->paired ? 2 : 1);
      const bool bias = run.tensor->parts == RowsToRead::kBias;
      if (run.at < end || run.at % 16 != 0) return "a run's place";
      if (run.first != next[t] || run.first % unit != 0 || run.rows < 1) return "a run's rows";
      next[t] += run.rows;
      if (next[t] != rows && (bias || run.rows % unit != 0)) return "a run that ends in a tile";
      end = run.at + run.rows * run.tensor->source->RowBytes();
      file_bytes += run.rows * run.tensor->source->FileBytes();
    }
    if (end != b.bytes || file_bytes != b.file_bytes) return "a block's size";
    all += file_bytes;
  }
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (next[t] != spec.Rows(tensors[t].matrix) * (tensors[t].paired ? 2 : 1)) return "rows";
  }
  return run_index != plan.runs().size() ? "runs" : all != plan.file_bytes() ? "bytes" : "";
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
    const int64_t least = ReadPlan::LeastBlock(spec);
    for (const int64_t block : {least, least + 4096, int64_t{2} << 20, int64_t{16} << 20}) {
      if (block < least) continue;
      const ReadPlan plan(tensors, spec, block, 4);
      INFO("h=" << h << " i=" << i << " block " << block);
      CHECK(Check(plan, tensors, spec, block) == "");
      CHECK(plan.blocks().size() >= 4);
      // Of rows that are read whole for a part of them no more than a thread reads while others wait; or one run.
      for (const ReadPlan::Block& b : plan.blocks()) {
        const int64_t of_run = 2 * kRowRun * plan.runs()[b.begin].tensor->source->FileBytes();
        CHECK(b.file_bytes <= std::max(int64_t{4} << 20, of_run));
      }
    }
  }
  CHECK(ReadPlan({}, LayerSpec{}, 1 << 20, 4).blocks().empty());
}

}  // namespace
}  // namespace dsv4mx::cuda
