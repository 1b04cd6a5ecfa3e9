// Version: the header's macros are the only place where it is written down.
#include "dsv4mx.h"
#include "dsv4mx_architecture.h"
#include "dsv4mx_git.h"

#define DSV4MX_TEXT_(x) #x
#define DSV4MX_TEXT(x) DSV4MX_TEXT_(x)

#if DSV4MX_HAVE_CUDA
#define DSV4MX_BACKENDS "cpu; cuda " DSV4MX_CUDA_ARCHITECTURE
#else
#define DSV4MX_BACKENDS "cpu"
#endif

uint32_t dsv4mx_version(void) {
  return DSV4MX_VERSION;
}

const char* dsv4mx_version_string(void) {
  return DSV4MX_TEXT(DSV4MX_VERSION_MAJOR) "." DSV4MX_TEXT(DSV4MX_VERSION_MINOR) "." DSV4MX_TEXT(
      DSV4MX_VERSION_PATCH) " (" DSV4MX_BACKENDS "; git " DSV4MX_GIT ")";
}
