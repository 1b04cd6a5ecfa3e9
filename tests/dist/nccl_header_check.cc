// lib/dist/nccl_types.h beside a version's own nccl.h: compiled, never run (tests/dist/nccl_real.sh).
#include <nccl.h>

#include <type_traits>

#include "lib/dist/nccl_types.h"

using dsv4mx::dist::NcclConfig;
using dsv4mx::dist::NcclTable;

static_assert(NCCL_VERSION_CODE >= dsv4mx::dist::kNcclOldest);
static_assert(static_cast<int>(ncclSuccess) == dsv4mx::dist::kNcclSuccess);
static_assert(static_cast<int>(ncclInProgress) == dsv4mx::dist::kNcclInProgress);
static_assert(static_cast<int>(ncclUint8) == dsv4mx::dist::kNcclUint8);
static_assert(static_cast<int>(ncclFloat32) == dsv4mx::dist::kNcclFloat32);
static_assert(static_cast<int>(ncclBfloat16) == dsv4mx::dist::kNcclBfloat16);
static_assert(static_cast<int>(ncclSum) == dsv4mx::dist::kNcclSum);
static_assert(sizeof(ncclUniqueId) == sizeof(dsv4mx::dist::NcclUniqueId));
static_assert(sizeof(ncclResult_t) == sizeof(int) && sizeof(ncclDataType_t) == sizeof(int));

// The frozen beginning of the config.
static_assert(sizeof(NcclConfig) <= sizeof(ncclConfig_t));
static_assert(offsetof(NcclConfig, size) == offsetof(ncclConfig_t, size));
static_assert(offsetof(NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(NcclConfig, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(NcclConfig, cga_cluster_size) == offsetof(ncclConfig_t, cgaClusterSize));
static_assert(offsetof(NcclConfig, min_ctas) == offsetof(ncclConfig_t, minCTAs));
static_assert(offsetof(NcclConfig, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(NcclConfig, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(NcclConfig, split_share) == offsetof(ncclConfig_t, splitShare));

// As many parameters of as many bytes: enums are ints and handles pointers.
template <class Ours, class Theirs>
struct Same : std::false_type {};
template <class R, class... A, class S, class... B>
struct Same<R (*)(A...), S (*)(B...)>
    : std::bool_constant<sizeof...(A) == sizeof...(B) && sizeof(R) == sizeof(S) &&
                         ((sizeof(A) == sizeof(B)) && ...)> {};
#define CHECK_FUNCTION(name)                                                   \
  static_assert(Same<decltype(NcclTable::name), decltype(&nccl##name)>::value, \
                "nccl" #name " has another signature")
CHECK_FUNCTION(GetVersion);
CHECK_FUNCTION(GetUniqueId);
CHECK_FUNCTION(CommInitRankConfig);
CHECK_FUNCTION(CommSplit);
CHECK_FUNCTION(CommGetAsyncError);
CHECK_FUNCTION(CommCount);
CHECK_FUNCTION(CommUserRank);
CHECK_FUNCTION(CommFinalize);
CHECK_FUNCTION(CommDestroy);
CHECK_FUNCTION(CommAbort);
CHECK_FUNCTION(AllGather);
CHECK_FUNCTION(ReduceScatter);
CHECK_FUNCTION(Send);
CHECK_FUNCTION(Recv);
CHECK_FUNCTION(GroupStart);
CHECK_FUNCTION(GroupEnd);
CHECK_FUNCTION(GetErrorString);
CHECK_FUNCTION(GetLastError);

int main() {
  const NcclConfig ours;
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  return ours.magic == theirs.magic && ours.cga_cluster_size == theirs.cgaClusterSize ? 0 : 1;
}
