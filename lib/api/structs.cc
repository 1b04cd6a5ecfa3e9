#include "lib/api/structs.h"

#include <algorithm>
#include <cstring>

#include "lib/api/guard.h"

namespace dsv4mx::api {

Status GetStructSize(const void* given, const KnownSizes& sizes, size_t* size) {
  DSV4MX_TRY(NotNull(given, sizes.name));
  std::memcpy(size, given, sizeof(*size));
  const size_t* end = sizes.sizes + sizes.count;
  if (std::find(sizes.sizes, end, *size) != end) return kOk;
  const bool newer = *size > sizes.known() && *size <= sizes.known() + kMostNewBytes &&
                     *size % sizeof(size_t) == 0;
  DSV4MX_RETURN_IF(
      !newer, DSV4MX_STATUS_INVALID_STRUCT,
      "struct_size of %s is %zu, which no version had, wanted %zu as its _INIT macro or "
      "dsv4mx_struct_init sets it",
      sizes.name, *size, sizes.known());
  return kOk;
}

Status ReadBytes(const void* given, const KnownSizes& sizes, void* out) {
  size_t size;
  DSV4MX_TRY(GetStructSize(given, sizes, &size));
  const size_t known = sizes.known();
  const auto* bytes = static_cast<const unsigned char*>(given);
  for (size_t i = known; i < size; ++i) {
    DSV4MX_RETURN_IF(bytes[i] != 0, DSV4MX_STATUS_INVALID_STRUCT,
                     "byte %zu of %s is set, but this version knows %zu bytes of it, wanted zero",
                     i, sizes.name, known);
  }
  std::memset(out, 0, known);
  std::memcpy(out, given, std::min(size, known));
  std::memcpy(out, &known, sizeof(known));
  return kOk;
}

Status BeginBytes(void* given, const KnownSizes& sizes) {
  size_t size;
  DSV4MX_TRY(GetStructSize(given, sizes, &size));
  std::memset(static_cast<unsigned char*>(given) + sizeof(size), 0,
              std::min(size, sizes.known()) - sizeof(size));
  return kOk;
}

void WriteBytes(const void* value, const KnownSizes& sizes, void* given) {
  size_t size;
  std::memcpy(&size, given, sizeof(size));
  size = std::min(size, sizes.known());
  std::memcpy(static_cast<unsigned char*>(given) + sizeof(size),
              static_cast<const unsigned char*>(value) + sizeof(size), size - sizeof(size));
}

}  // namespace dsv4mx::api

dsv4mx_status dsv4mx_struct_init(void* s, size_t bytes) {
  using dsv4mx::Fail;
  if (s == nullptr) return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "s is NULL").code;
  if (bytes < sizeof(size_t)) {
    return Fail(DSV4MX_STATUS_INVALID_ARGUMENT, "bytes is %zu, wanted at least %zu", bytes,
                sizeof(size_t))
        .code;
  }
  std::memset(s, 0, bytes);
  std::memcpy(s, &bytes, sizeof(bytes));
  return DSV4MX_STATUS_OK;
}
