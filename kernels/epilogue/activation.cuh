// Clamp and SwiGLU in fp32, run-time parameters: h = g' * sigmoid(alpha g') * (u' + beta). NaN propagates (comparisons
// with NaN are false), which fminf and fmaxf would hide.
#ifndef DSV4MX_KERNELS_EPILOGUE_ACTIVATION_CUH_
#define DSV4MX_KERNELS_EPILOGUE_ACTIVATION_CUH_

namespace dsv4mx {

struct Activation {
  float limit, alpha, beta;  // limit 0 = no clamp
};

__device__ __forceinline__ float ActivationOf(float g, float u, const Activation& a) {
  if (a.limit > 0.0f) {
    g = g > a.limit ? a.limit : g;
    u = u > a.limit ? a.limit : (u < -a.limit ? -a.limit : u);
  }
  return __fdividef(g, 1.0f + __expf(-a.alpha * g)) * (u + a.beta);
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_EPILOGUE_ACTIVATION_CUH_
