/* Asks for a CUDA context, and then for any context, and compares with what the command line expects:
 *
 *     driver_check STATUS AUTO_STATUS WORD...      the words are in the one line of text
 *
 * Where AUTO falls back to the CPU although a driver that does not fit is there, the same words are in a warning.
 */
#include <stdio.h>
#include <string.h>

#include "dsv4mx.h"

static char warning[512];

static void Log(void* user, dsv4mx_log_level level, const char* text) {
  (void)user;
  if (level == DSV4MX_LOG_WARNING) snprintf(warning, sizeof warning, "%s", text);
}

static int Check(dsv4mx_device device, const char* wanted, int unfit, int words, char** word) {
  dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
  dsv4mx_context* context = NULL;
  dsv4mx_status status;
  int i, bad;
  desc.device = device;
  desc.log = Log;
  warning[0] = 0;
  status = dsv4mx_context_create(&desc, &context);
  printf("device %d: %s: %s\n", (int)device, dsv4mx_status_name(status),
         status == DSV4MX_STATUS_OK ? "" : dsv4mx_last_error());
  bad = strcmp(dsv4mx_status_name(status), wanted) != 0;
  if (bad) printf("  wanted %s\n", wanted);
  for (i = 0; i < words && status != DSV4MX_STATUS_OK; ++i) {
    if (strstr(dsv4mx_last_error(), word[i]) != NULL) continue;
    printf("  wanted \"%s\" in the text\n", word[i]);
    bad = 1;
  }
  if (device == DSV4MX_DEVICE_AUTO && status == DSV4MX_STATUS_OK && unfit) {
    printf("  warning: %s\n", warning);
    for (i = 0; i < words; ++i) bad |= strstr(warning, word[i]) == NULL;
  }
  if ((status == DSV4MX_STATUS_OK) != (context != NULL)) bad = 1;
  dsv4mx_context_destroy(context);
  return bad;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int unfit = strcmp(argv[1], "UNSUPPORTED_DEVICE") == 0;
  int32_t devices = -1;
  if (dsv4mx_device_get_count(DSV4MX_DEVICE_CUDA, &devices) != DSV4MX_STATUS_OK || devices != 0) {
    printf("device_get_count: %d devices: %s\n", (int)devices, dsv4mx_last_error());
    return 1;
  }
  return Check(DSV4MX_DEVICE_CUDA, argv[1], unfit, argc - 3, argv + 3) |
         Check(DSV4MX_DEVICE_AUTO, argv[2], unfit, argc - 3, argv + 3);
}
