// A snapshot's file appears whole or not at all: whatever call of the system fails, whoever stops it, and where the writer is
// killed; and memory that runs out at any point.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "tests/catch.h"
#include "tests/snapshot_cases.h"
#include "tests/write_faults.h"

namespace dsv4mx::test {
namespace {

constexpr const char* kLarge = "h=1056 i=2048 e=3 k=1 m=2 order=gate_up bias=1";  // several pieces

TEST_CASE(
    "whatever call of the system fails, a snapshot leaves nothing behind and what was there before",
    "[snapshot]") {
  const Runner run(MakeCase("h=64 i=32 e=2 k=1 m=2 order=gate_up bias=1")), large(MakeCase(kLarge));
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const auto save = [&](int32_t threads, const Runner& of) {
    const dsv4mx_snapshot_args args = SnapshotArgs(threads, 0);
    return dsv4mx_weights_save(of.weights(), path.c_str(), &args, nullptr);
  };
  for (const bool replaces : {false, true}) {
    const auto as_before = [&] {
      std::filesystem::remove(path);
      if (replaces) WriteFile(path, "old");
    };
    as_before();
    for (const int32_t threads : {1, 4}) {
      for (int call = 0; call < static_cast<int>(WriteCall::kCalls); ++call) {
        for (const int error : {EIO, ENOSPC}) {
          for (int left = 0; left < 40; ++left) {
            WriteFaults faults;
            faults.call = static_cast<WriteCall>(call);
            faults.error = error;
            faults.left = left;
            const WithWriteFaults with(faults);
            const dsv4mx_status status = save(threads, run);
            if (!with.met()) {  // there are no more calls of this kind
              REQUIRE_OK(status);
              as_before();
              break;
            }
            INFO(call << " " << error << " after " << left << ": " << dsv4mx_last_error());
            // The folder's close comes when all is done.
            if (static_cast<WriteCall>(call) == WriteCall::kClose && status == DSV4MX_STATUS_OK) {
              as_before();
              continue;
            }
            REQUIRE(status == DSV4MX_STATUS_IO_ERROR);
            REQUIRE(MissingWords(dsv4mx_last_error(), "layer.snapshot") == "");
            if (static_cast<WriteCall>(call) == WriteCall::kSync &&
                left == 1) {  // of the folder: the file is there
              REQUIRE(MissingWords(dsv4mx_last_error(), "sync the folder,complete") == "");
              as_before();
            }
            REQUIRE(FilesIn(folder) == (replaces ? 1u : 0u));
            if (replaces) REQUIRE(ReadFile(path) == "old");
          }
        }
      }
    }
  }
  // Writes that take little at a time, and signals.
  WriteFaults faults;
  faults.most = 10007;
  faults.interrupts = 50;
  {
    const WithWriteFaults with(faults);
    REQUIRE_OK(save(3, large));
  }
  const std::string odd = ReadFile(path);
  REQUIRE_OK(save(1, large));
  CHECK(odd == ReadFile(path));
  CHECK(FilesIn(folder) == 1);
}

struct Stopper {
  int calls = 0, stop_at = -1;
  int64_t last = 0;
  bool ordered = true;
  std::vector<dsv4mx_stage> stages;
  static int32_t Look(void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
    auto* s = static_cast<Stopper*>(user);
    if (s->stages.empty() || s->stages.back() != stage) s->stages.push_back(stage), s->last = 0;
    s->ordered = s->ordered && done >= s->last && done <= total;
    s->last = done;
    return s->calls++ == s->stop_at ? 1 : 0;
  }
  dsv4mx_control Control() {
    dsv4mx_control c = DSV4MX_CONTROL_INIT;
    c.progress = Look;
    c.progress_user = this;
    return c;
  }
};

TEST_CASE(
    "a snapshot that is stopped leaves no file, a restore that is stopped leaves empty weights",
    "[snapshot][control]") {
  const Case c = MakeCase(kLarge);
  const Runner run(c);
  TempFolder folder;
  const std::string path = folder / "layer.snapshot", good = folder / "good.snapshot";
  const LayerPtr layer = MakeLayer(run.context(), DescOf(c));
  const WeightsPtr weights = MakeWeights(layer.get());
  int calls = 0;
  {
    Stopper watch;
    const dsv4mx_control control = watch.Control();
    const dsv4mx_snapshot_args args = SnapshotArgs(2, 0, &control);
    REQUIRE_OK(dsv4mx_weights_save(run.weights(), good.c_str(), &args, nullptr));
    CHECK(watch.ordered);
    CHECK(watch.stages == std::vector<dsv4mx_stage>{DSV4MX_STAGE_SAVE});
    CHECK(watch.last > 0);
    calls = watch.calls;
  }
  // The last call comes when the file is there: it stops nothing.
  for (int at = 0; at < calls - 1; ++at) {
    Stopper stopper;
    stopper.stop_at = at;
    const dsv4mx_control control = stopper.Control();
    const dsv4mx_snapshot_args args = SnapshotArgs(2, 0, &control);
    const dsv4mx_status status = dsv4mx_weights_save(run.weights(), path.c_str(), &args, nullptr);
    if (stopper.calls <= at + 1 && status == DSV4MX_STATUS_OK) break;  // it was faster this time
    CHECK(status == DSV4MX_STATUS_CANCELLED);
    CHECK(MissingWords(dsv4mx_last_error(), "save,cancelled,bytes written") == "");
    CHECK(FilesIn(folder) == 1);
  }
  for (int at = 0;; ++at) {
    Stopper stopper;
    stopper.stop_at = at;
    const dsv4mx_control control = stopper.Control();
    const dsv4mx_snapshot_args args = SnapshotArgs(2, 0, &control);
    const dsv4mx_status status =
        dsv4mx_weights_restore(weights.get(), good.c_str(), &args, nullptr);
    if (status == DSV4MX_STATUS_OK) {
      CHECK(at >= 4);  // begin and end of the load, experts, their end
      CHECK(stopper.stages == std::vector<dsv4mx_stage>{DSV4MX_STAGE_LOAD, DSV4MX_STAGE_PREPARE});
      CHECK(stopper.ordered);
      break;
    }
    REQUIRE(status == DSV4MX_STATUS_CANCELLED);
    REQUIRE(StateOf(weights.get()) == DSV4MX_WEIGHTS_EMPTY);
  }
  CHECK(CheckSame(run.Apply(),
                  ApplyGuarded(run.context(), layer.get(), weights.get(), c.p, c.in)) == "");

  const int32_t flag = 1;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.cancel = &flag;
  dsv4mx_snapshot_args args = SnapshotArgs(2, 0, &control);
  const WeightsPtr other = MakeWeights(layer.get());
  CHECK(dsv4mx_weights_save(run.weights(), path.c_str(), &args, nullptr) ==
        DSV4MX_STATUS_CANCELLED);
  CHECK(dsv4mx_weights_restore(other.get(), good.c_str(), &args, nullptr) ==
        DSV4MX_STATUS_CANCELLED);
  control.cancel = nullptr;
  control.timeout_ns = 1;
  CHECK(dsv4mx_weights_save(run.weights(), path.c_str(), &args, nullptr) ==
        DSV4MX_STATUS_DEADLINE_EXCEEDED);
  CHECK(dsv4mx_weights_restore(other.get(), good.c_str(), &args, nullptr) ==
        DSV4MX_STATUS_DEADLINE_EXCEEDED);
  CHECK(FilesIn(folder) == 1);
  CHECK(StateOf(other.get()) == DSV4MX_WEIGHTS_EMPTY);
  REQUIRE_OK(Restore(other.get(), good));
}

TEST_CASE("a progress callback that throws out of a snapshot leaves nothing", "[snapshot]") {
  const Case c = MakeCase(kLarge);
  const Runner run(c);
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const LayerPtr layer = MakeLayer(run.context(), DescOf(c));
  const WeightsPtr weights = MakeWeights(layer.get());
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress = [](void*, dsv4mx_stage, int64_t done, int64_t) -> int32_t {
    if (done > 0) throw std::runtime_error("thrown");
    return 0;
  };
  const dsv4mx_snapshot_args args = SnapshotArgs(2, 0, &control);
  CHECK(dsv4mx_weights_save(run.weights(), path.c_str(), &args, nullptr) == DSV4MX_STATUS_INTERNAL);
  CHECK(FilesIn(folder) == 0);
  Save(run.weights(), path);
  CHECK(dsv4mx_weights_restore(weights.get(), path.c_str(), &args, nullptr) ==
        DSV4MX_STATUS_INTERNAL);
  CHECK(StateOf(weights.get()) == DSV4MX_WEIGHTS_EMPTY);
  REQUIRE_OK(Restore(weights.get(), path));
}

// What a child of fork makes on its own: its parent's handles are not for it.
struct Child {
  Child() : c(MakeCase(std::string(kLarge) + " threads=2")), run(c, Context(&context)) {}
  static const dsv4mx_context* Context(ContextPtr* made) {
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = DSV4MX_DEVICE_CPU;
    desc.threads = 2;
    dsv4mx_context* context = nullptr;
    Must(dsv4mx_context_create(&desc, &context), "context_create");
    made->reset(context);
    return context;
  }
  ContextPtr context;
  Case c;
  Runner run;
};

TEST_CASE("a file that may not grow is an error, no signal and no end of the process",
          "[snapshot]") {
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int wrong = 10;
    try {
      Child self;
      struct rlimit limit = {100000, 100000};
      setrlimit(RLIMIT_FSIZE, &limit);
      for (const int32_t threads : {1, 3}) {
        const dsv4mx_snapshot_args args = SnapshotArgs(threads, 0);
        const dsv4mx_status status =
            dsv4mx_weights_save(self.run.weights(), path.c_str(), &args, nullptr);
        sigset_t pending;
        sigpending(&pending);
        wrong = status != DSV4MX_STATUS_IO_ERROR                       ? 11
                : sigismember(&pending, SIGXFSZ) != 0                  ? 12
                : MissingWords(dsv4mx_last_error(), "too large") != "" ? 13
                                                                       : 0;
        if (wrong != 0) break;
      }
    } catch (...) {
    }
    _exit(wrong);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(FilesIn(folder) == 0);
}

TEST_CASE("a writer that is killed leaves the whole file or the one before", "[snapshot]") {
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const Case c = MakeCase(kLarge);
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  std::string whole;
  {
    const Runner run(c);
    Save(run.weights(), path);
    whole = ReadFile(path);
    std::filesystem::remove(path);
  }
  int without = 0, with = 0;
  for (int round = 0; round < 16; ++round) {
    if (round == 8) WriteFile(path, "old");
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      try {
        Child self;
        const char byte = 1;
        (void)!write(ready[1], &byte, 1);
        Save(self.run.weights(), path, 2);
      } catch (...) {
      }
      _exit(0);
    }
    char byte = 0;
    REQUIRE(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    close(ready[1]);
    std::this_thread::sleep_for(std::chrono::microseconds(round % 8 * 1000));
    kill(child, SIGKILL);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    const bool there = std::filesystem::exists(path);
    const bool complete = there && ReadFile(path) == whole;
    if (round < 8) {
      CHECK(there == complete);
    } else {
      CHECK((complete || ReadFile(path) == "old"));
    }
    (complete ? with : without)++;
    if (complete) {
      std::filesystem::remove(path);
      if (round >= 8) WriteFile(path, "old");
    }
  }
  INFO(without << " without, " << with << " with a file");
  CHECK(without > 0);
  // What the killed ones left has no name that anybody asks for, and is no snapshot.
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    if (entry.path() == path) continue;
    CHECK(entry.path().filename().string().rfind(".dsv4mx-snapshot-", 0) == 0);
  }
}

// An allocator that fails from its n-th call on.
struct Failing {
  int left = -1;
  size_t now = 0, most = 0;
  static void* Alloc(void* user, size_t bytes, size_t alignment, dsv4mx_memory, dsv4mx_stream) {
    auto* self = static_cast<Failing*>(user);
    if (self->left == 0) return nullptr;
    if (self->left > 0) --self->left;
    self->now += bytes;
    self->most = std::max(self->most, self->now);
    return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  }
  static void Free(void* user, void* p, size_t bytes, dsv4mx_memory, dsv4mx_stream) {
    static_cast<Failing*>(user)->now -= bytes;
    std::free(p);
  }
};

TEST_CASE(
    "memory of the caller's hook that runs out while a snapshot is saved or restored, and how much "
    "it is",
    "[snapshot][memory]") {
  Failing hook;
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  desc.threads = 2;
  desc.alloc = Failing::Alloc;
  desc.free = Failing::Free;
  desc.alloc_user = &hook;
  dsv4mx_context* made = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&desc, &made));
  const ContextPtr context(made);
  const Case c = MakeCase(kLarge);
  const Runner run(c, context.get());
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const LayerPtr layer = MakeLayer(context.get(), DescOf(c));
  const WeightsPtr weights = MakeWeights(layer.get());
  const size_t resting = hook.now;
  for (const bool saves : {true, false}) {
    const auto call = [&](int32_t threads) {
      return saves ? [&] {
        const dsv4mx_snapshot_args args = SnapshotArgs(threads, 0);
        return dsv4mx_weights_save(run.weights(), path.c_str(), &args, nullptr);
      }()
                   : Restore(weights.get(), path, threads);
    };
    // One block for all threads.
    hook.left = 0;
    CHECK(call(3) == DSV4MX_STATUS_OUT_OF_MEMORY);
    CHECK(hook.now == resting);
    if (saves) CHECK(FilesIn(folder) == 0);
    if (!saves) CHECK(StateOf(weights.get()) == DSV4MX_WEIGHTS_EMPTY);
    hook.left = 1;
    hook.most = 0;
    REQUIRE_OK(call(3));
    hook.left = -1;
    CHECK(hook.now == resting);
    INFO(hook.most - resting);
    CHECK(hook.most - resting <= 3 * (size_t{8} << 20));  // the header's promise
  }
}

}  // namespace
}  // namespace dsv4mx::test
