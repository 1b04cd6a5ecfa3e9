// A CUDA runtime, and kernels, that are host code: what the backend's host side does around them can be watched, and any
// call can be made to fail. Linked in place of cudart and of the kernels' objects.
#ifndef DSV4MX_TESTS_DRIVER_FAKE_RUNTIME_H_
#define DSV4MX_TESTS_DRIVER_FAKE_RUNTIME_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/launch.h"

namespace dsv4mx::test {

struct FakeRuntime {
  // The calling thread's state, which every entry point must leave as it was.
  void* current = nullptr;  // the driver's context
  void* host = nullptr;     // the one that is current when the library is called
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  cudaError_t last_error = cudaSuccess;

  // The call number `fail_at` (from 0) fails with `error`; with `forever` all later ones too.
  int calls = 0, fail_at = -1;
  cudaError_t error = cudaErrorUnknown;
  bool forever = false;
  std::string failed;  // the name of the first call that did
  // Whether anybody could have been told: not while an object is destroyed, nor of what is undone on the way out.
  bool destroying = false, told = true;

  struct Block {
    size_t bytes;
    // d device, h pinned, r registered (with all that is mapped there), e event, s stream; virtual memory: v range, w range
    // that is mapped, m memory
    char kind;
    int device;  // that was current
  };
  std::map<const void*, Block> live;
  std::string misuse;  // the first free of what is not live, or of another kind

  int launches = 0;
  // Of GEMMs that were not few pairs' or a slice's.
  struct Gemm {
    int number;  // 1 or 2
    Path path;
    GemmArgs args;
  };
  std::vector<Gemm> gemms;
  // The last ones.
  GatherArgs gather{};
  CombineArgs combine{};
  LevelArgs level{};  // of the last launch

  int devices = 1;         // 1 or 2
  int reach = 2;           // between them: 0 none, 1 without atomics, 2 all
  std::string missing;     // a function that the driver lacks
  std::string refused;     // a call that always fails
  bool capturing = false;  // every stream is
  bool behind = false;     // events have not been reached
  // The names of all calls; those on a stream with it behind the name.
  std::vector<std::string> log;
  // What packing kernels were given, row by row, where wanted: of a slab and matrix its codes (c), scales (s) or bias (b).
  bool record = false;
  std::map<std::tuple<const void*, int, char, int64_t>, std::string> rows;
  bool high_first = false;  // of the last codes
};
extern FakeRuntime fake;

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_DRIVER_FAKE_RUNTIME_H_
