#include "lib/dist/comm_spec.h"

#include <bit>
#include <cstddef>

#include "lib/base/spec.h"

namespace dsv4mx::dist {
namespace {

constexpr auto kInvalid = DSV4MX_STATUS_INVALID_ARGUMENT;
constexpr int64_t kDefaultTimeout = 10'000'000'000;
constexpr int64_t kSelfTokens = 256;

Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  DSV4MX_RETURN_IF(value < low || value > high, kInvalid, "%s is %lld, wanted %lld..%lld", name,
                   static_cast<long long>(value), static_cast<long long>(low),
                   static_cast<long long>(high));
  return kOk;
}

Status CheckDtype(const char* name, dsv4mx_dtype given, dsv4mx_dtype fallback, dsv4mx_dtype* out) {
  *out = given == DSV4MX_DTYPE_DEFAULT ? fallback : given;
  DSV4MX_RETURN_IF(*out != DSV4MX_DTYPE_BF16 && *out != DSV4MX_DTYPE_F32,
                   DSV4MX_STATUS_UNSUPPORTED_DTYPE, "%s is %d, wanted BF16 (1) or F32 (2)", name,
                   given);
  return kOk;
}

Status CheckKind(const dsv4mx_comm_desc& d) {
  const bool nccl = d.kind == DSV4MX_COMM_NCCL_ID || d.kind == DSV4MX_COMM_NCCL_BORROW;
  DSV4MX_RETURN_IF(d.kind == DSV4MX_COMM_NCCL_ID && d.nccl_id == nullptr, kInvalid,
                   "nccl_id is NULL with kind NCCL_ID, wanted the 128 bytes of "
                   "dsv4mx_nccl_get_unique_id");
  DSV4MX_RETURN_IF(d.kind == DSV4MX_COMM_NCCL_BORROW && d.nccl_comm == nullptr, kInvalid,
                   "nccl_comm is NULL with kind NCCL_BORROW, wanted an ncclComm_t");
  DSV4MX_RETURN_IF(d.kind == DSV4MX_COMM_CALLBACK && d.all_gather == nullptr, kInvalid,
                   "all_gather is NULL with kind CALLBACK, wanted a function");
  DSV4MX_RETURN_IF(nccl && d.transport == DSV4MX_COMM_TRANSPORT_PEER, DSV4MX_STATUS_UNSUPPORTED,
                   "transport is PEER with kind %d, wanted AUTO or COLLECTIVE: this version maps "
                   "windows for LOCAL and CALLBACK alone",
                   d.kind);
  DSV4MX_RETURN_IF(
      d.kind == DSV4MX_COMM_LOCAL && d.transport == DSV4MX_COMM_TRANSPORT_COLLECTIVE,
      DSV4MX_STATUS_UNSUPPORTED,
      "transport is COLLECTIVE with kind LOCAL, wanted AUTO or PEER: threads share memory");
  return kOk;
}

Status CheckModes(const dsv4mx_comm_desc& d, CommSpec* s) {
  DSV4MX_TRY(CheckRange("transport", d.transport, 0, DSV4MX_COMM_TRANSPORT_COLLECTIVE));
  DSV4MX_TRY(CheckRange("ep_combine", d.ep_combine, 0, DSV4MX_EP_RANK_REDUCE));
  DSV4MX_TRY(CheckRange("tp_reduce", d.tp_reduce, 0, DSV4MX_TP_INVARIANT));
  s->transport = d.transport;
  s->ep_combine = d.ep_combine;
  s->tp_reduce = d.tp_reduce;
  DSV4MX_TRY(CheckDtype("slot_dtype", d.slot_dtype, DSV4MX_DTYPE_BF16, &s->slot_dtype));
  DSV4MX_TRY(CheckDtype("partial_dtype", d.partial_dtype, DSV4MX_DTYPE_F32, &s->partial_dtype));
  s->tp_size = d.tp_size == 0 ? 1 : d.tp_size;
  DSV4MX_RETURN_IF(s->tp_size < 1 || s->size % s->tp_size != 0, kInvalid,
                   "tp_size is %d of size %d, wanted a divisor", d.tp_size, s->size);
  if (s->tp_reduce != DSV4MX_TP_INVARIANT) {
    DSV4MX_RETURN_IF(d.tp_slices != 0, kInvalid, "tp_slices is %d, wanted 0 without TP_INVARIANT",
                     d.tp_slices);
    return kOk;
  }
  s->tp_slices = d.tp_slices == 0 ? 8 : d.tp_slices;
  DSV4MX_RETURN_IF(s->tp_slices < s->tp_size || s->tp_slices > 64 ||
                       !std::has_single_bit(static_cast<uint32_t>(s->tp_slices)) ||
                       s->tp_slices % s->tp_size != 0,
                   kInvalid,
                   "tp_slices is %d with tp_size %d, wanted a power of two from tp_size to 64, "
                   "and a tp_size that divides it",
                   s->tp_slices, s->tp_size);
  DSV4MX_RETURN_IF(s->ep_size() != 1, DSV4MX_STATUS_UNSUPPORTED,
                   "TP_INVARIANT with %d expert-parallel parts, wanted 1: slices of routes do not "
                   "travel",
                   s->ep_size());
  DSV4MX_RETURN_IF(s->partial_dtype != DSV4MX_DTYPE_F32, kInvalid,
                   "partial_dtype is BF16 with TP_INVARIANT, wanted F32: the tree is in fp32");
  return kOk;
}

}  // namespace

Status CheckMembership(const dsv4mx_comm_desc& d, CommSpec* s) {
  DSV4MX_TRY(CheckRange("kind", d.kind, 0, DSV4MX_COMM_CALLBACK));
  s->kind = d.kind;
  s->rank = d.rank;
  s->size = d.size == 0 ? 1 : d.size;
  DSV4MX_TRY(CheckRange("size", s->size, 1, kMaxRanks));
  DSV4MX_RETURN_IF(s->rank < 0 || s->rank >= s->size, kInvalid,
                   "rank is %d of size %d, wanted 0..size-1", d.rank, d.size);
  DSV4MX_RETURN_IF(d.kind == DSV4MX_COMM_SELF && s->size != 1, kInvalid,
                   "size is %d with kind SELF, wanted 1", s->size);
  DSV4MX_RETURN_IF(d.timeout_ns < 0, kInvalid, "timeout_ns is %lld, wanted 0 (10 s) or more",
                   static_cast<long long>(d.timeout_ns));
  s->timeout_ns = d.timeout_ns == 0 ? kDefaultTimeout : d.timeout_ns;
  return CheckKind(d);
}

Status CheckRest(const dsv4mx_comm_desc& d, CommSpec* s) {
  DSV4MX_TRY(CheckModes(d, s));
  constexpr uint32_t kFlags = DSV4MX_COMM_NO_SPLIT | DSV4MX_COMM_FORBID_MULTICAST;
  DSV4MX_RETURN_IF((d.flags & ~kFlags) != 0 || d.reserved != 0, kInvalid,
                   "flags is 0x%x and reserved %u, wanted only bits of 0x%x, and 0", d.flags,
                   d.reserved, kFlags);
  s->flags = d.flags;
  s->max_tokens = d.max_tokens == 0 && s->size == 1 ? kSelfTokens : d.max_tokens;
  s->max_hidden = d.max_hidden;
  s->max_top_k = d.max_top_k;
  if (!s->Exchanges()) return kOk;
  DSV4MX_TRY(CheckRange("max_tokens", s->max_tokens, 1, kMaxTokens));
  DSV4MX_TRY(CheckRange("max_hidden", s->max_hidden, 32, 65536));
  DSV4MX_TRY(CheckRange("max_top_k", s->max_top_k, 1, 16));
  DSV4MX_RETURN_IF(s->max_hidden % 32 != 0, kInvalid, "max_hidden is %d, wanted a multiple of 32",
                   s->max_hidden);
  return kOk;
}

CommFields FieldsOf(const CommSpec& s) {
  return CommFields{DSV4MX_VERSION, s.size,      s.tp_size,    s.transport,     s.ep_combine,
                    s.tp_reduce,    s.tp_slices, s.slot_dtype, s.partial_dtype, s.max_tokens,
                    s.max_hidden,   s.max_top_k, s.timeout_ns, s.flags};
}

Status CompareFields(const CommFields* all, int32_t size) {
  constexpr struct {
    const char* name;
    int64_t CommFields::*field;
  } kFields[] = {{"the library's version", &CommFields::version},
                 {"size", &CommFields::size},
                 {"tp_size", &CommFields::tp_size},
                 {"transport", &CommFields::transport},
                 {"ep_combine", &CommFields::ep_combine},
                 {"tp_reduce", &CommFields::tp_reduce},
                 {"tp_slices", &CommFields::tp_slices},
                 {"slot_dtype", &CommFields::slot_dtype},
                 {"partial_dtype", &CommFields::partial_dtype},
                 {"max_tokens", &CommFields::max_tokens},
                 {"max_hidden", &CommFields::max_hidden},
                 {"max_top_k", &CommFields::max_top_k},
                 {"timeout_ns", &CommFields::timeout_ns},
                 {"flags", &CommFields::flags}};
  for (int32_t r = 1; r < size; ++r) {
    for (const auto& f : kFields) {
      DSV4MX_RETURN_IF(all[r].*f.field != all[0].*f.field, DSV4MX_STATUS_COMM_MISMATCH,
                       "%s is %lld on rank %d, wanted %lld as on rank 0", f.name,
                       static_cast<long long>(all[r].*f.field), r,
                       static_cast<long long>(all[0].*f.field));
    }
  }
  return kOk;
}

WindowShape ShapeOf(const CommSpec& s) {
  WindowShape w;
  w.ep = s.ep_size();
  w.tp = s.tp_size;
  w.top_k = s.max_top_k;
  w.max_tokens = s.max_tokens;
  w.hidden = s.max_hidden;
  w.reduce_tokens = s.reduce_tokens();
  // Slots of a layer that stay at home have the layer's type, up to 4 bytes.
  w.slot_bytes =
      s.ep_size() > 1 && s.ep_combine == DSV4MX_EP_ROUTE_EXACT ? BytesOf(s.slot_dtype) : 4;
  w.partial_bytes = BytesOf(s.partial_dtype);
  w.rank_reduce = s.ep_combine == DSV4MX_EP_RANK_REDUCE;
  return w;
}

}  // namespace dsv4mx::dist
