#include "tests/gpu/gpu_data.h"

#include <cuda_bf16.h>

#include "tests/gpu/cuda_must.h"
#include "tests/gpu/gpu_launch.cuh"

namespace dsv4mx::test {
namespace {

constexpr int kThreads = 256;

// What a hash is for, so that no two uses of one seed and position agree.
enum Use : uint64_t { kCodes = 1, kScales = 2, kBias = 3, kX = 4 };

__host__ __device__ uint64_t Mix(uint64_t z) {  // finaliser of splitmix64
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Two rounds, so that neighbours in any of the arguments are unrelated.
__host__ __device__ uint64_t Hash(uint64_t seed, uint64_t use, uint64_t expert, uint64_t matrix,
                                  uint64_t index) {
  const uint64_t key = Mix(seed * 0x9E3779B97F4A7C15u + (use << 56 | matrix << 48 | expert));
  return Mix(key + (index + 1) * 0xD1B54A32D192ED03u);
}

__device__ double Uniform(uint64_t hash) {  // (0, 1]
  return static_cast<double>((hash >> 11) + 1) * 0x1p-53;
}

__device__ double Normal(uint64_t hash) {  // Box-Muller; both uniform numbers from one hash
  return sqrt(-2.0 * log(Uniform(Mix(hash ^ 0x5DEECE66Du)))) * cospi(2.0 * Uniform(hash));
}

__device__ int64_t Thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ int64_t Threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

__global__ void CodesKernel(HashedPart part, int64_t words, uint64_t* codes) {
  for (int64_t i = Thread(); i < words * part.count; i += Threads()) {
    codes[i] = Hash(part.seed, kCodes, part.first + i / words, part.matrix, i % words);
  }
}

__global__ void ScalesKernel(HashedPart part, int64_t bytes, int lo, int hi, uint8_t* scales) {
  for (int64_t i = Thread(); i < bytes * part.count; i += Threads()) {
    const uint64_t h = Hash(part.seed, kScales, part.first + i / bytes, part.matrix, i % bytes);
    scales[i] = static_cast<uint8_t>(lo + (h >> 32) % (hi - lo + 1));
  }
}

__global__ void BiasKernel(HashedPart part, int64_t rows, bool bf16, float* bias) {
  for (int64_t i = Thread(); i < rows * part.count; i += Threads()) {
    const double v = Normal(Hash(part.seed, kBias, part.first + i / rows, part.matrix, i % rows));
    bias[i] = bf16 ? __bfloat162float(__double2bfloat16(v)) : static_cast<float>(v);
  }
}

__global__ void XKernel(uint64_t seed, int64_t tokens, int64_t hidden, int64_t stride,
                        double amplitude, __nv_bfloat16* x) {
  for (int64_t i = Thread(); i < tokens * hidden; i += Threads()) {
    const double v = amplitude * Normal(Hash(seed, kX, 0, 0, i));
    x[i / hidden * stride + i % hidden] = __double2bfloat16(v);
  }
}

using Cell = unsigned long long;
constexpr Cell kNone = ~Cell{0};

__global__ void OtherByteKernel(const uint8_t* p, int64_t n, uint8_t value, Cell* first) {
  for (int64_t i = Thread(); i < n; i += Threads()) {
    if (p[i] != value) atomicMin(first, static_cast<Cell>(i));
  }
}

__global__ void DifferenceKernel(const uint8_t* a, const uint8_t* b, int64_t n, Cell* first) {
  for (int64_t i = Thread(); i < n; i += Threads()) {
    if (a[i] != b[i]) atomicMin(first, static_cast<Cell>(i));
  }
}

__global__ void GapKernel(const uint8_t* p, int64_t gaps, int64_t row_bytes, int64_t stride_bytes,
                          uint8_t value, Cell* first) {
  const int64_t gap = stride_bytes - row_bytes;
  for (int64_t i = Thread(); i < gaps * gap; i += Threads()) {
    const int64_t at = i / gap * stride_bytes + row_bytes + i % gap;
    if (p[at] != value) atomicMin(first, static_cast<Cell>(at));
  }
}

// Integer tests: a compiler flag cannot make them always true.
__global__ void NotFiniteKernel(const void* y, bool f32, int64_t rows, int64_t hidden,
                                int64_t stride, Cell* first) {
  for (int64_t i = Thread(); i < rows * hidden; i += Threads()) {
    const int64_t at = i / hidden * stride + i % hidden;
    const bool finite = f32 ? (static_cast<const uint32_t*>(y)[at] & 0x7F800000u) != 0x7F800000u
                            : (static_cast<const uint16_t*>(y)[at] & 0x7F80u) != 0x7F80u;
    if (!finite) atomicMin(first, static_cast<Cell>(i));
  }
}

__global__ void BusyKernel(int64_t cycles) {
  const int64_t start = clock64();
  while (clock64() - start < cycles) {
  }
}

int Blocks(int64_t n) {
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < 1 ? 1 : blocks > 8192 ? 8192 : blocks);
}

void Finish(const char* what) {
  CudaMust(cudaGetLastError(), what);
  CudaMust(cudaStreamSynchronize(nullptr), what);
}

// Runs launch(cell) and gives what it found. A cell per thread, kept until the process ends: allocating one per check
// would synchronise the device in the middle of other threads' work.
template <class Launch>
int64_t Search(const char* what, Launch&& launch) {
  static thread_local Cell* cell = nullptr;
  if (cell == nullptr) CudaMust(cudaMalloc(&cell, sizeof(Cell)), what);
  Cell found = kNone;
  CudaMust(cudaMemcpy(cell, &found, sizeof found, cudaMemcpyHostToDevice), what);
  launch(cell);
  Finish(what);
  CudaMust(cudaMemcpy(&found, cell, sizeof found, cudaMemcpyDeviceToHost), what);
  return found == kNone ? -1 : static_cast<int64_t>(found);
}

}  // namespace

void FillCodes(const HashedPart& part, int64_t bytes, uint8_t* codes) {
  if (bytes % 8 != 0) throw std::invalid_argument("FillCodes: bytes are no multiple of 8");
  Launch(CodesKernel, Blocks(bytes / 8 * part.count), kThreads, nullptr, part, bytes / 8,
         reinterpret_cast<uint64_t*>(codes));
  Finish("FillCodes");
}

void FillScales(const HashedPart& part, int64_t bytes, int lo, int hi, uint8_t* scales) {
  Launch(ScalesKernel, Blocks(bytes * part.count), kThreads, nullptr, part, bytes, lo, hi, scales);
  Finish("FillScales");
}

void FillBias(const HashedPart& part, int64_t rows, bool bf16, float* bias) {
  Launch(BiasKernel, Blocks(rows * part.count), kThreads, nullptr, part, rows, bf16, bias);
  Finish("FillBias");
}

void FillX(uint64_t seed, int64_t tokens, int64_t hidden, int64_t stride, double amplitude,
           uint16_t* x) {
  if (tokens == 0) return;
  Launch(XKernel, Blocks(tokens * hidden), kThreads, nullptr, seed, tokens, hidden, stride,
         amplitude, reinterpret_cast<__nv_bfloat16*>(x));
  Finish("FillX");
}

int64_t FirstOtherByte(const uint8_t* p, int64_t n, uint8_t value) {
  if (n <= 0) return -1;
  return Search("FirstOtherByte", [&](Cell* first) {
    Launch(OtherByteKernel, Blocks(n), kThreads, nullptr, p, n, value, first);
  });
}

int64_t FirstDifference(const uint8_t* a, const uint8_t* b, int64_t n) {
  if (n <= 0) return -1;
  return Search("FirstDifference", [&](Cell* first) {
    Launch(DifferenceKernel, Blocks(n), kThreads, nullptr, a, b, n, first);
  });
}

int64_t FirstOtherByteInGaps(const uint8_t* p, int64_t rows, int64_t row_bytes,
                             int64_t stride_bytes, uint8_t value) {
  if (rows <= 1 || stride_bytes == row_bytes) return -1;
  return Search("FirstOtherByteInGaps", [&](Cell* first) {
    Launch(GapKernel, Blocks((rows - 1) * (stride_bytes - row_bytes)), kThreads, nullptr, p,
           rows - 1, row_bytes, stride_bytes, value, first);
  });
}

int64_t FirstNotFinite(const void* y, bool f32, int64_t rows, int64_t hidden, int64_t stride) {
  if (rows == 0) return -1;
  return Search("FirstNotFinite", [&](Cell* first) {
    Launch(NotFiniteKernel, Blocks(rows * hidden), kThreads, nullptr, y, f32, rows, hidden, stride,
           first);
  });
}

void KeepBusy(CUstream_st* stream, int blocks, int64_t cycles) {
  Launch(BusyKernel, blocks, 1024, stream, cycles);
  CUDA_MUST(cudaGetLastError());
}

}  // namespace dsv4mx::test
