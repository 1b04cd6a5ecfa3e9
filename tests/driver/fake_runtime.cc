#include "tests/driver/fake_runtime.h"

#include <cuda.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/few/geometry.h"
#include "kernels/launch.h"
#include "kernels/launch_ids.h"
#include "kernels/launch_weights.h"

namespace dsv4mx::test {

FakeRuntime fake;

namespace {

cudaError_t Failing(const char* name) {
  const int call = fake.calls++;
  if (fake.fail_at < 0 || call < fake.fail_at) return cudaSuccess;
  // What concerns the thread does not ask the context.
  const bool of_thread =
      std::strncmp(name, "cuCtx", 5) == 0 || std::strncmp(name, "cudaThread", 10) == 0;
  if (call > fake.fail_at && (!fake.forever || of_thread)) return cudaSuccess;
  if (fake.failed.empty()) {
    fake.failed = name;
    fake.told = !fake.destroying;
  }
  return fake.error;
}

// Of the runtime: failures stay in the thread's slot. The driver and kernels/ have none.
cudaError_t FailingRuntime(const char* name) {
  const cudaError_t error = Failing(name);
  if (error != cudaSuccess) fake.last_error = error;
  return error;
}

cudaError_t Make(const char* name, size_t bytes, char kind, void** out) {
  if (const cudaError_t error = FailingRuntime(name); error != cudaSuccess) return error;
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*out, 0xA5, bytes);
  fake.live[*out] = {bytes, kind};
  return cudaSuccess;
}

// What fails here was freed nevertheless: the error is of earlier work.
cudaError_t Free(const char* name, void* pointer, char kind) {
  const auto it = fake.live.find(pointer);
  if (it == fake.live.end() || it->second.kind != kind) {
    if (fake.misuse.empty()) fake.misuse = name;
    return cudaErrorInvalidValue;
  }
  std::free(pointer);
  fake.live.erase(it);
  return FailingRuntime(name);
}

CUresult GetCurrent(CUcontext* out) {
  *out = static_cast<CUcontext>(fake.current);
  return static_cast<CUresult>(Failing("cuCtxGetCurrent"));
}
CUresult SetCurrent(CUcontext context) {
  if (const cudaError_t error = Failing("cuCtxSetCurrent"); error != cudaSuccess) {
    if (context == fake.host) fake.told = false;
    return static_cast<CUresult>(error);
  }
  fake.current = context;
  return CUDA_SUCCESS;
}
CUresult GetDevice(CUdevice* out, int ordinal) {
  *out = ordinal;
  return static_cast<CUresult>(Failing("cuDeviceGet"));
}
CUresult RetainPrimary(CUcontext* out, CUdevice) {
  static int primary;
  *out = reinterpret_cast<CUcontext>(&primary);
  return static_cast<CUresult>(Failing("cuDevicePrimaryCtxRetain"));
}

}  // namespace
}  // namespace dsv4mx::test

using dsv4mx::test::Failing;
using dsv4mx::test::FailingRuntime;
using dsv4mx::test::fake;

// --- The runtime ------------------------------------------------------------------------------------------------------

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return FailingRuntime(__func__);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return FailingRuntime(__func__);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? 9
           : attribute == cudaDevAttrComputeCapabilityMinor ? 0
           : attribute == cudaDevAttrMultiProcessorCount    ? 132
           : attribute == cudaDevAttrL2CacheSize            ? 50 << 20
           : attribute == cudaDevAttrMemoryClockRate        ? 2619000
           : attribute == cudaDevAttrGlobalMemoryBusWidth   ? 5120
                                                            : 0;
  return FailingRuntime(__func__);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int) {
  std::memset(out, 0, sizeof *out);
  std::snprintf(out->name, sizeof out->name, "a fake Hopper");
  return FailingRuntime("cudaGetDeviceProperties");
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** out, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  using namespace dsv4mx::test;
  const struct {
    const char* name;
    void* function;
  } all[] = {{"cuCtxGetCurrent", reinterpret_cast<void*>(GetCurrent)},
             {"cuCtxSetCurrent", reinterpret_cast<void*>(SetCurrent)},
             {"cuDeviceGet", reinterpret_cast<void*>(GetDevice)},
             {"cuDevicePrimaryCtxRetain", reinterpret_cast<void*>(RetainPrimary)}};
  *out = nullptr;
  for (const auto& f : all) {
    if (std::strcmp(f.name, name) == 0) *out = f.function;
  }
  *found = *out != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return FailingRuntime(__func__);
}

cudaError_t cudaPeekAtLastError() {
  return fake.last_error;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = fake.last_error;
  fake.last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorName(cudaError_t) {
  return "cudaErrorFake";
}
const char* cudaGetErrorString(cudaError_t) {
  return "a fake";
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  if (const cudaError_t error = FailingRuntime(__func__); error != cudaSuccess) return error;
  std::swap(*mode, fake.mode);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return FailingRuntime(__func__);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return FailingRuntime(__func__);
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return FailingRuntime(__func__);
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return FailingRuntime(__func__);
}
cudaError_t cudaDeviceGetPCIBusId(char* bus, int length, int) {
  std::snprintf(bus, static_cast<size_t>(length), "0000:00:00.0");
  return FailingRuntime(__func__);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return FailingRuntime(__func__);
}

cudaError_t cudaMalloc(void** out, size_t bytes) {
  return dsv4mx::test::Make(__func__, bytes, 'd', out);
}
cudaError_t cudaFree(void* pointer) {
  return dsv4mx::test::Free(__func__, pointer, 'd');
}
cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  return dsv4mx::test::Make(__func__, bytes, 'h', out);
}
cudaError_t cudaFreeHost(void* pointer) {
  return dsv4mx::test::Free(__func__, pointer, 'h');
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  return dsv4mx::test::Make(__func__, 1, 'e', reinterpret_cast<void**>(out));
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return dsv4mx::test::Free(__func__, event, 'e');
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return FailingRuntime(__func__);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return FailingRuntime(__func__);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (const cudaError_t error = FailingRuntime(__func__); error != cudaSuccess) return error;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (const cudaError_t error = FailingRuntime(__func__); error != cudaSuccess) return error;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
  *out = cudaPointerAttributes{};
  out->type = cudaMemoryTypeUnregistered;
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  for (const auto& [start, block] : fake.live) {
    const auto first = reinterpret_cast<uintptr_t>(start);
    if (block.kind == 'd' && at >= first && at < first + block.bytes) {
      out->type = cudaMemoryTypeDevice;
    }
  }
  return FailingRuntime(__func__);
}

}  // extern "C"

// --- The kernels: they touch all they were given, so that a sanitizer sees the sizes ------------------------------------

namespace dsv4mx {
namespace {

volatile uint8_t sink;

void Read(const void* from, int64_t bytes) {
  const auto* p = static_cast<const uint8_t*>(from);
  uint8_t sum = 0;
  for (int64_t i = 0; i < bytes; ++i) sum = static_cast<uint8_t>(sum + p[i]);
  sink = sum;
}
void Write(void* to, int64_t bytes) {
  if (to != nullptr) std::memset(to, 0, static_cast<size_t>(bytes));
}

int Launch(const char* name) {
  ++fake.launches;
  return Failing(name);
}

void ReadView(const RowsView& v, int64_t columns, int64_t bytes) {
  for (int64_t row = 0; row < v.rows; ++row) {
    for (int64_t c = 0; c < columns; ++c) {
      Read(v.data + row * v.row_stride + c * v.column_stride, bytes);
    }
  }
}

void Record(const SlabMatrix& to, char kind, const RowsView& v, int64_t columns, int64_t bytes) {
  if (!fake.record) return;
  for (int64_t row = 0; row < v.rows; ++row) {
    std::string text;
    for (int64_t c = 0; c < columns; ++c) {
      const uint8_t* at = v.data + row * v.row_stride + c * v.column_stride;
      text.append(reinterpret_cast<const char*>(at), static_cast<size_t>(bytes));
    }
    fake.rows[{to.slab, to.matrix, kind, v.first_row + row}] = text;
  }
}

int64_t CodeBytes(const MarlinPart& p) {
  return p.k_length / 16 * 2 * p.rows * 4;
}
int64_t ScaleBytes(const MarlinPart& p) {
  return p.k_length / 32 * p.rows;
}
int64_t BiasBytes(const MarlinPart& p, bool is_bf16) {
  return p.rows * (is_bf16 ? 2 : 4);
}

}  // namespace

int LoadKernels() {
  return Failing("LoadKernels");
}
int LoadWeightKernels() {
  return Failing("LoadWeightKernels");
}

int LaunchReadIds(const ReadIdsArgs& a, KernelStream) {
  const Routing& r = a.routing;
  const int64_t pairs = int64_t{r.tokens} * r.top_k;
  for (int64_t t = 0; t < r.tokens; ++t) {
    const int64_t id = r.ids_are_64 != 0 ? 8 : 4, weight = a.weight_is_bf16 != 0 ? 2 : 4;
    Read(static_cast<const uint8_t*>(r.ids) + t * a.ids_stride * id, r.top_k * id);
    Read(static_cast<const uint8_t*>(a.weights) + t * a.weights_stride * weight, r.top_k * weight);
  }
  Write(a.ids_out, pairs * 4);
  Write(a.weights_out, pairs * 4);
  if (a.expert_counts != nullptr) Write(a.expert_counts, int64_t{r.experts} * 8);
  if (a.invalid_ids != nullptr) Read(a.invalid_ids, 8);
  return Launch("LaunchReadIds");
}
int LaunchGather(const GatherArgs& a, KernelStream) {
  const Routing& r = a.routing;
  Read(r.ids, int64_t{r.tokens} * r.top_k * (r.ids_are_64 != 0 ? 8 : 4));
  if (r.expert_map != nullptr) Read(r.expert_map, int64_t{r.experts_global} * 4);
  Write(a.counts, int64_t{r.experts} * 4);
  Write(a.position, int64_t{r.tokens} * r.top_k * 4);
  for (int64_t t = 0; t < r.tokens; ++t) Read(a.x + t * a.x_stride, int64_t{a.hidden} * 2);
  Write(a.rows, MoePanelBytes(a.positions, a.hidden));
  Write(a.row_scale, a.positions * 4);
  Write(a.hidden_weight, a.positions * 4);
  return Launch("LaunchGather");
}
int LaunchQuantise(const QuantiseArgs& a, KernelStream) {
  Write(a.rows, MoePanelBytes(a.positions, a.k));
  return Launch("LaunchQuantise");
}
int LaunchGemm1(Path, const GemmArgs& a, KernelStream) {
  const int64_t intermediate = int64_t{a.tiles} * kSm90TileRows / 2;
  Read(a.rows, MoePanelBytes(a.positions, a.k));
  Write(a.h, MoePanelBytes(a.positions, intermediate));
  Write(a.h_scale, MoeBlocks(intermediate) * a.positions * 4);
  Read(a.slabs, a.routing.experts * a.slab_bytes);
  return Launch("LaunchGemm1");
}
int LaunchGemm2(Path, const GemmArgs& a, KernelStream) {
  Read(a.rows, MoePanelBytes(a.positions, a.k));
  Read(a.row_scale, MoeBlocks(a.k) * a.positions * 4);
  Write(a.slots, a.positions * a.hidden * (a.slots_are_bf16 != 0 ? 2 : 4));
  return Launch("LaunchGemm2");
}
int LaunchCombine(const CombineArgs& a, KernelStream) {
  const int64_t element = a.out_is_f32 != 0 ? 4 : 2;
  for (int64_t t = 0; t < a.routing.tokens; ++t) {
    Write(static_cast<uint8_t*>(a.out) + t * a.out_stride * element, a.hidden * element);
  }
  return Launch("LaunchCombine");
}

int LaunchFewGemm1(const GatherArgs& a, const GemmArgs& m, KernelStream) {
  const Routing& r = a.routing;
  const int64_t pairs = int64_t{r.tokens} * r.top_k;
  Read(r.ids, pairs * (r.ids_are_64 != 0 ? 8 : 4));
  if (r.expert_map != nullptr) Read(r.expert_map, int64_t{r.experts_global} * 4);
  for (int64_t t = 0; t < r.tokens; ++t) Read(a.x + t * a.x_stride, int64_t{a.hidden} * 2);
  Read(m.slabs, r.experts * m.slab_bytes);
  Write(m.h, pairs * m.tiles * (kSm90TileRows / 2) * 4);
  return Launch("LaunchFewGemm1");
}
int LaunchFewGemm2(const GemmArgs& m, const CombineArgs& a, KernelStream) {
  const Routing& r = m.routing;
  const int64_t pairs = int64_t{r.tokens} * r.top_k, element = a.out_is_f32 != 0 ? 4 : 2;
  Read(m.rows, pairs * m.k * 4);
  Write(m.slots, pairs * m.hidden * (m.slots_are_bf16 != 0 ? 2 : 4));
  for (int64_t t = 0; t < r.tokens && r.tokens <= kFewTokens2; ++t) {
    Write(static_cast<uint8_t*>(a.out) + t * a.out_stride * element, a.hidden * element);
  }
  return Launch("LaunchFewGemm2");
}

int LaunchPackCodes(const SlabMatrix& to, const RowsView& codes, bool high_first, CUstream_st*) {
  ReadView(codes, to.k() / 2, 1);
  Record(to, 'c', codes, to.k() / 2, 1);
  fake.high_first = high_first;
  return Launch("LaunchPackCodes");
}
int LaunchPackScales(const SlabMatrix& to, const RowsView& scales, ScaleType type, uint64_t*,
                     CUstream_st*) {
  const int64_t bytes = type == ScaleType::kBytes ? 1 : type == ScaleType::kF32 ? 4 : 2;
  ReadView(scales, to.k() / 32, bytes);
  Record(to, 's', scales, to.k() / 32, bytes);
  return Launch("LaunchPackScales");
}
int LaunchPackBias(const SlabMatrix& to, const uint8_t* bias, int64_t stride, bool is_bf16,
                   CUstream_st*) {
  for (int64_t row = 0; row < to.rows(); ++row) Read(bias + row * stride, is_bf16 ? 2 : 4);
  Record(to, 'b', RowsView{bias, stride, 1, 0, to.rows()}, is_bf16 ? 2 : 4, 1);
  return Launch("LaunchPackBias");
}
int LaunchPrepareExpert(uint8_t* slab, const Sm90Slab& parts, int32_t, int32_t,
                        CensusRecord* census, CUstream_st*) {
  Write(slab, parts.bytes);
  *census = CensusRecord{255 - 120, 120, 0, 1};
  return Launch("LaunchPrepareExpert");
}

int LaunchMarlinImportCodes(const SlabMatrix&, bool, const MarlinPart& p, CUstream_st*) {
  Read(p.data, CodeBytes(p));
  return Launch("LaunchMarlinImportCodes");
}
int LaunchMarlinImportScales(const SlabMatrix&, bool, const MarlinPart& p, CUstream_st*) {
  Read(p.data, ScaleBytes(p));
  return Launch("LaunchMarlinImportScales");
}
int LaunchMarlinExportCodes(const SlabMatrix&, bool, const MarlinPart& p, CUstream_st*) {
  Write(p.data, CodeBytes(p));
  return Launch("LaunchMarlinExportCodes");
}
int LaunchMarlinExportScales(const SlabMatrix&, bool, const MarlinPart& p, CUstream_st*) {
  Write(p.data, ScaleBytes(p));
  return Launch("LaunchMarlinExportScales");
}
int LaunchMarlinImportBias(const SlabMatrix&, bool, const MarlinPart& p, bool is_bf16,
                           CUstream_st*) {
  Read(p.data, BiasBytes(p, is_bf16));
  return Launch("LaunchMarlinImportBias");
}
int LaunchMarlinExportBias(const SlabMatrix&, bool, const MarlinPart& p, bool is_bf16,
                           CUstream_st*) {
  Write(p.data, BiasBytes(p, is_bf16));
  return Launch("LaunchMarlinExportBias");
}
int LaunchMarlinCheckScales(const SlabMatrix&, bool, const MarlinPart& p, uint64_t*, CUstream_st*) {
  Read(p.data, ScaleBytes(p));
  return Launch("LaunchMarlinCheckScales");
}

}  // namespace dsv4mx
