#include "lib/core/comm.h"

namespace dsv4mx {

Status Comm::Create(std::shared_ptr<const Context> context, const dsv4mx_comm_desc& desc,
                    const dsv4mx_nccl_source& nccl, const Control& control,
                    std::unique_ptr<Comm>* out) {
  dsv4mx_context_info info{};
  context->backend().Query(&info);
  std::unique_ptr<Comm> comm(new Comm);
  DSV4MX_TRY(dist::Communicator::Create(desc, nccl, info.device == DSV4MX_DEVICE_CPU, control,
                                        &comm->group_));
  comm->context_ = std::move(context);
  const dist::CommSpec& s = comm->group_->spec();
  comm->context_->Log(DSV4MX_LOG_INFO, "communicator: rank %d of %d, %d tensor-parallel", s.rank,
                      s.size, s.tp_size);
  *out = std::move(comm);
  return kOk;
}

Status Comm::Prepare(const std::shared_ptr<const Layer>& layer, const Control& control) const {
  return group_->Prepare(layer, layer->spec(), layer->backend(), control);
}

}  // namespace dsv4mx
