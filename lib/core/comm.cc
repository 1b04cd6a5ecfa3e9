#include "lib/core/comm.h"

#include <cstdio>
#include <cstring>

#include "lib/dist/nccl_loader.h"

namespace dsv4mx {

Status Comm::Create(std::shared_ptr<const Context> context, const dsv4mx_comm_desc& desc,
                    const dsv4mx_nccl_source& nccl, const Control& control,
                    std::unique_ptr<Comm>* out) {
  std::unique_ptr<Comm> comm(new Comm);
  DSV4MX_TRY(dist::Communicator::Create(desc, nccl, context->backend(), control, &comm->group_));
  comm->context_ = std::move(context);
  const dist::CommSpec& s = comm->group_->spec();
  comm->context_->Log(DSV4MX_LOG_INFO, "communicator: rank %d of %d, %d tensor-parallel", s.rank,
                      s.size, s.tp_size);
  *out = std::move(comm);
  return kOk;
}

Status Comm::QueryNccl(const dsv4mx_nccl_source& source, dsv4mx_nccl_info* out) {
  dist::Nccl nccl;
  DSV4MX_TRY(dist::LoadNccl(source, false, &nccl));
  out->version = nccl.version;
  std::snprintf(out->file, sizeof(out->file), "%s", nccl.file.c_str());
  return kOk;
}

Status Comm::GetNcclId(const dsv4mx_nccl_source& source, void* id) {
  dist::Nccl nccl;
  DSV4MX_TRY(dist::LoadNccl(source, false, &nccl));
  dist::NcclUniqueId made{};
  const dist::NcclResult result = nccl.table.GetUniqueId(&made);
  if (result != dist::kNcclSuccess)
    return dist::NcclFailed(nccl, "ncclGetUniqueId", result, nullptr);
  std::memcpy(id, &made, sizeof(made));
  return kOk;
}

Status Comm::Prepare(const std::shared_ptr<const Layer>& layer, const Control& control) const {
  // What each local expert is by now.
  LayerSpec spec = layer->spec();
  spec.placement = *layer->placement();
  return group_->Prepare(layer, spec, layer->backend(), control);
}

}  // namespace dsv4mx
