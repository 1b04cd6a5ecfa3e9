#include "lib/cpu/cpu_host.h"

#include <unistd.h>

#include <cstdio>
#include <memory>

namespace dsv4mx::cpu {

bool HasIsa(dsv4mx_cpu_isa isa) {
  switch (isa) {
    case DSV4MX_CPU_ISA_PORTABLE:
      return true;
#if defined(__x86_64__)
    // These also ask whether the system saves the registers. Every processor with AVX2 has F16C, whose name not every
    // compiler knows here (clang 14 does not).
    case DSV4MX_CPU_ISA_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case DSV4MX_CPU_ISA_AVX512:
      return HasIsa(DSV4MX_CPU_ISA_AVX2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case DSV4MX_CPU_ISA_AVX512_BF16:
      return HasIsa(DSV4MX_CPU_ISA_AVX512) && __builtin_cpu_supports("avx512bf16");
#endif
    default:
      return false;
  }
}

Status ChooseIsa(dsv4mx_cpu_isa asked, bool (*has)(dsv4mx_cpu_isa), dsv4mx_cpu_isa* out) {
  dsv4mx_cpu_isa best = DSV4MX_CPU_ISA_PORTABLE;
  for (dsv4mx_cpu_isa isa = DSV4MX_CPU_ISA_AVX2; isa <= DSV4MX_CPU_ISA_AVX512_BF16; ++isa) {
    if (has(isa)) best = isa;
  }
  DSV4MX_RETURN_IF(asked != DSV4MX_CPU_ISA_DEFAULT && !has(asked), DSV4MX_STATUS_UNSUPPORTED_DEVICE,
                   "cpu_isa is %s, which this processor lacks; its best is %s", IsaName(asked),
                   IsaName(best));
  *out = asked == DSV4MX_CPU_ISA_DEFAULT ? best : asked;
  return kOk;
}

const char* IsaName(dsv4mx_cpu_isa isa) {
  switch (isa) {
    case DSV4MX_CPU_ISA_PORTABLE:
      return "portable";
    case DSV4MX_CPU_ISA_AVX2:
      return "avx2";
    case DSV4MX_CPU_ISA_AVX512:
      return "avx512";
    case DSV4MX_CPU_ISA_AVX512_BF16:
      return "avx512bf16";
    default:
      return "unknown";
  }
}

int64_t AvailableBytes() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen("/proc/meminfo", "re"),
                                                             std::fclose);
  char line[256];
  long long kib = 0;
  while (file != nullptr && std::fgets(line, sizeof line, file.get()) != nullptr) {
    if (std::sscanf(line, "MemAvailable: %lld kB", &kib) == 1) return kib * 1024;
  }
  return static_cast<int64_t>(sysconf(_SC_PAGESIZE)) *
         static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES));
}

}  // namespace dsv4mx::cpu
