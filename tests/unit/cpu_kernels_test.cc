// The kernels of every instruction set that this machine has, against the number format written out and a plain fp64
// product.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "lib/base/cpu_layout.h"
#include "lib/cpu/cpu_host.h"
#include "lib/cpu/cpu_kernels.h"
#include "tests/catch.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

using cpu::CpuKernels;
using cpu::GemmArgs;

constexpr int kRows = kCpuTileRows;

struct Isa {
  dsv4mx_cpu_isa isa;
  const CpuKernels& kernels;
};

#if defined(__x86_64__)
// The fp32 kernel for pairs, as if it were the only one.
const CpuKernels kOfPairs = {12, cpu::GemmOfPairsAvx512, cpu::GemmOfPairsAvx512};
#endif

// Whether a wide factor gives the same bits as the plain form: vdpbf16ps sums in pairs, the rest does not.
bool SumsAlike([[maybe_unused]] const CpuKernels& kernels) {
#if defined(__x86_64__)
  return kernels.gemm != cpu::kAvx512Bf16Kernels.gemm;
#else
  return true;
#endif
}

// Calls f for every instruction set of this processor and says which it left out.
template <class F>
void ForIsas(F&& f) {
  for (const Isa& i : {
         Isa{DSV4MX_CPU_ISA_PORTABLE, cpu::kPortableKernels},
#if defined(__x86_64__)
             Isa{DSV4MX_CPU_ISA_AVX2, cpu::kAvx2Kernels},
             Isa{DSV4MX_CPU_ISA_AVX512, cpu::kAvx512Kernels},
             Isa{DSV4MX_CPU_ISA_AVX512_BF16, cpu::kAvx512Bf16Kernels},
             Isa{DSV4MX_CPU_ISA_AVX512_BF16, kOfPairs},
#endif
       }) {
    if (!cpu::HasIsa(i.isa)) continue;
    INFO("instruction set " << cpu::IsaName(i.isa));
    f(i.kernels);
  }
}

struct alignas(64) Line {
  uint8_t bytes[64];
};

// Up to two tiles of codes and scales, set one by one through the index functions.
struct Tiles {
  Tiles(int count, int64_t k)
      : tiles(count),
        K(k),
        codes(static_cast<size_t>(count * k / 4)),
        scales(static_cast<size_t>(count * k)) {}
  uint8_t* Codes() { return codes.data()->bytes; }
  void Put(int64_t row, int64_t k, int code) {
    const CpuPos p = CpuCode(K, row, k);
    uint16_t unit;
    std::memcpy(&unit, Codes() + p.byte, 2);
    unit = static_cast<uint16_t>((unit & ~(15 << p.bit)) | (code << p.bit));
    std::memcpy(Codes() + p.byte, &unit, 2);
  }
  // out[row][token] of a kernel for x [token][k].
  std::vector<float> Run(const CpuKernels& kernels, const std::vector<std::vector<float>>& x,
                         bool wide) {
    const int tokens = static_cast<int>(x.size());
    std::vector<float> packed(static_cast<size_t>(K * tokens));
    for (int64_t k = 0; k < K; ++k) {
      for (int t = 0; t < tokens; ++t) {
        packed[static_cast<size_t>(k * tokens + t)] =
            x[static_cast<size_t>(t)][static_cast<size_t>(k)];
      }
    }
    std::vector<Line> out(static_cast<size_t>(tiles * tokens * 2));
    std::memset(out.data(), 0xff, out.size() * sizeof(Line));  // NaN: every element must be written
    GemmArgs args{};
    for (int i = 0; i < tiles; ++i) {
      args.codes[i] = Codes() + i * kRows * K / 2;
      args.scales[i] = scales.data() + i * K;
    }
    args.tiles = tiles;
    args.tokens = tokens;
    args.wide = wide;
    args.k = K;
    args.x = packed.data();
    args.out = reinterpret_cast<float*>(out.data());
    std::vector<uint16_t> pairs(packed.size());
    bool rest = wide;
    if (kernels.rest != nullptr) {
      for (int64_t k = 0; k < K; ++k) {
        for (int t = 0; t < tokens; ++t) {
          const float v = packed[static_cast<size_t>(k * tokens + t)];
          pairs[static_cast<size_t>((k / 2 * tokens + t) * 2 + k % 2)] =
              std::isnan(v) ? 0x7fc0 : ToBf16(static_cast<double>(v));
          rest = rest || (v != 0 && std::fabs(v) < 0x1p-110f);
        }
      }
      args.x = pairs.data();
    }
    (kernels.rest != nullptr && rest ? kernels.rest : kernels.gemm)(args);
    std::vector<float> y(static_cast<size_t>(tiles * kRows * tokens));
    for (int r = 0; r < tiles * kRows; ++r) {
      for (int t = 0; t < tokens; ++t) {
        y[static_cast<size_t>(r * tokens + t)] =
            args.out[(r / kRows * tokens + t) * kRows + r % kRows];
      }
    }
    return y;
  }
  int tiles;
  int64_t K;
  std::vector<Line> codes;
  std::vector<uint8_t> scales;
};

TEST_CASE("[A8] cpu kernels: every code under every scale byte, 0 and 254 included", "[cpu]") {
  ForIsas([](const CpuKernels& kernels) {
    for (int byte = 0; byte <= 254; ++byte) {
      for (const int64_t at : {0, 1, 2, 3, 17, 31}) {
        Tiles tiles(1, 32);
        std::fill(tiles.scales.begin(), tiles.scales.end(), static_cast<uint8_t>(byte));
        for (int r = 0; r < kRows; ++r) tiles.Put(r, at, r % 16);
        std::vector<std::vector<float>> x;
        for (int t = 0; t < kernels.max_tokens; ++t) x.emplace_back(32, static_cast<float>(t + 1));
        for (const bool wide : {false, true}) {
          if (byte >= cpu::kFirstWideScale && !wide) continue;  // the store sets it
          const std::vector<float> y = tiles.Run(kernels, x, wide);
          std::string wrong;
          for (int r = 0; r < kRows; ++r) {
            for (int t = 0; t < kernels.max_tokens; ++t) {
              const float want = static_cast<float>(Weight(r % 16, byte) * (t + 1));
              const float got = y[static_cast<size_t>(r * kernels.max_tokens + t)];
              if (got != want && wrong.empty()) {
                wrong = "byte " + std::to_string(byte) + " code " + std::to_string(r % 16) + " k " +
                        std::to_string(at) + ": got " + std::to_string(got) + ", wanted " +
                        std::to_string(want);
              }
            }
          }
          REQUIRE(wrong == "");
        }
      }
    }
  });
}

TEST_CASE(
    "[A8] cpu kernels: scales differ by row and group, rows that overflow leave the others alone",
    "[cpu]") {
  ForIsas([](const CpuKernels& kernels) {
    Rng rng(7);
    Tiles tiles(2, 96);
    std::vector<double> want(2 * kRows, 0.0);
    for (int64_t r = 0; r < 2 * kRows; ++r) {
      for (int64_t g = 0; g < 3; ++g) {
        const int byte = r % 7 == 0 && g == 1 ? 254 - static_cast<int>(r % 2)
                                              : static_cast<int>(100 + rng.Below(40));
        const int64_t k = g * 32 + rng.Below(32);
        const int code = static_cast<int>(rng.Below(16));
        tiles.scales[static_cast<size_t>(CpuScale(96, r, g))] = static_cast<uint8_t>(byte);
        tiles.Put(r, k, code);
        want[static_cast<size_t>(r)] += Weight(code, byte);
      }
    }
    const std::vector<float> y = tiles.Run(kernels, {std::vector<float>(96, 1.0f)}, true);
    for (size_t r = 0; r < want.size(); ++r) {
      INFO("row " << r);
      if (std::isinf(want[r])) {
        CHECK(static_cast<double>(y[r]) == want[r]);
      } else {
        CHECK(std::fabs(y[r] - want[r]) <= 1e-6 * std::fabs(want[r]) + 1e-6);
      }
    }
  });
}

TEST_CASE(
    "[A10][G1] cpu kernels: tails of K against fp64; a token's bits do not depend on the block",
    "[cpu]") {
  ForIsas([](const CpuKernels& kernels) {
    Rng rng(3);
    for (const int64_t K : {32, 96, 288, 2880}) {
      for (const int count : {1, 2}) {
        Tiles tiles(count, K);
        rng.Bytes(tiles.Codes(), tiles.codes.size() * sizeof(Line));
        for (uint8_t& s : tiles.scales) s = static_cast<uint8_t>(112 + rng.Below(20));
        std::vector<std::vector<float>> x(static_cast<size_t>(kernels.max_tokens));
        for (auto& row : x) {
          for (int64_t k = 0; k < K; ++k) row.push_back(FromBf16(ToBf16(rng.Normal())));
        }
        std::vector<std::vector<float>> alone, wide_alone;  // [token][row]
        for (const auto& row : x) {
          alone.push_back(tiles.Run(kernels, {row}, false));
          wide_alone.push_back(tiles.Run(kernels, {row}, true));
        }
        // Only where x comes in pairs do experts with large scales take another kernel.
        if (SumsAlike(kernels)) CHECK(wide_alone == alone);

        for (int64_t r = 0; r < count * kRows; ++r) {
          for (size_t t = 0; t < x.size(); ++t) {
            double want = 0, size = 0;
            for (int64_t k = 0; k < K; ++k) {
              const CpuPos p = CpuCode(K, r, k);
              uint16_t unit;
              std::memcpy(&unit, tiles.Codes() + p.byte, 2);
              const double product =
                  Weight(unit >> p.bit & 15,
                         tiles.scales[static_cast<size_t>(CpuScale(K, r, k / 32))]) *
                  static_cast<double>(x[t][static_cast<size_t>(k)]);
              want += product;
              size += std::fabs(product);
            }
            const double error = std::fabs(alone[t][static_cast<size_t>(r)] - want);
            INFO("K " << K << " row " << r << " token " << t << " error " << error << " of "
                      << size);
            if (!(error <= 1e-6 * size)) FAIL_CHECK("far from the fp64 product");
          }
        }
        for (size_t tokens = 1; tokens <= x.size(); ++tokens) {
          for (const bool wide : {false, true}) {
            const std::vector<float> y = tiles.Run(
                kernels, {x.begin(), x.begin() + static_cast<std::ptrdiff_t>(tokens)}, wide);
            bool same = true;
            for (size_t t = 0; t < tokens; ++t) {
              for (size_t r = 0; r < static_cast<size_t>(count * kRows); ++r) {
                same = same &&
                       std::memcmp(&y[r * tokens + t], &(wide ? wide_alone : alone)[t][r], 4) == 0;
              }
            }
            INFO("K " << K << " tiles " << count << " tokens " << tokens << " wide " << wide);
            CHECK(same);
          }
        }
      }
    }
  });
}

TEST_CASE("[J4] cpu kernels: nothing overflows on the way to a finite sum", "[cpu]") {
  // x and scales over their whole ranges, such that no sum of the weights' products reaches 2^127.
  ForIsas([](const CpuKernels& kernels) {
    Rng rng(11);
    for (const bool wide : {false, true}) {
      for (int again = 0; again < 20; ++again) {
        constexpr int64_t K = 128;
        Tiles tiles(2, K);
        rng.Bytes(tiles.Codes(), tiles.codes.size() * sizeof(Line));
        std::vector<std::vector<float>> x(static_cast<size_t>(kernels.max_tokens));
        for (int64_t g = 0; g < K / 32; ++g) {
          const int exponent = static_cast<int>(rng.Below(260)) - 133;  // of x, in -133..126
          const int most = std::min(wide ? 252 - 127 : cpu::kFirstWideScale - 128, 116 - exponent);
          for (int64_t r = 0; r < 2 * kRows; ++r) {
            const int scale = static_cast<int>(rng.Below(most + 128)) - 127;
            tiles.scales[static_cast<size_t>(CpuScale(K, r, g))] =
                static_cast<uint8_t>(scale + 127);
          }
          for (auto& row : x) {
            for (int64_t k = 0; k < 32; ++k) {
              const double m = 1 + static_cast<double>(rng.Below(128)) / 128;
              row.push_back(FromBf16(ToBf16(std::ldexp(rng.Below(2) == 0 ? m : -m, exponent))));
            }
          }
        }
        const std::vector<float> y = tiles.Run(kernels, x, wide);
        for (int64_t r = 0; r < 2 * kRows; ++r) {
          for (size_t t = 0; t < x.size(); ++t) {
            double want = 0, size = 0;
            for (int64_t k = 0; k < K; ++k) {
              const CpuPos p = CpuCode(K, r, k);
              uint16_t unit;
              std::memcpy(&unit, tiles.Codes() + p.byte, 2);
              const double product =
                  Weight(unit >> p.bit & 15,
                         tiles.scales[static_cast<size_t>(CpuScale(K, r, k / 32))]) *
                  static_cast<double>(x[t][static_cast<size_t>(k)]);
              want += product;
              size += std::fabs(product);
            }
            const float got = y[static_cast<size_t>(r) * x.size() + t];
            const double error = std::fabs(static_cast<double>(got) - want);
            INFO("wide " << wide << " row " << r << " token " << t << ": " << got << ", wanted "
                         << want);
            if (!(error <= 1e-5 * size + 0x1p-140)) FAIL_CHECK("not the sum");
          }
        }
      }
    }
  });
}

TEST_CASE("[A23] cpu kernels: NaN and Inf stay with their token", "[cpu]") {
  ForIsas([](const CpuKernels& kernels) {
    Tiles tiles(2, 64);
    std::fill(tiles.scales.begin(), tiles.scales.end(), uint8_t{127});
    for (int64_t r = 0; r < 2 * kRows; ++r) {
      for (int64_t k = 0; k < 64; ++k) tiles.Put(r, k, 2);
    }
    for (int tokens = 2; tokens <= kernels.max_tokens; ++tokens) {
      std::vector<std::vector<float>> x(static_cast<size_t>(tokens), std::vector<float>(64, 1.0f));
      x[0][40] = NAN;
      x[1][3] = INFINITY;
      const std::vector<float> y = tiles.Run(kernels, x, false);
      for (int r = 0; r < 2 * kRows; ++r) {
        for (int t = 0; t < tokens; ++t) {
          const float v = y[static_cast<size_t>(r * tokens + t)];
          REQUIRE((t == 0 ? std::isnan(v) : t == 1 ? std::isinf(v) : v == 64.0f));
        }
      }
    }
  });
}

}  // namespace
}  // namespace dsv4mx::test
