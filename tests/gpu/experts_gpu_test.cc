// Operations on experts on the device: replaced and moved between replays of captured graphs, a layer placed anew under
// them, ordered by a stream or by events, slabs and tensors read back. What a replay gives is compared bit by bit with
// layers made so from the beginning.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/guard_pages.h"
#include "tests/gpu/streams.h"

namespace dsv4mx::test {
namespace {

constexpr int64_t kLate = 3'000'000;  // clock cycles: between one and two milliseconds

const char* const kCases[] = {"h=160 i=96 e=6 k=3 m=9 bias=1",
                              "h=288 i=160 e=6 k=2 m=300 path=bf16",
                              "h=96 i=288 e=6 k=3 m=70 path=planes order=gate_up"};

Case Make(const std::string& text) {
  Case c = MakeCase(text);
  c.p.device = DSV4MX_DEVICE_CUDA;
  return c;
}

// A layer whose experts and placement may change.
struct Layer {
  explicit Layer(const Case& made, const dsv4mx_context* of = nullptr)
      : c(made), context(of == nullptr ? ContextOf(made.p) : of) {
    layer = MakeLayer(context, DescOf(c));
    weights = MakeWeights(layer.get());
    for (int32_t e = 0; e < c.p.LocalExperts(); ++e) SetExpert(weights.get(), c.p, e, *c.Expert(e));
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
  }
  Case c;
  const dsv4mx_context* context;
  LayerPtr layer;
  WeightsPtr weights;
};

// The buffers of one apply in device memory.
struct Call {
  explicit Call(const Layer& of)
      : l(of),
        x(of.c.in.x.size() * 2, 256),
        ids(PackIds(of.c.p, of.c.in.ids).size(), 256),
        router(PackRouterWeights(of.c.p, of.c.in.weights).size(), 256),
        out(static_cast<size_t>(of.c.p.tokens * of.c.p.hidden) *
                (of.c.p.out == DSV4MX_DTYPE_F32 ? 4 : 2),
            256),
        workspace(WorkspaceBytes(of.layer.get(), of.c.p.tokens), 256) {
    const std::vector<uint8_t> packed_ids = PackIds(l.c.p, l.c.in.ids),
                               packed = PackRouterWeights(l.c.p, l.c.in.weights);
    x.Upload(l.c.in.x.data(), x.bytes());
    ids.Upload(packed_ids.data(), packed_ids.size());
    router.Upload(packed.data(), packed.size());
    Poison();
    args.x = x.data();
    args.topk_ids = ids.data();
    args.topk_weights = router.data();
    args.out = out.data();
    args.tokens = l.c.p.tokens;
    args.workspace = workspace.data();
    args.workspace_bytes = workspace.bytes();
  }
  void Poison() {
    out.Fill(0xFF);
    workspace.Fill(0xFF);
  }
  void Enqueue(cudaStream_t stream) const {
    Must(dsv4mx_layer_apply(l.layer.get(), l.weights.get(), &args, stream), "apply");
  }
  const Layer& l;
  DeviceBuffer x, ids, router, out, workspace;
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
};

std::vector<uint8_t> Want(const Case& c) {
  return Runner(c).Apply().raw;
}

dsv4mx_status Copy(const Layer& to, const std::vector<int32_t>& to_experts, const Layer& from,
                   const std::vector<int32_t>& from_experts, cudaStream_t stream) {
  dsv4mx_copy_args args = DSV4MX_COPY_ARGS_INIT;
  args.to_experts = to_experts.data();
  args.from_experts = from_experts.data();
  args.count = static_cast<int32_t>(to_experts.size());
  return dsv4mx_weights_copy_experts(to.weights.get(), from.weights.get(), &args, stream);
}

// Keeps the bytes of an output for later, in stream order.
struct Kept {
  Kept(const Call& call, cudaStream_t stream) : bytes(call.out.bytes(), 256) {
    CUDA_MUST(cudaMemcpyAsync(bytes.data(), call.out.data(), call.out.bytes(),
                              cudaMemcpyDeviceToDevice, stream));
  }
  DeviceBuffer bytes;
};

TEST_CASE("gpu experts: replays see old experts before a copy on their stream and new ones after",
          "[gpu][gpu-quick][experts]") {
  REQUIRE_GPU();
  for (const char* text : kCases) {
    INFO(text);
    const Case c = Make(text), fresh = Make(std::string(text) + " seed=77");
    const Layer layer(c), from(fresh);
    Call call(layer);
    const Graph graph([&](cudaStream_t stream) { call.Enqueue(stream); });
    Case changed = c;
    changed.experts[0] = changed.experts[5] = fresh.experts[2];
    changed.experts[1] = fresh.experts[1];
    const std::vector<uint8_t> before = Want(c), after = Want(changed);
    const Stream stream;
    for (int round = 0; round < 20; ++round) {
      KeepBusy(stream.get(), 1, kLate);  // so that all of it is enqueued before anything runs
      graph.Launch(stream);
      const Kept old(call, stream.get());
      REQUIRE_OK(Copy(layer, {0, 5, 1}, from, {2, 2, 1}, stream.get()));
      graph.Launch(stream);
      const Kept now(call, stream.get());
      const Layer original(c);
      REQUIRE_OK(Copy(layer, {0, 5, 1}, original, {0, 5, 1}, stream.get()));
      graph.Launch(stream);
      stream.Wait();
      REQUIRE(old.bytes.Download() == before);
      REQUIRE(now.bytes.Download() == after);
      REQUIRE(call.out.Download() == before);
      REQUIRE(call.out.Damage() + call.workspace.Damage() == "");
    }
  }
}

TEST_CASE("gpu experts: slots moved and a layer placed anew under replays of a graph",
          "[gpu][gpu-quick][experts]") {
  REQUIRE_GPU();
  for (const char* text : kCases) {
    INFO(text);
    const Case whole = Make(text);
    const auto placed = [&](const std::vector<int32_t>& at) {
      Case c = whole;
      c.placement = at;
      for (size_t s = 0; s < at.size(); ++s) {
        c.experts[s] = whole.experts[static_cast<size_t>(at[s])];
      }
      return c;
    };
    const std::vector<std::vector<int32_t>> places = {
        {0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {4, 2, 0, 2, 1, 3}, {1, 1, 1, 0, 0, 5}};
    const Layer source(whole), layer(placed(places[0]));
    Call call(layer);
    const Graph graph([&](cudaStream_t stream) { call.Enqueue(stream); });
    const Stream stream;
    std::vector<std::unique_ptr<Kept>> kept;
    KeepBusy(stream.get(), 1, kLate);
    for (int round = 0; round < 12; ++round) {
      const std::vector<int32_t>& at = places[static_cast<size_t>(round) % places.size()];
      REQUIRE_OK(Copy(layer, {0, 1, 2, 3, 4, 5}, source, at, stream.get()));
      REQUIRE_OK(dsv4mx_layer_set_placement(layer.layer.get(), at.data(), stream.get()));
      graph.Launch(stream);
      kept.push_back(std::make_unique<Kept>(call, stream.get()));
    }
    stream.Wait();
    for (size_t round = 0; round < kept.size(); ++round) {
      INFO("round " << round);
      CHECK(kept[round]->bytes.Download() == Want(placed(places[round % places.size()])));
    }
  }
}

TEST_CASE("gpu experts: streams are ordered by the caller's events", "[gpu][gpu-quick][experts]") {
  REQUIRE_GPU();
  const Case c = Make(kCases[0]), fresh = Make(std::string(kCases[0]) + " seed=77");
  const Layer layer(c), from(fresh);
  Call call(layer);
  Case changed = c;
  changed.experts[3] = fresh.experts[3];
  const std::vector<uint8_t> before = Want(c), after = Want(changed);
  const Stream applies, copies;
  cudaEvent_t applied, copied;
  CUDA_MUST(cudaEventCreateWithFlags(&applied, cudaEventDisableTiming));
  CUDA_MUST(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
  for (int round = 0; round < 20; ++round) {
    const bool even = round % 2 == 0;
    KeepBusy(applies.get(), 1, kLate);
    call.Enqueue(applies.get());
    const Kept old(call, applies.get());
    CUDA_MUST(cudaEventRecord(applied, applies.get()));
    CUDA_MUST(cudaStreamWaitEvent(copies.get(), applied, 0));
    const Layer original(c);
    REQUIRE_OK(Copy(layer, {3}, even ? from : original, {3}, copies.get()));
    CUDA_MUST(cudaEventRecord(copied, copies.get()));
    CUDA_MUST(cudaStreamWaitEvent(applies.get(), copied, 0));
    call.Enqueue(applies.get());
    applies.Wait();
    REQUIRE(old.bytes.Download() == (even ? before : after));
    REQUIRE(call.out.Download() == (even ? after : before));
  }
  CUDA_MUST(cudaEventDestroy(applied));
  CUDA_MUST(cudaEventDestroy(copied));
}

TEST_CASE("gpu experts: an expert that the path does not allow is refused, and no byte changes",
          "[gpu][gpu-quick][experts]") {
  REQUIRE_GPU();
  const Case exact = Make("h=160 i=96 e=3 k=2 m=5 scales=119..127");
  const Case spans = Make("h=160 i=96 e=3 k=2 m=5 scales=90..120 seed=5");
  const Case wide = Make("h=160 i=96 e=3 k=2 m=5 scales=120..140 seed=6");
  const Layer a(exact), b(spans), w(wide);
  const auto refused = [](const Layer& to, const Layer& from, const char* words) {
    REQUIRE_REFUSED(Copy(to, {0}, from, {1}, nullptr), DSV4MX_STATUS_UNSUPPORTED, words);
    dsv4mx_slab slab = DSV4MX_SLAB_INIT;
    REQUIRE_OK(dsv4mx_weights_get_slab(from.weights.get(), 1, &slab));
    REQUIRE_REFUSED(dsv4mx_weights_set_slab(to.weights.get(), 0, &slab, nullptr, nullptr),
                    DSV4MX_STATUS_UNSUPPORTED, words);
    const Call call(to);
    call.Enqueue(nullptr);
    CUDA_MUST(cudaDeviceSynchronize());
    CHECK(call.out.Download() == Want(to.c));
  };
  refused(a, b, "scale bytes,span,128 and 11");
  refused(a, w, "scale bytes,128 and 11");
  refused(b, w, "at most scale byte 128");
  REQUIRE_OK(Copy(w, {0}, a, {1}, nullptr));
}

TEST_CASE("gpu experts: slabs arrive late on a stream and are read there; bad scales are found",
          "[gpu][gpu-quick][experts]") {
  REQUIRE_GPU();
  for (const char* text : kCases) {
    INFO(text);
    const Case c = Make(text), fresh = Make(std::string(text) + " seed=77");
    const Layer layer(c), from(fresh);
    dsv4mx_slab slab = DSV4MX_SLAB_INIT;
    REQUIRE_OK(dsv4mx_weights_get_slab(from.weights.get(), 4, &slab));
    DeviceBuffer place(slab.bytes, 256);
    place.Fill(0xFF);
    const Stream stream;
    KeepBusy(stream.get(), 1, kLate);
    CUDA_MUST(cudaMemcpyAsync(place.data(), slab.data, slab.bytes, cudaMemcpyDeviceToDevice,
                              stream.get()));
    dsv4mx_slab late = slab;
    late.data = place.data();
    REQUIRE_OK(dsv4mx_weights_set_slab(layer.weights.get(), 2, &late, nullptr, stream.get()));
    place.Fill(0xFF);  // it was read
    REQUIRE_REFUSED(dsv4mx_weights_set_slab(layer.weights.get(), 1, &late, nullptr, nullptr),
                    DSV4MX_STATUS_INVALID_SCALE, "scale of expert 1,255");
    Case changed = c;
    changed.experts[2] = fresh.experts[4];
    const Call call(layer);
    call.Enqueue(nullptr);
    CUDA_MUST(cudaDeviceSynchronize());
    CHECK(call.out.Download() == Want(changed));
    // What is derived, and what rounds the slab up, is the same byte by byte.
    dsv4mx_slab arrived = DSV4MX_SLAB_INIT;
    REQUIRE_OK(dsv4mx_weights_get_slab(layer.weights.get(), 2, &arrived));
    std::vector<uint8_t> a(slab.bytes), b(slab.bytes);
    CUDA_MUST(cudaMemcpy(a.data(), slab.data, slab.bytes, cudaMemcpyDeviceToHost));
    CUDA_MUST(cudaMemcpy(b.data(), arrived.data, slab.bytes, cudaMemcpyDeviceToHost));
    CHECK(a == b);
  }
}

TEST_CASE("gpu experts: capture is refused by its name, and the capture goes on",
          "[gpu][gpu-quick][experts]") {
  REQUIRE_GPU();
  Case c = Make(kCases[0]);
  c.placement = {0, 1, 2, 3, 4, 5};
  const Layer layer(c), from(c);
  Call call(layer);
  const Graph graph([&](cudaStream_t stream) {
    REQUIRE_REFUSED(Copy(layer, {0}, from, {0}, stream), DSV4MX_STATUS_INVALID_STATE, "captured");
    REQUIRE_REFUSED(dsv4mx_layer_set_placement(layer.layer.get(), c.placement.data(), stream),
                    DSV4MX_STATUS_INVALID_STATE, "captured");
    call.Enqueue(stream);
  });
  const Stream stream;
  graph.Launch(stream);
  stream.Wait();
  CHECK(call.out.Download() == Want(c));
}

TEST_CASE("gpu experts: between two devices", "[gpu][two-gpus][experts]") {
  REQUIRE_GPU();
  int32_t devices = 0;
  REQUIRE_OK(dsv4mx_device_get_count(DSV4MX_DEVICE_CUDA, &devices));
  if (devices < 2) {
    Skip("needs two CUDA devices");
    return;
  }
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CUDA;
  desc.device_ordinal = 1;
  dsv4mx_context* made = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&desc, &made));
  const ContextPtr second(made);
  const Case c = Make(kCases[0]), fresh = Make(std::string(kCases[0]) + " seed=77");
  const Layer layer(c), far(fresh, second.get());
  REQUIRE_OK(Copy(layer, {1}, far, {4}, nullptr));
  Case changed = c;
  changed.experts[1] = fresh.experts[4];
  const Call call(layer);
  call.Enqueue(nullptr);
  CUDA_MUST(cudaDeviceSynchronize());
  CHECK(call.out.Download() == Want(changed));
}

}  // namespace
}  // namespace dsv4mx::test
