// The kernel in front of a call whose ids or router weights are not as the others want them, or are to be counted: it brings
// strided rows together, counts pairs per local expert, and counts ids of no expert.
#ifndef DSV4MX_KERNELS_LAUNCH_IDS_H_
#define DSV4MX_KERNELS_LAUNCH_IDS_H_

#include "kernels/launch.h"

namespace dsv4mx {

struct ReadIdsArgs {
  Routing routing;     // as the caller gave it; ids of this chunk
  int64_t ids_stride;  // elements between rows
  const void* weights;
  int64_t weights_stride;
  int32_t weight_is_bf16;
  int32_t* ids_out;        // [tokens, top_k]; ids that mean nothing become -1
  void* weights_out;       // [tokens, top_k], in the caller's dtype
  int64_t* expert_counts;  // [experts] to add to, or null
  int64_t* invalid_ids;    // to add to, memory that the host reads; or null
};
int LaunchReadIds(const ReadIdsArgs& args, KernelStream stream);

}  // namespace dsv4mx

#endif  // DSV4MX_KERNELS_LAUNCH_IDS_H_
