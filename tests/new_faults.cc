#include "tests/new_faults.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

using dsv4mx::test::FailingNew;

thread_local int left_of_thread = -1;  // -1: as many as there is memory for
std::atomic<int> left_of_any{0};
std::atomic<int> kind_of_any{-1};  // -1: no failures
std::atomic<bool> failed{false};

bool Refused() {
  bool refuse = left_of_thread == 0;
  if (left_of_thread > 0) --left_of_thread;
  const int kind = kind_of_any.load(std::memory_order_relaxed);
  if (kind >= 0) {
    const int left = left_of_any.fetch_sub(1);
    refuse = refuse || left == 0 || (left < 0 && kind == FailingNew::kOfAny);
  }
  if (refuse) failed = true;
  return refuse;
}

void* Allocate(size_t bytes, size_t alignment) noexcept {
  if (Refused()) return nullptr;
  return alignment == 0
             ? std::malloc(bytes == 0 ? 1 : bytes)
             : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* OrThrow(void* p) {
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

namespace dsv4mx::test {

FailingNew::FailingNew(int allocations, Kind kind) {
  failed = false;
  if (kind == kOfThread) {
    left_of_thread = allocations;
    return;
  }
  left_of_any = allocations;
  kind_of_any = kind;
}

FailingNew::~FailingNew() {
  left_of_thread = -1;
  kind_of_any = -1;
}

bool FailingNew::Failed() {
  return failed;
}

}  // namespace dsv4mx::test

// Every form that is not for arrays: a sanitizer's own must not meet these for one object.
void* operator new(size_t bytes) {
  return OrThrow(Allocate(bytes, 0));
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return OrThrow(Allocate(bytes, static_cast<size_t>(alignment)));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return Allocate(bytes, 0);
}
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, size_t) noexcept {
  std::free(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete(void* p, size_t, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete(void* p, const std::nothrow_t&) noexcept {
  std::free(p);
}
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept {
  std::free(p);
}
