// The CPU backend on each instruction set that this machine has, forced; the others are refused.
#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

bool MachineHas(int isa) {
  if (isa == DSV4MX_CPU_ISA_PORTABLE) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (isa) {
    case DSV4MX_CPU_ISA_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
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

}  // namespace
}  // namespace dsv4mx::test
