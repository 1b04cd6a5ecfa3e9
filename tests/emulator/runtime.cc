// The CUDA runtime over the emulator: devices of SM 9.0 (DSV4MX_EMULATED_DEVICES, one if unset) whose memory is the host's, so
// that each reaches all of it, and streams that have always finished. Linked in place of cudart. Only what lib/cuda and the
// tests call.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/driver/driver_functions.h"
#include "tests/emulator/emulated_launch.h"

namespace dsv4mx::emulator {
namespace {

struct Block {
  size_t bytes;
  cudaMemoryType type;
  int device;
};
std::mutex mutex;
std::map<const uint8_t*, Block> blocks;  // by first byte
int64_t taken;                           // bytes of device memory
std::map<int, int64_t> handles;          // bytes of virtual memory made here, by file

// The device is broken from the first fault on, as a context is.
bool broken;
thread_local cudaError_t last_error = cudaSuccess;
thread_local CUcontext current = nullptr;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

int Devices() {
  const char* wanted = std::getenv("DSV4MX_EMULATED_DEVICES");
  const int count = wanted == nullptr ? 0 : std::atoi(wanted);
  return count > 0 && count <= kMostDevices ? count : 1;
}
// Their primary contexts.
int primaries[kMostDevices];
int CurrentDevice() {
  for (int d = 0; d < kMostDevices; d++) {
    if (current == reinterpret_cast<CUcontext>(&primaries[d])) return d;
  }
  return 0;
}

constexpr int64_t kTotalBytes = int64_t{16} << 30;

cudaError_t Result(cudaError_t error) {
  if (error == cudaSuccess && broken) error = cudaErrorLaunchFailure;
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t Allocate(size_t bytes, cudaMemoryType type, void** out) {
  *out = nullptr;
  void* memory = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (type == cudaMemoryTypeDevice && taken + static_cast<int64_t>(bytes) > kTotalBytes) {
      return Result(cudaErrorMemoryAllocation);
    }
  }
  memory = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  if (memory == nullptr) return Result(cudaErrorMemoryAllocation);
  std::memset(memory, 0xA5, bytes);  // nobody may count on what is there
  const std::lock_guard<std::mutex> lock(mutex);
  blocks[static_cast<const uint8_t*>(memory)] = {bytes, type, CurrentDevice()};
  if (type == cudaMemoryTypeDevice) taken += static_cast<int64_t>(bytes);
  *out = memory;
  return Result(cudaSuccess);
}

cudaError_t Release(void* pointer, cudaMemoryType type) {
  if (pointer == nullptr) return Result(cudaSuccess);
  const std::lock_guard<std::mutex> lock(mutex);
  const auto it = blocks.find(static_cast<const uint8_t*>(pointer));
  if (it == blocks.end() || it->second.type != type) return Result(cudaErrorInvalidValue);
  if (type == cudaMemoryTypeDevice) taken -= static_cast<int64_t>(it->second.bytes);
  blocks.erase(it);
  std::free(pointer);
  return Result(cudaSuccess);
}

CUresult GetCurrent(CUcontext* out) {
  *out = current;
  return CUDA_SUCCESS;
}
CUresult SetCurrent(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}
CUresult GetDevice(CUdevice* out, int ordinal) {
  *out = ordinal;
  return CUDA_SUCCESS;
}
CUresult RetainPrimary(CUcontext* out, CUdevice device) {
  *out = reinterpret_cast<CUcontext>(&primaries[device]);
  return CUDA_SUCCESS;
}

// Virtual memory: a handle is a file in memory, which other processes may map as well.
CUresult Granularity(size_t* out, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  *out = size_t{1} << 16;
  return CUDA_SUCCESS;
}
CUresult ReserveAddress(CUdeviceptr* out, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  void* memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *out = reinterpret_cast<CUdeviceptr>(memory);
  return CUDA_SUCCESS;
}
CUresult FreeAddress(CUdeviceptr address, size_t bytes) {
  return munmap(reinterpret_cast<void*>(address), bytes) == 0 ? CUDA_SUCCESS
                                                              : CUDA_ERROR_INVALID_VALUE;
}
CUresult CreateMemory(CUmemGenericAllocationHandle* out, size_t bytes, const CUmemAllocationProp*,
                      unsigned long long) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (taken + static_cast<int64_t>(bytes) > kTotalBytes) return CUDA_ERROR_OUT_OF_MEMORY;
  const int file = memfd_create("emulated memory", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  handles[file] = static_cast<int64_t>(bytes);
  taken += static_cast<int64_t>(bytes);
  *out = static_cast<CUmemGenericAllocationHandle>(file);
  return CUDA_SUCCESS;
}
CUresult ReleaseMemory(CUmemGenericAllocationHandle handle) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto it = handles.find(static_cast<int>(handle));
  if (it == handles.end()) return CUDA_ERROR_INVALID_VALUE;
  taken -= it->second;
  handles.erase(it);
  return close(static_cast<int>(handle)) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult MapMemory(CUdeviceptr address, size_t bytes, size_t, CUmemGenericAllocationHandle handle,
                   unsigned long long) {
  void* at = mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED, static_cast<int>(handle), 0);
  return at == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult UnmapMemory(CUdeviceptr address, size_t bytes) {
  void* at = mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return at == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult ExportHandle(void* out, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType,
                      unsigned long long) {
  const int file = fcntl(static_cast<int>(handle), F_DUPFD_CLOEXEC, 0);
  std::memcpy(out, &file, sizeof file);
  return file < 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult ImportHandle(CUmemGenericAllocationHandle* out, void* handle, CUmemAllocationHandleType) {
  const int file = fcntl(static_cast<int>(reinterpret_cast<intptr_t>(handle)), F_DUPFD_CLOEXEC, 0);
  if (file < 0) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard<std::mutex> lock(mutex);
  handles[file] = 0;
  *out = static_cast<CUmemGenericAllocationHandle>(file);
  return CUDA_SUCCESS;
}
CUresult SetAccess(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) {
  return CUDA_SUCCESS;
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

// Work that a graph repeats.
using Work = std::vector<std::function<void()>>;
struct Stream {
  std::unique_ptr<Work> captured;  // while it captures
};
std::mutex stream_mutex;
std::map<cudaStream_t, Stream> streams;

Stream* Capturing(cudaStream_t stream) {
  const auto it = streams.find(stream);
  return it != streams.end() && it->second.captured != nullptr ? &it->second : nullptr;
}

// Now, or when the graph runs that the stream is capturing.
cudaError_t Do(cudaStream_t stream, std::function<void()> work) {
  {
    const std::lock_guard<std::mutex> lock(stream_mutex);
    if (Stream* s = Capturing(stream); s != nullptr) {
      s->captured->push_back(std::move(work));
      return cudaSuccess;
    }
  }
  if (broken) return Result(cudaErrorLaunchFailure);
  work();
  return Result(cudaSuccess);
}

// What must not be asked of a stream that captures.
cudaError_t NotCaptured(cudaStream_t stream) {
  const std::lock_guard<std::mutex> lock(stream_mutex);
  return Result(Capturing(stream) != nullptr ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

int Multiprocessors() {
  const char* wanted = std::getenv("DSV4MX_EMULATED_MULTIPROCESSORS");
  const int count = wanted == nullptr ? 0 : std::atoi(wanted);
  return count > 0 ? count : 6;
}

}  // namespace

cudaError_t Enqueue(Launch launch, cudaStream_t stream) {
  return Do(stream, [launch = std::move(launch), device = CurrentDevice()] {
    const std::string fault = Run(launch, device);
    if (fault.empty()) return;
    std::fprintf(stderr, "emulator: %s\n", fault.c_str());
    broken = true;
  });
}

}  // namespace dsv4mx::emulator

using namespace dsv4mx::emulator;  // NOLINT: the functions below are C's

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = Devices();
  return Result(cudaSuccess);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? 9
           : attribute == cudaDevAttrComputeCapabilityMinor ? 0
           : attribute == cudaDevAttrMultiProcessorCount    ? Multiprocessors()
           : attribute == cudaDevAttrL2CacheSize            ? 50 << 20
           : attribute == cudaDevAttrMemoryClockRate        ? 2619000
           : attribute == cudaDevAttrGlobalMemoryBusWidth   ? 5120
                                                            : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  std::memset(out, 0, sizeof *out);
  std::snprintf(out->name, sizeof out->name, "an emulated Hopper");
  out->uuid.bytes[15] = static_cast<char>(device + 1);
  out->major = 9;
  out->multiProcessorCount = Multiprocessors();
  out->totalGlobalMem = static_cast<size_t>(kTotalBytes);
  return Result(cudaSuccess);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard<std::mutex> lock(mutex);
  *total = static_cast<size_t>(kTotalBytes);
  *free = static_cast<size_t>(kTotalBytes - taken);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* bus, int length, int) {
  std::snprintf(bus, static_cast<size_t>(length), "0000:00:00.0");
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** out, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  *out = dsv4mx::test::DriverFunction(driver, name);
  *found = *out != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* out, int, int) {
  *out = 1;
  return Result(cudaSuccess);
}
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaDeviceDisablePeerAccess(int) {
  return cudaSuccess;
}
cudaError_t cudaDeviceGetP2PAttribute(int* out, cudaDeviceP2PAttr, int, int) {
  *out = 1;
  return Result(cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
  return last_error;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorLaunchFailure      ? "cudaErrorLaunchFailure"
         : error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
                                              : "cudaErrorOfTheEmulator";
}
const char* cudaGetErrorString(cudaError_t error) {
  return cudaGetErrorName(error);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::lock_guard<std::mutex> lock(stream_mutex);
  *status =
      Capturing(stream) != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return Result(cudaSuccess);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard<std::mutex> lock(stream_mutex);
  streams[stream].captured = std::make_unique<Work>();
  return Result(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  const std::lock_guard<std::mutex> lock(stream_mutex);
  Stream* s = Capturing(stream);
  if (s == nullptr) return Result(cudaErrorInvalidValue);
  *out = reinterpret_cast<cudaGraph_t>(s->captured.release());
  return Result(cudaSuccess);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = reinterpret_cast<Work*>(graph)->size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = reinterpret_cast<cudaGraphExec_t>(new Work(*reinterpret_cast<Work*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const auto& work : *reinterpret_cast<Work*>(graph)) {
    if (broken) return Result(cudaErrorLaunchFailure);
    work();
  }
  return Result(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Work*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Work*>(graph);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  *out = reinterpret_cast<cudaStream_t>(new char);
  return Result(cudaSuccess);
}
cudaError_t cudaStreamCreate(cudaStream_t* out) {
  return cudaStreamCreateWithFlags(out, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<char*>(stream);
  return Result(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return NotCaptured(stream);
}
cudaError_t cudaDeviceSynchronize() {
  return Result(cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return NotCaptured(stream);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return Result(cudaSuccess);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  static int events;
  *out = reinterpret_cast<cudaEvent_t>(&events);
  return Result(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t* out) {
  return cudaEventCreateWithFlags(out, 0);
}
cudaError_t cudaEventElapsedTime(float* out, cudaEvent_t, cudaEvent_t) {
  *out = 1.0f;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return Result(cudaSuccess);
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) {
  return Result(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return Result(cudaSuccess);
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return Result(cudaSuccess);
}

cudaError_t cudaMalloc(void** out, size_t bytes) {
  return Allocate(bytes, cudaMemoryTypeDevice, out);
}
cudaError_t cudaFree(void* pointer) {
  return Release(pointer, cudaMemoryTypeDevice);
}
cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  return Allocate(bytes, cudaMemoryTypeHost, out);
}
cudaError_t cudaFreeHost(void* pointer) {
  return Release(pointer, cudaMemoryTypeHost);
}
// Any host memory is within the device's reach here.
cudaError_t cudaHostRegister(void*, size_t, unsigned) {
  return Result(cudaSuccess);
}
cudaError_t cudaHostUnregister(void*) {
  return Result(cudaSuccess);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return Do(stream, [=] { std::memmove(to, from, bytes); });
}
cudaError_t cudaMallocHost(void** out, size_t bytes) {
  return cudaHostAlloc(out, bytes, 0);
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= Devices()) return Result(cudaErrorInvalidDevice);
  current = reinterpret_cast<CUcontext>(&primaries[device]);
  return Result(cudaSuccess);
}
cudaError_t cudaGetDevice(int* device) {
  *device = CurrentDevice();
  return Result(cudaSuccess);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind) {
  if (const cudaError_t error = Result(cudaSuccess); error != cudaSuccess) return error;
  for (size_t row = 0; row < height; row++) {
    std::memcpy(static_cast<uint8_t*>(to) + row * to_pitch,
                static_cast<const uint8_t*>(from) + row * from_pitch, width);
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return Do(stream, [=] { std::memset(to, value, bytes); });
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
  return Do(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memset(static_cast<char*>(to) + row * pitch, value, width);
    }
  });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
  *out = cudaPointerAttributes{};
  out->type = cudaMemoryTypeUnregistered;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto* at = static_cast<const uint8_t*>(pointer);
  auto it = blocks.upper_bound(at);
  if (it != blocks.begin() && (--it, at < it->first + it->second.bytes)) {
    out->type = it->second.type;
    out->device = it->second.device;
    out->devicePointer = const_cast<uint8_t*>(at);
  }
  return Result(cudaSuccess);
}

}  // extern "C"
