#include "lib/dist/collectives.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "lib/base/text.h"
#include "lib/dist/sums.h"

namespace dsv4mx::dist {
namespace {

constexpr size_t kPiece = 16384;  // of a rank's data that travels at a time

size_t BlockBytes(const CommSpec& spec) {
  return kPiece * (static_cast<size_t>(spec.size) + 1);
}

}  // namespace

Status GatherCollectives::AllGather(Among, const void* mine, void* all, size_t bytes,
                                    dsv4mx_stream) {
  return bootstrap_->AllGather(mine, all, bytes, Control());
}

Status GatherCollectives::AllToAll(Among, const void* all, void* mine, size_t bytes, void* gathered,
                                   dsv4mx_stream) {
  const auto* parts = static_cast<const uint8_t*>(all);
  for (size_t of = 0; of < static_cast<size_t>(spec_.size); ++of) {
    void* to = of == static_cast<size_t>(spec_.rank) ? mine : gathered;
    DSV4MX_TRY(bootstrap_->AllGather(parts + of * bytes, to, bytes, Control()));
  }
  return kOk;
}

Status GatherCollectives::ReduceScatter(Among, const void* all, void* mine, size_t count,
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
                       const CommSpec& spec, const Backend& backend, const Control& control,
                       std::unique_ptr<NcclGroup>* out) {
  Nccl nccl;
  DSV4MX_TRY(LoadNccl(source, spec.kind == DSV4MX_COMM_NCCL_BORROW, &nccl));
  std::unique_ptr<NcclGroup> group(new NcclGroup(spec, nccl, backend));
  DSV4MX_TRY(group->TakeBlock());
  // NCCL takes the device that is current.
  DSV4MX_TRY(backend.OnDevice([&] { return group->Meet(desc, control); }));
  if (group->stream_ != nullptr)
    DSV4MX_TRY(Turnstile::Meet(group.get(), spec, control, &group->turnstile_));
  *out = std::move(group);
  return kOk;
}

Status NcclGroup::TakeBlock() {
  DSV4MX_TRY(backend_.MakeStream(&stream_));
  void* block = nullptr;
  DSV4MX_TRY(backend_.Alloc(BlockBytes(spec_), 256, &block));
  block_ = static_cast<uint8_t*>(block);
  return kOk;
}

Status NcclGroup::Meet(const dsv4mx_comm_desc& desc, const Control& control) {
  if (spec_.kind == DSV4MX_COMM_NCCL_BORROW) return Borrow(desc, control);
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
      nccl_.table.CommInitRankConfig(&comm_, spec_.size, id, spec_.rank, &config);
  return Wait("ncclCommInitRankConfig", result, comm_, control);
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
  return Split(desc.nccl_comm, 0, spec_.rank, control, &comm_);
}

Status NcclGroup::Split(NcclComm parent, int color, int key, const Control& control,
                        NcclComm* out) {
  constexpr const char* kCall = "ncclCommSplit";
  NcclConfig config;
  const NcclResult result = nccl_.table.CommSplit(parent, color, key, out, &config);
  // Where the parent does not block, the new one is there when the parent is ready again (NVIDIA/nccl#1472).
  DSV4MX_TRY(Wait(kCall, result, parent, control));
  // It may be in progress itself.
  return Wait(kCall, kNcclInProgress, *out, control);
}

Status NcclGroup::Divide(const CommSpec& spec, const Control& control) {
  if (spec.ep_size() == 1 || spec.tp_size == 1) return kOk;
  DSV4MX_RETURN_IF(!own_, DSV4MX_STATUS_UNSUPPORTED,
                   "NO_SPLIT with tp_size %d of size %d, wanted 1 or all, or a communicator that "
                   "may be split: parts and slices take one each",
                   spec.tp_size, spec.size);
  parts_size_ = spec.ep_size();
  return backend_.OnDevice([&]() -> Status {
    DSV4MX_TRY(Split(comm_, spec.tp_rank(), spec.ep_rank(), control, &parts_));
    return Split(comm_, spec.ep_rank(), spec.tp_rank(), control, &slices_);
  });
}

NcclComm NcclGroup::Of(Among among) const {
  const NcclComm one = among == Among::kParts    ? parts_
                       : among == Among::kSlices ? slices_
                                                 : nullptr;
  return one != nullptr ? one : comm_;
}

void NcclGroup::Fail(Status why) {
  failed_ = why;
  std::memcpy(failed_text_, LastError(), sizeof(failed_text_));
  aborted_.store(true);
  for (NcclComm* comm : {&parts_, &slices_, &comm_}) {
    // What is borrowed is the caller's to abort.
    if (comm == &comm_ && !own_) continue;
    if (*comm != nullptr) (void)nccl_.table.CommAbort(*comm);
    *comm = nullptr;
  }
}

void NcclGroup::Abort() {
  const KeepError keep;
  abort_asked_.store(true);
  const auto end = [&] {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failed_.ok()) {
      Fail(dsv4mx::Fail(DSV4MX_STATUS_NCCL_ERROR,
                        "the group's NCCL communicator was aborted, wanted a new communicator"));
    }
    return kOk;
  };
  // Also where the device cannot be made current any more.
  if (!backend_.OnDevice(end).ok()) (void)end();
  keep.Restore();
}

Status NcclGroup::GoOn(const char* call, std::chrono::steady_clock::time_point begin,
                       const Control& control) {
  Status go_on = control.Part(0, spec_.size).Report(DSV4MX_STAGE_JOIN, 0, spec_.size);
  if (go_on.ok() && abort_asked_.load()) {
    go_on =
        dsv4mx::Fail(DSV4MX_STATUS_COMM_RANK_LOST,
                     "rank %d aborted the group's work while %s was in progress", spec_.rank, call);
  }
  if (go_on.ok() &&
      std::chrono::steady_clock::now() - begin >= std::chrono::nanoseconds(spec_.timeout_ns)) {
    go_on = dsv4mx::Fail(DSV4MX_STATUS_COMM_TIMEOUT,
                         "%s was still in progress after %s s: a rank did not come", call,
                         Text(static_cast<double>(spec_.timeout_ns) * 1e-9, 3).text);
  }
  if (!go_on.ok()) Fail(go_on);
  return go_on;
}

Status NcclGroup::Wait(const char* call, NcclResult result, NcclComm comm, const Control& control) {
  const auto begin = std::chrono::steady_clock::now();
  while (result == kNcclInProgress) {
    const NcclResult asked = nccl_.table.CommGetAsyncError(comm, &result);
    if (asked != kNcclSuccess) result = asked;
    if (result != kNcclInProgress) break;
    DSV4MX_TRY(GoOn(call, begin, control));
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  if (result == kNcclSuccess) return kOk;
  const Status status = NcclFailed(nccl_, call, result, comm);
  Fail(status);
  return status;
}

Status NcclGroup::WaitForStream(const Control& control) {
  const auto begin = std::chrono::steady_clock::now();
  for (;;) {
    bool ended = false;
    DSV4MX_TRY(backend_.QueryStream(stream_, &ended));
    if (ended) return kOk;
    NcclResult result = kNcclSuccess;
    if (nccl_.table.CommGetAsyncError(comm_, &result) == kNcclSuccess && result != kNcclSuccess &&
        result != kNcclInProgress) {
      const Status status = NcclFailed(nccl_, "ncclAllGather", result, comm_);
      Fail(status);
      return status;
    }
    DSV4MX_TRY(GoOn("ncclAllGather", begin, control));
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

NcclGroup::~NcclGroup() {
  (void)backend_.OnDevice([&] {
    LeaveAll();
    return kOk;
  });
  // Also where the device cannot be made current any more.
  LeaveAll();
  if (block_ != nullptr) (void)backend_.Free(block_, BlockBytes(spec_));
  backend_.FreeStream(stream_);
}

void NcclGroup::LeaveAll() {
  for (NcclComm* comm : {&parts_, &slices_}) LeaveNccl(comm);
  if (own_) LeaveNccl(&comm_);
}

void NcclGroup::LeaveNccl(NcclComm* comm) {
  if (*comm == nullptr) return;
  // Finalize lets ranks part without waiting here; destroy follows in any case.
  NcclResult result = nccl_.table.CommFinalize(*comm);
  const auto begin = std::chrono::steady_clock::now();
  while (result == kNcclInProgress &&
         std::chrono::steady_clock::now() - begin < std::chrono::seconds(1)) {
    if (nccl_.table.CommGetAsyncError(*comm, &result) != kNcclSuccess) break;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  if (result == kNcclSuccess) {
    (void)nccl_.table.CommDestroy(*comm);
  } else {
    (void)nccl_.table.CommAbort(*comm);
  }
  *comm = nullptr;
}

Status NcclGroup::AllGather(const void* mine, void* all, size_t bytes, const Control& control) {
  const uint8_t byte = 0;
  uint8_t bytes_of_all[kMaxRanks];
  const bool empty = bytes == 0;
  const auto* from = empty ? &byte : static_cast<const uint8_t*>(mine);
  auto* to = empty ? bytes_of_all : static_cast<uint8_t*>(all);
  const size_t stride = empty ? 1 : bytes;
  return backend_.OnDevice([&]() -> Status {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t at = 0; at < stride; at += kPiece)
      DSV4MX_TRY(GatherPiece(from + at, to + at, std::min(kPiece, stride - at), stride, control));
    return kOk;
  });
}

Status NcclGroup::GatherPiece(const uint8_t* mine, uint8_t* all, size_t bytes, size_t stride,
                              const Control& control) {
  if (!failed_.ok()) return dsv4mx::Fail(failed_.code, "%s", failed_text_);
  uint8_t* const gathered = block_ + kPiece;
  DSV4MX_TRY(backend_.Copy(block_, mine, bytes, stream_));
  const auto begin = std::chrono::steady_clock::now();
  if (turnstile_ != nullptr)
    DSV4MX_TRY(turnstile_->Pass([&] { return GoOn("ncclAllGather", begin, control); }));
  DSV4MX_TRY(Wait("ncclAllGather",
                  nccl_.table.AllGather(block_, gathered, bytes, kNcclUint8, comm_, stream_), comm_,
                  control));
  // Before the copies, so that these wait for nobody else.
  DSV4MX_TRY(WaitForStream(control));
  for (size_t r = 0; r < static_cast<size_t>(spec_.size); ++r)
    DSV4MX_TRY(backend_.Copy(all + r * stride, gathered + r * bytes, bytes, stream_));
  return backend_.Synchronize(stream_);
}

Status NcclGroup::AllGather(Among among, const void* mine, void* all, size_t bytes,
                            dsv4mx_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!failed_.ok()) return dsv4mx::Fail(failed_.code, "%s", failed_text_);
  const NcclComm comm = Of(among);
  return Wait("ncclAllGather", nccl_.table.AllGather(mine, all, bytes, kNcclUint8, comm, stream),
              comm, Control());
}

Status NcclGroup::ReduceScatter(Among among, const void* all, void* mine, size_t count,
                                dsv4mx_dtype dtype, void*, dsv4mx_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!failed_.ok()) return dsv4mx::Fail(failed_.code, "%s", failed_text_);
  const NcclComm comm = Of(among);
  const int type = dtype == DSV4MX_DTYPE_F32 ? kNcclFloat32 : kNcclBfloat16;
  return Wait("ncclReduceScatter",
              nccl_.table.ReduceScatter(all, mine, count, type, kNcclSum, comm, stream), comm,
              Control());
}

Status NcclGroup::AllToAll(Among among, const void* all, void* mine, size_t bytes, void*,
                           dsv4mx_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!failed_.ok()) return dsv4mx::Fail(failed_.code, "%s", failed_text_);
  const NcclComm comm = Of(among);
  const int ranks = comm == comm_ ? spec_.size : parts_size_;
  // Whatever is refused inside, a group that has begun is ended.
  NcclResult result = nccl_.table.GroupStart();
  const bool begun = result == kNcclSuccess;
  const auto goes_on = [&] { return result == kNcclSuccess || result == kNcclInProgress; };
  for (int r = 0; r < ranks && goes_on(); ++r) {
    const size_t at = static_cast<size_t>(r) * bytes;
    result =
        nccl_.table.Send(static_cast<const uint8_t*>(all) + at, bytes, kNcclUint8, r, comm, stream);
    if (goes_on())
      result =
          nccl_.table.Recv(static_cast<uint8_t*>(mine) + at, bytes, kNcclUint8, r, comm, stream);
  }
  const NcclResult ended = begun ? nccl_.table.GroupEnd() : kNcclSuccess;
  return Wait("ncclSend and ncclRecv", goes_on() ? ended : result, comm, Control());
}

}  // namespace dsv4mx::dist
