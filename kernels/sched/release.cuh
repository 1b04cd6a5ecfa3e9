// How a warp tells that it has read a stage of a ring: one lane arrives, behind __syncwarp. To racecheck of compute-sanitizer that says
// nothing of what the other lanes have read, so that it reports every stage that is filled again, also of a ring of ten lines. In a
// build for it (Meson's option racecheck) all lanes arrive, and then it follows.
#ifndef DSV4MX_KERNELS_SCHED_RELEASE_CUH_
#define DSV4MX_KERNELS_SCHED_RELEASE_CUH_

namespace dsv4mx {

#if defined(DSV4MX_RACECHECK)
inline constexpr int kLanesThatRelease = 32;
#else
inline constexpr int kLanesThatRelease = 1;
#endif

__device__ __forceinline__ bool Releases(int lane) {
  return kLanesThatRelease == 32 || lane == 0;
}

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_SCHED_RELEASE_CUH_
