// Readers that do nothing else, a clock, and random data: what dsv4mx-bench measures a GPU's ceilings with.
//
// The bulk reader: one thread of each CTA asks for chunks of 16 KiB with bulk copies, twelve in flight, chunk c of the
// buffer going to CTA c modulo the grid; the other warps wait for a chunk, read 16 bytes a thread of it, so that the
// copy cannot be left out, and give its place back.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/ptx/sync.cuh"
#include "tests/bench/gpu_kernels.h"

namespace dsv4mx::bench {
namespace {

constexpr int kStages = 12;
constexpr int kChunk = 16384;
constexpr int kReaders = 128;
constexpr int kBulkThreads = kReaders + 32;  // one warp more asks for chunks

__global__ void __launch_bounds__(kBulkThreads)
    BulkRead(const uint8_t* from, size_t chunks, uint32_t* sink) {
  extern __shared__ __align__(128) uint8_t ring[];
  __shared__ __align__(8) uint64_t full[kStages], empty[kStages];
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      BarrierInit(SharedAddress(&full[s]), 1);
      BarrierInit(SharedAddress(&empty[s]), kReaders);
    }
    FenceAsyncProxy();  // the copies must see initialised barriers
  }
  __syncthreads();
  if (threadIdx.x >= kReaders) {
    if (threadIdx.x > kReaders) return;
    const uint64_t policy = PolicyEvictFirst();
    int stage = 0;
    uint32_t parity = 1;  // the first wait for an empty place passes
    for (size_t c = blockIdx.x; c < chunks; c += gridDim.x) {
      BarrierWait(SharedAddress(&empty[stage]), parity);
      BarrierArriveExpect(SharedAddress(&full[stage]), kChunk);
      BulkCopy(SharedAddress(ring + stage * kChunk), from + c * kChunk, kChunk,
               SharedAddress(&full[stage]), policy);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
    return;
  }
  uint32_t sum = 0, parity = 0;
  int stage = 0;
  for (size_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    BarrierWait(SharedAddress(&full[stage]), parity);
    const uint4 v = LoadShared16(SharedAddress(ring + stage * kChunk) +
                                 static_cast<uint32_t>(threadIdx.x) * 16);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
    BarrierArrive(SharedAddress(&empty[stage]));
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  if (sum == 0x9E3779B9u) *sink = sum;
}

__global__ void __launch_bounds__(256) PlainRead(const uint4* from, size_t count, uint32_t* sink) {
  constexpr int kBatch = 8;
  const size_t threads = static_cast<size_t>(gridDim.x) * blockDim.x;
  size_t at = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  uint32_t sum = 0;
  for (; at + (kBatch - 1) * threads < count; at += kBatch * threads) {
    uint4 v[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) v[j] = __ldcs(from + at + j * threads);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; at < count; at += threads) sum ^= __ldcs(from + at).x;
  if (sum == 0x9E3779B9u) *sink = sum;
}

__device__ __forceinline__ uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
  return now;
}

// Both ends are taken right after the timer moved: it moves in steps of up to a microsecond.
__device__ uint64_t NextTick() {
  const uint64_t before = Nanoseconds();
  uint64_t now;
  while ((now = Nanoseconds()) == before) {
  }
  return now;
}

__global__ void Clock(uint64_t* to) {
  const uint64_t begin = NextTick();
  const int64_t first = clock64();
  uint64_t end = begin;
  while (end - begin < 100000) end = NextTick();
  const int64_t last = clock64();
  to[0] = static_cast<uint64_t>(last - first);
  to[1] = end - begin;
}

__device__ __forceinline__ uint64_t Mix(uint64_t z) {  // splitmix64
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

__global__ void FillBits(uint64_t* to, size_t words, uint64_t seed) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += step)
    to[i] = Mix(seed ^ Mix(i));
}

__global__ void FillBf16(__nv_bfloat16* to, size_t count, uint64_t seed) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    const uint64_t bits = Mix(seed ^ Mix(i));
    float sum = 0;  // four uniform numbers have nearly the shape of a normal one
    for (int part = 0; part < 4; ++part)
      sum += static_cast<float>((bits >> (16 * part)) & 0xFFFF) * 0x1p-16f - 0.5f;
    to[i] = __float2bfloat16(sum);
  }
}

__device__ void Copy(uint8_t* to, const uint8_t* from, size_t bytes) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  const size_t begin = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (size_t i = begin; i < bytes / 16; i += step)
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  for (size_t i = bytes / 16 * 16 + begin; i < bytes; i += step) to[i] = from[i];
}

__global__ void Copies(uint8_t* to0, const uint8_t* from0, size_t bytes0, uint8_t* to1,
                       const uint8_t* from1, size_t bytes1) {
  Copy(to0, from0, bytes0);
  Copy(to1, from1, bytes1);
}

}  // namespace

int LaunchCopies(void* to0, const void* from0, size_t bytes0, void* to1, const void* from1,
                 size_t bytes1, Stream stream) {
  const size_t blocks = (bytes0 + bytes1 + 4095) / 4096;  // 16 bytes a thread
  const unsigned grid = static_cast<unsigned>(blocks == 0 ? 1 : blocks < 1056 ? blocks : 1056);
  Copies<<<grid, 256, 0, stream>>>(static_cast<uint8_t*>(to0), static_cast<const uint8_t*>(from0),
                                   bytes0, static_cast<uint8_t*>(to1),
                                   static_cast<const uint8_t*>(from1), bytes1);
  return static_cast<int>(cudaGetLastError());
}

int LaunchBulkRead(const void* from, size_t bytes, int multiprocessors, uint32_t* sink,
                   Stream stream) {
  const cudaError_t set =
      cudaFuncSetAttribute(BulkRead, cudaFuncAttributeMaxDynamicSharedMemorySize, kStages * kChunk);
  if (set != cudaSuccess) return static_cast<int>(set);
  BulkRead<<<multiprocessors, kBulkThreads, kStages * kChunk, stream>>>(
      static_cast<const uint8_t*>(from), bytes / kChunk, sink);
  return static_cast<int>(cudaGetLastError());
}

int LaunchPlainRead(const void* from, size_t bytes, int multiprocessors, uint32_t* sink,
                    Stream stream) {
  PlainRead<<<multiprocessors * 8, 256, 0, stream>>>(static_cast<const uint4*>(from), bytes / 16,
                                                     sink);
  return static_cast<int>(cudaGetLastError());
}

int LaunchClock(uint64_t* to, Stream stream) {
  Clock<<<1, 1, 0, stream>>>(to);
  return static_cast<int>(cudaGetLastError());
}

int LaunchFillBits(void* to, size_t bytes, uint64_t seed, Stream stream) {
  FillBits<<<1024, 256, 0, stream>>>(static_cast<uint64_t*>(to), bytes / 8, seed);
  return static_cast<int>(cudaGetLastError());
}

int LaunchFillBf16(void* to, size_t count, uint64_t seed, Stream stream) {
  FillBf16<<<1024, 256, 0, stream>>>(static_cast<__nv_bfloat16*>(to), count, seed);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace dsv4mx::bench
