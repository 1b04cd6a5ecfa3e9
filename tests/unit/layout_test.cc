// The sm90 layout: every code and scale has a place of its own inside its tile, for every length of
// K, and a whole expert survives packing and unpacking.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/mxfp4/words.h"
#include "lib/base/host_layout.h"
#include "tests/catch.h"
#include "tests/layer_spec.h"
#include "tests/random.h"
#include "tests/raw_expert.h"

using namespace dsv4mx;
using namespace dsv4mx::test;

namespace {

LayerSpec Spec(int32_t hidden, int32_t intermediate, dsv4mx_dtype bias = 0) {
  LayerSpec spec = SpecOf(hidden, intermediate);
  spec.w13_bias = spec.w2_bias = bias;
  return spec;
}

void Randomise(Rng* rng, RawExpert* expert) {
  for (const Matrix m : kMatrices) {
    rng->Bytes(expert->codes(m).data(), expert->codes(m).size());
    for (uint8_t& b : expert->scales(m)) b = static_cast<uint8_t>(rng->Below(255));
    for (float& b : expert->bias(m)) b = static_cast<float>(rng->Normal());
  }
}

}  // namespace

TEST_CASE("sm90: every bit of a tile belongs to one code or scale, for every K", "[unit]") {
  for (int64_t k = 32; k <= 1056; k += 32) {
    std::vector<uint8_t> used(static_cast<size_t>(Sm90TileBytes(k)), 0);
    const auto take = [&](int64_t byte, uint8_t bits) {
      if (byte < 0 || byte >= Sm90TileBytes(k)) FAIL("K " << k << " byte " << byte);
      if ((used[static_cast<size_t>(byte)] & bits) != 0) FAIL("K " << k << " shared byte " << byte);
      used[static_cast<size_t>(byte)] |= bits;
    };
    for (int row = 0; row < kSm90TileRows; ++row) {
      for (int64_t at = 0; at < k; ++at) {
        const Sm90Pos pos = Sm90Code(k, row, at);
        if (pos.byte % 4 != 0) FAIL("K " << k << " word at " << pos.byte);
        for (int bit = 0; bit < 3; ++bit) {
          const int b = pos.magnitude_bit + bit;
          take(pos.byte + b / 8, static_cast<uint8_t>(1 << b % 8));
        }
        take(pos.byte + pos.sign_bit / 8, static_cast<uint8_t>(1 << pos.sign_bit % 8));
      }
      for (int64_t at = 0; at < k; at += kGroupSize) {
        const int64_t byte = Sm90Scale(k, row, at);
        take(byte, 0xFF);
        for (int64_t in = at; in < at + kGroupSize; ++in) {
          if (Sm90Scale(k, row, in) != byte) FAIL("K " << k << ": a group has two scales");
        }
      }
    }
    CHECK(std::count(used.begin(), used.end(), 0xFF) == Sm90TileBytes(k));
  }
}

TEST_CASE("sm90: words and scale bytes know what they hold, for every K", "[unit]") {
  for (int64_t k = 32; k <= 1056; k += 32) {
    std::vector<int> seen(static_cast<size_t>(kSm90TileRows * k / 8), 0);
    for (int64_t word = 0; word < 8 * k; ++word) {
      int row;
      int64_t at;
      Sm90CodeAt(k, word, &row, &at);
      if (row < 0 || row >= kSm90TileRows || at < 0 || at + 8 > k || at % 8 != 0) {
        FAIL("K " << k << " word " << word << " row " << row << " k " << at);
      }
      ++seen[static_cast<size_t>(row * (k / 8) + at / 8)];
      // Words count over codes alone: the scales of earlier blocks stand between.
      const int64_t byte = Sm90Code(k, row, at).byte;
      if (byte != 4 * word + 2 * Sm90BlockOf(k, at).first) FAIL("K " << k << " word " << word);
      for (int j = 1; j < 8; ++j) {
        if (Sm90Code(k, row, at + j).byte != byte) FAIL("K " << k << " word " << word);
      }
    }
    for (int64_t index = 0; index < 2 * k; ++index) {
      int row;
      int64_t at;
      Sm90ScaleAt(k, index, &row, &at);
      const Sm90Block b = Sm90BlockOf(k, at);
      if (Sm90Scale(k, row, at) != index + 32 * (b.first + b.length)) {
        FAIL("K " << k << " scale " << index);
      }
    }
    CHECK(std::count(seen.begin(), seen.end(), 1) == kSm90TileRows * k / 8);
  }
}

TEST_CASE("sm90: a word is packed from raw codes as code by code", "[unit]") {
  Rng rng(7);
  for (int i = 0; i < 1000; ++i) {
    const auto raw = static_cast<uint32_t>(rng.Next());
    uint32_t word = 0;
    for (int j = 0; j < 8; ++j) word |= Sm90Encode(raw >> (4 * j) & 15u, Sm90Code(128, 9, 40 + j));
    CHECK(Sm90PackWord(raw) == word);
    CHECK(Sm90UnpackWord(word) == raw);
    CHECK(PackWord(raw) == word);
    CHECK(UnpackWord(word) == raw);
  }
}

TEST_CASE("sm90: encode and decode are inverse for all codes and places", "[unit]") {
  for (int64_t k = 0; k < 32; ++k) {
    const Sm90Pos pos = Sm90Code(32, 9, k);
    for (uint32_t code = 0; code < 16; ++code) {
      CHECK(Sm90Decode(Sm90Encode(code, pos), pos) == code);
      CHECK(Sm90Decode(~Sm90Encode(code, pos), pos) == (~code & 15u));
    }
  }
}

TEST_CASE("sm90: every row of w13 and w2 has its place, and gate and up stand eight apart",
          "[unit]") {
  for (int64_t intermediate = 32; intermediate <= 416; intermediate += 32) {
    std::vector<int> seen(static_cast<size_t>(2 * intermediate), 0);
    for (int64_t channel = 0; channel < intermediate; ++channel) {
      for (int half = 0; half < 2; ++half) {
        const int64_t row = Sm90W13Row(intermediate, channel, half);
        ++seen[static_cast<size_t>(row)];
        int back;
        CHECK(Sm90W13Channel(intermediate, row, &back) == channel);
        CHECK(back == half);
        CHECK(row / 8 % 2 == half);
        // What the epilogues rely on: tile, warp and lane give the place of h.
        const int64_t tile = row / 64, warp = row % 64 / 16, g = row % 8;
        CHECK(Sm90Bf16Index(intermediate, channel) == tile * 32 + warp * 8 + g);
        CHECK(Sm90PlaneIndex(intermediate, channel) == tile * 32 + g % 2 * 16 + g / 2 * 4 + warp);
        // Of f16: a line of 128 bytes has two tiles, in chunks of 16.
        const int64_t line = tile / 2, chunk = tile % 2 * 4 + (g & 1) * 2 + warp / 2,
                      byte = g / 2 * 4 + warp % 2 * 2;
        CHECK(2 * Sm90F16Index(intermediate, channel) == line * 128 + chunk * 16 + byte);
      }
    }
    CHECK(std::count(seen.begin(), seen.end(), 1) == 2 * intermediate);
  }
  for (int64_t hidden = 0; hidden < 256; ++hidden) {
    CHECK(Sm90W2Hidden(Sm90W2Row(hidden)) == hidden);
    CHECK(Sm90W2Row(hidden) / 16 == hidden / 16);
  }
}

TEST_CASE("sm90: activations are permuted inside blocks of 128, each place taken once", "[unit]") {
  for (int64_t k = 32; k <= 512; k += 32) {
    std::vector<int> planes(static_cast<size_t>(k), 0), bf16(static_cast<size_t>(k), 0),
        f16(static_cast<size_t>(k), 0);
    for (int64_t at = 0; at < k; ++at) {
      const int64_t p = Sm90PlaneIndex(k, at), b = Sm90Bf16Index(k, at), f = Sm90F16Index(k, at);
      ++planes.at(static_cast<size_t>(p));
      ++bf16.at(static_cast<size_t>(b));
      CHECK(p / 128 == at / 128);
      CHECK(b / 128 == at / 128);
      CHECK(Sm90Bf16At(k, b) == at);
      ++f16.at(static_cast<size_t>(f));
      // Not 128 alone: what ends a row stays in its own block, and what a step multiplies in its own 32.
      const Sm90Block block = Sm90BlockOf(k, at);
      CHECK(f >= block.first);
      CHECK(f < block.first + block.length);
      CHECK(f / 32 == b / 32);
      CHECK(f / 32 == p / 32);
    }
    CHECK(std::count(planes.begin(), planes.end(), 1) == k);
    CHECK(std::count(bf16.begin(), bf16.end(), 1) == k);
    CHECK(std::count(f16.begin(), f16.end(), 1) == k);
  }
}

TEST_CASE("sm90: 16-bit activations stand where a lane has the codes that they meet", "[unit]") {
  // Of a step, lane t of a quad multiplies the pairs 4 n + t, n = 0..3. A word's codes are 2 i + h: bf16 pairs are of one i, f16
  // pairs of i = 0, 1 or of i = 2, 3 with one h, in this order those with h = 0.
  for (int64_t k = 32; k <= 416; k += 32) {
    for (int64_t word = 0; word < 8 * k; ++word) {
      int row;
      int64_t at;
      Sm90CodeAt(k, word, &row, &at);
      const Sm90Lane lane = Sm90LaneOf(k, at);
      const int64_t step = lane.block.first + 32 * lane.step;
      for (int i = 0; i < 4; ++i) {
        for (int h = 0; h < 2; ++h) {
          const auto own = [&](int64_t index, int n, int of_pair) {
            if (index != step + 2 * (4 * n + lane.t) + of_pair)
              FAIL("K " << k << " k " << at << " i " << i << " h " << h << " index " << index);
          };
          own(Sm90Bf16Index(k, at + 2 * i + h), i, h);
          own(Sm90F16Index(k, at + 2 * i + h), 2 * h + i / 2, i % 2);
        }
      }
    }
  }
}

TEST_CASE("sm90: a whole expert through pack and unpack, for every K up to 1056", "[unit]") {
  Rng rng(7);
  for (int32_t k = 32; k <= 1056; k += 32) {
    // K is hidden for w13 and intermediate for w2: both get every length, the other stays small.
    for (const LayerSpec& spec :
         {Spec(k, 32, DSV4MX_DTYPE_F32), Spec(32, k), Spec(96, k, DSV4MX_DTYPE_F32)}) {
      INFO("hidden " << spec.hidden << " intermediate " << spec.intermediate);
      RawExpert expert(spec), back(spec);
      Randomise(&rng, &expert);
      const auto bytes = static_cast<size_t>(Sm90SlabOf(spec).bytes);
      std::vector<uint8_t> slab(bytes + 64, 0xCD);
      Sm90PackExpert(spec, expert, slab.data());
      CHECK(std::count(slab.begin() + static_cast<long>(bytes), slab.end(), 0xCD) == 64);
      Sm90UnpackExpert(spec, slab.data(), &back);
      for (const Matrix m : kMatrices) {
        CHECK(back.codes(m) == expert.codes(m));
        CHECK(back.scales(m) == expert.scales(m));
        if (spec.w13_bias != 0) CHECK(back.bias(m) == expert.bias(m));
      }
    }
  }
}

TEST_CASE("sm90: the parts of a slab do not overlap and rows that pad a tile are zero", "[unit]") {
  const LayerSpec spec = Spec(96, 160, DSV4MX_DTYPE_BF16);
  const Sm90Slab slab = Sm90SlabOf(spec);
  CHECK(slab.w13 == 0);
  CHECK(slab.w2 == 5 * 34 * 96);
  CHECK(slab.w13_base == slab.w2 + 2 * 34 * 160);
  CHECK(slab.w2_base == slab.w13_base + 5 * 64);
  CHECK(slab.w13_bias == slab.w2_base + 2 * 64);
  CHECK(slab.w2_bias == slab.w13_bias + 320 * 4);
  CHECK(slab.bytes >= slab.w2_bias + 128 * 4);
  CHECK(slab.bytes % 256 == 0);

  RawExpert expert(spec);
  for (const Matrix m : kMatrices) {
    std::fill(expert.codes(m).begin(), expert.codes(m).end(), uint8_t{0xFF});
    std::fill(expert.scales(m).begin(), expert.scales(m).end(), uint8_t{200});
    std::fill(expert.bias(m).begin(), expert.bias(m).end(), 1.0f);
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(slab.bytes), 0xCD);
  Sm90PackExpert(spec, expert, bytes.data());
  const uint8_t* tile =
      bytes.data() + slab.w2 + Sm90TileBytes(160);  // rows 64..127; 96.. are padding
  for (int row = 0; row < 64; ++row) {
    const bool padding = row >= 32;
    for (int64_t k = 0; k < 160; ++k) {
      const Sm90Pos pos = Sm90Code(160, row, k);
      uint32_t word;
      std::memcpy(&word, tile + pos.byte, 4);
      CHECK(Sm90Decode(word, pos) == (padding ? 0u : 15u));
      CHECK(tile[Sm90Scale(160, row, k)] == (padding ? 0 : 200));
    }
    CHECK(bytes[static_cast<size_t>(slab.w2_base + 64 + row)] == (padding ? 0 : 200));
    float bias;
    std::memcpy(&bias, bytes.data() + slab.w2_bias + 4 * (64 + row), 4);
    CHECK(bias == (padding ? 0.0f : 1.0f));
  }
}

TEST_CASE("sm90: exponent bases are the smallest scale of groups that are not all zero", "[unit]") {
  const LayerSpec spec = Spec(1056, 32);  // three blocks of 512, the last one of a single group
  RawExpert expert(spec);
  Rng rng(11);
  Randomise(&rng, &expert);
  for (const Matrix m : {Matrix::kGate, Matrix::kUp}) {
    for (int64_t row = 0; row < 32; ++row) {
      for (int64_t g = 0; g < 33; ++g) {
        // Some groups are zeros of either sign, some rows have nothing else in a block.
        const bool zero =
            rng.Below(3) == 0 || (row % 5 == 0 && g < 16) || (row % 7 == 0 && g == 32);
        uint8_t* codes = expert.codes(m).data() + row * 528 + g * 16;
        if (zero) {
          for (int i = 0; i < 16; ++i)
            codes[i] = static_cast<uint8_t>(rng.Below(2) * 0x80 + rng.Below(2) * 8);
        } else {
          codes[rng.Below(16)] |= 0x10;
        }
      }
    }
  }
  const Sm90Slab slab = Sm90SlabOf(spec);
  std::vector<uint8_t> bytes(static_cast<size_t>(slab.bytes));
  Sm90PackExpert(spec, expert, bytes.data());
  int none = 0;
  for (int64_t n = 0; n < 64; ++n) {
    int half;
    const int64_t row = Sm90W13Channel(32, n, &half);
    const Matrix m = half == 0 ? Matrix::kGate : Matrix::kUp;
    for (int64_t block = 0; block < 3; ++block) {
      int want = 0;
      bool any = false;
      for (int64_t k = block * 512; k < std::min<int64_t>(1056, block * 512 + 512); ++k) {
        const uint32_t code = RawCode(expert.codes(m).data() + row * 528, k);
        const int scale = expert.scales(m)[static_cast<size_t>(row * 33 + k / 32)];
        if ((code & 7) == 0) continue;  // a zero of either sign
        want = any ? std::min(want, scale) : scale;
        any = true;
      }
      none += !any;
      CHECK(bytes[static_cast<size_t>(slab.w13_base + block * 64 + n)] == want);
    }
  }
  CHECK(none > 0);
}
