// Structs of callers that were compiled against another version of the header: input is brought to
// the size known here, output is written as far as the caller has room.
#ifndef DSV4MX_LIB_API_STRUCTS_H_
#define DSV4MX_LIB_API_STRUCTS_H_

#include <cstddef>

#include "lib/base/control.h"
#include "lib/base/status.h"

namespace dsv4mx::api {

// Every size that a struct had in a released version, smallest first; the last one is today's. A struct that grows gets
// one more number, and none is ever taken away.
template <class T>
inline constexpr size_t kSizes[] = {0};
template <>
inline constexpr size_t kSizes<dsv4mx_tensor>[] = {96};
template <>
inline constexpr size_t kSizes<dsv4mx_control>[] = {40};
template <>
inline constexpr size_t kSizes<dsv4mx_device_info>[] = {424};
template <>
inline constexpr size_t kSizes<dsv4mx_context_desc>[] = {80};
template <>
inline constexpr size_t kSizes<dsv4mx_context_info>[] = {168};
template <>
inline constexpr size_t kSizes<dsv4mx_layer_desc>[] = {160};
template <>
inline constexpr size_t kSizes<dsv4mx_layer_info>[] = {152};
template <>
inline constexpr size_t kSizes<dsv4mx_workspace_args>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_workspace_info>[] = {32};
template <>
inline constexpr size_t kSizes<dsv4mx_fault_info>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_weights_desc>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_set_args>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_prepare_args>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_weights_info>[] = {40};
template <>
inline constexpr size_t kSizes<dsv4mx_marlin>[] = {80};
template <>
inline constexpr size_t kSizes<dsv4mx_marlin_args>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_comm_desc>[] = {144};
template <>
inline constexpr size_t kSizes<dsv4mx_comm_info>[] = {696};
template <>
inline constexpr size_t kSizes<dsv4mx_comm_fault_info>[] = {32};
template <>
inline constexpr size_t kSizes<dsv4mx_nccl_function>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_nccl_source>[] = {32};
template <>
inline constexpr size_t kSizes<dsv4mx_nccl_info>[] = {528};
template <>
inline constexpr size_t kSizes<dsv4mx_apply_args>[] = {160};
template <>
inline constexpr size_t kSizes<dsv4mx_checkpoint_args>[] = {40};
template <>
inline constexpr size_t kSizes<dsv4mx_block>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_load_args>[] = {32};
template <>
inline constexpr size_t kSizes<dsv4mx_expert_args>[] = {24};
template <>
inline constexpr size_t kSizes<dsv4mx_copy_args>[] = {40};
template <>
inline constexpr size_t kSizes<dsv4mx_slab>[] = {40};
template <>
inline constexpr size_t kSizes<dsv4mx_expert_info>[] = {16};
template <>
inline constexpr size_t kSizes<dsv4mx_snapshot_args>[] = {32};
template <>
inline constexpr size_t kSizes<dsv4mx_snapshot_info>[] = {88};
template <>
inline constexpr size_t kSizes<dsv4mx_model_args>[] = {32};
template <>
inline constexpr size_t kSizes<dsv4mx_model_info>[] = {72};
template <>
inline constexpr size_t kSizes<dsv4mx_context_experimental>[] = {16};
template <>
inline constexpr size_t kSizes<dsv4mx_layer_experimental>[] = {16};
template <>
inline constexpr size_t kSizes<dsv4mx_weights_census>[] = {16};

// The sizes of one struct, and its name in messages.
struct KnownSizes {
  const size_t* sizes;
  size_t count;
  const char* name;
  size_t known() const { return sizes[count - 1]; }
};
template <class T>
constexpr KnownSizes SizesOf(const char* name) {
  constexpr size_t kCount = sizeof(kSizes<T>) / sizeof(size_t);
  static_assert(kSizes<T>[kCount - 1] == sizeof(T), "a struct that grew needs its new size here");
  return KnownSizes{kSizes<T>, kCount, name};
}

// A caller compiled against a newer header may have so much more; above it struct_size was not set.
inline constexpr size_t kMostNewBytes = 1024;

// The struct_size of a caller's struct: one that a version had, or a larger one that a later version could have.
Status GetStructSize(const void* given, const KnownSizes& sizes, size_t* size);

// Copies min(sizes), zeroes what the caller does not have, refuses what is not known here unless it is zero.
Status ReadBytes(const void* given, const KnownSizes& sizes, void* out);

// Zeroes a caller's output beyond its struct_size field, as far as it is known here, so that a failure leaves no old values.
Status BeginBytes(void* given, const KnownSizes& sizes);
void WriteBytes(const void* value, const KnownSizes& sizes, void* given);

template <class T>
Status ReadStruct(const T* given, const char* name, T* out) {
  // A caller of this version: nothing to look at, and a copy of a size that the compiler knows.
  if (given != nullptr && given->struct_size == sizeof(T)) {
    *out = *given;
    return kOk;
  }
  return ReadBytes(given, SizesOf<T>(name), out);
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
  return BeginBytes(given, SizesOf<T>(name));
}

template <class T>
void WriteStruct(const T& value, T* given) {
  WriteBytes(&value, SizesOf<T>(""), given);
}

// The control that an args struct points to, or none.
inline Status ReadControl(const dsv4mx_control* given, const char* what, Control* out) {
  if (given == nullptr) return kOk;
  dsv4mx_control control;
  DSV4MX_TRY(ReadStruct(given, "control", &control));
  DSV4MX_RETURN_IF(control.timeout_ns < 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "timeout_ns is %lld, wanted 0 (no limit) or more",
                   static_cast<long long>(control.timeout_ns));
  *out = Control(control, what);
  return kOk;
}

// The flags and reserved fields of args structs, none of which means anything yet.
inline Status RequireNoFlags(uint32_t flags, uint32_t reserved) {
  DSV4MX_RETURN_IF(flags != 0 || reserved != 0, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "flags is 0x%x and reserved %u, wanted 0: this version knows none", flags,
                   reserved);
  return kOk;
}

}  // namespace dsv4mx::api

#endif  // DSV4MX_LIB_API_STRUCTS_H_
