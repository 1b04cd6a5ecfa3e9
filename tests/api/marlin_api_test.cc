// Marlin form through the ABI: golden hashes, export and import give the same layer, paddings and what they contain,
// parts of a layer, and what is refused.
#include <algorithm>
#include <cstring>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/sha256.h"

namespace dsv4mx::test {
namespace {

// Tensors of a Marlin form with guards around each; `count` experts at the given paddings.
struct MarlinBuffers {
  MarlinBuffers(int64_t count, int64_t h, int64_t i, int64_t bias_bytes, Edge edge = Edge::kEnd)
      : w13(nullptr, static_cast<size_t>(count * h * i), 1, edge),
        w13_scale(nullptr, static_cast<size_t>(count * h / 32 * 2 * i), 1, edge),
        w13_bias(nullptr, static_cast<size_t>(count * 2 * i * bias_bytes), 1, edge),
        w2(nullptr, static_cast<size_t>(count * h * i / 2), 1, edge),
        w2_scale(nullptr, static_cast<size_t>(count * i / 32 * h), 1, edge),
        w2_bias(nullptr, static_cast<size_t>(count * h * bias_bytes), 1, edge) {
    m.hidden_padded = static_cast<int32_t>(h);
    m.intermediate_padded = static_cast<int32_t>(i);
    m.w13 = w13.data();
    m.w13_scale = w13_scale.data();
    m.w2 = w2.data();
    m.w2_scale = w2_scale.data();
    if (bias_bytes != 0) m.w13_bias = w13_bias.data(), m.w2_bias = w2_bias.data();
    if (bias_bytes == 4) m.bias_dtype = DSV4MX_DTYPE_F32;
  }
  std::string Damage() const {
    std::string all;
    for (const Guarded* g : {&w13, &w13_scale, &w13_bias, &w2, &w2_scale, &w2_bias})
      all += g->Damage();
    return all;
  }
  Guarded w13, w13_scale, w13_bias, w2, w2_scale, w2_bias;
  dsv4mx_marlin m = DSV4MX_MARLIN_INIT;
};

std::vector<uint8_t> Xorshift(uint32_t x, size_t n) {
  std::vector<uint8_t> out(n);
  for (uint8_t& b : out) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    b = static_cast<uint8_t>(x);
  }
  return out;
}

std::string Hash(const Guarded& g) {
  const std::vector<uint8_t> bytes = g.Read();
  return Sha256(bytes.data(), bytes.size());
}

TEST_CASE("[A11][A27] Marlin export of the padded golden layer: four published hashes",
          "[marlin]") {
  Case c = MakeCase("h=128 i=96 e=1 k=1 m=1");
  ExpertData& e = *c.experts[0];
  const auto fill = [](uint32_t seed, bool scales, std::vector<uint8_t>* a,
                       std::vector<uint8_t>* b) {
    std::vector<uint8_t> bytes = Xorshift(seed, a->size() + (b != nullptr ? b->size() : 0));
    if (scales)
      std::for_each(bytes.begin(), bytes.end(),
                    [](uint8_t& v) { v = static_cast<uint8_t>(v % 20 + 110); });
    std::copy_n(bytes.begin(), a->size(), a->begin());
    if (b != nullptr)
      std::copy_n(bytes.begin() + static_cast<int64_t>(a->size()), b->size(), b->begin());
  };
  fill(31, false, &e.codes[kGate], &e.codes[kUp]);
  fill(32, true, &e.scales[kGate], &e.scales[kUp]);
  fill(33, false, &e.codes[kDown], nullptr);
  fill(34, true, &e.scales[kDown], nullptr);
  const Runner run(c);
  dsv4mx_marlin standard = DSV4MX_MARLIN_INIT;
  REQUIRE_OK(dsv4mx_layer_query_marlin(run.layer(), &standard));
  CHECK((standard.hidden_padded == 128 && standard.intermediate_padded == 128));
  const MarlinBuffers b(1, 128, 128, 0);
  REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &b.m, nullptr, nullptr));
  CHECK(b.Damage() == "");
  CHECK(Hash(b.w13) == "eaa2cba619101810f7091c99be9c1d87d4ac9ecd92f4037016184fd79e0f8b4e");
  CHECK(Hash(b.w13_scale) == "d25bcfc7fad04a458da369b44047621835dee736686cab4a03cf8313106f546e");
  CHECK(Hash(b.w2) == "9edfd180e19789e4ca5fa7921b3a07e34a72aa35b90f1d6ecf0fc082abbad99a");
  CHECK(Hash(b.w2_scale) == "eb5c2dd4838d60c869e3e81cc35158d48e258dbe53d3bafd55b695dcca58b6d1");
}

TEST_CASE(
    "the default paddings are SGLang's: I to 64 when H is a multiple of 128, else to 128; H to 64",
    "[marlin]") {
  const struct {
    int h, i, h_padded, i_padded;
  } cases[] = {{128, 96, 128, 128},   {128, 32, 128, 64},       {64, 96, 64, 128},
               {96, 32, 128, 64},     {2880, 2880, 2880, 2944}, {5120, 288, 5120, 320},
               {4096, 256, 4096, 256}};
  for (const auto& c : cases) {
    const LayerPtr layer = MakeLayer(
        CpuContext(),
        DescOf(MakeCase(Parse("e=1 k=1 m=0 h=" + std::to_string(c.h) + " i=" + std::to_string(c.i)),
                        false)));
    dsv4mx_marlin m = DSV4MX_MARLIN_INIT;
    m.expert_first = 7;
    m.bias_dtype = 3;
    REQUIRE_OK(dsv4mx_layer_query_marlin(layer.get(), &m));
    INFO(c.h << " " << c.i);
    CHECK(m.hidden_padded == c.h_padded);
    if (c.h != 96) CHECK(m.intermediate_padded == c.i_padded);
    CHECK((m.expert_first == 7 && m.bias_dtype == 3 && m.w13 == nullptr));
  }
}

TEST_CASE("[A3][A27] export, import, apply: the same bits for every order, bias and padding",
          "[marlin]") {
  const struct {
    const char* problem;
    int h, i;  // 0 = default
  } cases[] = {{"h=128 i=64 e=3 k=2 m=5", 0, 0},
               {"h=128 i=96 e=3 k=2 m=5 order=interleaved clamp=10", 0, 0},
               {"h=192 i=160 e=2 k=2 m=4 order=up_gate bias=bf16 act=gptoss", 0, 0},
               {"h=96 i=96 e=2 k=2 m=4 nibble=high", 0, 0},
               {"h=128 i=96 e=2 k=1 m=3 bias=f32", 256, 256},
               {"h=2880 i=96 e=1 k=1 m=2", 3072, 128},
               {"h=128 i=288 e=2 k=2 m=3", 128, 384},
               {"h=64 i=32 e=2 k=2 m=3 scales=0..254", 0, 0}};
  for (const auto& t : cases) {
    const Case c = MakeCase(t.problem);
    INFO(t.problem << " padded " << t.h << " " << t.i);
    const Runner run(c);
    const Output want = run.Apply();
    dsv4mx_marlin sizes = DSV4MX_MARLIN_INIT;
    REQUIRE_OK(dsv4mx_layer_query_marlin(run.layer(), &sizes));
    const int64_t h = t.h == 0 ? sizes.hidden_padded : t.h,
                  i = t.i == 0 ? sizes.intermediate_padded : t.i;
    const int64_t bias = c.p.w13_bias == 0 ? 0 : c.p.w13_bias == DSV4MX_DTYPE_F32 ? 4 : 2;
    for (const Edge edge : {Edge::kStart, Edge::kEnd}) {
      const MarlinBuffers b(c.p.experts, h, i, bias, edge);
      dsv4mx_marlin m = b.m;
      if (t.h == 0) m.hidden_padded = m.intermediate_padded = 0;  // the default by default
      REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &m, nullptr, nullptr));
      REQUIRE(b.Damage() == "");
      const WeightsPtr w = MakeWeights(run.layer());
      REQUIRE_OK(dsv4mx_weights_import_marlin(w.get(), &m, nullptr, nullptr));
      REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
      CHECK(CheckSame(want, ApplyGuarded(run.context(), run.layer(), w.get(), c.p, c.in)) == "");
      // And out again, byte for byte.
      const MarlinBuffers again(c.p.experts, h, i, bias, edge);
      dsv4mx_marlin m2 = again.m;
      REQUIRE_OK(dsv4mx_weights_export_marlin(w.get(), &m2, nullptr, nullptr));
      CHECK(b.w13.Read() == again.w13.Read());
      CHECK(b.w2.Read() == again.w2.Read());
      CHECK(b.w13_scale.Read() == again.w13_scale.Read());
      CHECK(b.w2_scale.Read() == again.w2_scale.Read());
      if (bias != 0)
        CHECK((b.w13_bias.Read() == again.w13_bias.Read() &&
               b.w2_bias.Read() == again.w2_bias.Read()));
    }
  }
}

TEST_CASE("[A11] import ignores what the padding contains, NaN scale bytes included", "[marlin]") {
  const Case c = MakeCase("h=96 i=96 e=2 k=2 m=5 order=gate_up bias=bf16");
  const Runner run(c);
  const Output want = run.Apply();
  const int64_t h = 128, i = 192;
  const MarlinBuffers zero(2, h, i, 2), ones(2, h, i, 2);
  REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &zero.m, nullptr, nullptr));
  // The layer with every code, scale and bias changed, padded alike, tells which bits are padding: those equal in both.
  Case inverse = c;
  for (size_t e = 0; e < 2; ++e) {
    inverse.experts[e] = std::make_shared<ExpertData>(*c.experts[e]);
    for (int m = 0; m < 3; ++m) {
      for (uint8_t& b : inverse.experts[e]->codes[m]) b = static_cast<uint8_t>(~b);
      for (uint8_t& b : inverse.experts[e]->scales[m]) b ^= 1;
      for (float& b : inverse.experts[e]->bias[m]) b = b == 0 ? 1.0f : -b;
    }
  }
  REQUIRE_OK(dsv4mx_weights_export_marlin(Runner(inverse).weights(), &ones.m, nullptr, nullptr));
  size_t garbage = 0;
  const auto soil = [&](const Guarded& to, const Guarded& other, size_t unit, uint8_t with) {
    std::vector<uint8_t> a = to.Read();
    const std::vector<uint8_t> b = other.Read();
    for (size_t at = 0; at < a.size(); at += unit) {
      uint8_t differ = 0;
      for (size_t n = 0; n < unit; ++n) differ |= a[at + n] ^ b[at + n];
      if (unit == 1 && with == 0x5A) {  // codes: nibble by nibble
        if ((differ & 0x0F) == 0) a[at] = static_cast<uint8_t>(a[at] | (with & 0x0F)), ++garbage;
        if ((differ & 0xF0) == 0) a[at] = static_cast<uint8_t>(a[at] | (with & 0xF0)), ++garbage;
      } else if (differ == 0) {
        for (size_t n = 0; n < unit; ++n) a[at + n] = with;
        ++garbage;
      }
    }
    std::memcpy(to.data(), a.data(), a.size());
  };
  soil(zero.w13, ones.w13, 1, 0x5A);
  soil(zero.w2, ones.w2, 1, 0x5A);
  CHECK(garbage == static_cast<size_t>(2 * 3 * (h * i - 96 * 96)));
  soil(zero.w13_scale, ones.w13_scale, 1, 0xFF);
  soil(zero.w2_scale, ones.w2_scale, 1, 0xFF);
  soil(zero.w13_bias, ones.w13_bias, 2, 0xFF);
  soil(zero.w2_bias, ones.w2_bias, 2, 0xFF);
  const WeightsPtr w = MakeWeights(run.layer());
  REQUIRE_OK(dsv4mx_weights_import_marlin(w.get(), &zero.m, nullptr, nullptr));
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
  CHECK(CheckSame(want, ApplyGuarded(run.context(), run.layer(), w.get(), c.p, c.in)) == "");
}

TEST_CASE("Marlin: parts of a layer, tensor by tensor and expert by expert, mixed with set",
          "[marlin]") {
  const Case c = MakeCase("h=128 i=64 e=4 k=2 m=6");
  const Runner run(c);
  const Output want = run.Apply();
  const MarlinBuffers all(4, 128, 64, 0), part(2, 128, 64, 0);
  REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &all.m, nullptr, nullptr));
  dsv4mx_marlin middle = part.m;
  middle.expert_first = 1;
  middle.expert_count = 2;
  REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &middle, nullptr, nullptr));
  const std::vector<uint8_t> whole = all.w2.Read(), piece = part.w2.Read();
  CHECK(std::equal(piece.begin(), piece.end(),
                   whole.begin() + static_cast<int64_t>(piece.size() / 2)));

  const WeightsPtr w = MakeWeights(run.layer());
  for (const int32_t e : {0, 3}) SetExpert(w.get(), c.p, e, *c.experts[static_cast<size_t>(e)]);
  dsv4mx_marlin codes = middle, scales = middle;
  codes.w13_scale = codes.w2_scale = nullptr;
  scales.w13 = scales.w2 = nullptr;
  REQUIRE_OK(dsv4mx_weights_import_marlin(w.get(), &codes, nullptr, nullptr));
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_NOT_FOUND,
                  "scale,expert 1");
  REQUIRE_OK(dsv4mx_weights_import_marlin(w.get(), &scales, nullptr, nullptr));
  REQUIRE_OK(dsv4mx_weights_prepare(w.get(), nullptr, nullptr));
  CHECK(CheckSame(want, ApplyGuarded(run.context(), run.layer(), w.get(), c.p, c.in)) == "");
}

TEST_CASE("Marlin: paddings, ranges, types and byte 255 that are refused", "[marlin]") {
  const Case c = MakeCase("h=128 i=96 e=3 k=2 m=1");
  const Runner run(c);
  const MarlinBuffers b(3, 128, 128, 0);
  REQUIRE_OK(dsv4mx_weights_export_marlin(run.weights(), &b.m, nullptr, nullptr));
  const struct {
    const char* words;
    void (*change)(dsv4mx_marlin&);
  } cases[] = {
      {"hidden_padded,64", [](dsv4mx_marlin& m) { m.hidden_padded = 64; }},
      {"hidden_padded,160", [](dsv4mx_marlin& m) { m.hidden_padded = 160; }},
      {"intermediate_padded,64", [](dsv4mx_marlin& m) { m.intermediate_padded = 64; }},
      {"intermediate_padded,100", [](dsv4mx_marlin& m) { m.intermediate_padded = 100; }},
      {"intermediate_padded,-32", [](dsv4mx_marlin& m) { m.intermediate_padded = -32; }},
      {"expert_first,3", [](dsv4mx_marlin& m) { m.expert_first = 3; }},
      {"expert_first,-1", [](dsv4mx_marlin& m) { m.expert_first = -1; }},
      {"expert_count,4", [](dsv4mx_marlin& m) { m.expert_count = 4; }},
      {"expert_count,-2", [](dsv4mx_marlin& m) { m.expert_count = -2; }},
      {"memory,5", [](dsv4mx_marlin& m) { m.memory = 5; }},
      {"bias", [](dsv4mx_marlin& m) { m.w13_bias = m.w13; }},
  };
  const WeightsPtr w = MakeWeights(run.layer());
  for (const auto& bad : cases) {
    dsv4mx_marlin m = b.m;
    bad.change(m);
    REQUIRE_REFUSED(dsv4mx_weights_import_marlin(w.get(), &m, nullptr, nullptr),
                    DSV4MX_STATUS_INVALID_ARGUMENT, bad.words);
    REQUIRE_REFUSED(dsv4mx_weights_export_marlin(run.weights(), &m, nullptr, nullptr),
                    DSV4MX_STATUS_INVALID_ARGUMENT, bad.words);
  }
  dsv4mx_marlin none = DSV4MX_MARLIN_INIT;
  REQUIRE_REFUSED(dsv4mx_weights_import_marlin(w.get(), &none, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "tensor");
  b.w2_scale.data()[2 * (128 / 32) * 128] = 255;  // expert 2, group 0, position 0 = row 0
  REQUIRE_REFUSED(dsv4mx_weights_import_marlin(w.get(), &b.m, nullptr, nullptr),
                  DSV4MX_STATUS_INVALID_SCALE, "expert 2,w2,row 0,group 0,255");
  REQUIRE_REFUSED(dsv4mx_weights_prepare(w.get(), nullptr, nullptr), DSV4MX_STATUS_NOT_FOUND,
                  "expert");
}

}  // namespace
}  // namespace dsv4mx::test
