// Structs of callers that were compiled against another version of the header: input is brought to
// the size known here, output is written as far as the caller has room.
#ifndef DSV4MX_LIB_API_STRUCTS_H_
#define DSV4MX_LIB_API_STRUCTS_H_

#include <cstddef>

#include "lib/base/status.h"

namespace dsv4mx::api {

// Size of each struct in the version that introduced it: the least that a caller can have. These
// never change; a struct that grows keeps its line.
template <class T>
inline constexpr size_t kFirstSize = 0;
template <>
inline constexpr size_t kFirstSize<dsv4mx_tensor> = 96;
template <>
inline constexpr size_t kFirstSize<dsv4mx_context_desc> = 80;
template <>
inline constexpr size_t kFirstSize<dsv4mx_context_info> = 168;
template <>
inline constexpr size_t kFirstSize<dsv4mx_layer_desc> = 120;
template <>
inline constexpr size_t kFirstSize<dsv4mx_layer_info> = 120;
template <>
inline constexpr size_t kFirstSize<dsv4mx_weights_desc> = 24;
template <>
inline constexpr size_t kFirstSize<dsv4mx_prepare_args> = 24;
template <>
inline constexpr size_t kFirstSize<dsv4mx_weights_info> = 48;
template <>
inline constexpr size_t kFirstSize<dsv4mx_marlin> = 80;
template <>
inline constexpr size_t kFirstSize<dsv4mx_apply_args> = 88;

// No struct of any version is larger; above it struct_size was not set, and the tail is not read.
inline constexpr size_t kMaxStructSize = 16384;

// The struct_size of a caller's struct, if it is one that a caller can have.
Status GetStructSize(const void* given, size_t first_size, const char* name, size_t* size);

// Copies min(sizes), zeroes what the caller does not have, refuses what is not known here unless it
// is zero.
Status ReadBytes(const void* given, size_t first_size, size_t known_size, const char* name,
                 void* out);

// Zeroes a caller's output beyond its struct_size field, so that a failure leaves no old values.
Status BeginBytes(void* given, size_t first_size, const char* name);
void WriteBytes(const void* value, size_t known_size, void* given);

template <class T>
Status ReadStruct(const T* given, const char* name, T* out) {
  static_assert(kFirstSize<T> != 0 && kFirstSize<T> <= sizeof(T));
  return ReadBytes(given, kFirstSize<T>, sizeof(T), name, out);
}

// The same where NULL means all defaults.
template <class T>
Status ReadOptionalStruct(const T* given, const char* name, T* out) {
  *out = T{};
  out->struct_size = sizeof(T);
  return given == nullptr ? kOk : ReadStruct(given, name, out);
}

template <class T>
Status BeginStruct(T* given, const char* name) {
  static_assert(kFirstSize<T> != 0 && kFirstSize<T> <= sizeof(T));
  return BeginBytes(given, kFirstSize<T>, name);
}

template <class T>
void WriteStruct(const T& value, T* given) {
  WriteBytes(&value, sizeof(T), given);
}

}  // namespace dsv4mx::api

#endif  // DSV4MX_LIB_API_STRUCTS_H_
