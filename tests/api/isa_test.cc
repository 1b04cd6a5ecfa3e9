// The CPU backend on each instruction set that this machine has, forced; the others are refused.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

bool MachineHas(int isa) {
  if (isa == DSV4MX_CPU_ISA_PORTABLE) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case DSV4MX_CPU_ISA_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case DSV4MX_CPU_ISA_AVX512_BF16:
      return MachineHas(DSV4MX_CPU_ISA_AVX512) && __builtin_cpu_supports("avx512bf16");
    default:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#else
  return false;
#endif
}

// Each set is a test case of its own, so that what a machine lacks is counted as skipped.
void RunOn(int isa, const char* name) {
  if (!MachineHas(isa)) {
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    d.device = DSV4MX_DEVICE_CPU;
    d.cpu_isa = isa;
    dsv4mx_context* context = nullptr;
    REQUIRE_REFUSED(dsv4mx_context_create(&d, &context), DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                    std::string(name));
    return Skip(std::string("this processor has no ") + name + " (the refusal was checked)");
  }
  const std::string isa_word = std::string(" isa=") + name;
  dsv4mx_context_info info{};
  info.struct_size = sizeof info;
  REQUIRE_OK(dsv4mx_context_query(ContextOf(Parse(isa_word)), &info));
  CHECK(info.cpu_isa == isa);
  CHECK(MissingWords(Runner(MakeCase("h=32 i=32 m=0" + isa_word)).info().backend,
                     std::string("cpu,") + name) == "");
  for (const char* text : {
           "h=128 i=128 e=4 k=2 m=1 clamp=10",
           "h=128 i=128 e=4 k=2 m=2 clamp=10",
           "h=128 i=128 e=4 k=2 m=33 clamp=10",
           "h=96 i=160 e=3 k=2 m=7 order=interleaved bias=1 act=gptoss clamp=7",
           "h=32 i=32 e=2 k=2 m=5",
           "h=2880 i=96 e=2 k=1 m=3",
           "h=160 i=2880 e=1 k=1 m=3",
           "h=96 i=96 e=4 k=4 m=65 dist=one wpos=before out=f32",
           "h=64 i=64 e=3 k=1 m=6 wpos=input rw=bf16",
           "h=64 i=96 e=3 k=2 m=9 scales=0..60 amp=1e20 out=f32",
           "h=288 i=224 e=2 k=2 m=300",
       }) {
    CHECK(RunAndCheck(text + isa_word) == "");
  }
}

TEST_CASE("instruction set: portable", "[isa]") {
  RunOn(DSV4MX_CPU_ISA_PORTABLE, "portable");
}
TEST_CASE("instruction set: avx2", "[isa]") {
  RunOn(DSV4MX_CPU_ISA_AVX2, "avx2");
}
TEST_CASE("instruction set: avx512", "[isa]") {
  RunOn(DSV4MX_CPU_ISA_AVX512, "avx512");
}
TEST_CASE("instruction set: avx512_bf16", "[isa]") {
  RunOn(DSV4MX_CPU_ISA_AVX512_BF16, "avx512bf16");
}

// Tokens 0 and 1 hold numbers that the kernel of pairs would flush; expert 2 has a scale of 2^125; gates of expert 1 are so
// far below zero that h is tiny for some tokens.
Case MakeCaseOfBothKernels() {
  Case c = MakeCase("h=96 i=64 e=3 k=2 m=40 out=f32 isa=avx512bf16 order=gate_up bias13=f32");
  for (size_t k = 0; k < 96; ++k) c.in.x[k] = static_cast<uint16_t>(k % 7 == 0 ? 1 + k : 0x0400);
  c.in.x[96 + 5] = 0x8001;
  ExpertData& odd = *c.experts[2];
  odd.scales[kUp][0] = 252;
  std::fill_n(odd.codes[kUp].begin(), 16, uint8_t{0});
  odd.codes[kUp][0] = 0x01;
  for (size_t i = 0; i < c.in.x.size(); i += 96) c.in.x[i] = ToBf16(std::ldexp(1.0, -110));
  std::fill(c.experts[1]->bias[kGate].begin(), c.experts[1]->bias[kGate].end(), -80.0f);
  return c;
}

TEST_CASE(
    "[G1] instruction set avx512_bf16: what a token's numbers are decides its kernel, and its "
    "neighbours do not",
    "[isa]") {
  if (!MachineHas(DSV4MX_CPU_ISA_AVX512_BF16)) return Skip("this processor has no avx512_bf16");
  const Case c = MakeCaseOfBothKernels();
  CHECK(RunAndCheck(c) == "");
  const Runner run(c);
  const Output all = run.Apply();
  const size_t row = all.raw.size() / 40;
  for (int64_t t = 0; t < 40; ++t) {
    for (const std::vector<int64_t>& tokens :
         {std::vector<int64_t>{t}, std::vector<int64_t>{0, t}, std::vector<int64_t>{39, 1, t}}) {
      const Output part = run.Apply(TakeRows(c.p, c.in, tokens));
      INFO("token " << t << " in a batch of " << tokens.size());
      CHECK(std::equal(all.raw.begin() + t * static_cast<int64_t>(row),
                       all.raw.begin() + (t + 1) * static_cast<int64_t>(row),
                       part.raw.end() - static_cast<int64_t>(row)));
    }
  }
  // Tiny x under ordinary weights: x and h both go through the fp32 kernel, whose bits are those of avx512.
  Case tiny = MakeCase("h=96 i=64 e=3 k=2 m=9 out=f32 isa=avx512bf16 scales=185..192");
  for (uint16_t& x : tiny.in.x) x = static_cast<uint16_t>((x & 0x807f) | 0x0100);
  Case same = tiny;
  same.p.isa = DSV4MX_CPU_ISA_AVX512;
  CHECK(RunAndCheck(tiny) == "");
  CHECK(CheckSame(Runner(tiny).Apply(), Runner(same).Apply()) == "");
}

}  // namespace
}  // namespace dsv4mx::test
