/* A CUDA driver (libcuda.so.1) that says what its environment tells it to: how far a real CUDA runtime comes with it shows
 * what the library makes of old drivers, absent devices and faults of the system, on any machine.
 *
 *     FAKE_CUDA_VERSION   cuDriverGetVersion, e.g. 12080
 *     FAKE_CUDA_INIT      CUresult of cuInit, e.g. 100 for no device
 */
#include <stdlib.h>
#include <string.h>

typedef void (*Function)(void); /* of any type: GCC takes casts to this one */

static int Number(const char* name) {
  const char* text = getenv(name);
  return text != NULL ? atoi(text) : 0;
}

int cuInit(unsigned flags);
int cuInit(unsigned flags) {
  (void)flags;
  return Number("FAKE_CUDA_INIT");
}

int cuDriverGetVersion(int* version);
int cuDriverGetVersion(int* version) {
  *version = Number("FAKE_CUDA_VERSION");
  return 0;
}

int cuGetExportTable(const void** table, const void* id);
int cuGetExportTable(const void** table, const void* id) {
  (void)id;
  *table = NULL;
  return 500; /* not found */
}

/* Whatever else is asked for: no device. Never called by a runtime that was told so before. */
static int Other(void) {
  return 100;
}

int cuGetProcAddress(const char* name, void** out, int version, unsigned long long flags);
int cuGetProcAddress_v2(const char* name, void** out, int version, unsigned long long flags,
                        int* found);

int cuGetProcAddress_v2(const char* name, void** out, int version, unsigned long long flags,
                        int* found) {
  Function function = (Function)Other;
  (void)flags;
  if (strcmp(name, "cuInit") == 0) function = (Function)cuInit;
  if (strcmp(name, "cuDriverGetVersion") == 0) function = (Function)cuDriverGetVersion;
  if (strcmp(name, "cuGetExportTable") == 0) function = (Function)cuGetExportTable;
  if (strcmp(name, "cuGetProcAddress") == 0) {
    function = version < 12000 ? (Function)cuGetProcAddress : (Function)cuGetProcAddress_v2;
  }
  memcpy(out, &function,
         sizeof function); /* ISO C has no cast from a function to an object pointer */
  if (found != NULL) *found = 0;
  return 0;
}

int cuGetProcAddress(const char* name, void** out, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, out, version, flags, NULL);
}
