// Memory: what the queries say is what is taken, apply takes nothing, and a failing allocator leaks nothing.
#include <algorithm>
#include <cstdlib>
#include <map>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

// An allocator that counts, checks sizes on free, and can fail from its n-th call on.
struct Ledger {
  std::map<void*, size_t> live;
  size_t now = 0, peak = 0;
  int calls = 0, fail_from = -1;
  bool good = true;

  static void* Alloc(void* user, size_t bytes, size_t alignment, dsv4mx_memory memory,
                     dsv4mx_stream) {
    auto* l = static_cast<Ledger*>(user);
    l->good = l->good && memory == DSV4MX_MEMORY_HOST;
    if (l->fail_from >= 0 && l->calls++ >= l->fail_from) return nullptr;
    if (l->fail_from < 0) ++l->calls;
    void* p = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    l->live[p] = bytes;
    l->now += bytes;
    l->peak = std::max(l->peak, l->now);
    return p;
  }
  static void Free(void* user, void* p, size_t bytes, dsv4mx_memory, dsv4mx_stream) {
    auto* l = static_cast<Ledger*>(user);
    const auto it = l->live.find(p);
    if (it == l->live.end() || it->second != bytes) {
      l->good = false;
      return;
    }
    l->now -= bytes;
    l->live.erase(it);
    std::free(p);
  }
  dsv4mx_context_desc Desc() {
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    d.device = DSV4MX_DEVICE_CPU;
    d.alloc = Alloc;
    d.free = Free;
    d.alloc_user = this;
    return d;
  }
};

ContextPtr Open(Ledger* ledger) {
  dsv4mx_context* context = nullptr;
  const dsv4mx_context_desc d = ledger->Desc();
  Must(dsv4mx_context_create(&d, &context), "context_create");
  return ContextPtr(context);
}

TEST_CASE(
    "[D1][D3][D4] prepared bytes are the allocator's count, peak stays below the query, apply "
    "allocates nothing",
    "[memory]") {
  for (const char* text : {"h=128 i=96 e=5 k=3 m=17 order=gate_up bias=1", "h=96 i=160 e=4 k=2 m=9",
                           "h=64 i=64 e=2 k=1 m=3 oracle=truth", "h=2880 i=96 e=2 k=2 m=3",
                           "h=128 i=96 e=5 k=3 m=400 isa=portable"}) {
    Ledger ledger;
    {
      const ContextPtr context = Open(&ledger);
      const Case c = MakeCase(text);
      const Runner run(c, context.get());
      const dsv4mx_layer_info info = run.info();
      INFO(text);
      CHECK(ledger.now == static_cast<size_t>(info.prepared_bytes));
      CHECK(ledger.peak <= static_cast<size_t>(info.prepared_bytes + info.peak_extra_bytes));
      dsv4mx_weights_info w{};
      w.struct_size = sizeof w;
      REQUIRE_OK(dsv4mx_weights_query(run.weights(), &w));
      CHECK(w.bytes == info.prepared_bytes);
      const int before = ledger.calls;
      for (int i = 0; i < 3; ++i) REQUIRE(run.Apply().damage == "");
      CHECK(ledger.calls == before);
    }
    CHECK(ledger.live.empty());
    CHECK(ledger.good);
  }
}

TEST_CASE("[D4] reading a tensor back works in memory of the allocator, and gives it back",
          "[memory]") {
  Ledger ledger;
  {
    dsv4mx_context_desc desc = ledger.Desc();
    desc.threads = 4;
    dsv4mx_context* made = nullptr;
    REQUIRE_OK(dsv4mx_context_create(&desc, &made));
    const ContextPtr context(made);
    const Case c = MakeCase("h=96 i=64 e=2 k=1 m=3 order=gate_up");
    const Runner run(c, context.get());
    std::vector<uint8_t> codes(static_cast<size_t>(96 * 64 / 2));
    dsv4mx_tensor tensor = DSV4MX_TENSOR_INIT;
    tensor.data = codes.data();
    tensor.dtype = DSV4MX_DTYPE_U8;
    tensor.rank = 2;
    tensor.shape[0] = 96;
    tensor.shape[1] = 32;
    const size_t before = ledger.now;
    const int calls = ledger.calls;
    ledger.peak = before;
    REQUIRE_OK(dsv4mx_weights_get(run.weights(), "w2.weight", 1, &tensor, nullptr, nullptr));
    CHECK(ledger.calls == calls + 1);
    CHECK(ledger.now == before);
    // "The bytes of some 128 rows": a row as it is stored and as it is wanted, for each thread.
    CHECK(ledger.peak - before <= 128 * (32 + 2 + 32));
    ledger.fail_from = ledger.calls;
    REQUIRE_REFUSED(dsv4mx_weights_get(run.weights(), "w2.weight", 1, &tensor, nullptr, nullptr),
                    DSV4MX_STATUS_OUT_OF_MEMORY, "bytes");
    ledger.fail_from = -1;
    CHECK(ledger.now == before);
  }
  CHECK(ledger.live.empty());
  CHECK(ledger.good);
}

TEST_CASE("an allocator that fails gives OUT_OF_MEMORY and leaks nothing; the next try works",
          "[memory]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=4");
  Ledger ledger;
  const ContextPtr context = Open(&ledger);
  const LayerPtr layer = MakeLayer(context.get(), DescOf(c));
  int failures = 0;
  for (int from = 0; from < 20; ++from) {
    ledger.calls = 0;
    ledger.fail_from = from;
    dsv4mx_weights* made = nullptr;
    dsv4mx_status status = dsv4mx_weights_create(layer.get(), nullptr, &made);
    if (status == DSV4MX_STATUS_OK) {
      const WeightsPtr w(made);
      for (int32_t e = 0; e < 3 && status == DSV4MX_STATUS_OK; ++e) {
        for (const NamedTensor& t : TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)])) {
          const dsv4mx_tensor view = t.View();
          if (status == DSV4MX_STATUS_OK)
            status = dsv4mx_weights_set(w.get(), t.name.c_str(), e, &view, nullptr, nullptr);
        }
      }
      if (status == DSV4MX_STATUS_OK) status = dsv4mx_weights_prepare(w.get(), nullptr, nullptr);
    } else {
      CHECK(made == nullptr);
    }
    CHECK(ledger.live.empty());
    if (status == DSV4MX_STATUS_OK) break;
    CHECK(status == DSV4MX_STATUS_OUT_OF_MEMORY);
    CHECK(MissingWords(dsv4mx_last_error(), "bytes") == "");
    ++failures;
  }
  CHECK(failures >= 1);
  CHECK(failures < 20);
  ledger.fail_from = -1;
  const WeightsPtr w = MakeWeights(layer.get());
}

TEST_CASE("a hook that gives misaligned memory is refused and given it back", "[memory]") {
  static int freed;
  freed = 0;
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device = DSV4MX_DEVICE_CPU;
  d.alloc = [](void*, size_t bytes, size_t, dsv4mx_memory, dsv4mx_stream) -> void* {
    return static_cast<char*>(std::aligned_alloc(256, (bytes + 511) / 256 * 256)) + 8;
  };
  d.free = [](void*, void* p, size_t, dsv4mx_memory, dsv4mx_stream) {
    std::free(static_cast<char*>(p) - 8), ++freed;
  };
  dsv4mx_context* context = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&d, &context));
  const ContextPtr own(context);
  void* p = &freed;
  REQUIRE_REFUSED(dsv4mx_context_alloc(context, 1000, &p), DSV4MX_STATUS_MISALIGNED,
                  "allocator,256");
  CHECK(p == nullptr);
  CHECK(freed == 1);
}

TEST_CASE("memory helpers: aligned, through the hook, copied, freed once", "[memory]") {
  Ledger ledger;
  const ContextPtr context = Open(&ledger);
  std::vector<void*> all;
  for (const size_t bytes : {size_t{1}, size_t{255}, size_t{4096}, size_t{1000003}}) {
    void* p = nullptr;
    REQUIRE_OK(dsv4mx_context_alloc(context.get(), bytes, &p));
    CHECK(reinterpret_cast<uintptr_t>(p) % 256 == 0);
    CHECK(ledger.live[p] == bytes);
    std::vector<uint8_t> from(bytes), to(bytes);
    for (size_t i = 0; i < bytes; ++i) from[i] = static_cast<uint8_t>(i * 31);
    REQUIRE_OK(dsv4mx_context_copy(context.get(), p, from.data(), bytes, nullptr));
    REQUIRE_OK(dsv4mx_context_copy(context.get(), to.data(), p, bytes, nullptr));
    REQUIRE_OK(dsv4mx_context_synchronize(context.get(), nullptr));
    CHECK(from == to);
    all.push_back(p);
  }
  void* none = &ledger;
  REQUIRE_OK(dsv4mx_context_alloc(context.get(), 0, &none));
  CHECK(none == nullptr);
  dsv4mx_context_free(context.get(), nullptr);
  for (void* p : all) dsv4mx_context_free(context.get(), p);
  dsv4mx_context_free(context.get(), all[0]);  // left alone, and logged (log_test.cc)
  CHECK(ledger.good);
  CHECK(ledger.live.empty());
  REQUIRE_REFUSED(dsv4mx_context_alloc(CpuContext(), SIZE_MAX - 5, &none),
                  DSV4MX_STATUS_OUT_OF_MEMORY, "bytes");
  REQUIRE_REFUSED(dsv4mx_context_alloc(CpuContext(), size_t{1} << 60, &none),
                  DSV4MX_STATUS_OUT_OF_MEMORY, "bytes");
}

TEST_CASE("[B2][D4] the workspace query is exact and does not decrease; one byte less is refused",
          "[memory]") {
  for (const char* text :
       {"h=128 i=96 e=8 k=3", "h=128 i=96 e=8 k=3 oracle=spec", "h=2880 i=192 e=4 k=4 wpos=before",
        "h=96 i=64 e=40 k=6 isa=portable threads=3"}) {
    const Case c = MakeCase(Parse(std::string(text) + " m=0"));
    const Runner run(c);
    size_t before = 0;
    for (const int64_t m :
         {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{3}, int64_t{7}, int64_t{8}, int64_t{31},
          int64_t{64}, int64_t{65}, int64_t{1000}, int64_t{131071}, int64_t{131072}}) {
      dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
      REQUIRE_OK(dsv4mx_layer_query_workspace(run.layer(), m, nullptr, &info));
      CHECK(info.alignment == 256);
      CHECK(info.bytes >= before);
      CHECK(info.minimum_bytes <= info.bytes);
      before = info.bytes;
      if (m == 0 || m > 70) continue;
      // ApplyGuarded gives exactly the bytes, between unreadable pages.
      Problem p = c.p;
      p.tokens = m;
      const Inputs in = MakeInputs(p);
      for (const Edge edge : {Edge::kStart, Edge::kEnd}) {
        ApplyOptions options;
        options.edge = edge;
        const Output full = ApplyGuarded(run.context(), run.layer(), run.weights(), p, in, options);
        CHECK(full.damage == "");
        options.minimum_workspace = true;
        const Output least =
            ApplyGuarded(run.context(), run.layer(), run.weights(), p, in, options);
        CHECK(least.damage == "");
        CHECK(least.raw == full.raw);
      }
      const size_t bytes = info.minimum_bytes;
      const Guarded x(nullptr, in.x.data(), in.x.size() * 2, 16),
          y(nullptr, static_cast<size_t>(m * p.hidden) * 2, 16), space(nullptr, bytes, 256);
      const std::vector<uint8_t> ids = PackIds(p, in.ids);
      dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
      args.x = x.data();
      args.topk_ids = ids.data();
      args.topk_weights = in.weights.data();
      args.out = y.data();
      args.tokens = m;
      args.workspace = space.data();
      args.workspace_bytes = bytes - 1;
      REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr),
                      DSV4MX_STATUS_WORKSPACE_TOO_SMALL,
                      std::to_string(bytes) + "," + std::to_string(bytes - 1));
    }
    dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
    info.bytes = 1;
    REQUIRE_REFUSED(dsv4mx_layer_query_workspace(run.layer(), -1, nullptr, &info),
                    DSV4MX_STATUS_INVALID_ARGUMENT, "max_tokens,-1");
    CHECK(info.bytes == 0);
    REQUIRE_REFUSED(dsv4mx_layer_query_workspace(run.layer(), 131073, nullptr, &info),
                    DSV4MX_STATUS_INVALID_ARGUMENT, "max_tokens,131073");
  }
}

TEST_CASE("[D5] a workspace is used to its end, and only as far as the query said", "[memory]") {
  const Case c = MakeCase("h=96 i=64 e=6 k=3 m=21 dist=uniform");
  const Runner run(c);
  const size_t bytes = WorkspaceBytes(run.layer(), 21);
  const Guarded x(nullptr, c.in.x.data(), c.in.x.size() * 2, 16), y(nullptr, 21 * 96 * 2, 16),
      space(nullptr, bytes + 10000, 256);
  const std::vector<uint8_t> ids = PackIds(c.p, c.in.ids);
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = x.data();
  args.topk_ids = ids.data();
  args.topk_weights = c.in.weights.data();
  args.out = y.data();
  args.tokens = 21;
  args.workspace = space.data();
  args.workspace_bytes = bytes + 10000;
  REQUIRE_OK(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr));
  const std::vector<uint8_t> after = space.Read();
  CHECK(std::all_of(after.begin() + static_cast<int64_t>(bytes), after.end(),
                    [](uint8_t b) { return b == 0xFF; }));
  const auto used = std::count_if(after.begin(), after.begin() + static_cast<int64_t>(bytes),
                                  [](uint8_t b) { return b != 0xFF; });
  CHECK(static_cast<double>(used) > 0.9 * static_cast<double>(bytes));
  CHECK(y.Read() == run.Apply().raw);
}

TEST_CASE("[A24][D1] sizes beyond 2^31 and 2^32 elements are counted in 64 bit", "[memory]") {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = 65536;
  d.intermediate = 65536;
  d.experts = 4096;
  d.top_k = 16;
  const LayerPtr layer = MakeLayer(ContextOf(Parse("isa=portable")), d);
  dsv4mx_layer_info info{};
  info.struct_size = sizeof info;
  REQUIRE_OK(dsv4mx_layer_query(layer.get(), &info));
  CHECK(info.prepared_bytes == (int64_t{3} * 4096 << 32) / 32 * 17);  // 4.25 bit per weight
  const size_t bytes = WorkspaceBytes(layer.get(), 131072);
  CHECK(bytes > size_t{2 * 8192} * 65536 * 4);  // x or y, and h, of a part, in fp32
  CHECK(bytes < size_t{2 * 8192 + 64} * 65536 * 4);
}

}  // namespace
}  // namespace dsv4mx::test
