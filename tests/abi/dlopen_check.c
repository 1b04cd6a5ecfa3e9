/* Loading needs no driver, no CUDA library and no NCCL: dlopen with every symbol resolved at once, a look at what came
 * along, one call, dlclose, and once more. Stays honest on machines that have a driver, because it reads the list of
 * mapped files instead of trusting that none could be found. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "dsv4mx.h"

/* True when a file with this name is mapped into the process. */
static int Mapped(const char* name) {
  char line[4096];
  int found = 0;
  FILE* maps = fopen("/proc/self/maps", "r");
  if (maps == NULL) return -1;
  while (!found && fgets(line, sizeof line, maps) != NULL) found = strstr(line, name) != NULL;
  fclose(maps);
  return found;
}

static int Fail(const char* what, const char* detail) {
  printf("dlopen check: %s: %s\n", what, detail != NULL ? detail : "");
  return 1;
}

int main(int argc, char** argv) {
  static const char* const kForeign[] = {"libcuda.so", "libcudart.so", "libnccl.so", "libnvidia"};
  static const uint32_t kWanted =
      (uint32_t)DSV4MX_VERSION_MAJOR << 16 | DSV4MX_VERSION_MINOR << 8 | DSV4MX_VERSION_PATCH;
  int round;
  if (argc != 2) return Fail("usage", "dlopen_check LIBRARY");
  for (round = 0; round < 2; ++round) {
    uint32_t (*version)(void);
    size_t i;
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return Fail("cannot load", dlerror());
    /* ISO C has no cast from an object pointer to a function pointer; POSIX promises the copy. */
    *(void**)&version = dlsym(library, "dsv4mx_version");
    if (version == NULL) return Fail("no dsv4mx_version", dlerror());
    if (version() != kWanted) return Fail("dsv4mx_version()", "differs from the header's");
    for (i = 0; i < sizeof kForeign / sizeof kForeign[0]; ++i) {
      if (Mapped(kForeign[i]) != 0) return Fail("loading brought along", kForeign[i]);
    }
    if (dlclose(library) != 0) return Fail("dlclose", dlerror());
  }
  printf("loaded and closed twice, nothing foreign came along\n");
  return 0;
}
