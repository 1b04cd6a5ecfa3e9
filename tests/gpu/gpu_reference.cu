// One warp computes one number: an element of h (two dot products over hidden, and their sums of magnitudes), or an element
// of the output (four over intermediate for each of the token's pairs). Every product is decoded where it is used; nothing
// is shared between warps, so there is little that could be wrong.
#include "tests/gpu/gpu_reference.h"

#include <algorithm>

#include "tests/gpu/cuda_must.h"
#include "tests/gpu/gpu_launch.cuh"

namespace dsv4mx::test {
namespace {

#if defined(DSV4MX_EMULATED)
constexpr int kLanes = 1;  // meeting costs more there than it saves
#else
constexpr int kLanes = 32;  // that share a sum
#endif
constexpr int kWarps = 8;
// Elements of h that are held at once; more rows than that go in chunks.
constexpr int64_t kHiddenElements = int64_t{1} << 25;

// The tensor cores add E4M3 products with about 14 bits, relative to the largest of what they add.
constexpr double kPlanesDoubt = 0x1p-13;

// And those of bf16 16 at a time to a sum of fp32, of which each step cuts off half of 2^-23 on average. On its way a sum is half as
// large as where it ends, by its terms or by chance. What else rounds in fp32 counts as some steps more.
constexpr double kStepDoubt = 0x1p-25;
constexpr int kStepK = 16, kOtherSteps = 16;

__constant__ double kMagnitude[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

// The weight that a code and a scale byte mean: bf16(code * 2^(byte - 127)). The product has at most two significant
// bits, so rounding to bf16 changes it only where it overflows.
__device__ double Weight(int code, int byte) {
  const double v = ldexp(kMagnitude[code & 7], byte - 127);
  const double w = v >= 0x1p128 ? __longlong_as_double(0x7FF0000000000000) : v;
  return (code & 8) != 0 ? -w : w;
}

// Weight() of every byte and code: the table is built by it and used instead of it.
__global__ void MakeWeightTable(double* table) {
  table[blockIdx.x * 16 + threadIdx.x] =
      Weight(static_cast<int>(threadIdx.x), static_cast<int>(blockIdx.x));
}

__device__ double FromBf16(uint16_t b) {
  return static_cast<double>(__uint_as_float(static_cast<uint32_t>(b) << 16));
}

// One rounding, nearest even, straight from double; subnormals and overflow included.
__device__ double RoundBf16(double v) {
  if (!isfinite(v) || v == 0.0) return v;
  int exponent;
  frexp(v, &exponent);  // |v| in [2^(exponent-1), 2^exponent)
  const int ulp = exponent - 8 < -133 ? -133 : exponent - 8;
  const double rounded = ldexp(rint(ldexp(v, -ulp)), ulp);
  return fabs(rounded) >= 0x1p128 ? copysign(__longlong_as_double(0x7FF0000000000000), v) : rounded;
}

__device__ double WarpSum(double v) {
  for (int d = kLanes / 2; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// NaN stays.
__device__ double CapAbove(double v, double limit) {
  return v > limit ? limit : v;
}
__device__ double CapBelow(double v, double limit) {
  return v < limit ? limit : v;
}

__device__ double Activate(const GpuSemantics& s, double g, double u) {
  if (s.clamp > 0) {
    g = CapAbove(g, s.clamp);
    u = CapBelow(CapAbove(u, s.clamp), -s.clamp);
  }
  return s.gptoss ? g / (1 + exp(-s.alpha * g)) * (u + s.beta) : g / (1 + exp(-g)) * u;
}

// Codes and scales of one row of one expert's matrix.
struct Row {
  const uint8_t *codes, *scales;
  const double* table;
  __device__ Row(const GpuExperts& e, int matrix, int64_t rows, int64_t k, int32_t expert,
                 int64_t row, const double* weight_table)
      : codes(e.codes[matrix] + (expert * rows + row) * (k / 2)),
        scales(e.scales[matrix] + (expert * rows + row) * (k / 32)),
        table(weight_table) {}
  __device__ double At(int64_t k) const {
    const int code = (codes[k / 2] >> (k % 2 == 0 ? 0 : 4)) & 15;
    return table[scales[k / 32] * 16 + code];
  }
};

__device__ double Bias(const GpuExperts& e, int matrix, int64_t rows, int32_t expert, int64_t row) {
  return e.bias[matrix] == nullptr ? 0.0 : static_cast<double>(e.bias[matrix][expert * rows + row]);
}

// How far h may be off where gate and up may be off by these.
__device__ double Doubt(const GpuSemantics& s, double g, double u, double dg, double du) {
  const double h = Activate(s, g, u);
  return fmax(fabs(Activate(s, g + dg, u) - h), fabs(Activate(s, g - dg, u) - h)) +
         fmax(fabs(Activate(s, g, u + du) - h), fabs(Activate(s, g, u - du) - h));
}

// How far h moves, at most, where it rounds to another number of bf16 because it is off by `doubt`.
__device__ double MovedBf16(double h, double doubt) {
  const double rounded = RoundBf16(h);
  return fmax(fabs(RoundBf16(h + doubt) - rounded), fabs(RoundBf16(h - doubt) - rounded));
}

// Nearest E4M3 number over 2^exponent, ties to even.
__device__ double RoundE4m3(double v, int exponent) {
  if (v == 0.0 || !isfinite(v)) return v;
  int top;
  const double y = ldexp(v, -exponent);
  frexp(y, &top);
  const int ulp = top - 4 < -9 ? -9 : top - 4;
  const double rounded = ldexp(rint(ldexp(y, -ulp)), ulp);
  return ldexp(fmin(448.0, fmax(-448.0, rounded)), exponent);
}
// Exponent of the scale of 128 numbers with this peak.
__device__ int E4m3Exponent(double peak) {
  return static_cast<int>(ceil(log2(fmax(peak, static_cast<double>(1e-4f)) / 448.0)));
}
__device__ double WarpMax(double v) {
  for (int d = kLanes / 2; d > 0; d /= 2) v = fmax(v, __shfl_xor_sync(~0u, v, d));
  return v;
}

__device__ bool AllOf(bool v) {
  return kLanes == 1 ? v : __all_sync(~0u, v) != 0;
}
// Of 128 neighbouring values, those of one lane.
constexpr int kEach = 128 / kLanes;

// W4A8: x of each pair as E4M3, which bf16 holds. One warp a pair and 128 of K.
__global__ void QuantiseXKernel(GpuExperts e, GpuSemantics s, const uint16_t* x, int64_t x_stride,
                                const GpuPair* pairs, int64_t count, uint16_t* out) {
  const int64_t groups = (e.hidden + 127) / 128;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (index >= count * groups) return;
  const GpuPair pair = pairs[index / groups];
  double v[kEach], peak = 0;
  bool finite = true;
  for (int i = 0; i < kEach; ++i) {
    const int64_t k = index % groups * 128 + threadIdx.x % kLanes + kLanes * i;
    v[i] = k < e.hidden ? FromBf16(x[pair.token * x_stride + k]) : 0;
    if (s.weight_on_input) v[i] = RoundBf16(static_cast<float>(v[i]) * pair.weight);
    peak = fmax(peak, fabs(v[i]));
    finite = finite && isfinite(v[i]);
  }
  const int exponent = E4m3Exponent(WarpMax(peak));
  const bool all_finite = AllOf(finite);
  for (int i = 0; i < kEach; ++i) {
    const int64_t k = index % groups * 128 + threadIdx.x % kLanes + kLanes * i;
    if (k >= e.hidden) continue;
    const float q = static_cast<float>(RoundE4m3(v[i], exponent));
    out[index / groups * e.hidden + k] =
        all_finite ? static_cast<uint16_t>(__float_as_uint(q) >> 16) : uint16_t{0x7FC0};
  }
}

// W4A8: h as E4M3, and in place of its doubt how far that may move the number. One warp a pair and 128 channels.
__global__ void QuantiseHiddenKernel(GpuExperts e, int64_t count, double* h, double* doubt) {
  const int64_t groups = (e.intermediate + 127) / 128;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (index >= count * groups) return;
  double v[kEach], d[kEach], peak = 0, low = 0, high = 0;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t n = index % groups * 128 + threadIdx.x % kLanes + kLanes * i;
    const int64_t at = index / groups * e.intermediate + n;
    v[i] = n < e.intermediate ? h[at] : 0;
    d[i] = n < e.intermediate ? doubt[at] : 0;
    peak = fmax(peak, fabs(RoundBf16(v[i])));
    low = fmax(low, fabs(RoundBf16(fmax(0.0, fabs(v[i]) - d[i]))));
    high = fmax(high, fabs(RoundBf16(fabs(v[i]) + d[i])));
    finite = finite && isfinite(RoundBf16(v[i]));
  }
  const int own = E4m3Exponent(WarpMax(peak)), least = E4m3Exponent(WarpMax(low)),
            most = E4m3Exponent(WarpMax(high));
  const bool all_finite = AllOf(finite);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t n = index % groups * 128 + threadIdx.x % kLanes + kLanes * i;
    if (n >= e.intermediate) continue;
    const int64_t at = index / groups * e.intermediate + n;
    const double q = RoundE4m3(RoundBf16(v[i]), own);
    double off = 0;
    for (int side = -1; side <= 1; ++side) {
      const double moved = RoundBf16(v[i] + side * d[i]);
      off = fmax(off, fabs(RoundE4m3(moved, least) - q));
      off = fmax(off, fabs(RoundE4m3(moved, most) - q));
    }
    h[at] = all_finite ? q : __longlong_as_double(0x7FF8000000000000);
    doubt[at] = off;
  }
}

// GpuPair of row i of QuantiseXKernel's output.
__global__ void OwnRowsKernel(const GpuPair* pairs, int64_t count, GpuPair* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = GpuPair{i, pairs[i].expert, pairs[i].weight};
}

// h[pair][n], before it is rounded, how far planes may be off from it, and how far it may be when it is rounded to bf16.
__global__ void HiddenKernel(GpuExperts e, GpuSemantics s, const double* table, const uint16_t* x,
                             int64_t x_stride, const GpuPair* pairs, int64_t count, double* h,
                             double* doubt, double* moved) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (index >= count * e.intermediate) return;
  const int64_t n = index % e.intermediate;
  const GpuPair pair = pairs[index / e.intermediate];
  const Row gate(e, 0, e.intermediate, e.hidden, pair.expert, n, table);
  const Row up(e, 1, e.intermediate, e.hidden, pair.expert, n, table);
  double g = 0, u = 0, g_size = 0, u_size = 0, g_square = 0, u_square = 0;
  for (int64_t k = threadIdx.x % kLanes; k < e.hidden; k += kLanes) {
    double v = FromBf16(x[pair.token * x_stride + k]);
    // On the input the product is made in fp32 and rounded to bf16: part of what the layer is given.
    if (s.weight_on_input) v = RoundBf16(static_cast<float>(v) * pair.weight);
    const double gv = gate.At(k) * v, uv = up.At(k) * v;
    g += gv;
    u += uv;
    g_size += fabs(gv);
    u_size += fabs(uv);
    g_square += gv * gv;
    u_square += uv * uv;
  }
  g = WarpSum(g) + Bias(e, 0, e.intermediate, pair.expert, n);
  u = WarpSum(u) + Bias(e, 1, e.intermediate, pair.expert, n);
  g_size = WarpSum(g_size);
  u_size = WarpSum(u_size);
  g_square = WarpSum(g_square);
  u_square = WarpSum(u_square);
  if (threadIdx.x % kLanes != 0) return;
  const double weight = s.weight_before_w2 ? pair.weight : 1.0;
  h[index] = Activate(s, g, u) * weight;
  doubt[index] = Doubt(s, g, u, g_size * kPlanesDoubt, u_size * kPlanesDoubt) * fabs(weight);
  const double steps =
      kStepDoubt * static_cast<double>((e.hidden + kStepK - 1) / kStepK + kOtherSteps);
  moved[index] =
      MovedBf16(h[index], fabs(weight) * Doubt(s, g, u, fmax(fabs(g), sqrt(g_square)) * steps,
                                               fmax(fabs(u), sqrt(u_square)) * steps));
}

// out[row]: GpuTruth::moved. One warp a row.
__global__ void MovedKernel(GpuExperts e, GpuSemantics s, const GpuPair* pairs,
                            const int64_t* first, int64_t first_pair, int64_t rows, const double* h,
                            const double* moved, double* out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (row >= rows) return;
  double of_moved = 0, of_all = 0;
  for (int64_t i = first[row] - first_pair; i < first[row + 1] - first_pair; ++i) {
    const double weight = s.weight_before_w2 || s.weight_on_input ? 1.0 : pairs[i].weight;
    for (int64_t k = threadIdx.x % kLanes; k < e.intermediate; k += kLanes) {
      const double part = weight * moved[i * e.intermediate + k],
                   all = weight * h[i * e.intermediate + k];
      of_moved += part * part;
      of_all += all * all;
    }
  }
  of_moved = WarpSum(of_moved);
  of_all = WarpSum(of_all);
  if (threadIdx.x % kLanes == 0) out[row] = of_all > 0 ? sqrt(of_moved / of_all) : 0;
}

// out[row][n] of the four results; pairs and h begin at the chunk's first pair.
__global__ void OutputKernel(GpuExperts e, GpuSemantics s, const double* table,
                             const GpuPair* pairs, const int64_t* first, int64_t first_pair,
                             int64_t rows, const double* h, const double* doubt, double* truth,
                             double* spec, double* bound, double* planes) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  if (index >= rows * e.hidden) return;
  const int64_t row = index / e.hidden, n = index % e.hidden;
  double sums[4] = {0, 0, 0, 0};
  for (int64_t i = first[row] - first_pair; i < first[row + 1] - first_pair; ++i) {
    const Row down(e, 2, e.hidden, e.intermediate, pairs[i].expert, n, table);
    double exact = 0, rounded = 0, absolute = 0, off = 0;
    for (int64_t k = threadIdx.x % kLanes; k < e.intermediate; k += kLanes) {
      const double w = down.At(k), v = h[i * e.intermediate + k];
      exact += w * v;
      rounded += w * RoundBf16(v);
      absolute += fabs(w) * fabs(v);
      off += fabs(w) * (doubt[i * e.intermediate + k] + fabs(v) * kPlanesDoubt);
    }
    const double bias = Bias(e, 2, e.hidden, pairs[i].expert, n);
    const double weight =
        s.routed_scaling_factor * (s.weight_before_w2 || s.weight_on_input ? 1.0 : pairs[i].weight);
    sums[0] += weight * (WarpSum(exact) + bias);
    sums[1] += weight * (WarpSum(rounded) + bias);
    sums[2] += fabs(weight) * (WarpSum(absolute) + fabs(bias));
    sums[3] += fabs(weight) * WarpSum(off);
  }
  if (threadIdx.x % kLanes != 0) return;
  truth[index] = sums[0];
  spec[index] = sums[1];
  bound[index] = sums[2];
  planes[index] = sums[3];
}

// Device memory for the time of a call.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) {
    CUDA_MUST(cudaMalloc(&data_, static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(T)));
  }
  Scratch(const T* from, int64_t n) : Scratch(n) {
    CUDA_MUST(cudaMemcpy(data_, from, static_cast<size_t>(n) * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Scratch() { cudaFree(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }
  void Read(int64_t n, T* to) const {
    CUDA_MUST(cudaMemcpy(to, data_, static_cast<size_t>(n) * sizeof(T), cudaMemcpyDeviceToHost));
  }

 private:
  T* data_ = nullptr;
};

unsigned BlocksFor(int64_t warps) {
  return static_cast<unsigned>((warps + kWarps - 1) / kWarps);
}

}  // namespace

GpuTruth ComputeTruth(const GpuExperts& e, const GpuSemantics& semantics, const uint16_t* x,
                      int64_t x_stride, const std::vector<GpuPair>& pairs,
                      const std::vector<int64_t>& first) {
  const int64_t rows = static_cast<int64_t>(first.size()) - 1;
  GpuTruth out;
  for (std::vector<double>* v : {&out.truth, &out.spec, &out.bound, &out.planes}) {
    v->resize(static_cast<size_t>(rows * e.hidden));
  }
  out.moved.resize(static_cast<size_t>(rows));
  const Scratch<double> table(256 * 16);
  Launch(MakeWeightTable, 256, 16, nullptr, table.get());
  CUDA_MUST(cudaGetLastError());
  const Scratch<int64_t> firsts(first.data(), rows + 1);
  for (int64_t begin = 0; begin < rows;) {
    // As many rows as their pairs leave room for, at least one.
    int64_t end = begin + 1;
    const int64_t room = kHiddenElements / e.intermediate;
    while (end < rows &&
           first[static_cast<size_t>(end + 1)] - first[static_cast<size_t>(begin)] <= room)
      ++end;
    const int64_t at = first[static_cast<size_t>(begin)];
    const int64_t count = first[static_cast<size_t>(end)] - at, n = (end - begin) * e.hidden;
    const Scratch<GpuPair> list(pairs.data() + at, count);
    const Scratch<double> h(count * e.intermediate), doubt(count * e.intermediate),
        moved(count * e.intermediate);
    const Scratch<double> truth(n), spec(n), bound(n), planes(n), moved_rows(end - begin);
    if (count > 0) {
      Launch(HiddenKernel, BlocksFor(count * e.intermediate), kWarps * kLanes, nullptr, e,
             semantics, table.get(), x, x_stride, list.get(), count, h.get(), doubt.get(),
             moved.get());
      CUDA_MUST(cudaGetLastError());
    }
    Launch(MovedKernel, BlocksFor(end - begin), kWarps * kLanes, nullptr, e, semantics, list.get(),
           firsts.get() + begin, at, end - begin, h.get(), moved.get(), moved_rows.get());
    CUDA_MUST(cudaGetLastError());
    Launch(OutputKernel, BlocksFor(n), kWarps * kLanes, nullptr, e, semantics, table.get(),
           list.get(), firsts.get() + begin, at, end - begin, h.get(), doubt.get(), truth.get(),
           spec.get(), bound.get(), planes.get());
    CUDA_MUST(cudaGetLastError());
    if (semantics.quantised && count > 0) {
      GpuSemantics given = semantics;
      given.weight_on_input = false;  // is in x by now
      const Scratch<uint16_t> x8(count * e.hidden);
      const Scratch<GpuPair> rows8(count);
      const Scratch<double> unused(n);
      Launch(QuantiseXKernel, BlocksFor(count * ((e.hidden + 127) / 128)), kWarps * kLanes, nullptr,
             e, semantics, x, x_stride, list.get(), count, x8.get());
      Launch(OwnRowsKernel, static_cast<unsigned>((count + 255) / 256), 256, nullptr, list.get(),
             count, rows8.get());
      Launch(HiddenKernel, BlocksFor(count * e.intermediate), kWarps * kLanes, nullptr, e, given,
             table.get(), x8.get(), e.hidden, rows8.get(), count, h.get(), doubt.get(),
             moved.get());
      Launch(QuantiseHiddenKernel, BlocksFor(count * ((e.intermediate + 127) / 128)),
             kWarps * kLanes, nullptr, e, count, h.get(), doubt.get());
      Launch(OutputKernel, BlocksFor(n), kWarps * kLanes, nullptr, e, semantics, table.get(),
             list.get(), firsts.get() + begin, at, end - begin, h.get(), doubt.get(), unused.get(),
             spec.get(), bound.get(), planes.get());
      CUDA_MUST(cudaGetLastError());
    }
    truth.Read(n, &out.truth[static_cast<size_t>(begin * e.hidden)]);
    spec.Read(n, &out.spec[static_cast<size_t>(begin * e.hidden)]);
    bound.Read(n, &out.bound[static_cast<size_t>(begin * e.hidden)]);
    planes.Read(n, &out.planes[static_cast<size_t>(begin * e.hidden)]);
    moved_rows.Read(end - begin, &out.moved[static_cast<size_t>(begin)]);
    begin = end;
  }
  return out;
}

}  // namespace dsv4mx::test
