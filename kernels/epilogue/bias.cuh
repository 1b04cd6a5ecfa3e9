// The two biases of a thread's rows g and g + 8, in the order of the slab; zeros where the layer has none.
#ifndef DSV4MX_KERNELS_EPILOGUE_BIAS_CUH_
#define DSV4MX_KERNELS_EPILOGUE_BIAS_CUH_

#include "kernels/sched/ring.cuh"

namespace dsv4mx {

struct RowBias {
  float row0, row1;
};
__device__ __forceinline__ RowBias LoadBias(const GemmArgs& a, const uint8_t* slab, int tile,
                                            const MmaThread& me) {
  if (a.bias < 0) return {0.0f, 0.0f};
  const float* b = reinterpret_cast<const float*>(slab + a.bias) + tile * 64 + me.warp * 16 + me.g;
  return {__ldg(b), __ldg(b + 8)};
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_BIAS_CUH_
