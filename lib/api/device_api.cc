// Devices before a context exists.
#include "lib/api/guard.h"
#include "lib/api/structs.h"
#include "lib/base/backend.h"

using namespace dsv4mx;       // NOLINT: entry points live outside the namespace
using namespace dsv4mx::api;  // NOLINT

namespace {

Status CheckKind(dsv4mx_device device) {
  DSV4MX_RETURN_IF(device != DSV4MX_DEVICE_CPU && device != DSV4MX_DEVICE_CUDA,
                   DSV4MX_STATUS_INVALID_ARGUMENT, "device is %d, wanted 1 (CPU) or 2 (CUDA)",
                   device);
  return kOk;
}

}  // namespace

dsv4mx_status dsv4mx_device_get_count(dsv4mx_device device, int32_t* out) {
  if (out != nullptr) *out = 0;
  return Guard([&]() -> Status {
    DSV4MX_TRY(NotNull(out, "out"));
    DSV4MX_TRY(CheckKind(device));
    if (device == DSV4MX_DEVICE_CUDA) return CountCudaDevices(out);
    *out = 1;
    return kOk;
  });
}

dsv4mx_status dsv4mx_device_query(dsv4mx_device device, int32_t ordinal, dsv4mx_device_info* out) {
  return Guard([&]() -> Status {
    DSV4MX_TRY(BeginStruct(out, "out"));
    DSV4MX_TRY(CheckKind(device));
    DSV4MX_RETURN_IF(ordinal < 0, DSV4MX_STATUS_INVALID_ARGUMENT, "ordinal is %d, wanted 0 or more",
                     ordinal);
    dsv4mx_device_info info{};
    if (device == DSV4MX_DEVICE_CUDA) {
      DSV4MX_TRY(QueryCudaDevice(ordinal, &info));
    } else {
      DSV4MX_RETURN_IF(ordinal != 0, DSV4MX_STATUS_NO_DEVICE, "ordinal is %d, wanted 0: one CPU",
                       ordinal);
      QueryCpuDevice(&info);
    }
    WriteStruct(info, out);
    return kOk;
  });
}
