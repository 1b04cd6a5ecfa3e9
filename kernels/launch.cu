// Dispatch over the GEMM instances of paths.def.
#include <cuda_runtime.h>

#include "kernels/dist/launch_collect.h"
#include "kernels/dist/launch_exchange.h"
#include "kernels/dist/launch_slices.h"
#include "kernels/launch.h"

namespace dsv4mx {

cudaError_t LoadGather();
cudaError_t LoadQuantise();
cudaError_t LoadLevel();
cudaError_t LoadCombine();
cudaError_t LoadFewGemm();
cudaError_t LoadReadIds();
cudaError_t LoadSizes();

#define X(path, name, step, widest)                                          \
  cudaError_t LoadGemm1_##name();                                            \
  cudaError_t LoadGemm2_##name();                                            \
  cudaError_t LaunchGemm1_##name(const GemmArgs& args, cudaStream_t stream); \
  cudaError_t LaunchGemm2_##name(const GemmArgs& args, cudaStream_t stream);
#include "kernels/paths.def"
#undef X

#define L(path, name)                      \
  cudaError_t LoadGemm2_levelled_##name(); \
  cudaError_t LaunchGemm2_levelled_##name(const GemmArgs& args, cudaStream_t stream);
#include "kernels/paths.def"
#undef L

int LaunchGemm1(Path path, const GemmArgs& args, KernelStream stream) {
  switch (path) {
#define X(path, name, step, widest) \
  case Path::path:                  \
    return LaunchGemm1_##name(args, stream);
#include "kernels/paths.def"
#undef X
  }
  return cudaErrorInvalidValue;
}

namespace {

int LaunchLevelledGemm2(Path path, const GemmArgs& args, KernelStream stream) {
  switch (path) {
#define L(path, name) \
  case Path::path:    \
    return LaunchGemm2_levelled_##name(args, stream);
#include "kernels/paths.def"
#undef L
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

int LaunchGemm2(Path path, const GemmArgs& args, KernelStream stream) {
  if (args.levelled != 0) return LaunchLevelledGemm2(path, args, stream);
  switch (path) {
#define X(path, name, step, widest) \
  case Path::path:                  \
    return LaunchGemm2_##name(args, stream);
#include "kernels/paths.def"
#undef X
  }
  return cudaErrorInvalidValue;
}

int LoadKernels() {
  cudaError_t (*const loaders[])() = {
      LoadGather, LoadQuantise, LoadLevel, LoadCombine, LoadFewGemm, LoadReadIds, LoadSizes,
#define X(path, name, step, widest) LoadGemm1_##name, LoadGemm2_##name,
#include "kernels/paths.def"
#undef X
#define L(path, name) LoadGemm2_levelled_##name,
#include "kernels/paths.def"
#undef L
  };
  for (const auto load : loaders) {
    const cudaError_t error = load();
    if (error != cudaSuccess) return error;
  }
  int error = dist::LoadExchange();
  if (error == cudaSuccess) error = dist::LoadSlices();
  return error == cudaSuccess ? dist::LoadCollect() : error;
}

}  // namespace dsv4mx
