// Setting tensors: names and which of them wins, shapes, dtypes, strides, pointers of any alignment, and what is missing.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <sstream>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

const char* const kLayer = "h=96 i=64 e=3 k=2 m=5";

struct Fixture {  // a layer with empty weights
  explicit Fixture(const std::string& text)
      : c(MakeCase(text)),
        layer(MakeLayer(ContextOf(c.p), DescOf(c))),
        weights(MakeWeights(layer.get())) {}
  Output Finish() {
    Must(dsv4mx_weights_prepare(weights.get(), nullptr, nullptr), "prepare");
    return ApplyGuarded(ContextOf(c.p), layer.get(), weights.get(), c.p, c.in);
  }
  dsv4mx_weights_info info() const {
    dsv4mx_weights_info i{};
    i.struct_size = sizeof i;
    Must(dsv4mx_weights_query(weights.get(), &i), "weights_query");
    return i;
  }
  Case c;
  LayerPtr layer;
  WeightsPtr weights;
};

std::vector<NamedTensor> AllTensors(const Case& c) {
  std::vector<NamedTensor> all;
  for (int32_t e = 0; e < c.p.LocalExperts(); ++e) {
    for (NamedTensor& t : TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)]))
      all.push_back(std::move(t));
  }
  return all;
}

dsv4mx_status Set(dsv4mx_weights* w, const std::string& name, int32_t expert,
                  const dsv4mx_tensor& t) {
  return dsv4mx_weights_set(w, name.c_str(), expert, &t, nullptr, nullptr);
}

// The same tensor of all experts as one [E, ...].
NamedTensor Stack(const Case& c, size_t which) {
  NamedTensor all;
  for (int32_t e = 0; e < c.p.LocalExperts(); ++e) {
    const NamedTensor one = TensorsOf(c.p, e, *c.experts[static_cast<size_t>(e)])[which];
    if (e == 0) all = one, all.shape.insert(all.shape.begin(), c.p.LocalExperts());
    if (e > 0) all.bytes.insert(all.bytes.end(), one.bytes.begin(), one.bytes.end());
  }
  all.expert = -1;
  return all;
}

TEST_CASE("tensors may be set in any order, whole or per expert", "[set]") {
  for (const char* order : {"unset", "gate_up", "interleaved"}) {
    const std::string text = std::string(kLayer) + " order=" + order +
                             (std::string(order) == "unset" ? "" : " bias=1 act=gptoss");
    Fixture forward(text), backward(text), whole(text);
    const std::vector<NamedTensor> all = AllTensors(forward.c);
    for (size_t i = 0; i < all.size(); ++i) {
      REQUIRE_OK(Set(forward.weights.get(), all[i].name, all[i].expert, all[i].View()));
      const NamedTensor& last = all[all.size() - 1 - i];
      REQUIRE_OK(Set(backward.weights.get(), last.name, last.expert, last.View()));
    }
    for (size_t which = 0; which < all.size() / 3; ++which) {
      const NamedTensor t = Stack(whole.c, which);
      REQUIRE_OK(Set(whole.weights.get(), t.name, -1, t.View()));
    }
    const Output y = forward.Finish();
    CHECK(CheckSame(y, backward.Finish()) == "");
    CHECK(CheckSame(y, whole.Finish()) == "");
    CHECK(CheckSame(y, Runner(forward.c).Apply()) == "");
  }
}

TEST_CASE("[A6] each tensor left out in turn is refused by name, with how many are missing",
          "[set]") {
  for (const char* order : {"unset", "up_gate"}) {
    const std::string text = std::string(kLayer) + " order=" + order +
                             (std::string(order) == "unset" ? "" : " bias=f32 act=gptoss");
    const size_t count = AllTensors(MakeCase(text)).size();
    for (size_t leave = 0; leave < count; ++leave) {
      Fixture b(text);
      const std::vector<NamedTensor> all = AllTensors(b.c);
      for (size_t i = 0; i < count; ++i) {
        if (i != leave) REQUIRE_OK(Set(b.weights.get(), all[i].name, all[i].expert, all[i].View()));
      }
      CHECK(b.info().tensors_missing >= 1);
      CHECK(b.info().tensors_missing <= 2);  // a fused one is a gate and an up
      // The text names the tensor in one of its spellings, and the expert.
      const std::string word =
          all[leave].name.substr(0, 2) == "w1" ? "w1" : all[leave].name.substr(0, 2);
      REQUIRE_REFUSED(dsv4mx_weights_prepare(b.weights.get(), nullptr, nullptr),
                      DSV4MX_STATUS_NOT_FOUND,
                      word + ",expert " + std::to_string(all[leave].expert));
      // What was missing can still come.
      REQUIRE_OK(Set(b.weights.get(), all[leave].name, all[leave].expert, all[leave].View()));
      CHECK(b.info().tensors_missing == 0);
      REQUIRE_OK(dsv4mx_weights_prepare(b.weights.get(), nullptr, nullptr));
    }
  }
}

TEST_CASE("names: every spelling of the header's table is the same tensor", "[set]") {
  const Output want = Runner(MakeCase(kLayer)).Apply();
  const char* const weight_names[3][2] = {{"w1.weight", "gate_proj.weight"},
                                          {"w3.weight", "up_proj.weight"},
                                          {"w2.weight", "down_proj.weight"}};
  const char* const scale_ends[3][2] = {
      {"w1", "gate_proj"}, {"w3", "up_proj"}, {"w2", "down_proj"}};
  for (const char* prefix : {"", "layers.3.ffn.", "model.layers.60.mlp.", "mtp.0.ffn.experts."}) {
    for (int spelling = 0; spelling < 2; ++spelling) {
      for (const char* scale : {".scale", ".weight_scale", ".weight_scale_inv"}) {
        Fixture b(kLayer);
        for (int32_t e = 0; e < 3; ++e) {
          const std::vector<NamedTensor> t =
              TensorsOf(b.c.p, e, *b.c.experts[static_cast<size_t>(e)]);
          const std::string start =
              std::string(prefix) + (std::string(prefix).find("experts.") != std::string::npos
                                         ? std::to_string(e) + "."
                                         : "");
          for (int m = 0; m < 3; ++m) {  // TensorsOf gives w1, w3, w2
            REQUIRE_OK(Set(b.weights.get(), start + weight_names[m][spelling], e,
                           t[static_cast<size_t>(2 * m)].View()));
            REQUIRE_OK(Set(b.weights.get(), start + scale_ends[m][spelling] + scale, e,
                           t[static_cast<size_t>(2 * m + 1)].View()));
          }
        }
        INFO(prefix << " " << spelling << " " << scale);
        CHECK(CheckSame(want, b.Finish()) == "");
      }
    }
  }
  const std::string fused = std::string(kLayer) + " order=gate_up bias=1";
  const Output want13 = Runner(MakeCase(fused)).Apply();
  for (const char* end :
       {"w13_weight_scale w2_weight_scale w13_bias w2_bias",
        "w13_weight_scale_inv w2_weight_scale_inv w13_weight_bias w2_weight_bias"}) {
    Fixture b(fused);
    std::istringstream in(end);
    std::string s13, s2, b13, b2;
    in >> s13 >> s2 >> b13 >> b2;
    const std::string names[] = {"w13_weight", s13, "w2_weight", s2, b13, b2};
    for (size_t i = 0; i < 6; ++i) {
      const NamedTensor t = Stack(b.c, i);
      REQUIRE_OK(Set(b.weights.get(), "model.layers.0.mlp.experts." + names[i], -1, t.View()));
    }
    CHECK(CheckSame(want13, b.Finish()) == "");
  }
}

TEST_CASE(
    "[J] parts of different origin never meet in one matrix: the later source replaces it whole",
    "[set]") {
  const Output want = Runner(MakeCase(kLayer)).Apply();
  const Case other = MakeCase(std::string(kLayer) + " seed=77");
  // Every pair of sources of gate: codes of the one, then codes of the other.
  const char* const sources[][2] = {{"w1.weight", "w1.scale"},
                                    {"gate_proj.weight", "gate_proj.weight_scale"}};
  for (const int first : {0, 1}) {
    Fixture b(kLayer);
    for (int32_t e = 0; e < 3; ++e) {
      SetExpert(b.weights.get(), b.c.p, e, *b.c.experts[static_cast<size_t>(e)]);
      const std::vector<NamedTensor> wrong =
          TensorsOf(other.p, e, *other.experts[static_cast<size_t>(e)]);
      const std::vector<NamedTensor> right =
          TensorsOf(b.c.p, e, *b.c.experts[static_cast<size_t>(e)]);
      const auto& [codes, scales] = sources[first];
      const auto& [codes2, scales2] = sources[1 - first];
      REQUIRE_OK(Set(b.weights.get(), codes, e, wrong[0].View()));
      REQUIRE_OK(Set(b.weights.get(), scales, e, wrong[1].View()));
      REQUIRE_OK(Set(b.weights.get(), codes2, e, right[0].View()));
      if (e == 1) {  // the scales of the first source no longer count
        REQUIRE_REFUSED(dsv4mx_weights_prepare(b.weights.get(), nullptr, nullptr),
                        DSV4MX_STATUS_NOT_FOUND, "scale,expert 1");
      }
      REQUIRE_OK(Set(b.weights.get(), scales2, e, right[1].View()));
    }
    CHECK(CheckSame(want, b.Finish()) == "");
  }
  // A tensor that is refused takes nothing from another source.
  Fixture b(std::string(kLayer) + " order=gate_up");
  for (int32_t e = 0; e < 3; ++e) {
    SetExpert(b.weights.get(), b.c.p, e, *b.c.experts[static_cast<size_t>(e)]);
    const NamedTensor short_of_rows =
        TensorsOf(other.p, e, *other.experts[static_cast<size_t>(e)])[5];
    CHECK(Set(b.weights.get(), "w1.weight", e, short_of_rows.View()) ==
          DSV4MX_STATUS_INVALID_TENSOR);
  }
  CHECK(CheckSame(want, b.Finish()) == "");
}

TEST_CASE("[J] an import, and a set after it: codes and scales are of one source", "[set]") {
  const Case c = MakeCase("h=64 i=64 e=2 k=2 m=4 order=gate_up");
  const Runner run(c);
  dsv4mx_marlin m = DSV4MX_MARLIN_INIT;
  REQUIRE_OK(dsv4mx_layer_query_marlin(run.layer(), &m));
  const auto h = static_cast<size_t>(m.hidden_padded),
             i = static_cast<size_t>(m.intermediate_padded);
  std::vector<uint8_t> w13(2 * i * h), w13_scale(2 * 2 * i * h / 32), w2(i * h),
      w2_scale(2 * i * h / 32);
  m.w13 = w13.data(), m.w13_scale = w13_scale.data(), m.w2 = w2.data();
  m.w2_scale = w2_scale.data();
  REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &m, nullptr, nullptr));
  const WeightsPtr w = MakeWeights(run.layer());
  REQUIRE_OK(dsv4mx_weights_import_marlin(w.get(), &m, nullptr, nullptr));
  const std::vector<NamedTensor> tensors = TensorsOf(c.p, 0, *c.experts[0]);
  REQUIRE_OK(Set(w.get(), "w13_weight", 0, tensors[0].View()));
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_NOT_FOUND,
                  "scale,expert 0");
  // Either the other half of the new source, or the import again.
  m.w2 = m.w2_scale = nullptr;
  REQUIRE_OK(dsv4mx_weights_import_marlin(w.get(), &m, nullptr, nullptr));
  REQUIRE_OK(Set(w.get(), "w2_weight", 1, TensorsOf(c.p, 1, *c.experts[1])[2].View()));
  REQUIRE_OK(Set(w.get(), "w2_weight_scale", 1, TensorsOf(c.p, 1, *c.experts[1])[3].View()));
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
  CHECK(CheckSame(run.Apply(), ApplyGuarded(CpuContext(), run.layer(), w.get(), c.p, c.in)) == "");
}

TEST_CASE("setting a tensor again under the same name replaces it", "[set]") {
  Fixture b(kLayer);
  const Case other = MakeCase(std::string(kLayer) + " seed=77");
  for (const Case* c : {&other, const_cast<const Case*>(&b.c)}) {
    for (int32_t e = 0; e < 3; ++e)
      SetExpert(b.weights.get(), c->p, e, *c->experts[static_cast<size_t>(e)]);
  }
  CHECK(CheckSame(Runner(MakeCase(kLayer)).Apply(), b.Finish()) == "");
}

TEST_CASE(
    "names that are none are refused with NOT_FOUND; foreign experts are accepted and ignored",
    "[set]") {
  Fixture b(kLayer);
  const NamedTensor t = AllTensors(b.c)[0];
  for (const char* name : {"w4.weight", "xw1.weight", "w1.weights", "w1", "",
                           "layers.0.attn.wq.weight", "w13.weight", "shared_experts.w1.weight"}) {
    INFO(name);
    REQUIRE_REFUSED(Set(b.weights.get(), name, 0, t.View()), DSV4MX_STATUS_NOT_FOUND, "name");
  }
  REQUIRE_OK(Set(b.weights.get(), "experts.3.w1.weight", -1, t.View()));
  REQUIRE_OK(Set(b.weights.get(), "experts.123456789012345.w1.weight", -1, t.View()));
  CHECK(b.info().tensors_missing == 18);
  REQUIRE_REFUSED(Set(b.weights.get(), "experts.1.w1.weight", 2, t.View()),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "expert,1,2");
  for (const int32_t e : {3, -2, 1000000}) {
    REQUIRE_REFUSED(Set(b.weights.get(), "w1.weight", e, t.View()), DSV4MX_STATUS_INVALID_ARGUMENT,
                    "expert,w1.weight," + std::to_string(e));
  }
}

TEST_CASE(
    "[F7] wrong rank, dtype, shape, stride, data and memory are refused with what, got, wanted",
    "[set]") {
  Fixture b(kLayer);
  const NamedTensor codes = AllTensors(b.c)[0],
                    scales = AllTensors(b.c)[1];  // [64, 48] and [64, 3]
  const struct {
    const char* words;
    const NamedTensor* tensor;
    void (*change)(dsv4mx_tensor&);
    dsv4mx_status code = DSV4MX_STATUS_INVALID_TENSOR;
  } cases[] = {
      {"w1.weight,[64, 47],[64, 48]", &codes, [](dsv4mx_tensor& t) { t.shape[1] = 47; }},
      {"w1.weight,[65, 48],[64, 48]", &codes, [](dsv4mx_tensor& t) { t.shape[0] = 65; }},
      {"w1.weight,[48, 64],[64, 48]", &codes,
       [](dsv4mx_tensor& t) { t.shape[0] = 48, t.shape[1] = 64; }},
      {"w1.weight,[0, 48]", &codes, [](dsv4mx_tensor& t) { t.shape[0] = 0; }},
      {"w1.weight,[-64, 48]", &codes, [](dsv4mx_tensor& t) { t.shape[0] = -64; }},
      {"w1.weight,[3072]", &codes, [](dsv4mx_tensor& t) { t.rank = 1, t.shape[0] = 3072; }},
      {"w1.weight,rank,0", &codes, [](dsv4mx_tensor& t) { t.rank = 0; }},
      {"w1.weight,rank,5", &codes, [](dsv4mx_tensor& t) { t.rank = 5; }},
      {"w1.weight,rank,-1", &codes, [](dsv4mx_tensor& t) { t.rank = -1; }},
      {"w1.weight,dtype,F32,I8", &codes, [](dsv4mx_tensor& t) { t.dtype = DSV4MX_DTYPE_F32; }},
      {"w1.weight,dtype,E4M3", &codes, [](dsv4mx_tensor& t) { t.dtype = DSV4MX_DTYPE_E4M3; }},
      {"w1.weight,dtype,99", &codes, [](dsv4mx_tensor& t) { t.dtype = 99; }},
      {"w1.weight,dtype,0", &codes, [](dsv4mx_tensor& t) { t.dtype = 0; }},
      {"w1.weight,stride,-48", &codes,
       [](dsv4mx_tensor& t) { t.stride[0] = -48, t.stride[1] = 1; }},
      {"w1.weight,stride", &codes,
       [](dsv4mx_tensor& t) { t.stride[0] = INT64_MAX / 8, t.stride[1] = 1; }},
      {"w1.weight,data,NULL", &codes, [](dsv4mx_tensor& t) { t.data = nullptr; }},
      {"w1.weight,memory,7", &codes, [](dsv4mx_tensor& t) { t.memory = 7; },
       DSV4MX_STATUS_INVALID_ARGUMENT},
      {"reserved,3", &codes, [](dsv4mx_tensor& t) { t.reserved = 3; },
       DSV4MX_STATUS_INVALID_ARGUMENT},
      {"w1.scale,[64, 4],[64, 3]", &scales, [](dsv4mx_tensor& t) { t.shape[1] = 4; }},
      {"w1.scale,dtype,E4M3,E8M0", &scales, [](dsv4mx_tensor& t) { t.dtype = DSV4MX_DTYPE_E4M3; }},
      {"w1.scale,dtype,F64", &scales, [](dsv4mx_tensor& t) { t.dtype = DSV4MX_DTYPE_F64; }},
  };
  for (const auto& bad : cases) {
    dsv4mx_tensor t = bad.tensor->View();
    bad.change(t);
    const dsv4mx_status status = Set(b.weights.get(), bad.tensor->name, 0, t);
    const std::string text = dsv4mx_last_error();
    INFO(bad.words << " <- " << text);
    CHECK(std::string(dsv4mx_status_name(status)) == dsv4mx_status_name(bad.code));
    CHECK(MissingWords(text, bad.words) == "");
    CHECK(b.info().tensors_missing == 18);
  }
}

TEST_CASE("a fused tensor needs an order, a bias needs a layer that has one", "[set]") {
  Fixture b(kLayer);
  const Case fused = MakeCase(std::string(kLayer) + " order=gate_up bias=1");
  const std::vector<NamedTensor> t = AllTensors(fused);
  REQUIRE_REFUSED(Set(b.weights.get(), t[0].name, 0, t[0].View()), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "w13_weight,order");
  REQUIRE_REFUSED(Set(b.weights.get(), t[5].name, 0, t[5].View()), DSV4MX_STATUS_INVALID_ARGUMENT,
                  "w2_bias,no");
}

TEST_CASE("packed values as E2M1 count values, I8 and U8 count bytes", "[set]") {
  const Output want = Runner(MakeCase(kLayer)).Apply();
  for (const dsv4mx_dtype dtype : {DSV4MX_DTYPE_I8, DSV4MX_DTYPE_U8, DSV4MX_DTYPE_E2M1}) {
    Fixture b(kLayer);
    for (NamedTensor t : AllTensors(b.c)) {
      if (t.dtype == DSV4MX_DTYPE_I8) {
        t.dtype = dtype;
        if (dtype == DSV4MX_DTYPE_E2M1) t.shape.back() *= 2;
      }
      REQUIRE_OK(Set(b.weights.get(), t.name, t.expert, t.View()));
    }
    CHECK(CheckSame(want, b.Finish()) == "");
  }
}

TEST_CASE("any strides: padded rows, transposed scales, every second byte, one expert of many",
          "[set]") {
  Fixture b(kLayer);
  std::vector<std::vector<uint8_t>> keep;
  size_t turn = 0;
  for (const NamedTensor& t : AllTensors(b.c)) {
    const int64_t rows = t.shape[0], cols = t.shape[1];
    dsv4mx_tensor view = t.View();
    std::vector<uint8_t> moved(static_cast<size_t>((rows + 1) * (cols + 7) * 3), 0xFF);
    const int64_t strides[3][2] = {{cols + 7, 1}, {1, rows}, {(cols + 3) * 2, 2}};
    const auto& s = strides[turn++ % 3];
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) {
        moved[static_cast<size_t>(r * s[0] + k * s[1])] =
            t.bytes[static_cast<size_t>(r * cols + k)];
      }
    }
    view.data = moved.data();
    view.stride[0] = s[0];
    view.stride[1] = s[1];
    keep.push_back(std::move(moved));
    view.data = keep.back().data();
    REQUIRE_OK(Set(b.weights.get(), t.name, t.expert, view));
  }
  CHECK(CheckSame(Runner(b.c).Apply(), b.Finish()) == "");
}

TEST_CASE(
    "[B10][A10] host pointers of any alignment, against a guard page, and poisoned afterwards",
    "[set]") {
  for (const char* layer :
       {kLayer, "h=96 i=160 e=2 k=2 m=4 order=interleaved bias=f32", "h=2880 i=96 e=1 k=1 m=2"}) {
    const Output want = Runner(MakeCase(layer)).Apply();
    for (const Edge edge : {Edge::kStart, Edge::kEnd}) {
      for (const size_t shift : {size_t{0}, size_t{1}, size_t{3}}) {
        if (edge == Edge::kStart && shift > 0) continue;
        Fixture b(layer);
        for (const NamedTensor& t : AllTensors(b.c)) {
          // The last byte of the tensor is the last byte before an unreadable page (shifted: the tail is unused).
          Guarded memory(nullptr, t.bytes.size() + shift, 1, edge);
          std::memcpy(memory.data(), t.bytes.data(), t.bytes.size());
          dsv4mx_tensor view = t.View();
          view.data = memory.data();
          REQUIRE_OK(Set(b.weights.get(), t.name, t.expert, view));
          memory.Fill(0xFF);  // [D2] never referenced again; the mapping goes too
        }
        INFO(layer);
        CHECK(CheckSame(want, b.Finish()) == "");
      }
    }
  }
}

TEST_CASE("device memory is host memory on a CPU context", "[set]") {
  Fixture b(kLayer);
  for (const NamedTensor& t : AllTensors(b.c)) {
    dsv4mx_tensor view = t.View();
    view.memory = DSV4MX_MEMORY_DEVICE;
    REQUIRE_OK(Set(b.weights.get(), t.name, t.expert, view));
  }
  CHECK(CheckSame(Runner(b.c).Apply(), b.Finish()) == "");
}

}  // namespace
}  // namespace dsv4mx::test
