// Snapshots through the C ABI: what comes back is what was saved, bit for bit, for every kind of layer; slices by expert; what
// does not fit is refused by name; and after any failure the weights are empty and usable.
#include <cstring>
#include <map>

#include "tests/catch.h"
#include "tests/snapshot_cases.h"

namespace dsv4mx::test {
namespace {

DEVICE_TEST_CASE("a snapshot gives back the saved weights bit for bit", "[snapshot]") {
  for (const char* text :
       {"h=64 i=32 e=3 k=2 m=5", "h=256 i=128 e=4 k=2 m=9 order=gate_up bias=bf16",
        "h=128 i=96 e=5 k=3 m=7 order=up_gate bias13=f32 nibble=high",
        "h=96 i=160 e=3 k=1 m=4 order=interleaved bias2=f32 act=gptoss clamp=7",
        "h=160 i=128 e=2 k=2 m=3 tp=4 bias=1 order=gate_up",
        "h=2880 i=1440 e=2 k=2 m=3 act=situ situb=4 situl=25",
        "h=32 i=32 e=1 k=1 m=1 act=gated alpha=0.5 beta=2 wpos=input rsf=2.5",
        "h=2048 i=1024 e=3 k=2 m=3 ep=3", "h=1056 i=2048 e=2 k=2 m=2 bias=1"}) {
    Case c = MakeCase(std::string(text) + (device == DSV4MX_DEVICE_CUDA ? " dev=cuda" : ""));
    INFO(text);
    TempFolder folder;
    const std::string path = folder / "layer.snapshot", again = folder / "again.snapshot";
    const Runner run(c);
    const Output want = run.Apply();
    Save(run.weights(), path);
    CHECK(FilesIn(folder) == 1);
    const LayerPtr layer = MakeLayer(run.context(), DescOf(c));
    for (const int32_t threads : {0, 1, 5}) {
      const WeightsPtr weights = MakeWeights(layer.get());
      REQUIRE_OK(Restore(weights.get(), path, threads));
      CHECK(StateOf(weights.get()) == DSV4MX_WEIGHTS_PREPARED);
      const Output got = ApplyGuarded(run.context(), layer.get(), weights.get(), c.p, c.in);
      CHECK(CheckSame(want, got) == "");
      const WeightsFacts a = FactsOf(run.weights()), b = FactsOf(weights.get());
      CHECK(std::memcmp(&a, &b, sizeof a) == 0);
      Save(weights.get(), again, threads);
      CHECK(ReadFile(path) == ReadFile(again));  // equal weights, equal files
    }
    for (const int32_t level : {-1, 1, 19}) {
      Save(run.weights(), again, 3, level);
      const WeightsPtr weights = MakeWeights(layer.get());
      REQUIRE_OK(Restore(weights.get(), again));
      CHECK(CheckSame(want, ApplyGuarded(run.context(), layer.get(), weights.get(), c.p, c.in)) ==
            "");
      if (level < 0) {
        CHECK(std::filesystem::file_size(again) >= std::filesystem::file_size(path));
      }
    }
  }
}

TEST_CASE("a snapshot's header describes the layer that was saved", "[snapshot]") {
  for (const char* text :
       {"h=64 i=32 e=3 k=2 m=1",
        "h=96 i=160 e=3 k=1 m=1 order=interleaved bias=f32 act=gptoss clamp=7 rsf=2",
        "h=64 i=64 e=6 k=2 m=1 ep=3 rank=2 act=situ situb=4 situl=25 out=f32 "
        "ids=i64 rw=bf16 slot=f32",
        "h=64 i=128 e=2 k=1 m=1 tp=2 act=gated alpha=0.25 beta=3 wpos=before compute=w4a8"}) {
    Case c = MakeCase(text);
    INFO(text);
    TempFolder folder;
    const std::string path = folder / "layer.snapshot";
    const Runner run(c);
    Save(run.weights(), path);
    dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
    dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
    REQUIRE_OK(dsv4mx_snapshot_query(path.c_str(), &info, &desc));
    const dsv4mx_layer_info want = run.info();
    CHECK(info.version == 1);
    CHECK(info.experts == want.experts);
    CHECK(info.expert_first == c.p.ExpertFirst());
    CHECK(info.experts_global == want.experts_global);
    CHECK(info.scale_min == FactsOf(run.weights()).info.scale_min);
    CHECK(info.scale_max == FactsOf(run.weights()).info.scale_max);
    CHECK(info.file_bytes == static_cast<int64_t>(std::filesystem::file_size(path)));
    CHECK(info.slab_bytes * want.experts == want.prepared_bytes);
    CHECK(std::string(info.layout) == "cpu 1");
    CHECK(desc.placement == nullptr);
    const LayerPtr layer = MakeLayer(run.context(), desc);
    dsv4mx_layer_info got = DSV4MX_LAYER_INFO_INIT;
    REQUIRE_OK(dsv4mx_layer_query(layer.get(), &got));
    CHECK(got.prepared_id == want.prepared_id);
    CHECK(got.numerics_id == want.numerics_id);
    const WeightsPtr weights = MakeWeights(layer.get());
    REQUIRE_OK(Restore(weights.get(), path));
    CHECK(CheckSame(run.Apply(),
                    ApplyGuarded(run.context(), layer.get(), weights.get(), c.p, c.in)) == "");
    REQUIRE_OK(dsv4mx_snapshot_query(path.c_str(), &info, nullptr));
  }
}

TEST_CASE("a tensor-parallel rank's snapshot fits this rank alone", "[snapshot]") {
  const Case c = MakeCase("h=64 i=128 e=3 k=2 m=4 bias=1 order=gate_up");
  TempFolder folder;
  const std::string path = folder / "rank1.snapshot";
  dsv4mx_layer_desc d = DescOf(c);
  d.tp_size = 2;
  d.tp_rank = 1;
  const LayerPtr layer = MakeLayer(CpuContext(), d);
  const WeightsPtr weights = MakeWeights(layer.get());
  Problem half = c.p;
  half.tp = 2;
  for (int32_t e = 0; e < 3; ++e) SetExpert(weights.get(), half, e, MakeExpert(half, e));
  REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr));
  Save(weights.get(), path);
  dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  REQUIRE_OK(dsv4mx_snapshot_query(path.c_str(), &info, &desc));
  CHECK(desc.tp_rank == 1);
  CHECK(desc.tp_size == 2);
  CHECK(desc.intermediate == 128);
  CHECK(desc.intermediate_first == 64);
  CHECK(desc.intermediate_count == 64);
  CHECK(desc.w2_bias != 0);  // the layer has one, which rank 0 adds
  const LayerPtr same = MakeLayer(CpuContext(), desc);
  const WeightsPtr back = MakeWeights(same.get());
  REQUIRE_OK(Restore(back.get(), path));
  for (const int32_t rank : {0, -1}) {
    d.tp_rank = std::max(rank, 0);
    d.tp_size = rank < 0 ? 1 : 2;
    const LayerPtr other = MakeLayer(CpuContext(), d);
    const WeightsPtr wrong = MakeWeights(other.get());
    CHECK(Restore(wrong.get(), path) == DSV4MX_STATUS_INVALID_TENSOR);
    CHECK(MissingWords(dsv4mx_last_error(), "rank1.snapshot,intermediate_first = 64,wanted 0") ==
          "");
    CHECK(StateOf(wrong.get()) == DSV4MX_WEIGHTS_EMPTY);
  }
}

TEST_CASE("parts of the experts come from a whole layer's file, and others are not read",
          "[snapshot]") {
  const Case c = MakeCase("h=256 i=64 e=8 k=3 m=16 order=gate_up bias=1");
  TempFolder folder;
  const std::string path = folder / "whole.snapshot";
  const Runner run(c);
  const Output want = run.Apply();
  Save(run.weights(), path);
  dsv4mx_layer_desc d = DescOf(c);
  d.experts_global = 8;
  const auto apply = [&](const dsv4mx_layer_desc& desc, const std::string& file) {
    const LayerPtr layer = MakeLayer(CpuContext(), desc);
    const WeightsPtr weights = MakeWeights(layer.get());
    const dsv4mx_status status = Restore(weights.get(), file);
    if (status != DSV4MX_STATUS_OK) throw Refused("restore", status);
    return ApplyGuarded(CpuContext(), layer.get(), weights.get(), c.p, c.in);
  };
  SECTION("the sum of the ranks is the layer's") {
    std::vector<double> sum(want.y.size());
    for (const int32_t first : {0, 3, 6}) {
      d.expert_first = first;
      d.experts = std::min(3, 8 - first);
      const Output part = apply(d, path);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(part.y[i]);
    }
    double worst = 0, most = 0;
    for (size_t i = 0; i < sum.size(); ++i) {
      worst = std::max(worst, std::abs(sum[i] - static_cast<double>(want.y[i])));
      most = std::max(most, std::abs(static_cast<double>(want.y[i])));
    }
    CHECK(worst <= most / 64);
  }
  SECTION("a placement with copies and any order") {
    Case moved = c;
    moved.placement = {5, 0, 1, 5, 7, 6, 2, 3, 4, 0};
    dsv4mx_layer_desc m = d;
    m.placement = moved.placement.data();
    m.experts = 10;
    CHECK(CheckSame(want, apply(m, path)) == "");
    // Saved from there, each expert stands in the file once, in the order of numbers.
    const LayerPtr layer = MakeLayer(CpuContext(), m);
    const WeightsPtr weights = MakeWeights(layer.get());
    REQUIRE_OK(Restore(weights.get(), path));
    const std::string again = folder / "again.snapshot";
    Save(weights.get(), again);
    CHECK(ReadFile(path) == ReadFile(again));
    CHECK(CheckSame(want, apply(d, again)) == "");
  }
  SECTION("what is damaged elsewhere does not matter") {
    std::string bytes = ReadFile(path);
    bytes[bytes.size() - 5000] ^= 1;  // the last expert's
    const std::string damaged = folder / "damaged.snapshot";
    WriteFile(damaged, bytes);
    d.experts = 7;
    (void)apply(d, damaged);
    d.experts = 8;
    CHECK_THROWS_AS(apply(d, damaged), Refused);
    CHECK(MissingWords(dsv4mx_last_error(), "damaged.snapshot,of expert 7,damaged,checksum") == "");
  }
  SECTION("experts that the file lacks are named") {
    d.expert_first = 2;
    d.experts = 3;
    const LayerPtr layer = MakeLayer(CpuContext(), d);
    const WeightsPtr weights = MakeWeights(layer.get());
    REQUIRE_OK(Restore(weights.get(), path));
    const std::string part = folder / "part.snapshot";
    Save(weights.get(), part);
    dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
    dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
    REQUIRE_OK(dsv4mx_snapshot_query(part.c_str(), &info, &desc));
    CHECK(info.experts == 3);
    CHECK(info.expert_first == 2);
    CHECK(desc.expert_first == 2);
    CHECK(desc.experts == 3);
    CHECK(desc.experts_global == 8);
    d.expert_first = 3;
    d.experts = 4;
    CHECK_THROWS_AS(apply(d, part), Refused);
    CHECK(MissingWords(dsv4mx_last_error(), "part.snapshot,experts 5,held here,it has 2..4") == "");
  }
}

TEST_CASE("a snapshot of another shape or state is refused, and says so", "[snapshot]") {
  const Case c = MakeCase("h=64 i=64 e=4 k=2 m=3 order=gate_up");
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const Runner run(c);
  Save(run.weights(), path);
  const auto refused = [&](const dsv4mx_layer_desc& desc, dsv4mx_status code, const char* words) {
    INFO(words);
    const LayerPtr layer = MakeLayer(CpuContext(), desc);
    const WeightsPtr weights = MakeWeights(layer.get());
    CHECK(Restore(weights.get(), path) == code);
    CHECK(MissingWords(dsv4mx_last_error(), words) == "");
    CHECK(StateOf(weights.get()) == DSV4MX_WEIGHTS_EMPTY);
  };
  dsv4mx_layer_desc d = DescOf(c);
  d.hidden = 96;
  refused(d, DSV4MX_STATUS_INVALID_TENSOR, "layer.snapshot,hidden = 64,wanted 96");
  d = DescOf(c);
  d.intermediate = 128;
  refused(d, DSV4MX_STATUS_INVALID_TENSOR, "layer.snapshot,intermediate = 64,wanted 128");
  d = DescOf(c);
  d.w13_bias = DSV4MX_DTYPE_F32;
  refused(d, DSV4MX_STATUS_INVALID_TENSOR, "layer.snapshot,w13 bias = 0,wanted 1");
  d = DescOf(c);
  d.w2_bias = DSV4MX_DTYPE_F32;
  refused(d, DSV4MX_STATUS_INVALID_TENSOR, "layer.snapshot,w2 bias here = 0,wanted 1");
  d = DescOf(c);
  d.experts_global = 8;
  refused(d, DSV4MX_STATUS_INVALID_TENSOR, "layer.snapshot,experts_global = 4,wanted 8");

  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  const WeightsPtr weights = MakeWeights(layer.get());
  const std::string none = folder / "none.snapshot";
  CHECK(dsv4mx_weights_save(weights.get(), none.c_str(), nullptr, nullptr) ==
        DSV4MX_STATUS_INVALID_STATE);
  CHECK(!std::filesystem::exists(none));
  SetExpert(weights.get(), c.p, 0, *c.Expert(0));
  CHECK(Restore(weights.get(), path) == DSV4MX_STATUS_INVALID_STATE);
  CHECK(MissingWords(dsv4mx_last_error(), "being filled,wanted empty") == "");
  CHECK(StateOf(weights.get()) == DSV4MX_WEIGHTS_FILLING);
  CHECK(Restore(run.weights(), path) == DSV4MX_STATUS_INVALID_STATE);
  CHECK(MissingWords(dsv4mx_last_error(), "prepared,wanted empty") == "");
  CHECK(StateOf(run.weights()) == DSV4MX_WEIGHTS_PREPARED);
}

TEST_CASE("other semantics than those that were saved are warned of", "[snapshot]") {
  Case c = MakeCase("h=64 i=64 e=2 k=2 m=3 order=gate_up clamp=10 rsf=1.5");
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const Runner run(c);
  Save(run.weights(), path);
  std::vector<std::string> lines;
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  desc.device = DSV4MX_DEVICE_CPU;
  desc.log = [](void* user, dsv4mx_log_level, const char* text) {
    static_cast<std::vector<std::string>*>(user)->push_back(text);
  };
  desc.log_user = &lines;
  dsv4mx_context* made = nullptr;
  REQUIRE_OK(dsv4mx_context_create(&desc, &made));
  const ContextPtr context(made);
  dsv4mx_layer_desc d = DescOf(c);
  for (int round = 0; round < 2; ++round) {
    const LayerPtr layer = MakeLayer(context.get(), d);
    const WeightsPtr weights = MakeWeights(layer.get());
    REQUIRE_OK(Restore(weights.get(), path));
    if (round == 0) CHECK(lines.empty());
    d.clamp_limit = 0;
    d.routed_scaling_factor = 0;
  }
  REQUIRE(lines.size() == 2);
  CHECK(MissingWords(lines[0].c_str(), "layer.snapshot,clamp_limit is 10,here it is 0") == "");
  CHECK(MissingWords(lines[1].c_str(),
                     "layer.snapshot,routed_scaling_factor is 1.5,here it is 1") == "");
}

TEST_CASE("arguments of the calls on snapshots", "[snapshot]") {
  const Case c = MakeCase("h=64 i=32 e=2 k=2 m=3");
  TempFolder folder;
  const std::string path = folder / "layer.snapshot";
  const Runner run(c);
  dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
  const auto save = [&](const char* to) {
    return dsv4mx_weights_save(run.weights(), to, &args, nullptr);
  };
  args.threads = 65;
  CHECK(save(path.c_str()) == DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(MissingWords(dsv4mx_last_error(), "threads is 65,wanted 0..64") == "");
  args = SnapshotArgs(0, 20);
  CHECK(save(path.c_str()) == DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(MissingWords(dsv4mx_last_error(), "level is 20,wanted -1..19") == "");
  args = SnapshotArgs(0, -2);
  CHECK(save(path.c_str()) == DSV4MX_STATUS_INVALID_ARGUMENT);
  args = SnapshotArgs(0, 0);
  args.flags = 1;
  CHECK(save(path.c_str()) == DSV4MX_STATUS_INVALID_ARGUMENT);
  args = SnapshotArgs(0, 0);
  CHECK(save(nullptr) == DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(dsv4mx_weights_save(nullptr, path.c_str(), nullptr, nullptr) ==
        DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(dsv4mx_weights_restore(nullptr, path.c_str(), nullptr, nullptr) ==
        DSV4MX_STATUS_INVALID_ARGUMENT);
  dsv4mx_snapshot_info info = DSV4MX_SNAPSHOT_INFO_INIT;
  CHECK(dsv4mx_snapshot_query(path.c_str(), nullptr, nullptr) == DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(dsv4mx_snapshot_query(nullptr, &info, nullptr) == DSV4MX_STATUS_INVALID_ARGUMENT);
  CHECK(dsv4mx_snapshot_query(path.c_str(), &info, nullptr) == DSV4MX_STATUS_IO_ERROR);
  CHECK(MissingWords(dsv4mx_last_error(), "layer.snapshot,No such file") == "");
  info.struct_size = 4;
  CHECK(dsv4mx_snapshot_query(path.c_str(), &info, nullptr) == DSV4MX_STATUS_INVALID_STRUCT);
  CHECK(FilesIn(folder) == 0);

  // Names under which there is nothing to replace, or nothing that may be.
  args = SnapshotArgs(0, 0);
  CHECK(save((folder / "no/such.snapshot").c_str()) == DSV4MX_STATUS_IO_ERROR);
  CHECK(save((folder.path() + "/").c_str()) == DSV4MX_STATUS_IO_ERROR);
  CHECK(save("") == DSV4MX_STATUS_IO_ERROR);
  CHECK(save(folder.path().c_str()) == DSV4MX_STATUS_IO_ERROR);
  CHECK(MissingWords(dsv4mx_last_error(), "not a regular file") == "");
  CHECK(save("/dev/null") == DSV4MX_STATUS_IO_ERROR);
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK(FilesIn(folder) == 0);
  const std::string longest = folder / std::string(255, 'n').c_str();
  REQUIRE_OK(save(longest.c_str()));
  REQUIRE_OK(save(longest.c_str()));
  CHECK(FilesIn(folder) == 1);
  CHECK(save((folder / std::string(256, 'n').c_str()).c_str()) == DSV4MX_STATUS_IO_ERROR);
  CHECK(FilesIn(folder) == 1);
}

}  // namespace
}  // namespace dsv4mx::test
