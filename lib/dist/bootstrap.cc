#include "lib/dist/bootstrap.h"

#include <cstring>

#include "lib/base/thread_state.h"

namespace dsv4mx::dist {
namespace {

struct Report {
  int32_t code;
  char text[kErrorBytes];
};

}  // namespace

Status Agree(Bootstrap* bootstrap, const CommSpec& spec, Status mine, const Control& control) {
  Report report{};
  report.code = mine.code;
  if (!mine.ok()) std::memcpy(report.text, LastError(), sizeof(report.text));
  std::vector<Report> all;
  // Where ranks cannot even talk, a rank's own failure says more.
  const Status gathered = GatherOne(bootstrap, spec, report, &all, control);
  if (!gathered.ok()) return mine.ok() ? gathered : Fail(mine.code, "%s", report.text);
  for (int32_t r = 0; r < spec.size; ++r) {
    Report& first = all[static_cast<size_t>(r)];
    if (first.code == DSV4MX_STATUS_OK) continue;
    first.text[kErrorBytes - 1] = '\0';
    if (r == spec.rank) return Fail(first.code, "%s", first.text);
    return Fail(first.code, "rank %d: %s", r, first.text);
  }
  return kOk;
}

Status SelfBootstrap::AllGather(const void* mine, void* all, size_t bytes, const Control&) {
  if (bytes != 0) std::memcpy(all, mine, bytes);
  return kOk;
}

Status CallbackBootstrap::AllGather(const void* mine, void* all, size_t bytes,
                                    const Control& control) {
  DSV4MX_TRY(control.Part(0, size_).Report(DSV4MX_STAGE_JOIN, 0, size_));
  if (bytes == 0 && barrier_ != nullptr) {
    const int32_t result = CallOut(barrier_, user_);
    DSV4MX_RETURN_IF(result != 0, DSV4MX_STATUS_COMM_ERROR, "barrier returned %d, wanted 0",
                     result);
    return kOk;
  }
  const char byte = 0;
  char bytes_of_all[kMaxRanks];
  const int32_t result =
      CallOut(all_gather_, user_, bytes == 0 ? static_cast<const void*>(&byte) : mine,
              bytes == 0 ? static_cast<void*>(bytes_of_all) : all, bytes == 0 ? size_t{1} : bytes);
  DSV4MX_RETURN_IF(result != 0, DSV4MX_STATUS_COMM_ERROR, "all_gather returned %d, wanted 0",
                   result);
  return kOk;
}

}  // namespace dsv4mx::dist
