#include "lib/core/context.h"

#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "lib/base/thread_state.h"

namespace dsv4mx {
namespace {

Status CheckDesc(const BackendDesc& given) {
  const dsv4mx_context_desc& d = given.desc;
  constexpr auto kCode = DSV4MX_STATUS_INVALID_ARGUMENT;
  constexpr dsv4mx_cpu_isa kLastIsa = DSV4MX_CPU_ISA_AVX512_BF16;
  DSV4MX_RETURN_IF(d.device < DSV4MX_DEVICE_AUTO || d.device > DSV4MX_DEVICE_CUDA, kCode,
                   "device is %d, wanted 0 (AUTO), 1 (CPU) or 2 (CUDA)", d.device);
  DSV4MX_RETURN_IF(d.device_ordinal < 0, kCode, "device_ordinal is %d, wanted 0 or more",
                   d.device_ordinal);
  DSV4MX_RETURN_IF(d.threads < 0 || d.threads > 4096, kCode, "threads is %d, wanted 0..4096",
                   d.threads);
  DSV4MX_RETURN_IF(d.cpu_isa < DSV4MX_CPU_ISA_DEFAULT || d.cpu_isa > kLastIsa, kCode,
                   "cpu_isa is %d, wanted 0..%d", d.cpu_isa, kLastIsa);
  DSV4MX_RETURN_IF((d.alloc == nullptr) != (d.free == nullptr), kCode,
                   "%s is given without %s, wanted both or neither",
                   d.alloc == nullptr ? "free" : "alloc", d.alloc == nullptr ? "alloc" : "free");
  DSV4MX_RETURN_IF(d.log_level < 0 || d.log_level > DSV4MX_LOG_DEBUG, kCode,
                   "log_level is %d, wanted 0..%d", d.log_level, DSV4MX_LOG_DEBUG);
  DSV4MX_RETURN_IF(d.flags != 0, kCode, "flags is 0x%x, wanted 0", d.flags);
  DSV4MX_RETURN_IF(given.experimental.plan_file != nullptr && d.device == DSV4MX_DEVICE_CPU, kCode,
                   "plan_file is given for the CPU, wanted NULL: only CUDA has kernel plans");
  return kOk;
}

// What AUTO takes as "no CUDA device here"; anything else is a fault that the caller must see.
bool MeansNoCuda(dsv4mx_status code) {
  return code == DSV4MX_STATUS_NO_DEVICE || code == DSV4MX_STATUS_UNSUPPORTED ||
         code == DSV4MX_STATUS_UNSUPPORTED_DEVICE;
}

// Of an installed NVIDIA driver, whatever state it is in.
bool HasNvidiaDriver() {
  return ::access("/proc/driver/nvidia/version", F_OK) == 0;
}

}  // namespace

Status Context::Create(const BackendDesc& given, std::shared_ptr<const Context>* out) {
  const dsv4mx_context_desc& desc = given.desc;
  DSV4MX_TRY(CheckDesc(given));
  std::shared_ptr<Context> context(new Context);
  context->log_ = desc.log;
  context->log_user_ = desc.log_user;
  if (desc.log_level != 0) context->log_level_ = desc.log_level;

  if (desc.device != DSV4MX_DEVICE_CPU) {
    const KeepError keep;
    const Status status = MakeCudaBackend(given, &context->backend_);
    if (!status.ok()) {
      if (desc.device == DSV4MX_DEVICE_CUDA || !MeansNoCuda(status.code)) return status;
      // AUTO means the first device or the CPU; who names another one wants that one.
      if (desc.device_ordinal != 0) return status;
      context->backend_.reset();
      const bool driver = status.code == DSV4MX_STATUS_UNSUPPORTED_DEVICE || HasNvidiaDriver();
      context->Log(driver ? DSV4MX_LOG_WARNING : DSV4MX_LOG_INFO,
                   "the CPU is used instead of CUDA: %s", LastError());
      keep.Restore();
    }
  }
  if (context->backend_ == nullptr) DSV4MX_TRY(MakeCpuBackend(given, &context->backend_));
  char name[64];
  context->backend_->Name(name, sizeof(name));
  context->Log(DSV4MX_LOG_INFO, "context on %s", name);
  if (const char* notice = context->backend_->Notice(); notice[0] != '\0') {
    context->Log(DSV4MX_LOG_WARNING, "%s", notice);
  }
  *out = std::move(context);
  return kOk;
}

Status Context::Alloc(size_t bytes, size_t alignment, void** out) const {
  *out = nullptr;
  if (bytes == 0) return kOk;
  DSV4MX_RETURN_IF(bytes > static_cast<size_t>(PTRDIFF_MAX), DSV4MX_STATUS_OUT_OF_MEMORY,
                   "%zu bytes were asked for, more than any memory has", bytes);
  void* pointer = nullptr;
  DSV4MX_TRY(backend_->Alloc(bytes, std::max(alignment, kDeviceAlignment), &pointer));
  // The lock is not held while the hook runs, so that a hook may use the context.
  try {
    const std::lock_guard lock(mutex_);
    sizes_.emplace(pointer, bytes);
  } catch (...) {
    (void)backend_->Free(pointer, bytes);
    throw;
  }
  *out = pointer;
  return kOk;
}

void Context::Free(void* pointer) const {
  if (pointer == nullptr) return;
  size_t bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto it = sizes_.find(pointer);
    if (it != sizes_.end()) {
      bytes = it->second;
      sizes_.erase(it);
    }
  }
  if (bytes == 0) {
    Log(DSV4MX_LOG_ERROR, "pointer %p was not allocated by this context, or is freed; left alone",
        pointer);
    return;
  }
  const KeepError keep;  // nobody can be told by a status
  if (!backend_->Free(pointer, bytes).ok()) Log(DSV4MX_LOG_ERROR, "freeing: %s", LastError());
  keep.Restore();
}

Status Context::Synchronize(dsv4mx_stream stream) const {
  DSV4MX_TRY(backend_->Synchronize(stream));
  int64_t invalid = 0;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [layer, reported] : checked_) {
      const int64_t now = layer->InvalidIds();
      invalid += now - reported;
      reported = now;
    }
  }
  DSV4MX_RETURN_IF(
      invalid != 0, DSV4MX_STATUS_INVALID_ID,
      "layers that check ids met %lld of no expert since the last report, wanted -1 or "
      "0..experts_global-1 (are they int64 ids read as int32?)",
      static_cast<long long>(invalid));
  return kOk;
}

void Context::Watch(const LayerBackend* layer) const {
  const std::lock_guard lock(mutex_);
  checked_.emplace(layer, 0);
}

void Context::Unwatch(const LayerBackend* layer) const {
  const std::lock_guard lock(mutex_);
  checked_.erase(layer);
}

void Context::Log(dsv4mx_log_level level, const char* format, ...) const {
  if (log_ == nullptr || level > log_level_) return;
  char text[kErrorBytes];
  va_list args;
  va_start(args, format);
  const int length = std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  if (length >= 0) CallOut(log_, log_user_, level, text);
}

DeviceBlock::~DeviceBlock() {
  if (pointer_ != nullptr) context_->Free(pointer_);
}

Status DeviceBlock::Alloc(const Context* context, size_t bytes, size_t alignment) {
  context_ = context;
  return context->Alloc(bytes, alignment, &pointer_);
}

}  // namespace dsv4mx
