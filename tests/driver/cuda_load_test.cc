// A load on the CUDA backend's host side: which rows reach the packing kernels, out of every form of a checkpoint and every
// slice, through runs of any size; and what it takes by the allocator hook.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "tests/catch.h"
#include "tests/checkpoint_forms.h"
#include "tests/driver/fake_runtime.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

// Memory by kind, counted.
struct Hook {
  std::map<void*, size_t> live;
  size_t now = 0, peak = 0, pinned = 0, pinned_blocks = 0;
  int fail_in = -1;
  static void* Alloc(void* user, size_t bytes, size_t alignment, dsv4mx_memory memory,
                     dsv4mx_stream) {
    auto* h = static_cast<Hook*>(user);
    if (h->fail_in >= 0 && h->fail_in-- == 0) return nullptr;
    CHECK(alignment <= 256);
    void* p = nullptr;
    const bool pinned = memory == DSV4MX_MEMORY_PINNED;
    CHECK((pinned ? cudaHostAlloc(&p, bytes, 0) : cudaMalloc(&p, bytes)) == cudaSuccess);
    h->live[p] = bytes;
    h->now += bytes;
    h->peak = std::max(h->peak, h->now);
    if (pinned) h->pinned += bytes, ++h->pinned_blocks;
    return p;
  }
  static void Free(void* user, void* p, size_t bytes, dsv4mx_memory memory, dsv4mx_stream) {
    auto* h = static_cast<Hook*>(user);
    CHECK(h->live[p] == bytes);
    h->now -= bytes;
    h->live.erase(p);
    CHECK((memory == DSV4MX_MEMORY_PINNED ? cudaFreeHost(p) : cudaFree(p)) == cudaSuccess);
  }
};

struct Opened {
  int host = 0;
  Hook hook;
  dsv4mx_context* context = nullptr;
  dsv4mx_layer* layer = nullptr;
  dsv4mx_weights* weights = nullptr;
  dsv4mx_checkpoint* checkpoint = nullptr;
  dsv4mx_layer_info info = DSV4MX_LAYER_INFO_INIT;

  Opened(const Case& c, const std::string& path, int32_t rank, int32_t ranks, bool hooked = true) {
    fake = FakeRuntime{};
    fake.current = fake.host = &host;
    dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
    cd.device = DSV4MX_DEVICE_CUDA;
    if (hooked) {
      cd.alloc = Hook::Alloc;
      cd.free = Hook::Free;
      cd.alloc_user = &hook;
    }
    REQUIRE(dsv4mx_context_create(&cd, &context) == DSV4MX_STATUS_OK);
    dsv4mx_layer_desc ld = DSV4MX_LAYER_DESC_INIT;
    ld.hidden = c.p.hidden;
    ld.intermediate = c.p.intermediate;
    ld.experts = c.p.experts;
    ld.top_k = 1;
    ld.tp_rank = rank;
    ld.tp_size = ranks;
    ld.w13_bias = c.p.w13_bias;
    ld.w2_bias = c.p.w2_bias;
    ld.nibble_order = c.p.nibble;
    const dsv4mx_status made = dsv4mx_layer_create(context, &ld, &layer);
    INFO(dsv4mx_last_error());
    REQUIRE(made == DSV4MX_STATUS_OK);
    REQUIRE(dsv4mx_layer_query(layer, &info) == DSV4MX_STATUS_OK);
    REQUIRE(dsv4mx_weights_create(layer, nullptr, &weights) == DSV4MX_STATUS_OK);
    dsv4mx_checkpoint_args args = DSV4MX_CHECKPOINT_ARGS_INIT;
    args.threads = 3;
    REQUIRE(dsv4mx_checkpoint_create(path.c_str(), &args, &checkpoint) == DSV4MX_STATUS_OK);
  }
  ~Opened() {
    dsv4mx_checkpoint_destroy(checkpoint);
    dsv4mx_weights_destroy(weights);
    dsv4mx_layer_destroy(layer);
    dsv4mx_context_destroy(context);
    CHECK(hook.live.empty());
    CHECK(fake.misuse == "");
  }
  dsv4mx_status Load(int64_t staging = 0) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    dsv4mx_load_args args = DSV4MX_LOAD_ARGS_INIT;
    args.staging_bytes = staging;
    return dsv4mx_weights_load(weights, checkpoint, &block, &args, nullptr);
  }
};

std::string Bytes(const std::vector<uint8_t>& all, int64_t at, int64_t n) {
  return {all.begin() + at, all.begin() + at + n};
}

// "" or which row of which tensor is not what the experts have.
std::string CheckRows(const Case& c, const Opened& o) {
  std::map<const void*, int32_t> expert;  // slabs lie in the order of experts
  for (const auto& [key, text] : fake.rows) expert[std::get<0>(key)] = 0;
  int32_t next = 0;
  for (auto& [slab, e] : expert) e = next++;
  if (next != c.p.experts) return "slabs";
  const int64_t first = o.info.intermediate_first, count = o.info.intermediate_count;
  size_t rows = 0;
  for (const auto& [key, text] : fake.rows) {
    const auto& [slab, m, kind, row] = key;
    const ExpertData& d = *c.Expert(expert[slab]);
    const int64_t per = kind == 'c' ? 2 : 32, all = d.k[m] / per;
    const bool down = m == kDown;
    const int64_t at = down ? row : first + row;
    const std::string where = "expert " + std::to_string(expert[slab]) + " matrix " +
                              std::to_string(m) + " " + kind + " row " + std::to_string(row);
    ++rows;
    if (kind == 'b') {
      float want = d.bias[m][static_cast<size_t>(at)], got = 0;
      uint32_t bits = 0;
      std::memcpy(&bits, text.data(), text.size());
      if (text.size() == 2) bits <<= 16;
      std::memcpy(&got, &bits, 4);
      if (got != want) return where;
      continue;
    }
    const int64_t column = down ? first / per : 0, n = down ? count / per : all;
    if (text != Bytes(kind == 'c' ? d.codes[m] : d.scales[m], at * all + column, n)) return where;
  }
  const bool down_bias = c.p.w2_bias != 0 && o.info.intermediate_first == 0;
  const auto want = static_cast<size_t>(c.p.experts * (2 * (2 * count + c.p.hidden) +
                                                       (c.p.w13_bias != 0 ? 2 * count : 0) +
                                                       (down_bias ? c.p.hidden : 0)));
  return rows == want ? "" : "rows: " + std::to_string(rows) + " of " + std::to_string(want);
}

}  // namespace

TEST_CASE("cuda load: every form and slice brings each row where it belongs, in any staging",
          "[load]") {
  for (const char* text : {"h=512 i=640 e=2", "h=480 i=576 e=2 bias=1"}) {
    const Case c = MakeCase(std::string(text) + " k=1 m=1");
    for (const Form form : kForms) {
      if (c.p.w13_bias != 0 && !HasBiases(form)) continue;
      TempFolder folder;
      const std::string path = WriteForm(folder.path(), form, c);
      for (const int32_t ranks : {1, 2}) {
        for (int32_t rank = 0; rank < ranks; ++rank) {
          Opened o(c, path, rank, ranks);
          INFO(text << " " << NameOf(form) << " rank " << rank << " of " << ranks);
          CHECK(o.Load(1) == DSV4MX_STATUS_INVALID_ARGUMENT);
          const std::string said = dsv4mx_last_error();
          INFO(said);
          const int64_t least = std::stoll(said.substr(said.find("at least ") + 9));
          CHECK(o.Load(least - 1) == DSV4MX_STATUS_INVALID_ARGUMENT);
          for (const int64_t staging : {least, int64_t{0}}) {
            fake.rows.clear();
            fake.record = true;
            o.hook.peak = o.hook.now;
            const dsv4mx_status status = o.Load(staging);
            fake.record = false;
            INFO(dsv4mx_last_error());
            REQUIRE(status == DSV4MX_STATUS_OK);
            CHECK(CheckRows(c, o) == "");
            CHECK_FALSE(fake.high_first);
            const auto limit = static_cast<size_t>(
                o.info.prepared_bytes + (staging != 0 ? staging : o.info.peak_extra_bytes));
            CHECK(o.hook.peak <= limit);
            // A load with staging of its own leaves none behind.
            if (staging != 0) CHECK(o.hook.pinned > 0);
          }
        }
      }
    }
  }
}

TEST_CASE(
    "cuda load: memory is what the query says, to one per cent, and a failing hook leaks none",
    "[load][memory]") {
  for (const char* text :
       {"h=512 i=640 e=2", "h=96 i=64 e=3 bias=1", "h=4096 i=2048 e=1", "h=4096 i=2048 e=8"}) {
    const Case c = MakeCase(std::string(text) + " k=1 m=1");
    const Form form = c.p.w13_bias != 0 ? Form::kGptOss : Form::kDeepSeek;
    TempFolder folder;
    Opened o(c, WriteForm(folder.path(), form, c), 0, 1);
    INFO(text);
    CHECK(o.info.peak_extra_bytes <= int64_t{64} << 20);
    int failures = 0;
    for (;; ++failures) {
      o.hook.fail_in = failures;
      const dsv4mx_status status = o.Load();
      const bool failed = o.hook.fail_in < 0;
      o.hook.fail_in = -1;
      if (!failed) {
        REQUIRE(status == DSV4MX_STATUS_OK);
        break;
      }
      CHECK(status == DSV4MX_STATUS_OUT_OF_MEMORY);
    }
    CHECK(failures >= 1);
    REQUIRE(dsv4mx_weights_prepare(o.weights, nullptr, nullptr) == DSV4MX_STATUS_OK);
    const double taken =
        static_cast<double>(o.hook.peak) - static_cast<double>(o.info.prepared_bytes);
    CHECK(taken <= static_cast<double>(o.info.peak_extra_bytes));
    // A large load begins before it has all its memory, and may be over before it has.
    const double least = c.p.experts == 8 ? 0.5 : 0.99;
    CHECK(taken >= least * static_cast<double>(o.info.peak_extra_bytes));
  }
}

// Bytes from the runtime and from the system.
int64_t Live() {
  int64_t bytes = 0;
  for (const auto& [at, block] : fake.live) {
    if (std::strchr("dhr", block.kind) != nullptr) bytes += static_cast<int64_t>(block.bytes);
  }
  return bytes;
}

TEST_CASE("cuda load: without a hook no more memory is taken than the query says",
          "[load][memory]") {
  // Rows so long that a block of staging is more than a huge page, and no multiple of one.
  const Case c = MakeCase("h=65536 i=32 e=1 k=1 m=1");
  TempFolder folder;
  Opened o(c, WriteForm(folder.path(), Form::kDeepSeek, c), 0, 1, false);
  const int64_t before = Live();
  const dsv4mx_status status = o.Load();
  INFO(dsv4mx_last_error());
  REQUIRE(status == DSV4MX_STATUS_OK);
  // Staging stays for what is set next. Memory comes in pages.
  int64_t blocks = 0;
  for (const auto& [at, block] : fake.live) blocks += block.kind == 'r' ? 1 : 0;
  CHECK(blocks == 1);  // each takes its time
  CHECK(Live() - before <= o.info.peak_extra_bytes + 4096 * blocks);
  CHECK(static_cast<double>(Live() - before) >=
        0.99 * static_cast<double>(o.info.peak_extra_bytes));
}

TEST_CASE("cuda load: where the system pins no pages a load is the same", "[load][memory]") {
  // Blocks of huge pages, a large load, and a small one.
  for (const char* text : {"h=4096 i=2048 e=6 k=1 m=1", "h=65536 i=32 e=1 k=1 m=1"}) {
    const Case c = MakeCase(text);
    TempFolder folder;
    const std::string path = WriteForm(folder.path(), Form::kDeepSeek, c);
    for (const bool refused : {false, true}) {
      Opened o(c, path, 0, 1, false);
      INFO(text << (refused ? ", refused" : ""));
      fake.refused = refused ? "cudaHostRegister" : "";
      fake.record = true;
      const dsv4mx_status status = o.Load();
      INFO(dsv4mx_last_error());
      REQUIRE(status == DSV4MX_STATUS_OK);
      CHECK(CheckRows(c, o) == "");
      int registered = 0;
      for (const auto& [at, block] : fake.live) registered += block.kind == 'r' ? 1 : 0;
      CHECK((registered > 0) == !refused);
      // Who was refused once does not ask again.
      const auto asked = std::count(fake.log.begin(), fake.log.end(), "cudaHostRegister");
      CHECK(asked == (refused ? 1 : registered));
      REQUIRE(dsv4mx_weights_prepare(o.weights, nullptr, nullptr) == DSV4MX_STATUS_OK);
      for (const auto& [at, block] : fake.live) CHECK(std::strchr("hr", block.kind) == nullptr);
    }
  }
}

TEST_CASE("cuda load: what is derived is made while experts are read, and anew of one that is set",
          "[load]") {
  Case c = MakeCase("h=512 i=640 e=9 k=1 m=1");
  TempFolder folder;
  const auto derived = [] {
    return std::count(fake.log.begin(), fake.log.end(), "LaunchPrepareExperts");
  };
  for (const Form form : {Form::kDeepSeek, Form::kGptOss, Form::kGgufFused}) {
    Opened o(c, WriteForm(folder.path(), form, c), 0, 1);
    INFO(NameOf(form));
    REQUIRE(o.Load() == DSV4MX_STATUS_OK);
    CHECK(derived() >= 1);
    CHECK(derived() <= 9);
    // A second load reads all anew.
    fake.log.clear();
    REQUIRE(o.Load() == DSV4MX_STATUS_OK);
    CHECK(derived() >= 1);
    fake.log.clear();
    const auto set = [&](const char* name, const std::vector<uint8_t>& data, int64_t columns) {
      dsv4mx_tensor t = DSV4MX_TENSOR_INIT;
      t.data = data.data();
      t.dtype = DSV4MX_DTYPE_U8;
      t.memory = DSV4MX_MEMORY_HOST;
      t.rank = 2;
      t.shape[0] = 640;
      t.shape[1] = columns;
      REQUIRE_OK(dsv4mx_weights_set(o.weights, name, 4, &t, nullptr, nullptr));
    };
    set("w3.weight", c.experts[4]->codes[kUp], 256);
    set("w3.scale", c.experts[4]->scales[kUp], 16);
    CHECK(derived() == 0);
    REQUIRE_OK(dsv4mx_weights_prepare(o.weights, nullptr, nullptr));
    CHECK(derived() == 1);
    // Nothing of it is left for a prepare of other contents.
    REQUIRE_OK(dsv4mx_weights_reset(o.weights));
    REQUIRE(o.Load() == DSV4MX_STATUS_OK);
    fake.log.clear();
    REQUIRE_OK(dsv4mx_weights_prepare(o.weights, nullptr, nullptr));
    CHECK(derived() == 0);
  }
}

// Page-locked memory takes time by the block, and a block's last part of less than a huge page takes the most.
TEST_CASE("cuda snapshot: the memory of all threads is one block", "[load][memory]") {
  const Case c = MakeCase("h=512 i=640 e=8 k=1 m=1");
  TempFolder folder;
  Opened o(c, WriteForm(folder.path(), Form::kDeepSeek, c), 0, 1);
  REQUIRE(o.Load() == DSV4MX_STATUS_OK);
  REQUIRE(dsv4mx_weights_prepare(o.weights, nullptr, nullptr) == DSV4MX_STATUS_OK);
  const std::string path = folder / "snapshot";
  size_t blocks = o.hook.pinned_blocks, bytes = o.hook.pinned;
  const auto taken = [&](int32_t threads, auto call) {
    dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
    args.threads = threads;
    REQUIRE(call(&args) == DSV4MX_STATUS_OK);
    CHECK(o.hook.pinned_blocks == blocks + 1);
    const size_t result = o.hook.pinned - bytes;
    blocks = o.hook.pinned_blocks, bytes = o.hook.pinned;
    return result;
  };
  const auto save = [&](const dsv4mx_snapshot_args* args) {
    return dsv4mx_weights_save(o.weights, path.c_str(), args, nullptr);
  };
  const auto restore = [&](const dsv4mx_snapshot_args* args) {
    REQUIRE(dsv4mx_weights_reset(o.weights) == DSV4MX_STATUS_OK);
    return dsv4mx_weights_restore(o.weights, path.c_str(), args, nullptr);
  };
  const size_t to_save = taken(1, save), to_restore = taken(1, restore);
  CHECK(taken(3, save) == 3 * to_save);
  CHECK(taken(3, restore) == 3 * to_restore);
}

TEST_CASE("cuda load: bad scales of any form are named, and the load may be repeated", "[load]") {
  Case c = MakeCase("h=512 i=640 e=1 k=1 m=1");
  c.experts[0]->scales[kUp][300 * 16 + 7] = 255;
  c.experts[0]->scales[kUp][500 * 16 + 1] = 255;
  for (const Form form : {Form::kDeepSeek, Form::kSglang, Form::kGptOss, Form::kGgufFused}) {
    TempFolder folder;
    Opened o(c, WriteForm(folder.path(), form, c), 0, 1);
    for (int run = 0; run < 10; ++run) {
      CHECK(o.Load() == DSV4MX_STATUS_INVALID_SCALE);
      const std::string said = dsv4mx_last_error();
      INFO(said);
      CHECK(said.find("expert 0, up (w3), row 300, group 7") != std::string::npos);
    }
  }
}

}  // namespace dsv4mx::test
