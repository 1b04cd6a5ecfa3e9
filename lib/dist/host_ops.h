// The protocol's memory operations where ranks are threads or processes of one host.
#ifndef DSV4MX_LIB_DIST_HOST_OPS_H_
#define DSV4MX_LIB_DIST_HOST_OPS_H_

#include <atomic>
#include <cstdint>
#include <cstring>

namespace dsv4mx::dist {

struct HostOps {
  static uint64_t Load(const uint64_t* from) {
    return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(from)).load(std::memory_order_acquire);
  }
  static void Store(uint64_t* to, uint64_t value) {
    std::atomic_ref<uint64_t>(*to).store(value, std::memory_order_release);
  }
  static bool Claim(uint64_t* to, uint64_t value) {
    uint64_t none = 0;
    return std::atomic_ref<uint64_t>(*to).compare_exchange_strong(none, value,
                                                                  std::memory_order_acq_rel);
  }
  static void Copy(void* to, const void* from, int64_t bytes) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
};
static_assert(std::atomic_ref<uint64_t>::is_always_lock_free, "ranks are processes too");

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_HOST_OPS_H_
