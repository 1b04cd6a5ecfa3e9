#include "tests/guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>

namespace dsv4mx::test {
namespace {

constexpr uint8_t kPattern = 0xC5;
constexpr size_t kBand = 4096;

size_t RoundUp(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}

void Check(dsv4mx_status status) {
  if (status != DSV4MX_STATUS_OK) throw std::runtime_error(dsv4mx_last_error());
}

bool OnDevice(const dsv4mx_context* context) {
  if (context == nullptr) return false;
  dsv4mx_context_info info{};
  info.struct_size = sizeof info;
  Check(dsv4mx_context_query(context, &info));
  return info.device == DSV4MX_DEVICE_CUDA;
}

}  // namespace

Guarded::Guarded(const dsv4mx_context* context, size_t bytes, size_t alignment, Edge edge)
    : bytes_(bytes) {
  const size_t room = RoundUp(bytes, alignment);
  if (OnDevice(context)) {
    device_ = context;
    all_bytes_ = RoundUp(room, kBand) + 2 * kBand;
    void* memory = nullptr;
    Check(dsv4mx_context_alloc(context, all_bytes_, &memory));
    all_ = static_cast<uint8_t*>(memory);
    data_ = all_ + kBand;
  } else {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    all_bytes_ = RoundUp(room == 0 ? 1 : room, page);
    void* memory =
        mmap(nullptr, all_bytes_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    all_ = static_cast<uint8_t*>(memory) + page;
    if (mprotect(all_, all_bytes_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    data_ = edge == Edge::kStart ? all_ : all_ + all_bytes_ - room;
  }
  std::vector<uint8_t> pattern(all_bytes_, kPattern);
  std::memset(pattern.data() + (data_ - all_), 0xFF, bytes);
  if (device_ != nullptr) {
    Check(dsv4mx_context_copy(device_, all_, pattern.data(), all_bytes_, nullptr));
    Check(dsv4mx_context_synchronize(device_, nullptr));
  } else {
    std::memcpy(all_, pattern.data(), all_bytes_);
  }
}

Guarded::Guarded(const dsv4mx_context* context, const void* from, size_t bytes, size_t alignment,
                 Edge edge)
    : Guarded(context, bytes, alignment, edge) {
  Write(from, bytes);
}

Guarded::~Guarded() {
  if (device_ != nullptr) {
    dsv4mx_context_free(device_, all_);
    return;
  }
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  munmap(all_ - page, all_bytes_ + 2 * page);
}

void Guarded::Write(const void* from, size_t bytes) {
  if (bytes > bytes_) throw std::out_of_range("guarded: more bytes than room");
  if (bytes == 0) return;
  if (device_ == nullptr) {
    std::memcpy(data_, from, bytes);
    return;
  }
  Check(dsv4mx_context_copy(device_, data_, from, bytes, nullptr));
  Check(dsv4mx_context_synchronize(device_, nullptr));
}

void Guarded::Fill(int value) {
  const std::vector<uint8_t> bytes(bytes_, static_cast<uint8_t>(value));
  Write(bytes.data(), bytes.size());
}

std::vector<uint8_t> Guarded::ReadAll() const {
  std::vector<uint8_t> all(all_bytes_);
  if (device_ == nullptr) {
    std::memcpy(all.data(), all_, all_bytes_);
  } else {
    Check(dsv4mx_context_copy(device_, all.data(), all_, all_bytes_, nullptr));
    Check(dsv4mx_context_synchronize(device_, nullptr));
  }
  return all;
}

std::vector<uint8_t> Guarded::Read() const {
  const std::vector<uint8_t> all = ReadAll();
  const int64_t at = data_ - all_;
  return {all.begin() + at, all.begin() + at + static_cast<int64_t>(bytes_)};
}

std::string Guarded::Damage() const {
  const std::vector<uint8_t> all = ReadAll();
  const size_t first = static_cast<size_t>(data_ - all_), last = first + bytes_;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i >= first && i < last) continue;
    if (all[i] != kPattern) {
      return "byte " + std::to_string(static_cast<int64_t>(i) - static_cast<int64_t>(first)) +
             " of a buffer of " + std::to_string(bytes_) + " was overwritten";
    }
  }
  return "";
}

}  // namespace dsv4mx::test
