// Marlin import and export of the CUDA store. Tensors in device memory are converted where they are; tensors in host
// memory in parts: rectangles of whole 64-row and 128-k pieces, each in Marlin form itself, so that one kernel serves
// both.
#include <algorithm>
#include <cstring>

#include "lib/base/marlin.h"
#include "lib/base/scales.h"
#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_store.h"

namespace dsv4mx::cuda {
namespace {

enum class Kind { kCodes, kScales, kBias };

// One tensor of one expert as lines of `rows` elements: 16 of K (codes), a group (scales), or all of it (bias).
struct MarlinTensor {
  uint8_t* data;
  Kind kind;
  bool w2, bias_is_bf16;
  int64_t half, rows, k;

  int64_t LineK() const {
    return kind == Kind::kCodes ? 16 : kind == Kind::kScales ? kGroupSize : k;
  }
  int64_t Lines() const { return k / LineK(); }
  // Bytes of a row in a line.
  int64_t Width() const {
    if (kind == Kind::kCodes) return 8;
    return kind == Kind::kScales ? 1 : bias_is_bf16 ? 2 : 4;
  }
  MarlinPart Whole() const { return MarlinPart{data, half, 0, rows, 0, k}; }

  int Import(const SlabMatrix& slab, const MarlinPart& part, cudaStream_t stream) const {
    switch (kind) {
      case Kind::kCodes:
        return LaunchMarlinImportCodes(slab, w2, part, stream);
      case Kind::kScales:
        return LaunchMarlinImportScales(slab, w2, part, stream);
      default:
        return LaunchMarlinImportBias(slab, w2, part, bias_is_bf16, stream);
    }
  }
  int Export(const SlabMatrix& slab, const MarlinPart& part, cudaStream_t stream) const {
    switch (kind) {
      case Kind::kCodes:
        return LaunchMarlinExportCodes(slab, w2, part, stream);
      case Kind::kScales:
        return LaunchMarlinExportScales(slab, w2, part, stream);
      default:
        return LaunchMarlinExportBias(slab, w2, part, bias_is_bf16, stream);
    }
  }
};

// Calls f for each tensor that is given; scales come before codes, so that they are checked first where it matters.
template <class F>
Status ForTensors(const dsv4mx_marlin& s, F&& f) {
  const bool bf16 = s.bias_dtype != DSV4MX_DTYPE_F32;
  const int64_t i = s.intermediate_padded, h = s.hidden_padded;
  const struct {
    void* data;
    Kind kind;
    bool w2;
  } tensors[] = {{s.w13_scale, Kind::kScales, false}, {s.w2_scale, Kind::kScales, true},
                 {s.w13, Kind::kCodes, false},        {s.w2, Kind::kCodes, true},
                 {s.w13_bias, Kind::kBias, false},    {s.w2_bias, Kind::kBias, true}};
  for (const auto& t : tensors) {
    if (t.data == nullptr) continue;
    DSV4MX_TRY(f(MarlinTensor{static_cast<uint8_t*>(t.data), t.kind, t.w2, bf16, t.w2 ? h : i,
                              t.w2 ? h : 2 * i, t.w2 ? i : h}));
  }
  return kOk;
}

// A part that fits `bytes`, and the lines it covers.
struct Piece {
  MarlinPart part;
  int64_t first_line, lines;
};

// Calls f for pieces that cover the tensor.
template <class F>
Status ForPieces(const MarlinTensor& t, int64_t bytes, F&& f) {
  const int64_t step = t.kind == Kind::kBias ? 1 : 128 / t.LineK();  // lines of the smallest piece
  const int64_t rows_fit = bytes / (t.Width() * step) / 64 * 64;
  const int64_t rows = std::min(t.rows, rows_fit);
  const int64_t lines = std::max<int64_t>(bytes / (t.Width() * rows) / step, 1) * step;
  for (int64_t line = 0; line < t.Lines(); line += lines) {
    for (int64_t row = 0; row < t.rows; row += rows) {
      Piece p{};
      p.first_line = line;
      p.lines = std::min(lines, t.Lines() - line);
      p.part = MarlinPart{nullptr,
                          t.half,
                          row,
                          std::min(rows, t.rows - row),
                          line * t.LineK(),
                          p.lines * t.LineK()};
      DSV4MX_TRY(f(p));
    }
  }
  return kOk;
}

enum class Direction { kToStaging, kFromStaging };
void CopyLines(const MarlinTensor& t, const Piece& p, uint8_t* staged, Direction direction) {
  const int64_t bytes = p.part.rows * t.Width(), pitch = t.rows * t.Width();
  uint8_t* at = t.data + p.first_line * pitch + p.part.first_row * t.Width();
  for (int64_t line = 0; line < p.lines; ++line, at += pitch, staged += bytes) {
    if (direction == Direction::kToStaging) {
      std::memcpy(staged, at, static_cast<size_t>(bytes));
    } else {
      std::memcpy(at, staged, static_cast<size_t>(bytes));
    }
  }
}

// Device memory: really that, and codes aligned. Within a DeviceScope.
Status CheckPointers(const Device& device, const dsv4mx_marlin& slab) {
  if (slab.memory != DSV4MX_MEMORY_DEVICE) return kOk;
  for (const void* words : {slab.w13, slab.w2}) {
    DSV4MX_RETURN_IF(reinterpret_cast<uintptr_t>(words) % 4 != 0, DSV4MX_STATUS_MISALIGNED,
                     "%s is %p in device memory, wanted a multiple of 4 bytes",
                     words == slab.w13 ? "w13" : "w2", words);
  }
  return ForTensors(slab, [&](const MarlinTensor& t) {
    return device.CheckPointer(t.data, "a Marlin tensor", DSV4MX_STATUS_INVALID_ARGUMENT);
  });
}

}  // namespace

Status CudaStore::CheckMarlinOnDevice(int32_t expert, const dsv4mx_marlin& slab, const Call& call) {
  const cudaStream_t stream = call.stream;
  if (slab.w13_scale == nullptr && slab.w2_scale == nullptr) return kOk;
  DSV4MX_CUDA(cudaMemsetAsync(bad_, 0xFF, sizeof *bad_, stream));
  DSV4MX_TRY(ForTensors(slab, [&](const MarlinTensor& t) -> Status {
    if (t.kind != Kind::kScales) return kOk;
    DSV4MX_CUDA(LaunchMarlinCheckScales(At(expert, Matrix::kGate), t.w2, t.Whole(), bad_, stream));
    return kOk;
  }));
  uint64_t bad;
  DSV4MX_TRY(ReadBad(call, &bad));
  if (bad == kNoBadScale) return kOk;
  const auto m = static_cast<Matrix>(bad >> 48);
  const auto at = static_cast<int64_t>(bad & ((uint64_t{1} << 48) - 1));
  const int64_t groups = spec_->K(m) / kGroupSize;
  const uint8_t nan = 255;
  return BadScale(expert, m, at / groups, at % groups, &nan, DSV4MX_DTYPE_E8M0);
}

Status CudaStore::ImportMarlin(int32_t expert, const dsv4mx_marlin& slab, const Call& call) {
  const cudaStream_t stream = call.stream;
  const bool device = slab.memory == DSV4MX_MEMORY_DEVICE;
  if (!device) DSV4MX_TRY(CheckMarlinScales(*spec_, expert, slab));
  Ordered ordered(*this, stream);
  DSV4MX_TRY(ordered.Begin());
  Wrote(expert);
  DSV4MX_TRY(CheckPointers(*device_, slab));
  if (device) DSV4MX_TRY(CheckMarlinOnDevice(expert, slab, call));
  const SlabMatrix to = At(expert, Matrix::kGate);
  return ForTensors(slab, [&](const MarlinTensor& t) -> Status {
    if (device) {
      return Check(t.Import(to, t.Whole(), stream), "LaunchMarlinImport");
    }
    return ForPieces(t, staging_.bytes(), [&](const Piece& p) -> Status {
      Staging::Buffer* buffer = nullptr;
      DSV4MX_TRY(staging_.Acquire(call, &buffer));
      CopyLines(t, p, buffer->host, Direction::kToStaging);
      DSV4MX_TRY(staging_.Upload(*buffer, p.lines * p.part.rows * t.Width(), stream));
      MarlinPart part = p.part;
      part.data = buffer->device;
      DSV4MX_TRY(Check(t.Import(to, part, stream), "LaunchMarlinImport"));
      return Staging::Release(*buffer, stream);
    });
  });
}

Status CudaStore::ExportExpert(int32_t expert, const dsv4mx_marlin& slab, Staging* staging,
                               const Call& call) const {
  const cudaStream_t stream = call.stream;
  const SlabMatrix from = At(expert, Matrix::kGate);
  return ForTensors(slab, [&](const MarlinTensor& t) -> Status {
    if (slab.memory == DSV4MX_MEMORY_DEVICE) {
      return Check(t.Export(from, t.Whole(), stream), "LaunchMarlinExport");
    }
    return ForPieces(t, staging->bytes(), [&](const Piece& p) -> Status {
      Staging::Buffer* buffer = nullptr;
      DSV4MX_TRY(staging->Acquire(call, &buffer));
      MarlinPart part = p.part;
      part.data = buffer->device;
      DSV4MX_TRY(Check(t.Export(from, part, stream), "LaunchMarlinExport"));
      DSV4MX_CUDA(cudaMemcpyAsync(buffer->host, buffer->device,
                                  static_cast<size_t>(p.lines * p.part.rows * t.Width()),
                                  cudaMemcpyDeviceToHost, stream));
      DSV4MX_TRY(Staging::Release(*buffer, stream));
      DSV4MX_TRY(Staging::Wait(*buffer, call.control));
      CopyLines(t, p, buffer->host, Direction::kFromStaging);
      return kOk;
    });
  });
}

// Exports are const and may be concurrent, so each has staging of its own, which ends with the call.
Status CudaStore::ExportMarlin(const dsv4mx_marlin& resolved, const Call& call) const {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(call.stream));
  Staging staging(&device_->memory(), staging_.bytes());
  for (int32_t i = 0; i < resolved.expert_count; ++i) {
    DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_CONVERT, i, resolved.expert_count));
    const dsv4mx_marlin slab = MarlinSlab(resolved, i);
    DSV4MX_TRY(CheckPointers(*device_, slab));
    DSV4MX_TRY(ExportExpert(slab.expert_first, slab, &staging, call));
  }
  return call.control.Report(DSV4MX_STAGE_CONVERT, resolved.expert_count, resolved.expert_count);
}

}  // namespace dsv4mx::cuda
