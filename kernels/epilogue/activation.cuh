// Clamp and SwiGLU in fp32, run-time parameters: h = g' * sigmoid(alpha g') * (u' + beta). Straight-line code, so that the
// values of a thread's tokens are computed side by side; SiTU stands behind a branch that a whole launch takes or not.
#ifndef DSV4MX_KERNELS_EPILOGUE_ACTIVATION_CUH_
#define DSV4MX_KERNELS_EPILOGUE_ACTIVATION_CUH_

#include "kernels/launch.h"
#include "kernels/ptx/bits.cuh"

namespace dsv4mx {

struct Activation {
  float limit;  // infinite = no clamp
  float slope;  // sigmoid(alpha g) = 1 / (1 + 2^(slope g))
  float beta;
  float situ_beta, situ_linear_beta;  // 0 = not SiTU
};

__device__ __forceinline__ Activation MakeActivation(const GemmArgs& a) {
  return {a.clamp_limit > 0.0f ? a.clamp_limit : __uint_as_float(0x7F800000u),
          a.alpha * -1.44269504f, a.beta, a.situ_beta, a.situ_linear_beta};
}

// b tanh(g / b) sigmoid(g) * l tanh(u / l).
static __device__ __noinline__ float SituOf(float g, float u, float b, float l) {
  return b * tanhf(g / b) / (1.0f + expf(-g)) * (l * tanhf(u / l));
}

__device__ __forceinline__ float ActivationOf(float g, float u, const Activation& a) {
  if (a.situ_beta > 0.0f) return SituOf(g, u, a.situ_beta, a.situ_linear_beta);
  g = MinOrNan(g, a.limit);
  u = MaxOrNan(MinOrNan(u, a.limit), -a.limit);
  return __fdividef(g, 1.0f + Exp2Fast(a.slope * g)) * (u + a.beta);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_ACTIVATION_CUH_
