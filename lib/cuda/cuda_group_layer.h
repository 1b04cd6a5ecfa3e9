// A layer as a rank's group on a device knows it.
#ifndef DSV4MX_LIB_CUDA_CUDA_GROUP_LAYER_H_
#define DSV4MX_LIB_CUDA_CUDA_GROUP_LAYER_H_

#include <memory>

#include "kernels/dist/launch_exchange.h"
#include "lib/base/rank_group.h"
#include "lib/cuda/cuda_device.h"
#include "lib/cuda/cuda_layer.h"

namespace dsv4mx::cuda {

// Tables of a layer on the device, and its load as the host reads it.
class CudaGroupLayer final : public GroupLayer {
 public:
  // Ids of rows that come: local expert e is id_first + e, of id_count ids; 0 of either: ids are local experts.
  static Status Make(const CudaLayer& layer, const GroupRoutes& routes, bool weights_travel,
                     int32_t id_first, int32_t id_count, std::shared_ptr<const Device> device,
                     std::unique_ptr<GroupLayer>* out);
  ~CudaGroupLayer() override;
  void GetLoads(int64_t* pairs) const override;

  // The layer as it computes rows that came: router weights are fp32.
  const LayerSpec& rows() const { return rows_; }
  bool weights_travel() const { return weights_travel_; }
  dist::RouteArgs routes() const;
  int64_t* loads() const { return loads_; }
  int64_t* told() const { return told_; }

 private:
  explicit CudaGroupLayer(std::shared_ptr<const Device> device) : device_(std::move(device)) {}

  std::shared_ptr<const Device> device_;
  LayerSpec rows_;
  bool weights_travel_ = false;
  void* block_ = nullptr;  // ids, copies, loads
  size_t bytes_ = 0;
  int32_t id_count_ = 0;
  uint64_t* ids_ = nullptr;
  uint32_t* copies_ = nullptr;
  int64_t* loads_ = nullptr;
  int64_t* told_ = nullptr;  // pinned
};

}  // namespace dsv4mx::cuda

#endif  // DSV4MX_LIB_CUDA_CUDA_GROUP_LAYER_H_
