/* Loading needs no driver, no CUDA library and no NCCL: dlopen with every symbol resolved at once, a look at what came
 * along, one call, dlclose, and once more; then two copies at once. Stays honest on machines that have a driver, because it reads the list of
 * mapped files instead of trusting that none could be found. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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

/* Two copies of the library in one process, as two engines bring them: neither sees the other's symbols or state. */
static int TwoCopies(const char* path) {
  typedef int32_t (*Init)(void*, size_t);
  typedef const char* (*Error)(void);
  char copy[] = "./dsv4mx-copy-XXXXXX", block[65536];
  void* library[2];
  Init init[2];
  Error error[2];
  size_t bytes;
  int i;
  const int fd = mkstemp(copy);
  FILE* to = fd < 0 ? NULL : fdopen(fd, "wb");
  FILE* from = fopen(path, "rb");
  if (to == NULL || from == NULL) return Fail("cannot copy", path);
  while ((bytes = fread(block, 1, sizeof block, from)) > 0) {
    if (fwrite(block, 1, bytes, to) != bytes) return Fail("cannot write", copy);
  }
  fclose(from);
  if (fclose(to) != 0) return Fail("cannot write", copy);
  library[0] = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  library[1] = dlopen(copy, RTLD_NOW | RTLD_LOCAL);
  remove(copy);
  for (i = 0; i < 2; ++i) {
    if (library[i] == NULL) return Fail("cannot load two copies", dlerror());
    *(void**)&init[i] = dlsym(library[i], "dsv4mx_struct_init");
    *(void**)&error[i] = dlsym(library[i], "dsv4mx_last_error");
    if (init[i] == NULL || error[i] == NULL) return Fail("two copies", dlerror());
  }
  if (init[0] == init[1]) return Fail("two copies", "one took the other's symbols");
  if (init[0](NULL, 8) != DSV4MX_STATUS_INVALID_ARGUMENT)
    return Fail("two copies", "NULL was taken");
  if (error[0]()[0] == '\0' || error[1]()[0] != '\0')
    return Fail("two copies", "share their last error");
  return 0;
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
  if (TwoCopies(argv[1]) != 0) return 1;
  printf("loaded and closed twice, nothing foreign came along; two copies keep apart\n");
  return 0;
}
