#include "lib/dist/collectives.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "lib/base/text.h"
#include "lib/dist/sums.h"

namespace dsv4mx::dist {

Status GatherCollectives::AllGather(const void* mine, void* all, size_t bytes, dsv4mx_stream) {
  return bootstrap_->AllGather(mine, all, bytes, Control());
}

Status GatherCollectives::ReduceScatter(const void* all, void* mine, size_t count,
                                        dsv4mx_dtype dtype, void* gathered, dsv4mx_stream) {
  const size_t part = count * static_cast<size_t>(BytesOf(dtype));
  const auto* parts = static_cast<const uint8_t*>(all);
  const auto* theirs = static_cast<const uint8_t*>(gathered);
  for (size_t of = 0; of < static_cast<size_t>(spec_.size); ++of) {
    DSV4MX_TRY(bootstrap_->AllGather(parts + of * part, gathered, part, Control()));
    if (of != static_cast<size_t>(spec_.rank)) continue;
    for (size_t at = 0; at < count; at += kRun) {
      const auto run = static_cast<int64_t>(std::min<size_t>(kRun, count - at));
      float sum[kRun] = {}, y[kRun];
      const size_t skip = at * static_cast<size_t>(BytesOf(dtype));
      for (size_t from = 0; from < static_cast<size_t>(spec_.size); ++from) {
        Widen(theirs + from * part + skip, dtype, run, y);
        Add(y, run, sum);
      }
      Narrow(sum, dtype, run, static_cast<uint8_t*>(mine) + skip);
    }
  }
  return kOk;
}

Status NcclGroup::Make(const dsv4mx_comm_desc& desc, const dsv4mx_nccl_source& source,
                       const CommSpec& spec, const Control& control,
                       std::unique_ptr<NcclGroup>* out) {
  const bool borrowed = spec.kind == DSV4MX_COMM_NCCL_BORROW;
  Nccl nccl;
  DSV4MX_TRY(LoadNccl(source, borrowed, &nccl));
  std::unique_ptr<NcclGroup> group(new NcclGroup(spec, nccl));
  if (borrowed) {
    DSV4MX_TRY(group->Borrow(desc, control));
    *out = std::move(group);
    return kOk;
  }
  if ((desc.flags & DSV4MX_COMM_FORBID_MULTICAST) != 0) {
    const char* nvls = secure_getenv("NCCL_NVLS_ENABLE");
    DSV4MX_RETURN_IF(nvls == nullptr || std::strcmp(nvls, "0") != 0, DSV4MX_STATUS_UNSUPPORTED,
                     "NCCL_NVLS_ENABLE is %s with FORBID_MULTICAST, wanted 0 in the environment: "
                     "NCCL has no other switch",
                     nvls == nullptr ? "not set" : nvls);
  }
  NcclUniqueId id;
  std::memcpy(&id, desc.nccl_id, sizeof(id));
  NcclConfig config;
  const NcclResult result =
      nccl.table.CommInitRankConfig(&group->comm_, spec.size, id, spec.rank, &config);
  DSV4MX_TRY(group->Wait("ncclCommInitRankConfig", result, control));
  *out = std::move(group);
  return kOk;
}

Status NcclGroup::Borrow(const dsv4mx_comm_desc& desc, const Control& control) {
  int count = 0, rank = -1;
  NcclResult result = nccl_.table.CommCount(desc.nccl_comm, &count);
  if (result != kNcclSuccess) return NcclFailed(nccl_, "ncclCommCount", result, desc.nccl_comm);
  result = nccl_.table.CommUserRank(desc.nccl_comm, &rank);
  if (result != kNcclSuccess) return NcclFailed(nccl_, "ncclCommUserRank", result, desc.nccl_comm);
  DSV4MX_RETURN_IF(count != spec_.size || rank != spec_.rank, DSV4MX_STATUS_COMM_MISMATCH,
                   "nccl_comm is rank %d of %d, wanted %d of %d as in the descriptor", rank, count,
                   spec_.rank, spec_.size);
  if ((desc.flags & DSV4MX_COMM_NO_SPLIT) != 0) {
    comm_ = desc.nccl_comm;
    own_ = false;
    return kOk;
  }
  NcclConfig config;
  result = nccl_.table.CommSplit(desc.nccl_comm, 0, spec_.rank, &comm_, &config);
  return Wait("ncclCommSplit", result, control);
}

void NcclGroup::Abort() {
  failed_ = Status{DSV4MX_STATUS_NCCL_ERROR};
  std::memcpy(failed_text_, LastError(), sizeof(failed_text_));
  // What is borrowed is the caller's to abort.
  if (own_ && comm_ != nullptr) (void)nccl_.table.CommAbort(comm_);
  if (own_) comm_ = nullptr;
}

Status NcclGroup::Wait(const char* call, NcclResult result, const Control& control) {
  const auto begin = std::chrono::steady_clock::now();
  while (result == kNcclInProgress) {
    const NcclResult asked = nccl_.table.CommGetAsyncError(comm_, &result);
    if (asked != kNcclSuccess) result = asked;
    if (result != kNcclInProgress) break;
    const Status go_on = control.Part(0, spec_.size).Report(DSV4MX_STAGE_JOIN, 0, spec_.size);
    const bool late =
        std::chrono::steady_clock::now() - begin >= std::chrono::nanoseconds(spec_.timeout_ns);
    if (go_on.ok() && !late) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      continue;
    }
    const Status status =
        !go_on.ok() ? go_on
                    : Fail(DSV4MX_STATUS_COMM_TIMEOUT,
                           "%s was still in progress after %s s: a rank did not come", call,
                           Text(static_cast<double>(spec_.timeout_ns) * 1e-9, 3).text);
    Abort();
    failed_ = status;
    return status;
  }
  if (result == kNcclSuccess) return kOk;
  const Status status = NcclFailed(nccl_, call, result, comm_);
  Abort();
  return status;
}

NcclGroup::~NcclGroup() {
  if (!own_ || comm_ == nullptr) return;
  // Finalize lets ranks part without waiting here; destroy follows in any case.
  NcclResult result = nccl_.table.CommFinalize(comm_);
  const auto begin = std::chrono::steady_clock::now();
  while (result == kNcclInProgress &&
         std::chrono::steady_clock::now() - begin < std::chrono::seconds(1)) {
    if (nccl_.table.CommGetAsyncError(comm_, &result) != kNcclSuccess) break;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  if (result == kNcclSuccess) {
    (void)nccl_.table.CommDestroy(comm_);
  } else {
    (void)nccl_.table.CommAbort(comm_);
  }
}

Status NcclGroup::AllGather(const void* mine, void* all, size_t bytes, const Control& control) {
  if (!failed_.ok()) return Fail(failed_.code, "%s", failed_text_);
  const uint8_t byte = 0;
  uint8_t bytes_of_all[kMaxRanks];
  const bool empty = bytes == 0;
  return Wait("ncclAllGather",
              nccl_.table.AllGather(empty ? &byte : mine, empty ? bytes_of_all : all,
                                    empty ? 1 : bytes, kNcclUint8, comm_, nullptr),
              control);
}

Status NcclGroup::AllGather(const void* mine, void* all, size_t bytes, dsv4mx_stream stream) {
  if (!failed_.ok()) return Fail(failed_.code, "%s", failed_text_);
  return Wait("ncclAllGather", nccl_.table.AllGather(mine, all, bytes, kNcclUint8, comm_, stream),
              Control());
}

Status NcclGroup::ReduceScatter(const void* all, void* mine, size_t count, dsv4mx_dtype dtype,
                                void*, dsv4mx_stream stream) {
  if (!failed_.ok()) return Fail(failed_.code, "%s", failed_text_);
  const int type = dtype == DSV4MX_DTYPE_F32 ? kNcclFloat32 : kNcclBfloat16;
  return Wait("ncclReduceScatter",
              nccl_.table.ReduceScatter(all, mine, count, type, kNcclSum, comm_, stream),
              Control());
}

}  // namespace dsv4mx::dist
