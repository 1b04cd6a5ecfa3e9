// Clamp and SwiGLU in fp32, run-time parameters: h = g' * sigmoid(alpha g') * (u' + beta). Straight-line code, so that the
// values of a thread's tokens are computed side by side; SiTU is a loop of its own, which a whole launch takes or not.
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

// Where 2^s nears the end of fp32, sigmoid = 1 / (1 + 2^s) is taken as k / (k + 2^s k) with k = 2^-96, and k goes to the other
// factor of h, so that nothing is flushed on the way to a product that fp32 holds. k is a power of two and 1 too small to
// count, so the bits where both forms hold are the same. (Past s = 222 h is 0: 1e-62 * |u'|.)
inline constexpr float kFarExponent = 96.0f, kFarFactor = 0x1p-96f;

// b tanh(g / b) sigmoid(g) * l tanh(u / l).
static __device__ __noinline__ float SituOf(float g, float u, float b, float l) {
  const bool far = g < -66.0f;
  // Half of sigmoid = e^g to each factor.
  const float root = far ? expf(0.5f * g) : 1.0f;
  const float gate = b * tanhf(g / b), up = l * tanhf(u / l);
  return far ? gate * root * (up * root) : gate / (1.0f + expf(-g)) * up;
}

__device__ __forceinline__ bool IsSitu(const Activation& a) {
  return a.situ_beta > 0.0f;
}
__device__ __forceinline__ float SituOf(float g, float u, const Activation& a) {
  return SituOf(g, u, a.situ_beta, a.situ_linear_beta);
}
// Of all but SiTU, where s is not far (of which FarGate tells): the same bits for three quarters of the instructions.
__device__ __forceinline__ float NearGatedOf(float g, float u, const Activation& a) {
  g = MinOrNan(g, a.limit);
  u = MaxOrNan(MinOrNan(u, a.limit), -a.limit);
  return g * ReciprocalFast(1.0f + Exp2Fast(a.slope * g)) * (u + a.beta);
}
// Of all but SiTU.
__device__ __forceinline__ float GatedOf(float g, float u, const Activation& a) {
  g = MinOrNan(g, a.limit);
  u = MaxOrNan(MinOrNan(u, a.limit), -a.limit);
  float s = a.slope * g;
  const bool far = s > kFarExponent + 2.0f;  // so the divisor is at least 4: g over it is finite
  const float k = far ? kFarFactor : 1.0f;
  if (far) s -= kFarExponent;
  return g * ReciprocalFast(k + Exp2Fast(s)) * ((u + a.beta) * k);
}

// Gates whose bits, as an unsigned number, are not above this are not far: none from 0 up to it, and with a positive alpha (a
// negative slope) no positive number at all.
__device__ __forceinline__ uint32_t FarGate(const Activation& a) {
  return __float_as_uint(kFarExponent * ReciprocalFast(a.slope));
}

// each(activate) once, with activate(g, u) = h: a loop over a thread's values, in which none waits for another.
template <class Each>
__device__ __forceinline__ void ActivateAll(const Activation& a, Each each) {
  if (IsSitu(a)) {
    each([&](float g, float u) { return SituOf(g, u, a); });
  } else {
    each([&](float g, float u) { return GatedOf(g, u, a); });
  }
}
__device__ __forceinline__ float ActivationOf(float g, float u, const Activation& a) {
  float h;
  ActivateAll(a, [&](auto activate) { h = activate(g, u); });
  return h;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_ACTIVATION_CUH_
