#include "tests/bench/load_floor.h"

#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <thread>

namespace dsv4mx::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int64_t kRing = int64_t{16} << 20;  // of the device, written round and round

void Cuda(cudaError_t error, const char* call) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error));
}

double Seconds(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Who hands a full slot to the device, and where its memory is from.
enum class Way { kReadOnly, kOwner, kOwnerTwo, kSelf, kSelfShared, kOwnerHuge };
const char* NameOf(Way way) {
  switch (way) {
    case Way::kReadOnly:
      return "read only";
    case Way::kOwner:
      return "owner sends";
    case Way::kOwnerTwo:
      return "owner sends, two streams";
    case Way::kSelf:
      return "readers send, a stream each";
    case Way::kSelfShared:
      return "readers send, one stream";
    case Way::kOwnerHuge:
      return "owner sends, huge pages";
  }
  return "";
}

enum State : int { kFree, kFull, kSending };

struct Slot {
  uint8_t* host = nullptr;
  cudaEvent_t copied = nullptr;
  int64_t bytes = 0;
  std::atomic<int> state{kFree};
};

struct Span {
  char what;  // r read, w wait, s send
  float begin, end;
};

struct Sums {
  double read = 0, wait = 0, send = 0;
  std::vector<Span> spans;
};

class Pipe {
 public:
  Pipe(int fd, int64_t first, int64_t bytes, int threads, int64_t slot_bytes, int slots, Way way)
      : fd_(fd),
        first_(first),
        bytes_(bytes),
        slot_bytes_(slot_bytes),
        threads_(threads),
        per_(slots),
        way_(way),
        slots_(static_cast<size_t>(threads * slots)),
        sums_(static_cast<size_t>(threads) + 1) {
    const auto all = static_cast<size_t>(slot_bytes) * slots_.size();
    if (way == Way::kOwnerHuge) {
      constexpr size_t kHuge = size_t{2} << 20;
      mapped_ = (all + kHuge - 1) / kHuge * kHuge;
      void* at = nullptr;
      if (posix_memalign(&at, kHuge, mapped_) != 0) throw std::bad_alloc();
      (void)madvise(at, mapped_, MADV_HUGEPAGE);
      std::fill_n(static_cast<uint8_t*>(at), mapped_, uint8_t{1});
      Cuda(cudaHostRegister(at, mapped_, cudaHostRegisterDefault), "cudaHostRegister");
      host_ = static_cast<uint8_t*>(at);
    } else {
      Cuda(cudaHostAlloc(reinterpret_cast<void**>(&host_), all, 0), "cudaHostAlloc");
    }
    Cuda(cudaMalloc(reinterpret_cast<void**>(&device_), kRing), "cudaMalloc");
    for (size_t i = 0; i < slots_.size(); ++i) {
      slots_[i].host = host_ + static_cast<int64_t>(i) * slot_bytes;
      Cuda(cudaEventCreateWithFlags(&slots_[i].copied, cudaEventDisableTiming), "cudaEventCreate");
    }
    streams_.resize(way == Way::kSelf ? static_cast<size_t>(threads) : 2);
    for (cudaStream_t& s : streams_)
      Cuda(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Pipe() {
    (void)cudaDeviceSynchronize();
    for (const Slot& s : slots_) (void)cudaEventDestroy(s.copied);
    for (cudaStream_t s : streams_) (void)cudaStreamDestroy(s);
    (void)cudaFree(device_);
    if (mapped_ != 0) {
      (void)cudaHostUnregister(host_);
      std::free(host_);
    } else {
      (void)cudaFreeHost(host_);
    }
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  double Run(bool timeline) {
    next_ = at_ = 0;
    done_ = 0;
    bad_ = false;
    for (Sums& s : sums_) s = Sums{};
    timeline_ = timeline;
    start_ = Clock::now();
    std::vector<std::thread> readers;
    for (int t = 0; t < threads_; ++t) readers.emplace_back([this, t] { Read(t); });
    if (way_ == Way::kOwner || way_ == Way::kOwnerTwo || way_ == Way::kOwnerHuge) Own();
    for (std::thread& t : readers) t.join();
    for (cudaStream_t s : streams_) (void)cudaStreamSynchronize(s);
    const double seconds = Seconds(start_);
    if (bad_) throw std::runtime_error("a read or copy failed");
    return seconds;
  }

  Json Result() const {
    Sums readers;
    for (size_t t = 0; t + 1 < sums_.size(); ++t) {
      readers.read += sums_[t].read;
      readers.wait += sums_[t].wait;
      readers.send += sums_[t].send;
    }
    const double n = threads_;
    return {{"read_busy_s", readers.read / n},
            {"reader_wait_s", readers.wait / n},
            {"reader_send_s", readers.send / n},
            {"owner_send_s", sums_.back().send}};
  }
  Json Timeline() const {
    Json all = Json::array();
    for (const Sums& s : sums_) {
      Json one = Json::array();
      for (const Span& span : s.spans)
        one.push_back({std::string(1, span.what), static_cast<int>(1e6 * span.begin),
                       static_cast<int>(1e6 * span.end)});
      all.push_back(one);
    }
    return all;
  }

 private:
  void Note(Sums* sums, char what, double begin, double end) const {
    (what == 'r' ? sums->read : what == 'w' ? sums->wait : sums->send) += end - begin;
    if (timeline_)
      sums->spans.push_back({what, static_cast<float>(begin), static_cast<float>(end)});
  }

  void Send(Slot* slot, cudaStream_t stream) {
    int64_t at = at_.fetch_add(slot_bytes_) % kRing;
    if (at + slot->bytes > kRing) at = 0;
    if (cudaMemcpyAsync(device_ + at, slot->host, static_cast<size_t>(slot->bytes),
                        cudaMemcpyHostToDevice, stream) != cudaSuccess ||
        cudaEventRecord(slot->copied, stream) != cudaSuccess) {
      bad_ = true;
    }
  }

  void Read(int t) {
    Sums& sums = sums_[static_cast<size_t>(t)];
    const bool self = way_ == Way::kSelf || way_ == Way::kSelfShared;
    if (self) (void)cudaSetDevice(0);
    const cudaStream_t stream = streams_[way_ == Way::kSelf ? static_cast<size_t>(t) : 0];
    for (int turn = 0;; ++turn) {
      const int64_t from = next_.fetch_add(slot_bytes_);
      if (from >= bytes_ || bad_) break;
      Slot& slot = slots_[static_cast<size_t>(t * per_ + turn % per_)];
      const double a = Seconds(start_);
      if (self) {
        while (cudaEventQuery(slot.copied) == cudaErrorNotReady) {
        }
      } else {
        while (slot.state.load(std::memory_order_acquire) != kFree && !bad_) __builtin_ia32_pause();
      }
      const double b = Seconds(start_);
      slot.bytes = std::min(slot_bytes_, bytes_ - from);
      for (int64_t done = 0; done < slot.bytes;) {
        const ssize_t got = pread(fd_, slot.host + done, static_cast<size_t>(slot.bytes - done),
                                  first_ + from + done);
        if (got <= 0) {
          bad_ = true;
          break;
        }
        done += got;
      }
      const double c = Seconds(start_);
      Note(&sums, 'w', a, b);
      Note(&sums, 'r', b, c);
      if (self) {
        Send(&slot, stream);
        Note(&sums, 's', c, Seconds(start_));
      } else if (way_ != Way::kReadOnly) {
        slot.state.store(kFull, std::memory_order_release);
      }
    }
    ++done_;
  }

  void Own() {
    std::vector<Slot*> sending(slots_.size());
    size_t first = 0, count = 0, turn = 0;
    for (bool last = false;;) {
      const bool finished = done_ == threads_;
      for (Slot& slot : slots_) {
        if (slot.state.load(std::memory_order_acquire) != kFull) continue;
        const double a = Seconds(start_);
        slot.state = kSending;
        Send(&slot, streams_[way_ == Way::kOwnerTwo ? turn++ % 2 : 0]);
        sending[(first + count++) % sending.size()] = &slot;
        Note(&sums_.back(), 's', a, Seconds(start_));
      }
      while (count > 0 && cudaEventQuery(sending[first]->copied) == cudaSuccess) {
        sending[first]->state.store(kFree, std::memory_order_release);
        first = (first + 1) % sending.size();
        --count;
      }
      if (last || bad_) break;
      last = finished;
    }
    for (; count > 0; --count, first = (first + 1) % sending.size()) sending[first]->state = kFree;
  }

  const int fd_;
  const int64_t first_, bytes_, slot_bytes_;
  const int threads_, per_;
  const Way way_;
  uint8_t *host_ = nullptr, *device_ = nullptr;
  size_t mapped_ = 0;
  std::vector<Slot> slots_;
  std::vector<cudaStream_t> streams_;
  std::atomic<int64_t> next_{0}, at_{0};
  std::atomic<int> done_{0};
  std::atomic<bool> bad_{false};
  Clock::time_point start_;
  bool timeline_ = false;
  std::vector<Sums> sums_;  // of each reader, and the owner's
};

// Copies alone, slot by slot on one or two streams with an event behind each: what the link gives in such portions.
double CopyOnly(int64_t bytes, int64_t slot_bytes, int streams) {
  constexpr int kSlots = 16;
  uint8_t *host = nullptr, *device = nullptr;
  Cuda(cudaHostAlloc(reinterpret_cast<void**>(&host), static_cast<size_t>(kSlots * slot_bytes), 0),
       "cudaHostAlloc");
  Cuda(cudaMalloc(reinterpret_cast<void**>(&device), static_cast<size_t>(kSlots * slot_bytes)),
       "cudaMalloc");
  cudaEvent_t event = nullptr;
  Cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  cudaStream_t s[2];
  for (cudaStream_t& one : s)
    Cuda(cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking), "cudaStreamCreate");
  const auto begin = Clock::now();
  for (int64_t at = 0, i = 0; at < bytes; at += slot_bytes, ++i) {
    Cuda(cudaMemcpyAsync(device + i % kSlots * slot_bytes, host + i % kSlots * slot_bytes,
                         static_cast<size_t>(slot_bytes), cudaMemcpyHostToDevice, s[i % streams]),
         "cudaMemcpyAsync");
    Cuda(cudaEventRecord(event, s[i % streams]), "cudaEventRecord");
  }
  const double issued = Seconds(begin);
  Cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const double seconds = Seconds(begin);
  std::printf("  copies of %lld KiB, %d streams: %.4f s (%.2f GB/s), enqueued in %.4f s\n",
              static_cast<long long>(slot_bytes >> 10), streams, seconds,
              1e-9 * static_cast<double>(bytes) / seconds, issued);
  for (cudaStream_t one : s) (void)cudaStreamDestroy(one);
  (void)cudaEventDestroy(event);
  (void)cudaFree(device);
  (void)cudaFreeHost(host);
  return seconds;
}

// What staging costs to come by and to give back: the driver's own pinned memory, pages of 2 MiB that are pinned afterwards,
// and memory of the device.
Json Staging() {
  constexpr size_t kBytes = size_t{24} << 20, kHuge = size_t{2} << 20;
  Json rows = Json::array();
  const auto add = [&](const char* what, auto&& take, auto&& give) {
    for (int pass = 0; pass < 2; ++pass) {
      auto begin = Clock::now();
      void* const at = take();
      const double taken = Seconds(begin);
      begin = Clock::now();
      give(at);
      rows.push_back({{"what", what}, {"take_s", taken}, {"give_s", Seconds(begin)}});
      std::printf("  24 MiB of %s: %.4f s, given back %.4f s\n", what, taken, Seconds(begin));
    }
  };
  add(
      "the driver's pinned memory",
      [] {
        void* at = nullptr;
        Cuda(cudaHostAlloc(&at, kBytes, 0), "cudaHostAlloc");
        return at;
      },
      [](void* at) { (void)cudaFreeHost(at); });
  for (const bool huge : {true, false}) {
    add(
        huge ? "pinned huge pages" : "pinned small pages",
        [huge] {
          void* at = nullptr;
          if (posix_memalign(&at, kHuge, kBytes) != 0) throw std::bad_alloc();
          (void)madvise(at, kBytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
          Cuda(cudaHostRegister(at, kBytes, cudaHostRegisterDefault), "cudaHostRegister");
          return at;
        },
        [](void* at) {
          (void)cudaHostUnregister(at);
          (void)madvise(at, kBytes, MADV_DONTNEED);
          std::free(at);
        });
  }
  add(
      "device memory in four blocks",
      [] {
        static void* at[4];
        for (void*& block : at) Cuda(cudaMalloc(&block, kBytes / 4), "cudaMalloc");
        return static_cast<void*>(at);
      },
      [](void* blocks) {
        for (int i = 0; i < 4; ++i) (void)cudaFree(static_cast<void**>(blocks)[i]);
      });
  return rows;
}

// Pages of the page cache given to the device as they are: what mapping and registering 64 MiB of them takes.
Json Registered(int fd, int64_t bytes) {
  const auto n = static_cast<size_t>(std::min(bytes, int64_t{64} << 20));
  void* at = mmap(nullptr, n, PROT_READ, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return nullptr;
  auto begin = Clock::now();
  (void)madvise(at, n, 22 /* MADV_POPULATE_READ */);
  const double populated = Seconds(begin);
  begin = Clock::now();
  const cudaError_t error =
      cudaHostRegister(at, n, cudaHostRegisterReadOnly | cudaHostRegisterPortable);
  const double registered = Seconds(begin);
  begin = Clock::now();
  if (error == cudaSuccess) (void)cudaHostUnregister(at);
  const double unregistered = Seconds(begin);
  (void)cudaGetLastError();
  munmap(at, n);
  std::printf(
      "  %zu bytes of mapped page cache: populate %.4f s, register %.4f s (%s), unregister "
      "%.4f s\n",
      n, populated, registered, cudaGetErrorName(error), unregistered);
  return {{"bytes", n},
          {"populate_s", populated},
          {"register_s", registered},
          {"register_error", cudaGetErrorName(error)},
          {"unregister_s", unregistered}};
}

}  // namespace

Json LoadFloor(const std::string& path, int64_t first, int64_t bytes, const FloorWays& ways) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw std::runtime_error(path + ": cannot be opened");
  Json result;
  result["staging"] = Staging();
  result["registered"] = Registered(fd, bytes);
  for (const int kib : {256, 512, 768, 1024, 2048}) {
    for (const int streams : {1, 2}) {
      result["copies"].push_back(
          {{"slot_kib", kib},
           {"streams", streams},
           {"seconds", CopyOnly(bytes / (4 << 20) * (4 << 20), int64_t{kib} << 10, streams)}});
    }
  }
  double best = 1e9;
  for (const int threads : ways.threads) {
    for (const int kib : ways.slot_kib) {
      for (const int slots : ways.slots) {
        for (const Way way : {Way::kReadOnly, Way::kOwner, Way::kOwnerTwo, Way::kOwnerHuge,
                              Way::kSelf, Way::kSelfShared}) {
          Pipe pipe(fd, first, bytes, threads, int64_t{kib} << 10, slots, way);
          double least = 1e9;
          Json sums;
          for (int pass = 0; pass < ways.passes; ++pass) {
            const double seconds = pipe.Run(false);
            if (seconds < least) least = seconds, sums = pipe.Result();
          }
          Json one = {{"way", NameOf(way)}, {"threads", threads},
                      {"slot_kib", kib},    {"slots", slots},
                      {"seconds", least},   {"gb_s", 1e-9 * static_cast<double>(bytes) / least}};
          one.update(sums);
          std::printf(
              "  %2d threads, %d slots of %4d KiB, %-28s %.4f s (%.2f GB/s); readers: read "
              "%.4f, wait %.4f, send %.4f s; owner sends %.4f s\n",
              threads, slots, kib, NameOf(way), least, 1e-9 * static_cast<double>(bytes) / least,
              sums["read_busy_s"].get<double>(), sums["reader_wait_s"].get<double>(),
              sums["reader_send_s"].get<double>(), sums["owner_send_s"].get<double>());
          std::fflush(stdout);
          if (ways.timeline && way != Way::kReadOnly && least < best) {
            best = least;
            (void)pipe.Run(true);
            result["timeline"] = pipe.Timeline();
            result["timeline_of"] = one;
          }
          result["ways"].push_back(std::move(one));
        }
      }
    }
  }
  close(fd);
  return result;
}

}  // namespace dsv4mx::bench
