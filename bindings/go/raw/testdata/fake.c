/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake.c
 * A stand-in for the library that does what no real one can be asked for: another version, missing functions, failures
 * with the caller's own text, progress from a thread that the caller's runtime did not start. The tests compile it.
 */
#define DSV4MX_EXPERIMENTAL 1
#include <dsv4mx.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#ifndef FAKE_VERSION
#define FAKE_VERSION DSV4MX_VERSION
#endif

static _Thread_local char error_text[64];

uint32_t dsv4mx_version(void) {
  return FAKE_VERSION;
}

#ifndef FAKE_VERSION_ALONE

const char* dsv4mx_last_error(void) {
  return error_text;
}

/* Fails with its argument as the text, and gives other threads a chance in between. */
dsv4mx_status dsv4mx_struct_init(void* s, size_t bytes) {
  (void)s;
  snprintf(error_text, sizeof error_text, "%zu", bytes);
  if (bytes % 16 == 0) sched_yield();
  return bytes == 0 ? DSV4MX_STATUS_OK : DSV4MX_STATUS_INVALID_ARGUMENT;
}

struct progress {
  const dsv4mx_control* control;
  int32_t result;
};

static void* run(void* pointer) {
  struct progress* p = pointer;
  p->result = p->control->progress(p->control->progress_user, DSV4MX_STAGE_PREPARE, 3, 7);
  return NULL;
}

dsv4mx_status dsv4mx_weights_prepare(dsv4mx_weights* weights, const dsv4mx_prepare_args* args,
                                     dsv4mx_stream stream) {
  (void)weights;
  (void)stream;
  struct progress p = {args->control, 0};
  pthread_t thread;
  if (pthread_create(&thread, NULL, run, &p) != 0) return DSV4MX_STATUS_INTERNAL;
  pthread_join(thread, NULL);
  return p.result == 0 ? DSV4MX_STATUS_OK : DSV4MX_STATUS_CANCELLED;
}

#endif
