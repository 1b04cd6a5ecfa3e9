// The caller's workspace as named regions. The same code over no memory gives the size that the query promises.
#ifndef DSV4MX_LIB_CUDA_CUDA_WORKSPACE_H_
#define DSV4MX_LIB_CUDA_CUDA_WORKSPACE_H_

#include <cstddef>
#include <cstdint>

#include "lib/base/generation.h"
#include "lib/base/spec.h"

namespace dsv4mx::cuda {

struct Workspace {
  int64_t panel_rows;    // of every panel
  int32_t* ids;          // [tokens, top_k] where the caller's are strided, counted or checked
  void* router_weights;  // [tokens, top_k] likewise, 4 bytes each
  int32_t* sizes;   // [experts] of a chunk that is computed in parts; first of all, where it stays
  int32_t* extent;  // [2]
  int32_t* counts;  // [experts]
  int32_t*
      taken;  // [kClearedWords]: of GEMM1's launches, of GEMM2's, and whether f16 held h and slots
  int32_t* panel_row;    // [tokens, top_k]
  int32_t* source;       // [panel_rows]
  float* row_scale;      // [panel_rows]
  float* hidden_weight;  // [panel_rows], or null where router weights come elsewhere
  float* h_scale;        // [blocks of 128 of I, panel_rows]
  uint8_t* x;            // panel of H
  uint8_t* h;            // panel of I; for few pairs fp32 [pairs, I]
  void* slots;           // [panel_rows, H]
  size_t bytes;
};

// For a chunk of `tokens` tokens, whatever path it takes: 0 bytes for none. Regions begin at multiples of 256 bytes, and
// bytes does not decrease with tokens.
Workspace CarveWorkspace(const LayerSpec& spec, const Generation& generation, int64_t tokens,
                         void* memory);

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_WORKSPACE_H_
