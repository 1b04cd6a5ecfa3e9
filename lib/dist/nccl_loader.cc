#include "lib/dist/nccl_loader.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace dsv4mx::dist {
namespace {

constexpr const char* kSoname = "libnccl.so.2";

struct Entry {
  const char* name;
  size_t at;  // in NcclTable
};
#define DSV4MX_NCCL_ENTRY(name) \
  { "nccl" #name, offsetof(NcclTable, name) }
constexpr Entry kEntries[] = {
    DSV4MX_NCCL_ENTRY(GetVersion),
    DSV4MX_NCCL_ENTRY(GetUniqueId),
    DSV4MX_NCCL_ENTRY(CommInitRankConfig),
    DSV4MX_NCCL_ENTRY(CommSplit),
    DSV4MX_NCCL_ENTRY(CommGetAsyncError),
    DSV4MX_NCCL_ENTRY(CommCount),
    DSV4MX_NCCL_ENTRY(CommUserRank),
    DSV4MX_NCCL_ENTRY(CommFinalize),
    DSV4MX_NCCL_ENTRY(CommDestroy),
    DSV4MX_NCCL_ENTRY(CommAbort),
    DSV4MX_NCCL_ENTRY(AllGather),
    DSV4MX_NCCL_ENTRY(ReduceScatter),
    DSV4MX_NCCL_ENTRY(Send),
    DSV4MX_NCCL_ENTRY(Recv),
    DSV4MX_NCCL_ENTRY(GroupStart),
    DSV4MX_NCCL_ENTRY(GroupEnd),
    DSV4MX_NCCL_ENTRY(GetErrorString),
    DSV4MX_NCCL_ENTRY(GetLastError),
};
#undef DSV4MX_NCCL_ENTRY
static_assert(sizeof(kEntries) / sizeof(Entry) * sizeof(void*) == sizeof(NcclTable),
              "every function of the table is looked up");

// Fills the table by a look-up of names; NCCL_UNAVAILABLE names the first that is missing.
template <class Lookup>
Status Fill(const Lookup& lookup, const char* whose, Nccl* out) {
  for (const Entry& e : kEntries) {
    const void* address = lookup(e.name);
    DSV4MX_RETURN_IF(address == nullptr, DSV4MX_STATUS_NCCL_UNAVAILABLE,
                     "%s lacks %s, wanted NCCL 2.19 or later", whose, e.name);
    std::memcpy(reinterpret_cast<char*>(&out->table) + e.at, &address, sizeof(address));
  }
  const NcclResult result = out->table.GetVersion(&out->version);
  DSV4MX_RETURN_IF(result != kNcclSuccess, DSV4MX_STATUS_NCCL_UNAVAILABLE,
                   "ncclGetVersion of %s returned %d, wanted 0", whose, result);
  DSV4MX_RETURN_IF(out->version < kNcclOldest, DSV4MX_STATUS_NCCL_UNAVAILABLE,
                   "%s is NCCL version %d, wanted %d (2.19) or later", whose, out->version,
                   kNcclOldest);
  return kOk;
}

Status FillFrom(void* handle, const char* whose, Nccl* out) {
  DSV4MX_TRY(Fill([&](const char* name) { return dlsym(handle, name); }, whose, out));
  Dl_info info{};
  void* address = nullptr;
  std::memcpy(&address, &out->table.GetVersion, sizeof(address));
  out->file = dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
  return kOk;
}

// A path that somebody named: this one or none.
Status OpenNamed(const char* path, const char* by, Nccl* out) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return Fail(DSV4MX_STATUS_NCCL_UNAVAILABLE, "%s of %s cannot be loaded: %s", path, by,
                why == nullptr ? "no reason given" : why);
  }
  return FillFrom(handle, path, out);
}

}  // namespace

Status LoadNccl(const dsv4mx_nccl_source& source, bool borrowed, Nccl* out) {
  if (source.functions != nullptr) {
    // Elements are as long as the caller knows them.
    const size_t stride = source.function_count == 0 ? 0 : source.functions[0].struct_size;
    DSV4MX_RETURN_IF(source.function_count != 0 && stride < sizeof(dsv4mx_nccl_function),
                     DSV4MX_STATUS_INVALID_STRUCT,
                     "struct_size of functions[0] is %zu, wanted %zu as its _INIT macro sets it",
                     stride, sizeof(dsv4mx_nccl_function));
    const auto* first = reinterpret_cast<const char*>(source.functions);
    const auto lookup = [&](const char* name) -> const void* {
      for (size_t i = 0; i < source.function_count; ++i) {
        dsv4mx_nccl_function f;
        std::memcpy(&f, first + i * stride, sizeof(f));
        if (f.name != nullptr && std::strcmp(f.name, name) == 0) return f.address;
      }
      return nullptr;
    };
    return Fill(lookup, "the caller's table", out);
  }
  if (source.path != nullptr) return OpenNamed(source.path, "dsv4mx_nccl_source", out);
  // Not of the environment of a program with more rights than its user.
  const char* named = secure_getenv("DSV4MX_NCCL_PATH");
  if (named != nullptr && *named != '\0') return OpenNamed(named, "DSV4MX_NCCL_PATH", out);
  if (void* loaded = dlopen(kSoname, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD); loaded != nullptr)
    return FillFrom(loaded, kSoname, out);
  if (dlsym(RTLD_DEFAULT, "ncclGetVersion") != nullptr)
    return FillFrom(RTLD_DEFAULT, "the program's own NCCL", out);
  DSV4MX_RETURN_IF(borrowed, DSV4MX_STATUS_NCCL_UNAVAILABLE,
                   "the NCCL that made nccl_comm was not found: DSV4MX_NCCL_PATH is not set, no "
                   "%s is loaded, and the program has no symbol ncclGetVersion; wanted "
                   "dsv4mx_nccl_source with its functions or its path",
                   kSoname);
  void* handle = dlopen(kSoname, RTLD_NOW | RTLD_LOCAL);
  if (handle != nullptr) return FillFrom(handle, kSoname, out);
  const char* why = dlerror();
  return Fail(
      DSV4MX_STATUS_NCCL_UNAVAILABLE,
      "NCCL was not found: DSV4MX_NCCL_PATH is not set, no %s is loaded, the program has no "
      "symbol ncclGetVersion, and loading %s failed: %s; wanted dsv4mx_nccl_source.path, or "
      "the pip package nvidia-nccl-cu13 and its path",
      kSoname, kSoname, why == nullptr ? "no reason given" : why);
}

Status NcclFailed(const Nccl& nccl, const char* call, NcclResult result, NcclComm comm) {
  const char* name = nccl.table.GetErrorString(result);
  const char* last = nccl.table.GetLastError(comm);
  return Fail(DSV4MX_STATUS_NCCL_ERROR, "%s returned %d (%s)%s%s", call, result,
              name == nullptr ? "?" : name, last == nullptr || *last == '\0' ? "" : ": ",
              last == nullptr ? "" : last);
}

}  // namespace dsv4mx::dist
