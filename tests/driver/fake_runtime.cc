#include "tests/driver/fake_runtime.h"

#include <cuda.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/dist/launch_collect.h"
#include "kernels/dist/launch_exchange.h"
#include "kernels/dist/launch_slices.h"
#include "kernels/few/geometry.h"
#include "kernels/launch.h"
#include "kernels/launch_ids.h"
#include "kernels/launch_weights.h"
#include "tests/driver/driver_functions.h"

namespace dsv4mx::test {

FakeRuntime fake;

namespace {

cudaError_t Failing(const char* name) {
  const int call = fake.calls++;
  fake.log.emplace_back(name);
  if (fake.refused == name) return cudaErrorNotSupported;
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

// The same on a stream.
cudaError_t FailingOn(cudaStream_t stream, const char* name) {
  const cudaError_t error = FailingRuntime(name);
  fake.log.back() += " " + std::to_string(reinterpret_cast<uintptr_t>(stream));
  return error;
}

int primaries[2];
int CurrentDevice() {
  return fake.current == &primaries[1] ? 1 : 0;
}

cudaError_t Make(const char* name, size_t bytes, char kind, void** out) {
  if (const cudaError_t error = FailingRuntime(name); error != cudaSuccess) return error;
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*out, 0xA5, bytes);
  fake.live[*out] = {bytes, kind, CurrentDevice()};
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

// How much is mapped from `at` on, which is `bytes` at least.
size_t Mapped(void* at, size_t bytes) {
  constexpr size_t kPage = 4096;
  unsigned char resident = 0;
  size_t n = (bytes + kPage - 1) / kPage * kPage;
  while (mincore(static_cast<uint8_t*>(at) + n, kPage, &resident) == 0) n += kPage;
  return n;
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
CUresult RetainPrimary(CUcontext* out, CUdevice device) {
  *out = reinterpret_cast<CUcontext>(&primaries[device]);
  return static_cast<CUresult>(Failing("cuDevicePrimaryCtxRetain"));
}

// Virtual memory: an address range (v) has its memory from the start, and is another kind (w) while it is mapped.
CUresult Granularity(size_t* out, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *out = size_t{1} << 12;
  return static_cast<CUresult>(Failing("cuMemGetAllocationGranularity"));
}
CUresult ReserveAddress(CUdeviceptr* out, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  void* range = nullptr;
  const cudaError_t error = Make("cuMemAddressReserve", bytes, 'v', &range);
  *out = reinterpret_cast<CUdeviceptr>(range);
  return static_cast<CUresult>(error);
}
CUresult FreeAddress(CUdeviceptr range, size_t) {
  return static_cast<CUresult>(Free("cuMemAddressFree", reinterpret_cast<void*>(range), 'v'));
}
CUresult CreateMemory(CUmemGenericAllocationHandle* out, size_t, const CUmemAllocationProp*,
                      unsigned long long) {
  void* memory = nullptr;
  const cudaError_t error = Make("cuMemCreate", 1, 'm', &memory);
  *out = reinterpret_cast<uintptr_t>(memory);
  return static_cast<CUresult>(error);
}
CUresult ReleaseMemory(CUmemGenericAllocationHandle memory) {
  return static_cast<CUresult>(
      Free("cuMemRelease", reinterpret_cast<void*>(static_cast<uintptr_t>(memory)), 'm'));
}
CUresult ChangeKind(const char* name, CUdeviceptr range, char from, char to) {
  const auto it = fake.live.find(reinterpret_cast<void*>(range));
  if (it == fake.live.end() || it->second.kind != from) {
    if (fake.misuse.empty()) fake.misuse = name;
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto error = static_cast<CUresult>(Failing(name));
  // As with Free, what is undone is undone.
  if (error == CUDA_SUCCESS || to == 'v') it->second.kind = to;
  return error;
}
CUresult MapMemory(CUdeviceptr range, size_t, size_t, CUmemGenericAllocationHandle,
                   unsigned long long) {
  return ChangeKind("cuMemMap", range, 'v', 'w');
}
CUresult UnmapMemory(CUdeviceptr range, size_t) {
  return ChangeKind("cuMemUnmap", range, 'w', 'v');
}
CUresult SetAccess(CUdeviceptr, size_t, const CUmemAccessDesc* devices, size_t count) {
  const auto error = static_cast<CUresult>(Failing("cuMemSetAccess"));
  for (size_t i = 0; i < count; ++i)
    fake.log.back() += " " + std::to_string(devices[i].location.id);
  return error;
}
CUresult ExportHandle(void* out, CUmemGenericAllocationHandle, CUmemAllocationHandleType,
                      unsigned long long) {
  const auto error = static_cast<CUresult>(Failing("cuMemExportToShareableHandle"));
  if (error == CUDA_SUCCESS) *static_cast<int*>(out) = open("/dev/null", O_RDWR | O_CLOEXEC);
  return error;
}
CUresult ImportHandle(CUmemGenericAllocationHandle* out, void*, CUmemAllocationHandleType) {
  void* memory = nullptr;
  const cudaError_t error = Make("cuMemImportFromShareableHandle", 1, 'm', &memory);
  *out = reinterpret_cast<uintptr_t>(memory);
  return static_cast<CUresult>(error);
}

const cuda::Driver driver{.get_current = GetCurrent,
                          .set_current = SetCurrent,
                          .get_device = GetDevice,
                          .retain_primary = RetainPrimary,
                          .granularity = Granularity,
                          .reserve = ReserveAddress,
                          .free_address = FreeAddress,
                          .create = CreateMemory,
                          .release = ReleaseMemory,
                          .map = MapMemory,
                          .unmap = UnmapMemory,
                          .set_access = SetAccess,
                          .share = ExportHandle,
                          .import = ImportHandle};

}  // namespace
}  // namespace dsv4mx::test

using dsv4mx::test::Failing;
using dsv4mx::test::FailingOn;
using dsv4mx::test::FailingRuntime;
using dsv4mx::test::fake;

// --- The runtime ------------------------------------------------------------------------------------------------------

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = fake.devices;
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
  *out = fake.missing == name ? nullptr : DriverFunction(driver, name);
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
  *status = fake.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return FailingRuntime(__func__);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return FailingRuntime(__func__);
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return FailingRuntime(__func__);
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  const cudaError_t error = FailingRuntime(__func__);
  return error == cudaSuccess && fake.behind ? cudaErrorNotReady : error;
}
cudaError_t cudaDeviceGetPCIBusId(char* bus, int length, int) {
  std::snprintf(bus, static_cast<size_t>(length), "0000:00:00.0");
  return FailingRuntime(__func__);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const cudaError_t error = FailingOn(stream, __func__);
  fake.log.back() += " " + std::to_string(reinterpret_cast<uintptr_t>(event));
  return error;
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
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  if (const cudaError_t error = FailingRuntime(__func__); error != cudaSuccess) return error;
  fake.live[pointer] = {dsv4mx::test::Mapped(pointer, bytes), 'r', 0};
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* pointer) {
  const auto it = fake.live.find(pointer);
  if (it == fake.live.end() || it->second.kind != 'r') {
    if (fake.misuse.empty()) fake.misuse = __func__;
    return cudaErrorHostMemoryNotRegistered;
  }
  fake.live.erase(it);
  return FailingRuntime(__func__);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  return dsv4mx::test::Make(__func__, 1, 's', reinterpret_cast<void**>(out));
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return dsv4mx::test::Free(__func__, stream, 's');
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  return dsv4mx::test::Make(__func__, 1, 'e', reinterpret_cast<void**>(out));
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return dsv4mx::test::Free(__func__, event, 'e');
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const cudaError_t error = FailingOn(stream, __func__);
  fake.log.back() += " " + std::to_string(reinterpret_cast<uintptr_t>(event));
  return error;
}
cudaError_t cudaDeviceSynchronize() {
  return FailingRuntime(__func__);
}
cudaError_t cudaDeviceCanAccessPeer(int* out, int, int) {
  *out = fake.reach > 0 ? 1 : 0;
  return FailingRuntime(__func__);
}
cudaError_t cudaDeviceGetP2PAttribute(int* out, cudaDeviceP2PAttr, int, int) {
  *out = fake.reach > 1 ? 1 : 0;
  return FailingRuntime(__func__);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return FailingRuntime(__func__);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  if (const cudaError_t error = FailingOn(stream, __func__); error != cudaSuccess) return error;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = FailingOn(stream, __func__); error != cudaSuccess) return error;
  fake.log.back() += " " + std::to_string(from_device) + " to " + std::to_string(to_device);
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream) {
  if (const cudaError_t error = FailingOn(stream, __func__); error != cudaSuccess) return error;
  if (to_pitch < width || from_pitch < width) return cudaErrorInvalidPitchValue;
  for (size_t row = 0; row < height; ++row) {
    std::memcpy(static_cast<char*>(to) + row * to_pitch,
                static_cast<const char*>(from) + row * from_pitch, width);
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = FailingOn(stream, __func__); error != cudaSuccess) return error;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  if (const cudaError_t error = FailingOn(stream, __func__); error != cudaSuccess) return error;
  for (size_t row = 0; row < height; ++row) {
    std::memset(static_cast<char*>(to) + row * pitch, value, width);
  }
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
      out->device = block.device;
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

// Calls f(row, slab row) for the slab rows that a run of a matrix's rows fills, padding included.
template <class F>
void ForSlabRows(const SlabMatrix& m, int64_t first, int64_t rows, F&& f) {
  const int64_t per = m.down() ? kSm90TileRows : kSm90TileRows / 2;
  const int64_t end = (first + rows + per - 1) / per * kSm90TileRows;
  for (int64_t at = first / per * kSm90TileRows; at < end; ++at) {
    int half = m.matrix;
    const int64_t row = m.down() ? Sm90W2Hidden(at) : Sm90W13Channel(m.intermediate, at, &half);
    if (half == m.matrix) f(row, at);
  }
}

// An element of a scale tensor that holds powers of two.
uint8_t ScaleOf(const uint8_t* p, ScaleType type) {
  uint32_t bits = 0;
  std::memcpy(&bits, p, type == ScaleType::kBytes ? 1 : type == ScaleType::kF32 ? 4 : 2);
  if (type == ScaleType::kBytes) return p[0];
  return static_cast<uint8_t>(type == ScaleType::kBf16 ? bits >> 7 : bits >> 23);
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

// Groups need threads, which this runtime is not made for: they run on the emulator.
namespace dist {
int LaunchSend(const SendArgs&, KernelStream) {
  return Launch("LaunchSend");
}
int LaunchPlace(const PlaceArgs&, KernelStream) {
  return Launch("LaunchPlace");
}
int LaunchReturn(const ReturnArgs&, KernelStream) {
  return Launch("LaunchReturn");
}
int LaunchFinish(const FinishArgs&, KernelStream) {
  return Launch("LaunchFinish");
}
int LaunchReduce(const ReduceArgs&, KernelStream) {
  return Launch("LaunchReduce");
}
int LaunchTell(const TellArgs&, KernelStream) {
  return Launch("LaunchTell");
}
int LaunchPackRows(const PackRowsArgs&, KernelStream) {
  return Launch("LaunchPackRows");
}
int LaunchSpreadRows(const SpreadRowsArgs&, KernelStream) {
  return Launch("LaunchSpreadRows");
}
int LaunchSpreadSums(const SpreadRowsArgs&, KernelStream) {
  return Launch("LaunchSpreadSums");
}
int LaunchPackSums(const CollectSumsArgs&, KernelStream) {
  return Launch("LaunchPackSums");
}
int LaunchAddSums(const CollectSumsArgs&, KernelStream) {
  return Launch("LaunchAddSums");
}
int LaunchSliceGemm2(Path, const SliceGemmArgs&, KernelStream) {
  return Launch("LaunchSliceGemm2");
}
int LaunchSliceSum(const SliceSumArgs&, KernelStream) {
  return Launch("LaunchSliceSum");
}
}  // namespace dist

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
int LaunchSizes(const SizesArgs& a, KernelStream) {
  const Routing& r = a.routing;
  const int64_t id = r.ids_are_64 != 0 ? 8 : 4;
  for (int64_t t = 0; t < r.tokens; ++t)
    Read(static_cast<const uint8_t*>(r.ids) + t * a.ids_stride * id, r.top_k * id);
  Write(a.sizes, int64_t{r.experts} * 4);
  Write(a.extent, 8);
  return Launch("LaunchSizes");
}
int LaunchGather(const GatherArgs& a, KernelStream) {
  fake.gather = a;
  const Routing& r = a.routing;
  Read(r.ids, int64_t{r.tokens} * r.top_k * (r.ids_are_64 != 0 ? 8 : 4));
  if (r.expert_map != nullptr) Read(r.expert_map, int64_t{r.experts_global} * 4);
  Write(a.counts, int64_t{r.experts} * 4);
  Write(a.taken, int64_t{kClearedWords} * 4);
  if (a.extent != nullptr) Write(a.extent, 8);
  Read(a.sizes, int64_t{r.experts} * 4);
  Write(a.panel_row, int64_t{r.tokens} * r.top_k * 4);
  for (int64_t t = 0; t < r.tokens; ++t) Read(a.x + t * a.x_stride, int64_t{a.hidden} * 2);
  Write(a.panel, MoePanelBytes(a.panel_rows, a.hidden));
  if (a.source != nullptr) Write(a.source, a.panel_rows * 4);
  Write(a.row_scale, a.panel_rows * 4);
  Write(a.hidden_weight, a.panel_rows * 4);
  return Launch("LaunchGather");
}
int LaunchQuantise(const QuantiseArgs& a, KernelStream) {
  Write(a.panel, MoePanelBytes(a.panel_rows, a.k));
  return Launch("LaunchQuantise");
}
int LaunchLevel(const LevelArgs& a, KernelStream) {
  fake.level = a;
  Write(a.panel, MoePanelBytes(a.panel_rows, a.k));
  Read(a.h_scale, MoeBlocks(a.k) * a.panel_rows * 4);
  Write(a.row_scale, a.panel_rows * 4);
  return Launch("LaunchLevel");
}
int LaunchGemm1(Path path, const GemmArgs& a, KernelStream) {
  fake.gemms.push_back({1, path, a});
  const int64_t intermediate = int64_t{a.tiles} * kSm90TileRows / 2;
  Read(a.panel, MoePanelBytes(a.panel_rows, a.k));
  if (a.source != nullptr) Read(a.source, a.panel_rows * 4);
  Write(a.h, MoePanelBytes(a.panel_rows, intermediate));
  Write(a.h_scale, MoeBlocks(intermediate) * a.panel_rows * 4);
  Read(a.slabs, a.routing.experts * a.slab_bytes);
  return Launch("LaunchGemm1");
}
int LaunchGemm2(Path path, const GemmArgs& a, KernelStream) {
  fake.gemms.push_back({2, path, a});
  Read(a.panel, MoePanelBytes(a.panel_rows, a.k));
  Read(a.row_scale, MoeBlocks(a.k) * a.panel_rows * 4);
  Write(a.slots, a.panel_rows * a.hidden * (a.slots_are_bf16 != 0 ? 2 : 4));
  return Launch("LaunchGemm2");
}
int LaunchCombine(const CombineArgs& a, KernelStream) {
  fake.combine = a;
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
  Read(m.panel, pairs * m.k * 4);
  Write(m.slots, pairs * m.hidden * (m.slots_are_bf16 != 0 ? 2 : 4));
  for (int64_t t = 0; t < r.tokens && r.tokens <= kFewTokens2; ++t) {
    Write(static_cast<uint8_t*>(a.out) + t * a.out_stride * element, a.hidden * element);
  }
  return Launch("LaunchFewGemm2");
}

// Those that make experts really do, by the index functions that the kernels go by as well.
int LaunchPackCodes(const SlabMatrix& first, const RowsView& of_first, const ExpertRun& run,
                    bool high_first, CUstream_st* stream) {
  SlabMatrix to = first;
  RowsView codes = of_first;
  for (int32_t e = 1; e < run.count; ++e) {
    to.slab += run.slab_step;
    codes.data += run.data_step;
    (void)LaunchPackCodes(to, codes, {}, high_first, stream);
    fake.calls -= 1;
    fake.log.pop_back();
    fake.launches -= 1;
  }
  to = first, codes = of_first;
  Record(to, 'c', codes, to.k() / 2, 1);
  fake.high_first = high_first;
  const int64_t K = to.k();
  ForSlabRows(to, codes.first_row, codes.rows, [&](int64_t row, int64_t at) {
    for (int64_t k = 0; k < K; k += 8) {
      uint32_t raw = 0;
      for (int64_t i = 0; i < 4 && row < to.rows(); ++i) {
        const uint8_t byte = codes.data[(row - codes.first_row) * codes.row_stride +
                                        (k / 2 + i) * codes.column_stride];
        raw |= static_cast<uint32_t>(high_first ? (byte << 4 | byte >> 4) & 255 : byte) << (8 * i);
      }
      const uint32_t word = Sm90PackWord(raw);
      std::memcpy(to.slab + to.tile_offset(at / kSm90TileRows) +
                      Sm90Code(K, static_cast<int>(at % kSm90TileRows), k).byte,
                  &word, 4);
    }
  });
  return Launch("LaunchPackCodes");
}
int LaunchUnpackRows(const SlabMatrix& from, const RowsOut& to, RowForm form, bool high_first,
                     CUstream_st*) {
  const int64_t K = from.k();
  for (int64_t row = to.first_row; row < to.first_row + to.rows; ++row) {
    uint8_t* out = to.data + (row - to.first_row) * to.row_stride;
    const int64_t at = from.SlabRow(row);
    const uint8_t* tile = from.slab + from.tile_offset(at / kSm90TileRows);
    const auto in_tile = static_cast<int>(at % kSm90TileRows);
    const auto code = [&](int64_t k) {
      const Sm90Pos pos = Sm90Code(K, in_tile, k);
      uint32_t word;
      std::memcpy(&word, tile + pos.byte, 4);
      return Sm90Decode(word, pos);
    };
    const auto scale = [&](int64_t k) { return tile[Sm90Scale(K, in_tile, k)]; };
    if (form == RowForm::kBias) {
      const auto* bias = from.slab + (from.down() ? from.parts.w2_bias : from.parts.w13_bias);
      std::memcpy(out, bias + 4 * at, 4);
    } else if (form == RowForm::kScales) {
      for (int64_t k = 0; k < K; k += 32) out[k / 32 * to.column_stride] = scale(k);
    } else if (form == RowForm::kCodes) {
      for (int64_t k = 0; k < K; k += 2) {
        const uint32_t even = code(k), odd = code(k + 1);
        out[k / 2 * to.column_stride] =
            static_cast<uint8_t>(high_first ? even << 4 | odd : odd << 4 | even);
      }
    } else {
      for (int64_t k = 0; k < K; ++k) {
        constexpr float kMagnitudes[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
        const uint32_t bits = scale(k) == 0 ? 0x00400000u : uint32_t{scale(k)} << 23;
        float value;
        std::memcpy(&value, &bits, 4);
        value *= kMagnitudes[code(k) & 7];
        uint32_t weight;
        std::memcpy(&weight, &value, 4);
        const auto half = static_cast<uint16_t>(weight >> 16 | (code(k) >> 3) << 15);
        std::memcpy(out + k * to.column_stride, &half, 2);
      }
    }
  }
  return Launch("LaunchUnpackRows");
}
int LaunchPackScales(const SlabMatrix& to, const RowsView& scales, ScaleType type, uint64_t*,
                     CUstream_st*) {
  Record(to, 's', scales, to.k() / 32,
         type == ScaleType::kBytes ? 1
         : type == ScaleType::kF32 ? 4
                                   : 2);
  const int64_t K = to.k();
  ForSlabRows(to, scales.first_row, scales.rows, [&](int64_t row, int64_t at) {
    for (int64_t k = 0; k < K; k += 32) {
      const uint8_t* p = scales.data + (row - scales.first_row) * scales.row_stride +
                         k / 32 * scales.column_stride;
      to.slab[to.tile_offset(at / kSm90TileRows) +
              Sm90Scale(K, static_cast<int>(at % kSm90TileRows), k)] =
          row < to.rows() ? ScaleOf(p, type) : 0;
    }
  });
  return Launch("LaunchPackScales");
}
int LaunchPackBias(const SlabMatrix& to, const uint8_t* bias, int64_t stride, bool is_bf16,
                   CUstream_st*) {
  Record(to, 'b', RowsView{bias, stride, 1, 0, to.rows()}, is_bf16 ? 2 : 4, 1);
  ForSlabRows(to, 0, to.rows(), [&](int64_t row, int64_t at) {
    uint32_t bits = 0;
    if (row < to.rows()) std::memcpy(&bits, bias + row * stride, is_bf16 ? 2 : 4);
    if (is_bf16) bits <<= 16;
    std::memcpy(to.slab + (to.down() ? to.parts.w2_bias : to.parts.w13_bias) + 4 * at, &bits, 4);
  });
  return Launch("LaunchPackBias");
}
int LaunchPrepareExperts(uint8_t* slab, int32_t experts, const Sm90Slab& parts, int32_t hidden,
                         int32_t intermediate, CensusRecord* census, CUstream_st* stream) {
  if (experts > 1) {
    (void)LaunchPrepareExperts(slab + parts.bytes, experts - 1, parts, hidden, intermediate,
                               census + 1, stream);
    fake.calls -= 1;
    fake.log.pop_back();
    fake.launches -= 1;
  }
  for (const bool w2 : {false, true}) {
    const int64_t K = w2 ? intermediate : hidden, blocks = Sm90BaseBlocks(K);
    const int64_t rows = w2 ? Sm90PaddedRows(hidden) : 2 * int64_t{intermediate};
    for (int64_t i = 0; i < rows * blocks; ++i) {
      const int64_t at = i / blocks, block = i % blocks, tile = at / kSm90TileRows;
      const int in_tile = static_cast<int>(at % kSm90TileRows);
      const uint8_t* from = slab + (w2 ? parts.w2 : parts.w13) + tile * Sm90TileBytes(K);
      int low = 256, high = -1;
      for (int64_t k = block * kSm90BaseK; k < std::min(K, (block + 1) * kSm90BaseK); k += 8) {
        uint32_t word;
        std::memcpy(&word, from + Sm90Code(K, in_tile, k).byte, 4);
        if ((Sm90UnpackWord(word) & 0x77777777u) == 0) continue;
        const int scale = from[Sm90Scale(K, in_tile, k / 32 * 32)];
        low = std::min(low, scale);
        high = std::max(high, scale);
      }
      slab[(w2 ? parts.w2_base : parts.w13_base) + (tile * blocks + block) * kSm90TileRows +
           in_tile] = static_cast<uint8_t>(high < 0 ? 0 : low);
      if (high < 0) continue;
      census->any = 1;
      census->low = std::max(census->low, 255 - low);
      census->high = std::max(census->high, high);
      census->span = std::max(census->span, high - low);
    }
  }
  return Launch("LaunchPrepareExperts");
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
