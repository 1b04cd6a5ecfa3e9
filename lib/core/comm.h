// A communicator on a context, as layers see it.
#ifndef DSV4MX_LIB_CORE_COMM_H_
#define DSV4MX_LIB_CORE_COMM_H_

#include <memory>

#include "lib/base/control.h"
#include "lib/base/status.h"
#include "lib/core/context.h"
#include "lib/core/layer.h"
#include "lib/dist/communicator.h"

namespace dsv4mx {

class Comm {
 public:
  static Status Create(std::shared_ptr<const Context> context, const dsv4mx_comm_desc& desc,
                       const dsv4mx_nccl_source& nccl, const Control& control,
                       std::unique_ptr<Comm>* out);

  static Status QueryNccl(const dsv4mx_nccl_source& source, dsv4mx_nccl_info* out);
  static Status GetNcclId(const dsv4mx_nccl_source& source, void* id);

  const Context& context() const { return *context_; }
  dist::Communicator& group() const { return *group_; }

  Status Prepare(const std::shared_ptr<const Layer>& layer, const Control& control) const;

 private:
  Comm() = default;

  std::shared_ptr<const Context> context_;
  std::unique_ptr<dist::Communicator> group_;
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_CORE_COMM_H_
