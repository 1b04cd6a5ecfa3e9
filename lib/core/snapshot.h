// Snapshots: prepared experts of a layer to a file and back.
#ifndef DSV4MX_LIB_CORE_SNAPSHOT_H_
#define DSV4MX_LIB_CORE_SNAPSHOT_H_

#include <string>

#include "lib/base/spec.h"
#include "lib/base/status.h"
#include "lib/core/weights.h"

namespace dsv4mx {

struct SnapshotOptions {
  int threads = 0;  // 0 = a choice
  int level = 0;    // zstd's; 0 = a choice, -1 = nothing is compressed
};

// Writes prepared weights; of copies of an expert the first.
Status SaveSnapshot(const Weights& weights, const std::string& path, const SnapshotOptions& options,
                    const Weights::Call& call);

// What a file's header says; `desc` may be null.
Status QuerySnapshot(const std::string& path, dsv4mx_snapshot_info* out, dsv4mx_layer_desc* desc);

// Fills empty weights and prepares them. After a failure they are empty again.
Status RestoreSnapshot(Weights* weights, const std::string& path, const SnapshotOptions& options,
                       const Weights::Call& call);

// A descriptor that gives this layer again, but for what is placement and what is experimental: its defaults are resolved, and
// a rank that does not add the w2 bias says BF16 of it.
dsv4mx_layer_desc DescOf(const LayerSpec& spec);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_SNAPSHOT_H_
