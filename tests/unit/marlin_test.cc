// The Marlin form against golden hashes, and round trips through paddings and biases.
//
// tests/data/marlin-golden.json comes from two independent derivations of the layout and was
// compared with the CUDA repack kernel that SGLang runs; inputs are made again here from its seeds.
#include "lib/base/marlin.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/mxfp4/layout.h"
#include "lib/base/float_bits.h"
#include "tests/catch.h"
#include "tests/layer_spec.h"
#include "tests/random.h"
#include "tests/raw_expert.h"
#include "tests/sha256.h"

using namespace dsv4mx;
using namespace dsv4mx::test;

namespace {

std::vector<uint8_t> Xorshift(uint32_t seed, size_t n) {
  std::vector<uint8_t> out(n);
  for (uint8_t& byte : out) {
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    byte = static_cast<uint8_t>(seed);
  }
  return out;
}

std::vector<uint8_t> ScaleBytes(uint32_t seed, size_t n) {
  std::vector<uint8_t> out = Xorshift(seed, n);
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(byte % 20 + 110);
  return out;
}

template <class T>
std::string Hash(const std::vector<T>& v) {
  return Sha256(v.data(), v.size() * sizeof(T));
}

LayerSpec Spec(int32_t hidden, int32_t intermediate, dsv4mx_dtype bias = 0) {
  LayerSpec spec = SpecOf(hidden, intermediate);
  spec.w13_bias = spec.w2_bias = bias;
  return spec;
}

// One expert's Marlin tensors with guard bytes behind each.
struct Slab {
  static constexpr size_t kGuard = 64;
  std::vector<uint8_t> w13, w13_scale, w13_bias, w2, w2_scale, w2_bias;
  dsv4mx_marlin desc = DSV4MX_MARLIN_INIT;

  Slab(const LayerSpec& spec, int32_t hidden_padded, int32_t intermediate_padded, dsv4mx_dtype bias,
       uint8_t fill) {
    desc.hidden_padded = hidden_padded;
    desc.intermediate_padded = intermediate_padded;
    desc.bias_dtype = bias == 0 ? DSV4MX_DTYPE_BF16 : bias;
    REQUIRE(ResolveMarlin(spec, &desc).ok());
    const MarlinShape s{desc.hidden_padded, desc.intermediate_padded};
    const int64_t each = desc.bias_dtype == DSV4MX_DTYPE_F32 ? 4 : 2;
    desc.w13 = Make(&w13, s.W13Bytes(), fill);
    desc.w13_scale = Make(&w13_scale, s.W13ScaleBytes(), fill);
    desc.w2 = Make(&w2, s.W2Bytes(), fill);
    desc.w2_scale = Make(&w2_scale, s.W2ScaleBytes(), fill);
    if (bias != 0) {
      desc.w13_bias = Make(&w13_bias, s.Rows13() * each, fill);
      desc.w2_bias = Make(&w2_bias, s.hidden * each, fill);
    }
  }
  static void* Make(std::vector<uint8_t>* v, int64_t bytes, uint8_t fill) {
    v->assign(static_cast<size_t>(bytes) + kGuard, fill);
    return v->data();
  }
  // Checks the guard and cuts it off.
  static std::vector<uint8_t> Content(const std::vector<uint8_t>& v, uint8_t fill) {
    for (size_t i = v.size() - kGuard; i < v.size(); ++i) REQUIRE(v[i] == fill);
    return {v.begin(), v.end() - kGuard};
  }
};

nlohmann::json GoldenCases() {
  std::ifstream file("tests/data/marlin-golden.json");
  INFO("run the tests in the repository's root: tests/data/marlin-golden.json");
  REQUIRE(file.good());
  return nlohmann::json::parse(file)["cases"];
}

}  // namespace

TEST_CASE("marlin: golden codes, scales and biases by the index functions", "[unit]") {
  int weights = 0, scales = 0, biases = 0;
  const nlohmann::json cases = GoldenCases();
  for (const auto& c : cases) {
    const std::string kind = c["kind"];
    if (kind == "padded layer") continue;
    const int64_t n = c["N"];
    const uint32_t seed = c["seed"];
    INFO(c.dump());
    if (kind == "weights") {
      const int64_t k = c["K"];
      const auto in = Xorshift(seed, static_cast<size_t>(n * k / 2));
      CHECK(Hash(in) == c["in_sha256"]);
      std::vector<uint32_t> out(static_cast<size_t>(n * k / 8));
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t at = 0; at < k; ++at) {
          const uint32_t code =
              in[static_cast<size_t>(row * k / 2 + at / 2)] >> (4 * (at % 2)) & 15u;
          const MarlinPos pos = MarlinCode(n, row, at);
          out[static_cast<size_t>(pos.word)] |= code << (4 * pos.nibble);
        }
      }
      CHECK(Hash(out) == c["out_sha256"]);
      ++weights;
    } else if (kind == "scales") {
      const int64_t groups = c["groups"];
      const auto in = ScaleBytes(seed, static_cast<size_t>(n * groups));
      CHECK(Hash(in) == c["in_sha256"]);
      std::vector<uint8_t> out(in.size());
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t g = 0; g < groups; ++g) {
          out[static_cast<size_t>(MarlinScale(n, row, g))] =
              in[static_cast<size_t>(row * groups + g)];
        }
      }
      CHECK(Hash(out) == c["out_sha256"]);
      ++scales;
    } else {
      REQUIRE(kind == "bias");
      const auto in = Xorshift(seed, static_cast<size_t>(2 * n));
      CHECK(Hash(in) == c["in_sha256"]);
      std::vector<uint8_t> out(in.size());
      for (int64_t row = 0; row < n; ++row) {
        std::memcpy(out.data() + 2 * MarlinBias(row), in.data() + 2 * row, 2);
      }
      CHECK(Hash(out) == c["out_sha256"]);
      ++biases;
    }
  }
  CHECK(weights == 6);
  CHECK(scales == 4);
  CHECK(biases == 2);
}

TEST_CASE("marlin: the inverse index function inverts", "[unit]") {
  for (const int64_t rows : {64, 192, 576}) {
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t k = 0; k < 64; ++k) {
        const MarlinPos pos = MarlinCode(rows, n, k);
        int64_t n2, k2;
        MarlinCodeAt(rows, pos.word, pos.nibble, &n2, &k2);
        if (n2 != n || k2 != k) FAIL("rows " << rows << " n " << n << " k " << k);
      }
    }
  }
}

TEST_CASE("marlin: golden matrices through pack and unpack of an expert", "[unit]") {
  // N x K as w2 of a layer with hidden N and intermediate K: the same layout, whole expert code.
  const nlohmann::json cases = GoldenCases();
  int found = 0;
  for (const auto& c : cases) {
    if (c["kind"] != "weights") continue;
    ++found;
    const int32_t n = c["N"], k = c["K"];
    INFO(c.dump());
    const LayerSpec spec = Spec(n, k);
    RawExpert expert(spec);
    expert.codes(Matrix::kDown) = Xorshift(c["seed"], static_cast<size_t>(n) * k / 2);
    Slab slab(spec, n, k, 0, 0xAB);
    PackMarlin(spec, expert, slab.desc);
    CHECK(Hash(Slab::Content(slab.w2, 0xAB)) == c["out_sha256"]);
    RawExpert back(spec);
    REQUIRE(UnpackMarlin(spec, 0, slab.desc, &back).ok());
    CHECK(back.codes(Matrix::kDown) == expert.codes(Matrix::kDown));
  }
  CHECK(found == 6);
}

TEST_CASE("marlin: golden padded layer", "[unit]") {
  int found = 0;
  const nlohmann::json cases = GoldenCases();
  for (const auto& c : cases) {
    if (c["kind"] != "padded layer") continue;
    ++found;
    const int32_t h = c["H"], i = c["I"];
    const LayerSpec spec = Spec(h, i);
    CHECK(DefaultMarlinShape(spec).hidden == h);
    CHECK(DefaultMarlinShape(spec).intermediate == c["I_padded"]);
    RawExpert expert(spec);
    const size_t half = static_cast<size_t>(i) * h / 2, half_s = static_cast<size_t>(i) * h / 32;
    const auto w13 = Xorshift(c["seeds"]["w13"], 2 * half),
               s13 = ScaleBytes(c["seeds"]["s13"], 2 * half_s);
    expert.codes(Matrix::kGate).assign(w13.begin(), w13.begin() + static_cast<long>(half));
    expert.codes(Matrix::kUp).assign(w13.begin() + static_cast<long>(half), w13.end());
    expert.scales(Matrix::kGate).assign(s13.begin(), s13.begin() + static_cast<long>(half_s));
    expert.scales(Matrix::kUp).assign(s13.begin() + static_cast<long>(half_s), s13.end());
    expert.codes(Matrix::kDown) = Xorshift(c["seeds"]["w2"], half);
    expert.scales(Matrix::kDown) = ScaleBytes(c["seeds"]["s2"], half_s);
    Slab slab(spec, 0, 0, 0, 0xAB);  // 0 = the default paddings
    PackMarlin(spec, expert, slab.desc);
    CHECK(Hash(Slab::Content(slab.w13, 0xAB)) == c["w13_sha256"]);
    CHECK(Hash(Slab::Content(slab.w13_scale, 0xAB)) == c["s13_sha256"]);
    CHECK(Hash(Slab::Content(slab.w2, 0xAB)) == c["w2_sha256"]);
    CHECK(Hash(Slab::Content(slab.w2_scale, 0xAB)) == c["s2_sha256"]);
  }
  CHECK(found == 1);
}

TEST_CASE("marlin: round trip with paddings and biases, what padding holds is ignored", "[unit]") {
  struct Case {
    int32_t h, i, h_padded, i_padded;
    dsv4mx_dtype bias;
  };
  const Case cases[] = {{64, 32, 0, 0, DSV4MX_DTYPE_BF16},
                        {96, 32, 0, 32, DSV4MX_DTYPE_F32},
                        {128, 96, 128, 96, 0},
                        {160, 288, 256, 320, DSV4MX_DTYPE_F32},
                        {2880, 96, 0, 0, DSV4MX_DTYPE_BF16},
                        {32, 160, 128, 256, DSV4MX_DTYPE_BF16}};
  uint64_t seed = 1;
  for (const Case& c : cases) {
    INFO("h " << c.h << " i " << c.i << " padded " << c.h_padded << " " << c.i_padded);
    const LayerSpec spec = Spec(c.h, c.i, c.bias);
    RawExpert expert(spec);
    Rng rng(seed++);
    for (const Matrix m : kMatrices) {
      rng.Bytes(expert.codes(m).data(), expert.codes(m).size());
      for (uint8_t& b : expert.scales(m)) b = static_cast<uint8_t>(rng.Below(255));
      for (float& b : expert.bias(m)) {
        b = static_cast<float>(rng.Normal());
        if (c.bias == DSV4MX_DTYPE_BF16) b = FloatFromBf16(Bf16FromFloat(b));
      }
    }
    Slab slab(spec, c.h_padded, c.i_padded, c.bias, 0xFF);
    PackMarlin(spec, expert, slab.desc);
    const MarlinShape shape{slab.desc.hidden_padded, slab.desc.intermediate_padded};

    // Every position is a value's or padding; padding is zero, and is then spoilt.
    int64_t padding = 0;
    for (int64_t n = 0; n < shape.Rows13(); ++n) {
      for (int64_t g = 0; g < shape.hidden / 32; ++g) {
        if (n % shape.intermediate < c.i && g < c.h / 32) continue;
        uint8_t& byte = slab.w13_scale[static_cast<size_t>(MarlinScale(shape.Rows13(), n, g))];
        CHECK(byte == 0);
        byte = 255;
        ++padding;
      }
      for (int64_t k = 0; k < shape.hidden; ++k) {
        if (n % shape.intermediate < c.i && k < c.h) continue;
        const MarlinPos pos = MarlinCode(shape.Rows13(), n, k);
        uint8_t& byte = slab.w13[static_cast<size_t>(4 * pos.word + pos.nibble / 2)];
        const int shift = 4 * (pos.nibble % 2);
        if ((byte >> shift & 15) != 0) FAIL("w13 padding at row " << n << " k " << k);
        byte = static_cast<uint8_t>(byte | 7 << shift);
      }
    }
    CHECK(padding == shape.Rows13() * shape.hidden / 32 - 2 * int64_t{c.i} * c.h / 32);
    for (int64_t n = 0; n < shape.hidden; ++n) {
      for (int64_t g = 0; g < shape.intermediate / 32; ++g) {
        if (n < c.h && g < c.i / 32) continue;
        uint8_t& byte = slab.w2_scale[static_cast<size_t>(MarlinScale(shape.hidden, n, g))];
        CHECK(byte == 0);
        byte = 255;
      }
    }

    RawExpert back(spec);
    REQUIRE(UnpackMarlin(spec, 0, slab.desc, &back).ok());
    for (const Matrix m : kMatrices) {
      CHECK(back.codes(m) == expert.codes(m));
      CHECK(back.scales(m) == expert.scales(m));
      if (c.bias != 0) CHECK(back.bias(m) == expert.bias(m));
    }
  }
}

TEST_CASE("marlin: a NaN scale is refused with its position before a row is written", "[unit]") {
  const LayerSpec spec = Spec(128, 64);
  RawExpert expert(spec);
  Slab slab(spec, 0, 0, 0, 0);
  PackMarlin(spec, expert, slab.desc);
  // Row 5 of up is row 64 + 5 of w13.
  slab.w13_scale[static_cast<size_t>(MarlinScale(128, 64 + 5, 3))] = 255;
  std::memset(slab.desc.w13, 0x11, 64);
  RawExpert back(spec);
  CHECK(UnpackMarlin(spec, 42, slab.desc, &back).code == DSV4MX_STATUS_INVALID_SCALE);
  CHECK(std::string(LastError()) ==
        "scale of expert 42, up (w3), row 5, group 3 is byte 255 (NaN), wanted 0..254");
  CHECK(back.codes(Matrix::kGate) == expert.codes(Matrix::kGate));
}

TEST_CASE("marlin: tensors that are not given are left out", "[unit]") {
  const LayerSpec spec = Spec(64, 64);
  RawExpert expert(spec), back(spec);
  Rng rng(3);
  for (const Matrix m : kMatrices) rng.Bytes(expert.codes(m).data(), expert.codes(m).size());
  Slab slab(spec, 0, 0, 0, 0);
  slab.desc.w13 = slab.desc.w13_scale = slab.desc.w2_scale = nullptr;
  PackMarlin(spec, expert, slab.desc);
  for (const uint8_t byte : slab.w13) REQUIRE(byte == 0);
  REQUIRE(UnpackMarlin(spec, 0, slab.desc, &back).ok());
  CHECK(back.codes(Matrix::kDown) == expert.codes(Matrix::kDown));
  for (const uint8_t byte : back.codes(Matrix::kGate)) REQUIRE(byte == 0);
}

TEST_CASE("marlin: paddings, ranges and biases that contradict the layer", "[unit]") {
  LayerSpec spec = Spec(96, 96);
  spec.experts = 4;
  const MarlinShape standard = DefaultMarlinShape(spec);
  CHECK(standard.hidden == 128);        // to 64
  CHECK(standard.intermediate == 128);  // to 128, since 96 is no multiple of 128
  CHECK(DefaultMarlinShape(Spec(4096, 288)).intermediate == 320);
  CHECK(DefaultMarlinShape(Spec(2880, 2880)).intermediate == 2944);
  CHECK(DefaultMarlinShape(Spec(7168, 192)).intermediate == 192);

  dsv4mx_marlin m = DSV4MX_MARLIN_INIT;
  m.expert_first = 1;
  REQUIRE(ResolveMarlin(spec, &m).ok());
  CHECK(m.expert_count == 3);
  CHECK(m.hidden_padded == 128);
  CHECK(m.bias_dtype == DSV4MX_DTYPE_BF16);
  const auto refused = [&](auto&& change, const char* words) {
    dsv4mx_marlin bad = DSV4MX_MARLIN_INIT;
    change(&bad);
    CHECK(ResolveMarlin(spec, &bad).code == DSV4MX_STATUS_INVALID_ARGUMENT);
    INFO(LastError());
    CHECK(std::string(LastError()).find(words) != std::string::npos);
  };
  refused([](auto* b) { b->hidden_padded = 96; },
          "hidden_padded is 96, wanted a multiple of 64 in 128");
  refused([](auto* b) { b->hidden_padded = 64; }, "hidden_padded is 64");
  refused([](auto* b) { b->hidden_padded = 1 << 30; }, "hidden_padded");
  refused([](auto* b) { b->intermediate_padded = 100; }, "intermediate_padded is 100");
  refused([](auto* b) { b->intermediate_padded = -96; }, "intermediate_padded is -96");
  refused([](auto* b) { b->expert_first = 4; }, "expert_first is 4, wanted 0..3");
  refused([](auto* b) { b->expert_first = 2, b->expert_count = 3; }, "expert_count is 3");
  refused([](auto* b) { b->expert_count = -1; }, "expert_count is -1");
  refused([](auto* b) { b->memory = 2; }, "memory is 2");
  refused([](auto* b) { b->bias_dtype = DSV4MX_DTYPE_F16; }, "bias_dtype");
  uint8_t byte = 0;
  refused([&](auto* b) { b->w13_bias = &byte; }, "no w13 bias");
  refused([&](auto* b) { b->w2_bias = &byte; }, "no w2 bias");
}
