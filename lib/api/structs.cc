#include "lib/api/structs.h"

#include <algorithm>
#include <cstring>

#include "lib/api/guard.h"

namespace dsv4mx::api {

Status GetStructSize(const void* given, size_t first_size, const char* name, size_t* size) {
  DSV4MX_TRY(NotNull(given, name));
  std::memcpy(size, given, sizeof(*size));
  DSV4MX_RETURN_IF(*size < first_size || *size > kMaxStructSize, DSV4MX_STATUS_INVALID_STRUCT,
                   "struct_size of %s is %zu, wanted at least %zu (is it set?)", name, *size,
                   first_size);
  return kOk;
}

Status ReadBytes(const void* given, size_t first_size, size_t known_size, const char* name,
                 void* out) {
  size_t size;
  DSV4MX_TRY(GetStructSize(given, first_size, name, &size));
  const auto* bytes = static_cast<const unsigned char*>(given);
  for (size_t i = known_size; i < size; ++i) {
    DSV4MX_RETURN_IF(bytes[i] != 0, DSV4MX_STATUS_INVALID_STRUCT,
                     "byte %zu of %s is set, but this version knows %zu bytes of it, wanted zero",
                     i, name, known_size);
  }
  std::memset(out, 0, known_size);
  std::memcpy(out, given, std::min(size, known_size));
  std::memcpy(out, &known_size, sizeof(known_size));
  return kOk;
}

Status BeginBytes(void* given, size_t first_size, const char* name) {
  size_t size;
  DSV4MX_TRY(GetStructSize(given, first_size, name, &size));
  std::memset(static_cast<unsigned char*>(given) + sizeof(size), 0, size - sizeof(size));
  return kOk;
}

void WriteBytes(const void* value, size_t known_size, void* given) {
  size_t size;
  std::memcpy(&size, given, sizeof(size));
  size = std::min(size, known_size);
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
