// What apply takes beside its tensors: strides of ids and router weights, accumulation, counts per expert, a limit of
// multiprocessors, a small workspace, communicators; and weights that several layers share.
#include <cstring>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

DEVICE_TEST_CASE("ids and router weights of more columns than top_k", "[api]") {
  for (const char* text :
       {"h=96 i=64 e=6 k=3 m=11 is=4 ws=4", "h=64 i=32 e=4 k=2 m=300 is=7 ids=i64",
        "h=64 i=32 e=4 k=2 m=9 ws=5 rw=bf16 dist=half",
        "h=64 i=32 e=3 k=1 m=6 is=2 ws=3 wpos=input"}) {
    Case c = MakeCase(text);
    c.p.device = device;
    INFO(text);
    CHECK(RunAndCheck(c) == "");
    Case plain = c;
    plain.p.ids_stride = plain.p.weights_stride = 0;
    CHECK(CheckSame(Runner(plain).Apply(), Runner(c).Apply()) == "");
  }
}

DEVICE_TEST_CASE("accumulate: the fp32 sum of out and y, rounded once", "[api]") {
  for (const char* out : {"bf16", "f32"}) {
    Case c = MakeCase(std::string("h=96 i=64 e=6 k=3 m=11 os=104 dist=half out=") + out);
    c.p.device = device;
    Case wide = c;
    wide.p.out = DSV4MX_DTYPE_F32;
    const Runner run(c);
    const Output y = Runner(wide).Apply();  // before its rounding
    const bool f32 = c.p.out == DSV4MX_DTYPE_F32;
    std::vector<uint8_t> before(run.Apply().raw.size());
    std::vector<float> values(y.y.size());
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = ToBf16(0.37 * static_cast<double>(i % 41) - 7.0);
      values[i] = FromBf16(half);
      std::memcpy(&before[i * (f32 ? 4 : 2)], f32 ? static_cast<const void*>(&values[i]) : &half,
                  f32 ? 4 : 2);
    }
    ApplyOptions options;
    options.accumulate = &before;
    const Output sum = run.Apply(c.in, options);
    CHECK(sum.damage == "");
    for (size_t i = 0; i < values.size(); ++i) {
      const float want = values[i] + y.y[i];
      CHECK(sum.y[i] == (f32 ? want : FromBf16(ToBf16(static_cast<double>(want)))));
    }
    // Rows beyond the device's count are left alone.
    options.tokens_device = 4;
    const Output part = run.Apply(c.in, options);
    CHECK(std::memcmp(&part.raw[part.raw.size() / 2], &before[before.size() / 2],
                      before.size() / 2) == 0);
  }
}

DEVICE_TEST_CASE("expert counts are added to, and count what was computed", "[api]") {
  Case c = MakeCase("h=64 i=32 e=8 k=3 m=50 dist=half ep=2 rank=1");
  c.p.device = device;
  const Runner run(c);
  for (const int64_t tokens : {int64_t{-1}, int64_t{0}, int64_t{17}}) {
    std::vector<int64_t> counts = {1, 10, 100, 1000}, want = counts;
    const auto live = static_cast<size_t>(tokens < 0 ? 50 : tokens);
    for (size_t p = 0; p < live * 3; ++p) {
      const int32_t e = c.LocalExpert(c.in.ids[p]);
      if (e >= 0) ++want[static_cast<size_t>(e)];
    }
    ApplyOptions options;
    options.expert_counts = &counts;
    options.tokens_device = tokens;
    const Output y = run.Apply(c.in, options);
    CHECK(y.damage == "");
    CHECK(counts == want);
    if (tokens < 0) CHECK(y.raw == run.Apply().raw);
  }
}

DEVICE_TEST_CASE("a limit of multiprocessors and a small workspace change no bit", "[api]") {
  for (const char* text : {"h=96 i=64 e=6 k=3 m=700", "h=64 i=32 e=4 k=2 m=300 oracle=spec"}) {
    Case c = MakeCase(text);
    c.p.device = device;
    if (device == DSV4MX_DEVICE_CUDA && c.p.oracle != DSV4MX_ORACLE_NONE) continue;
    const Runner run(c);
    const Output want = run.Apply();
    ApplyOptions options;
    options.minimum_workspace = true;
    CHECK(CheckSame(want, run.Apply(c.in, options)) == "");
    for (const int32_t limit : {1, 3, 100000}) {
      options.multiprocessors = limit;
      CHECK(CheckSame(want, run.Apply(c.in, options)) == "");
    }
  }
}

DEVICE_TEST_CASE("layers of one form share weights", "[api]") {
  Case c = MakeCase("h=96 i=64 e=6 k=3 m=9 ep=2 order=gate_up");
  c.p.device = device;
  const Runner run(c);
  Case other = c;
  other.p.ids = DSV4MX_DTYPE_I64;
  other.p.out = DSV4MX_DTYPE_F32;
  other.p.clamp = 3;
  other.p.top_k = 2;
  other.in = MakeInputs(other.p);
  const LayerPtr layer = MakeLayer(run.context(), DescOf(other));
  const Output shared = ApplyGuarded(run.context(), layer.get(), run.weights(), other.p, other.in);
  CHECK(CheckSame(Runner(other).Apply(), shared) == "");
  dsv4mx_layer_info a = DSV4MX_LAYER_INFO_INIT, b = DSV4MX_LAYER_INFO_INIT;
  REQUIRE_OK(dsv4mx_layer_query(run.layer(), &a));
  REQUIRE_OK(dsv4mx_layer_query(layer.get(), &b));
  CHECK(a.prepared_id == b.prepared_id);
  CHECK(a.numerics_id != b.numerics_id);
  CHECK(a.hidden == 96);
  CHECK(a.intermediate == 64);
  CHECK(a.experts == 3);
  CHECK(a.experts_global == 6);
  CHECK(b.top_k == 2);
  const LayerPtr again = MakeLayer(run.context(), DescOf(c));
  REQUIRE_OK(dsv4mx_layer_query(again.get(), &b));
  CHECK(a.numerics_id == b.numerics_id);
}

TEST_CASE("weights of another context are refused", "[api]") {
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=4");
  const Runner run(c);
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  dsv4mx_context* made = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&desc, &made));
  const ContextPtr other(made);
  const LayerPtr layer = MakeLayer(made, DescOf(c));
  char text[256];
  REQUIRE_REFUSED(dsv4mx_layer_query_plan(layer.get(), run.weights(), 1, text, sizeof text),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "another context");
  // So is a communicator of one.
  dsv4mx_comm* comm = nullptr;
  REQUIRE_OK(dsv4mx_comm_create(made, nullptr, &comm));
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.comm = comm;
  REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "comm,another context");
  dsv4mx_comm_destroy(comm);
}

TEST_CASE("communicators: one rank works, the rest is refused by name", "[api]") {
  dsv4mx_comm* comm = nullptr;
  REQUIRE_OK(dsv4mx_comm_create(CpuContext(), nullptr, &comm));
  const Case c = MakeCase("h=64 i=32 e=3 k=2 m=0");
  const Runner run(c);
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.comm = comm;
  REQUIRE_OK(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr));
  // A group of one can be ended and begun anew too.
  REQUIRE_OK(dsv4mx_comm_prepare(comm, run.layer(), nullptr));
  REQUIRE_OK(dsv4mx_comm_abort(comm));
  dsv4mx_comm_fault_info fault = DSV4MX_COMM_FAULT_INFO_INIT;
  REQUIRE_OK(dsv4mx_comm_query_faults(comm, &fault));
  CHECK(fault.status == DSV4MX_STATUS_COMM_RANK_LOST);
  REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr),
                  DSV4MX_STATUS_COMM_RANK_LOST, "rank 0 aborted");
  REQUIRE_OK(dsv4mx_comm_reset(comm, nullptr));
  REQUIRE_OK(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr));
  args.comm_tokens = -1;
  REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "comm_tokens is -1");
  args.comm_tokens = 0;
  args.reserved = 1;
  REQUIRE_REFUSED(dsv4mx_layer_apply(run.layer(), run.weights(), &args, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "reserved is 1");
  dsv4mx_comm_destroy(comm);
  dsv4mx_comm_destroy(nullptr);
  dsv4mx_comm_desc desc = DSV4MX_COMM_DESC_INIT;
  const auto refused = [&](dsv4mx_status code, const char* words) {
    comm = reinterpret_cast<dsv4mx_comm*>(0x10);
    REQUIRE_REFUSED(dsv4mx_comm_create(CpuContext(), &desc, &comm), code, words);
    CHECK(comm == nullptr);
  };
  desc.kind = 7;
  refused(DSV4MX_STATUS_INVALID_ARGUMENT, "kind,7");
  desc.kind = DSV4MX_COMM_LOCAL;
  desc.size = 2;
  desc.rank = 2;
  refused(DSV4MX_STATUS_INVALID_ARGUMENT, "rank,2,size 2");
  desc.rank = 1;
  desc.kind = DSV4MX_COMM_CALLBACK;
  refused(DSV4MX_STATUS_INVALID_ARGUMENT, "all_gather is NULL,CALLBACK");
  desc.kind = DSV4MX_COMM_LOCAL;
  desc.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
  refused(DSV4MX_STATUS_UNSUPPORTED, "COLLECTIVE with kind LOCAL,PEER");
  desc.transport = 0;
  desc.timeout_ns = -1;
  refused(DSV4MX_STATUS_INVALID_ARGUMENT, "timeout_ns is -1");
  desc.timeout_ns = 0;
  desc.size = 65;
  refused(DSV4MX_STATUS_INVALID_ARGUMENT, "size is 65,1..64");
  desc.size = 2;
  desc.kind = DSV4MX_COMM_SELF;
  refused(DSV4MX_STATUS_INVALID_ARGUMENT, "size,2,SELF");
}

}  // namespace
}  // namespace dsv4mx::test
