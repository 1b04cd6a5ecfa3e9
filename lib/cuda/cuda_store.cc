#include "lib/cuda/cuda_store.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "lib/base/float_bits.h"
#include "lib/base/host_layout.h"
#include "lib/base/scales.h"
#include "lib/cuda/cuda_check.h"
#include "lib/cuda/cuda_ordered.h"
#include "lib/cuda/cuda_read_plan.h"
#include "lib/cuda/cuda_wait.h"

namespace dsv4mx::cuda {
namespace {

// Every copy costs a link 3 us beside its bytes, so that blocks of 2 MiB lose 7 %, of 1 MiB 15 %.
constexpr int64_t kMostBlock = int64_t{2} << 20;
constexpr int64_t kMostStaging = (Staging::kMostHosts + Staging::kBuffers) * kMostBlock;

int64_t RecordBytes(const LayerSpec& spec) {
  return static_cast<int64_t>(sizeof(CensusRecord)) * spec.experts +
         static_cast<int64_t>(sizeof(uint64_t));
}

ScaleType TypeOf(dsv4mx_dtype dtype) {
  switch (dtype) {
    case DSV4MX_DTYPE_BF16:
      return ScaleType::kBf16;
    case DSV4MX_DTYPE_F16:
      return ScaleType::kF16;
    case DSV4MX_DTYPE_F32:
      return ScaleType::kF32;
    default:
      return ScaleType::kBytes;
  }
}

// Rows of packed codes without gaps.
void GatherCodes(const CodesView& v, int64_t first, int64_t rows, int64_t row_bytes, uint8_t* to) {
  const uint8_t* from = v.data + first * v.row_stride;
  if (v.byte_stride == 1 && v.row_stride == row_bytes) {
    std::memcpy(to, from, static_cast<size_t>(rows * row_bytes));
    return;
  }
  for (int64_t r = 0; r < rows; ++r, from += v.row_stride, to += row_bytes) {
    if (v.byte_stride == 1) {
      std::memcpy(to, from, static_cast<size_t>(row_bytes));
    } else {
      for (int64_t b = 0; b < row_bytes; ++b) to[b] = from[b * v.byte_stride];
    }
  }
}

// Calls f(first, rows) for runs of rows whose staged form, row_bytes each, fits a block.
template <class F>
Status ForRuns(int64_t all_rows, int64_t row_bytes, int64_t block_bytes, F&& f) {
  const int64_t run = std::max<int64_t>(block_bytes / row_bytes / kRowRun, 1) * kRowRun;
  for (int64_t first = 0; first < all_rows; first += run) {
    DSV4MX_TRY(f(first, std::min(run, all_rows - first)));
  }
  return kOk;
}

}  // namespace

CudaStore::CudaStore(std::shared_ptr<const LayerSpec> spec, void* memory, const Device* device)
    : spec_(std::move(spec)),
      parts_(Sm90SlabOf(*spec_)),
      memory_(static_cast<uint8_t*>(memory)),
      device_(device),
      pending_(static_cast<size_t>(spec_->experts), 0),
      derived_(static_cast<size_t>(spec_->experts), 0),
      staging_(&device->memory(), ShapeOf(*spec_, 0).block, Staging::kBuffers,
               ShapeOf(*spec_, 0).hosts) {}

CudaStore::StagingShape CudaStore::ShapeOf(const LayerSpec& spec, int64_t most) {
  if (most == 0) most = kMostStaging;
  // Less where the layer is small.
  const int64_t codes = int64_t{3} * spec.experts * spec.hidden * spec.intermediate / 2;
  const int64_t fair =
      std::min({kMostBlock, codes / 16, most / (Staging::kMostHosts + Staging::kBuffers)});
  const int64_t block = std::max(ReadPlan::LeastBlock(spec), fair / 256 * 256);
  return {block, static_cast<int>(
                     std::min<int64_t>(most / block - Staging::kBuffers, Staging::kMostHosts))};
}

int64_t CudaStore::ExtraBytes(const LayerSpec& spec) {
  const StagingShape shape = ShapeOf(spec, 0);
  return Staging::TotalBytes(shape.block, std::max(shape.hosts, Staging::kBuffers)) +
         RecordBytes(spec);
}

Status CudaStore::Make(std::shared_ptr<const LayerSpec> spec, void* memory, const Device* device,
                       std::unique_ptr<ExpertStore>* out) {
  std::unique_ptr<CudaStore> store(new CudaStore(std::move(spec), memory, device));
  DSV4MX_TRY(store->Open());
  *out = std::move(store);
  return kOk;
}

Status CudaStore::Open() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  DSV4MX_TRY(scope.Begin(cudaStreamPerThread));
  DSV4MX_TRY(
      device_->CheckPointer(memory_, "the memory of the weights", DSV4MX_STATUS_INVALID_ARGUMENT));
  void* memory = nullptr;
  DSV4MX_TRY(device_->memory().Alloc(static_cast<size_t>(RecordBytes(*spec_)), 256,
                                     DSV4MX_MEMORY_DEVICE, nullptr, &memory));
  records_ = static_cast<CensusRecord*>(memory);
  bad_ = reinterpret_cast<uint64_t*>(records_ + spec_->experts);
  DSV4MX_CUDA(cudaEventCreateWithFlags(&written_, cudaEventDisableTiming));
  return kOk;
}

CudaStore::~CudaStore() {
  const DeviceScope scope(*device_, DeviceScope::Capture::kRelaxed);
  if (written_ != nullptr) {
    (void)cudaEventSynchronize(written_);
    (void)cudaEventDestroy(written_);
  }
  staging_.Free();
  (void)device_->memory().Free(records_, static_cast<size_t>(RecordBytes(*spec_)),
                               DSV4MX_MEMORY_DEVICE);
}

SlabMatrix CudaStore::At(int32_t expert, Matrix m) const {
  return SlabMatrix{memory_ + expert * parts_.bytes, parts_, spec_->hidden, spec_->intermediate,
                    static_cast<int32_t>(m)};
}

Status CudaStore::SetCodes(int32_t expert, Matrix m, const CodesView& v, const Call& call) {
  const cudaStream_t stream = call.stream;
  Ordered ordered(*this, stream);
  DSV4MX_TRY(ordered.Begin());
  Wrote(expert, v.experts);
  const SlabMatrix to = At(expert, m);
  const int64_t row_bytes = to.k() / 2;
  if (v.device) {
    DSV4MX_TRY(device_->CheckPointer(v.data, "a tensor of codes", DSV4MX_STATUS_INVALID_TENSOR));
    const RowsView view{v.data, v.row_stride, v.byte_stride, 0, to.rows()};
    const ExpertRun run{v.experts, parts_.bytes, v.expert_stride};
    DSV4MX_CUDA(LaunchPackCodes(to, view, run, v.high_first, stream));
    return kOk;
  }
  return ForRuns(to.rows(), row_bytes, staging_.bytes(),
                 [&](int64_t first, int64_t rows) -> Status {
                   Staging::Buffer* buffer = nullptr;
                   DSV4MX_TRY(staging_.Acquire(call, &buffer));
                   GatherCodes(v, first, rows, row_bytes, buffer->host);
                   DSV4MX_TRY(staging_.Upload(*buffer, rows * row_bytes, stream));
                   const RowsView view{buffer->device, row_bytes, 1, first, rows};
                   DSV4MX_CUDA(LaunchPackCodes(to, view, {}, v.high_first, stream));
                   return Staging::Release(*buffer, stream);
                 });
}

Status CudaStore::SetScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call) {
  Ordered ordered(*this, call.stream);
  DSV4MX_TRY(ordered.Begin());
  Wrote(expert);
  return v.device ? SetDeviceScales(expert, m, v, call) : SetHostScales(expert, m, v, call);
}

// The host checks while it gathers, so that nothing needs to be waited for.
Status CudaStore::SetHostScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call) {
  const cudaStream_t stream = call.stream;
  const SlabMatrix to = At(expert, m);
  const int64_t groups = to.k() / kGroupSize;
  return ForRuns(to.rows(), groups, staging_.bytes(), [&](int64_t first, int64_t rows) -> Status {
    Staging::Buffer* buffer = nullptr;
    DSV4MX_TRY(staging_.Acquire(call, &buffer));
    for (int64_t r = 0; r < rows; ++r) {
      DSV4MX_TRY(ReadScaleRow(v, expert, m, first + r, groups, buffer->host + r * groups));
    }
    DSV4MX_TRY(staging_.Upload(*buffer, rows * groups, stream));
    const RowsView view{buffer->device, groups, 1, first, rows};
    DSV4MX_CUDA(LaunchPackScales(to, view, ScaleType::kBytes, bad_, stream));
    return Staging::Release(*buffer, stream);
  });
}

Status CudaStore::SetDeviceScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call) {
  const cudaStream_t stream = call.stream;
  DSV4MX_TRY(device_->CheckPointer(v.data, "a tensor of scales", DSV4MX_STATUS_INVALID_TENSOR));
  const SlabMatrix to = At(expert, m);
  const int64_t groups = to.k() / kGroupSize;
  const RowsView view{v.data, v.row_stride, v.group_stride, 0, to.rows()};
  DSV4MX_CUDA(cudaMemsetAsync(bad_, 0xFF, sizeof *bad_, stream));
  DSV4MX_CUDA(LaunchPackScales(to, view, TypeOf(v.dtype), bad_, stream));
  uint64_t bad;
  DSV4MX_TRY(ReadBad(call, &bad));
  if (bad == kNoBadScale) return kOk;
  const int64_t row = static_cast<int64_t>(bad) / groups,
                group = static_cast<int64_t>(bad) % groups;
  uint8_t element[4] = {};
  DSV4MX_CUDA(cudaMemcpyAsync(element, v.data + row * v.row_stride + group * v.group_stride,
                              static_cast<size_t>(ScaleElementBytes(v.dtype)),
                              cudaMemcpyDeviceToHost, stream));
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  return BadScale(expert, m, row, group, element, v.dtype);
}

Status CudaStore::ReadBad(const Call& call, uint64_t* bad) const {
  // First, because a copy to pageable memory waits where nobody can be asked.
  DSV4MX_TRY(WaitForStream(call.stream, call.control));
  DSV4MX_CUDA(cudaMemcpyAsync(bad, bad_, sizeof *bad, cudaMemcpyDeviceToHost, call.stream));
  DSV4MX_CUDA(cudaStreamSynchronize(call.stream));
  return kOk;
}

Status CudaStore::SetBias(int32_t expert, Matrix m, const BiasView& v, const Call& call) {
  const cudaStream_t stream = call.stream;
  Ordered ordered(*this, stream);
  DSV4MX_TRY(ordered.Begin());
  const SlabMatrix to = At(expert, m);
  const bool is_bf16 = v.dtype == DSV4MX_DTYPE_BF16;
  if (v.device) {
    DSV4MX_TRY(device_->CheckPointer(v.data, "a bias", DSV4MX_STATUS_INVALID_TENSOR));
    DSV4MX_CUDA(LaunchPackBias(to, v.data, v.stride, is_bf16, stream));
    return kOk;
  }
  Staging::Buffer* buffer = nullptr;
  DSV4MX_TRY(staging_.Acquire(call, &buffer));
  const int64_t bytes = is_bf16 ? 2 : 4;
  for (int64_t row = 0; row < to.rows(); ++row) {
    std::memcpy(buffer->host + row * bytes, v.data + row * v.stride, static_cast<size_t>(bytes));
  }
  DSV4MX_TRY(staging_.Upload(*buffer, to.rows() * bytes, stream));
  DSV4MX_CUDA(LaunchPackBias(to, buffer->device, bytes, is_bf16, stream));
  return Staging::Release(*buffer, stream);
}

// FinishPrepare does it for all at once; the census given stays empty until then.
Status CudaStore::PrepareExpert(int32_t expert, Census*, const Call&) {
  pending_[static_cast<size_t>(expert)] = 1;
  return kOk;
}

Status CudaStore::Derive(uint8_t* slabs, int32_t experts, CensusRecord* records,
                         cudaStream_t stream) const {
  // Kernels write every byte of the parts; what rounds a slab up is zero as well.
  const int64_t bias2 =
      spec_->w2_bias != 0 ? Sm90PaddedRows(spec_->hidden) * static_cast<int64_t>(sizeof(float)) : 0;
  const int64_t end = parts_.w2_bias + bias2;
  if (end < parts_.bytes) {
    DSV4MX_CUDA(cudaMemset2DAsync(slabs + end, static_cast<size_t>(parts_.bytes), 0,
                                  static_cast<size_t>(parts_.bytes - end),
                                  static_cast<size_t>(experts), stream));
  }
  DSV4MX_CUDA(cudaMemsetAsync(records, 0, sizeof *records * static_cast<size_t>(experts), stream));
  DSV4MX_CUDA(LaunchPrepareExperts(slabs, experts, parts_, spec_->hidden, spec_->intermediate,
                                   records, stream));
  return kOk;
}

Census CensusOf(const CensusRecord& r) {
  Census census;
  if (r.any == 0) return census;
  census.any = true;
  census.scale_min = 255 - r.low;
  census.scale_max = r.high;
  census.span_max = r.span;
  return census;
}

Status CudaStore::FinishPrepare(Census* of_experts, const Call& call) {
  const cudaStream_t stream = call.stream;
  Ordered ordered(*this, stream);
  DSV4MX_TRY(ordered.Begin());
  std::vector<CensusRecord> records(static_cast<size_t>(spec_->experts));
  const auto wanted = [&](int32_t e) {
    return pending_[static_cast<size_t>(e)] != 0 && derived_[static_cast<size_t>(e)] == 0;
  };
  for (int32_t first = 0, end; first < spec_->experts; first = end) {
    end = first + 1;
    if (!wanted(first)) continue;
    while (end < spec_->experts && wanted(end)) ++end;
    DSV4MX_TRY(Derive(memory_ + first * parts_.bytes, end - first, records_ + first, stream));
    std::fill(pending_.begin() + first, pending_.begin() + end, uint8_t{0});
  }
  std::fill(pending_.begin(), pending_.end(), uint8_t{0});
  Wrote(0, spec_->experts);  // without prepare nothing is derived anew
  DSV4MX_TRY(WaitForStream(stream, call.control));
  DSV4MX_CUDA(cudaMemcpyAsync(records.data(), records_, records.size() * sizeof(CensusRecord),
                              cudaMemcpyDeviceToHost, stream));
  // Afterwards the weights may be used on any stream.
  DSV4MX_CUDA(cudaStreamSynchronize(stream));
  for (size_t e = 0; e < records.size(); ++e) of_experts[e] = CensusOf(records[e]);
  staging_.Free();
  return kOk;
}

}  // namespace dsv4mx::cuda
