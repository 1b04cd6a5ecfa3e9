#include "lib/core/context.h"

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>

namespace dsv4mx {
namespace {

Status CheckDesc(const dsv4mx_context_desc& d) {
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  DSV4MX_RETURN_IF(d.device < DSV4MX_DEVICE_AUTO || d.device > DSV4MX_DEVICE_CUDA, kCode,
                   "device is %d, wanted 0 (AUTO), 1 (CPU) or 2 (CUDA)", d.device);
  DSV4MX_RETURN_IF(d.device_ordinal < 0, kCode, "device_ordinal is %d, wanted 0 or more",
                   d.device_ordinal);
  DSV4MX_RETURN_IF(d.threads < 0 || d.threads > 4096, kCode, "threads is %d, wanted 0..4096",
                   d.threads);
  DSV4MX_RETURN_IF(d.cpu_isa < DSV4MX_CPU_ISA_DEFAULT || d.cpu_isa > DSV4MX_CPU_ISA_AVX512, kCode,
                   "cpu_isa is %d, wanted 0..%d", d.cpu_isa, DSV4MX_CPU_ISA_AVX512);
  DSV4MX_RETURN_IF((d.alloc == nullptr) != (d.free == nullptr), kCode,
                   "%s is given without %s, wanted both or neither",
                   d.alloc == nullptr ? "free" : "alloc", d.alloc == nullptr ? "alloc" : "free");
  DSV4MX_RETURN_IF(d.log_level < 0 || d.log_level > DSV4MX_LOG_DEBUG, kCode,
                   "log_level is %d, wanted 0..%d", d.log_level, DSV4MX_LOG_DEBUG);
  DSV4MX_RETURN_IF(d.flags != 0, kCode, "flags is 0x%x, wanted 0", d.flags);
  DSV4MX_RETURN_IF(d.plan_file != nullptr && d.device == DSV4MX_DEVICE_CPU, kCode,
                   "plan_file is given for the CPU, wanted NULL: only CUDA has kernel plans");
  return kOk;
}

// What AUTO takes as "no CUDA device here"; anything else is a fault that the caller must see.
bool MeansNoCuda(dsv4mx_status code) {
  return code == DSV4MX_STATUS_NO_DEVICE || code == DSV4MX_STATUS_UNSUPPORTED ||
         code == DSV4MX_STATUS_UNSUPPORTED_DEVICE;
}

}  // namespace

Status Context::Create(const dsv4mx_context_desc& desc, std::shared_ptr<const Context>* out) {
  DSV4MX_TRY(CheckDesc(desc));
  std::shared_ptr<Context> context(new Context);
  context->alloc_ = desc.alloc;
  context->free_ = desc.free;
  context->alloc_user_ = desc.alloc_user;
  context->log_ = desc.log;
  context->log_user_ = desc.log_user;
  if (desc.log_level != 0) context->log_level_ = desc.log_level;

  if (desc.device != DSV4MX_DEVICE_CPU) {
    const KeepError keep;
    const Status status = MakeCudaBackend(desc, &context->backend_);
    if (!status.ok()) {
      if (desc.device == DSV4MX_DEVICE_CUDA || !MeansNoCuda(status.code)) return status;
      context->backend_.reset();
      context->Log(DSV4MX_LOG_INFO, "no CUDA device, the CPU is used: %s", LastError());
      keep.Restore();
    }
  }
  if (context->backend_ == nullptr) DSV4MX_TRY(MakeCpuBackend(desc, &context->backend_));
  char name[64];
  context->backend_->Name(name, sizeof(name));
  context->Log(DSV4MX_LOG_INFO, "context on %s", name);
  *out = std::move(context);
  return kOk;
}

Status Context::AllocRaw(size_t bytes, size_t alignment, void** out) const {
  if (alloc_ == nullptr) return backend_->Alloc(bytes, alignment, out);
  void* pointer = alloc_(alloc_user_, bytes, alignment);
  DSV4MX_RETURN_IF(pointer == nullptr, DSV4MX_STATUS_OUT_OF_MEMORY,
                   "the caller's allocator gave NULL for %zu bytes", bytes);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
    free_(alloc_user_, pointer, bytes);
    return Fail(DSV4MX_STATUS_OUT_OF_MEMORY,
                "the caller's allocator gave %p, wanted a multiple of %zu", pointer, alignment);
  }
  *out = pointer;
  return kOk;
}

Status Context::FreeRaw(void* pointer, size_t bytes) const {
  if (free_ == nullptr) return backend_->Free(pointer);
  free_(alloc_user_, pointer, bytes);
  return kOk;
}

Status Context::Alloc(size_t bytes, size_t alignment, void** out) const {
  *out = nullptr;
  if (bytes == 0) return kOk;
  DSV4MX_RETURN_IF(bytes > static_cast<size_t>(PTRDIFF_MAX), DSV4MX_STATUS_OUT_OF_MEMORY,
                   "%zu bytes were asked for, more than any memory has", bytes);
  void* pointer = nullptr;
  DSV4MX_TRY(AllocRaw(bytes, std::max(alignment, kDeviceAlignment), &pointer));
  // The lock is not held while the hook runs, so that a hook may use the context.
  try {
    const std::lock_guard lock(mutex_);
    sizes_.emplace(pointer, bytes);
  } catch (...) {
    (void)FreeRaw(pointer, bytes);
    throw;
  }
  *out = pointer;
  return kOk;
}

Status Context::Free(void* pointer) const {
  if (pointer == nullptr) return kOk;
  size_t bytes;
  {
    const std::lock_guard lock(mutex_);
    const auto it = sizes_.find(pointer);
    DSV4MX_RETURN_IF(it == sizes_.end(), DSV4MX_STATUS_INVALID_ARGUMENT,
                     "pointer %p was not allocated by this context, or is freed", pointer);
    bytes = it->second;
    sizes_.erase(it);
  }
  return FreeRaw(pointer, bytes);
}

void Context::Log(dsv4mx_log_level level, const char* format, ...) const {
  if (log_ == nullptr || level > log_level_) return;
  char text[kErrorBytes];
  va_list args;
  va_start(args, format);
  const int length = std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  if (length >= 0) log_(log_user_, level, text);
}

DeviceBlock::~DeviceBlock() {
  if (pointer_ == nullptr) return;
  const KeepError keep;  // nobody can be told
  (void)context_->Free(pointer_);
  keep.Restore();
}

Status DeviceBlock::Alloc(const Context* context, size_t bytes, size_t alignment) {
  context_ = context;
  return context->Alloc(bytes, alignment, &pointer_);
}

}  // namespace dsv4mx
