// The main loop of W4A8 as it is compiled for the device, run on the host lane by lane: every tail of K, both matrices, both
// shapes of CTA. Needs no GPU; what it cannot see is whether fences and waits stand where they must.
#include <cstdio>
#include <random>
#include <vector>

#include "kernels/mma/e4m3_loop.cuh"
#include "tests/loops/lanes.h"

namespace dsv4mx::test {
namespace {

constexpr int kRows = 256, kTokens = 16;

struct Numbers {
  int k;
  std::vector<uint8_t> codes, scales;  // [row][k], [row][k/32]
  std::vector<uint8_t> x;              // [token][k], E4M3
  std::vector<float> token_scales;     // [k/128][token], of GEMM2

  explicit Numbers(int length) : k(length) {
    std::mt19937 draw(static_cast<uint32_t>(k));
    for (int i = 0; i < kRows * k; i++) codes.push_back(draw() & 15);
    for (int i = 0; i < kRows * k / 32; i++)
      scales.push_back(static_cast<uint8_t>(115 + draw() % 11));
    for (int i = 0; i < kTokens * k; i++)
      x.push_back(static_cast<uint8_t>((draw() & 1) << 7 | draw() % 127));  // 127 would be NaN
    for (int i = 0; i < (k + 127) / 128 * kTokens; i++)
      token_scales.push_back(std::ldexp(1.0f, static_cast<int>(draw() % 7) - 3));
  }
  uint8_t Scale(int row, int at) const {
    return scales[static_cast<size_t>(row * (k / 32) + at / 32)];
  }
  uint8_t Base(int row, int block) const {
    uint8_t least = 255;
    for (int at = block * kSm90BaseK; at < std::min(k, (block + 1) * kSm90BaseK); at += 32)
      least = std::min(least, Scale(row, at));
    return least;
  }
  double Product(int gemm, int row, int token) const {
    constexpr double kMagnitude[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    double sum = 0;
    for (int at = 0; at < k; at++) {
      const uint8_t code = codes[static_cast<size_t>(row * k + at)];
      const double w = std::ldexp((code & 8) != 0 ? -kMagnitude[code & 7] : kMagnitude[code & 7],
                                  Scale(row, at) - 127);
      const double scale =
          gemm == 2 ? token_scales[static_cast<size_t>(at / 128 * kTokens + token)] : 1.0;
      sum += w * FromE4m3(x[static_cast<size_t>(token * k + at)]) * scale;
    }
    return sum;
  }
};

// All stages of a tile of 256 rows and 16 tokens, as the producer would bring them.
template <class C>
void FillStages(const Numbers& n, const GemmKernelArgs& a) {
  std::fill_n(shared_memory, kSharedBytes, uint8_t{0x7F});  // NaN where nothing belongs
  Ring<C> ring{a, 0, 0, 0, 0};
  for (int k = 0; k < n.k; k += C::kStageK, ring.stage++) {
    for (int tile = 0; tile < C::kTiles; tile++) {
      std::vector<uint8_t> bytes(static_cast<size_t>(Sm90TileBytes(n.k)), 0);
      for (int row = 0; row < 64; row++) {
        for (int at = 0; at < n.k; at++) {
          const Sm90Pos p = Sm90Code(n.k, row, at);
          uint32_t word;
          std::memcpy(&word, &bytes[static_cast<size_t>(p.byte)], 4);
          word |= Sm90Encode(n.codes[static_cast<size_t>((tile * 64 + row) * n.k + at)], p);
          std::memcpy(&bytes[static_cast<size_t>(p.byte)], &word, 4);
          bytes[static_cast<size_t>(Sm90Scale(n.k, row, at))] = n.Scale(tile * 64 + row, at);
        }
        if (k % kSm90BaseK == 0)
          shared_memory[ring.Bases() + tile * 64 + row] = n.Base(tile * 64 + row, k / kSm90BaseK);
      }
      std::copy_n(&bytes[static_cast<size_t>(34 * k)], 34 * std::min(C::kStageK, n.k - k),
                  shared_memory + ring.Weights() + tile * C::kWeightBytes);
    }
    for (int part = 0; part < C::kParts && k + part * 128 < n.k; part++) {
      const int first = k + part * 128;
      for (int token = 0; token < kTokens; token++) {
        const uint32_t row = ring.Panel() + part * ring.PartBytes() + token * 128;
        std::fill_n(shared_memory + row, 128, uint8_t{0});
        for (int at = first; at < std::min(n.k, first + 128); at++) {
          const uint32_t to = static_cast<uint32_t>(Sm90PlaneIndex(n.k, at)) - first;
          shared_memory[row + (to ^ (token & 7) << 4)] = n.x[static_cast<size_t>(token * n.k + at)];
        }
      }
      std::memcpy(shared_memory + ring.Scales() + part * 4 * a.width,
                  &n.token_scales[static_cast<size_t>(first / 128 * kTokens)], 4 * kTokens);
    }
  }
}

template <Path P, int Gemm>
std::vector<float> RunLoop(const Numbers& n) {
  using C = GemmConfig<P, Gemm>;
  using Loop = E4m3Loop<C, kTokens>;
  GemmKernelArgs a{};
  a.k = n.k;
  a.width = kTokens;
  a.stage_bytes = StageBytes<C>(a.width);
  a.stages = n.k / C::kStageK + 2;  // all at once
  FillStages<C>(n, a);
  std::vector<float> out(kRows * kTokens);
  for (int wg = 0; wg < C::kWarpgroups; wg++) {
    RunLanes([&](int thread) {
      const int lane = thread % 32;
      const MmaThread me{wg, thread / 32, lane, lane / 4, lane & 3};
      Ring<C> ring{a, 0, 0, 0, 0};
      Loop loop;
      loop.Run(a, ring, me);
      for (int which = 0; which < C::kTilesEach; which++) {
        const int row = (wg * C::kTilesEach + which) * 64 + me.warp * 16 + me.g;
        for (int i = 0; i < kTokens / 2; i++) {
          const int token = i / 4 * 8 + 2 * me.t + i % 2;
          out[static_cast<size_t>((row + i % 4 / 2 * 8) * kTokens + token)] = loop.Sums(which)[i];
        }
      }
    });
  }
  return out;
}

// "" or what is wrong.
template <int Gemm>
bool Good(const Numbers& n) {
  const std::vector<float> few = RunLoop<Path::kE4m3, Gemm>(n),
                           many = RunLoop<Path::kE4m3Big, Gemm>(n);
  double error = 0, norm = 0;
  for (int row = 0; row < kRows; row++) {
    for (int token = 0; token < kTokens; token++) {
      const double want = n.Product(Gemm, row, token),
                   got = static_cast<double>(few[static_cast<size_t>(row * kTokens + token)]);
      error += (got - want) * (got - want);
      norm += want * want;
    }
  }
  // fp32 sums of products that are exact.
  const bool good = error <= 1e-12 * norm && few == many;
  if (!good) {
    std::printf("GEMM%d, K %d: relative error %.2e, wanted 1e-6; bits of the two paths %s\n", Gemm,
                n.k, std::sqrt(error / norm), few == many ? "equal" : "differ");
  }
  return good;
}

int Main() {
  int passed = 0, failed = 0;
  for (const int k : {32, 64, 96, 224, 256, 384, 544, 864}) {
    const Numbers n(k);
    for (const bool good : {Good<1>(n), Good<2>(n)}) (good ? passed : failed)++;
  }
  std::printf("%d passed, %d failed, 0 skipped\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace dsv4mx::test

int main() {
  return dsv4mx::test::Main();
}
