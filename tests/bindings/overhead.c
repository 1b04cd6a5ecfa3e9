/* What a call of apply costs in C beyond its work: one without tokens, ns, the best of many rounds that are shorter than a
 * time slice. Rust, Go and Python have the same in their own tests. meson test --benchmark prints it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dsv4mx.h"

static void check(dsv4mx_status status) {
  if (status == DSV4MX_STATUS_OK) return;
  fprintf(stderr, "%s\n", dsv4mx_last_error());
  exit(1);
}

static double seconds(void) {
  struct timespec t;
  timespec_get(&t, TIME_UTC);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void set(dsv4mx_weights* weights, const char* name, const void* data, int64_t rows,
                int64_t columns) {
  dsv4mx_tensor t = DSV4MX_TENSOR_INIT;
  t.data = data;
  t.dtype = DSV4MX_DTYPE_U8;
  t.rank = 3;
  t.shape[0] = 2;
  t.shape[1] = rows;
  t.shape[2] = columns;
  check(dsv4mx_weights_set(weights, name, -1, &t, NULL, NULL));
}

int main(void) {
  enum { kCalls = 200, kRounds = 20000 };
  static uint8_t codes[2 * 64 * 16], scales[2 * 64];
  memset(codes, 0x21, sizeof codes);
  memset(scales, 120, sizeof scales);
  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  context_desc.device = DSV4MX_DEVICE_CPU;
  dsv4mx_context* context;
  check(dsv4mx_context_create(&context_desc, &context));
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  desc.hidden = desc.intermediate = 32;
  desc.experts = 2;
  desc.top_k = 1;
  desc.w13_order = DSV4MX_W13_ORDER_GATE_UP;
  dsv4mx_layer* layer;
  check(dsv4mx_layer_create(context, &desc, &layer));
  dsv4mx_weights* weights;
  check(dsv4mx_weights_create(layer, NULL, &weights));
  set(weights, "w13_weight", codes, 64, 16);
  set(weights, "w13_weight_scale", scales, 64, 1);
  set(weights, "w2_weight", codes, 32, 16);
  set(weights, "w2_weight_scale", scales, 32, 1);
  check(dsv4mx_weights_prepare(weights, NULL, NULL));

  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  double apply = 1, version = 1;
  uint32_t used = 0;
  for (int round = 0; round < kRounds; ++round) {
    double start = seconds();
    for (int i = 0; i < kCalls; ++i) check(dsv4mx_layer_apply(layer, weights, &args, NULL));
    double took = seconds() - start;
    if (took < apply) apply = took;
    start = seconds();
    for (int i = 0; i < kCalls; ++i) used += dsv4mx_version();
    took = seconds() - start;
    if (took < version) version = took;
  }
  printf("%6.1f ns  dsv4mx_layer_apply without tokens\n", apply / kCalls * 1e9);
  printf("%6.1f ns  dsv4mx_version, for comparison\n", version / kCalls * 1e9);
  dsv4mx_weights_destroy(weights);
  dsv4mx_layer_destroy(layer);
  dsv4mx_context_destroy(context);
  return used == 0;
}
