/* The smallest complete use: one expert of 32 x 32 whose answer is known by hand.
 *
 * Every weight is 1.0 (code 2, scale byte 127) except w2, where it is 2^-5 (scale byte 122); x
 * is 1 at one place and 0 elsewhere. So gate = up = 1, h = silu(1) = 0.7311 in all 32 places,
 * and y = 32 * 0.7311 * 2^-5 = 0.7311 everywhere. */
#include <dsv4mx.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kSize = 32 };

static void Check(dsv4mx_status status) {
  if (status == DSV4MX_STATUS_OK) return;
  fprintf(stderr, "minimal: %s: %s\n", dsv4mx_status_name(status), dsv4mx_last_error());
  exit(1);
}

static void Set(dsv4mx_weights* weights, const char* name, dsv4mx_dtype dtype, const void* data,
                int64_t columns) {
  dsv4mx_tensor tensor;
  Check(dsv4mx_struct_init(&tensor, sizeof tensor));
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = 2;
  tensor.shape[0] = kSize;
  tensor.shape[1] = columns;
  Check(dsv4mx_weights_set(weights, name, -1, &tensor, NULL, NULL));
}

int main(void) {
  uint8_t ones[kSize * kSize / 2], scale_one[kSize], scale_small[kSize];
  memset(ones, 0x22, sizeof ones); /* two codes 2 = 1.0 */
  memset(scale_one, 127, sizeof scale_one);
  memset(scale_small, 122, sizeof scale_small);

  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  dsv4mx_context* context;
  dsv4mx_layer* layer;
  dsv4mx_weights* weights;
  context_desc.device = DSV4MX_DEVICE_CPU; /* so that x, ids, w and y below may be plain arrays */
  Check(dsv4mx_context_create(&context_desc, &context));
  desc.hidden = desc.intermediate = kSize;
  desc.experts = desc.top_k = 1;
  Check(dsv4mx_layer_create(context, &desc, &layer));
  Check(dsv4mx_weights_create(layer, NULL, &weights));
  Set(weights, "experts.0.w1.weight", DSV4MX_DTYPE_I8, ones, kSize / 2);
  Set(weights, "experts.0.w1.scale", DSV4MX_DTYPE_E8M0, scale_one, 1);
  Set(weights, "experts.0.w3.weight", DSV4MX_DTYPE_I8, ones, kSize / 2);
  Set(weights, "experts.0.w3.scale", DSV4MX_DTYPE_E8M0, scale_one, 1);
  Set(weights, "experts.0.w2.weight", DSV4MX_DTYPE_I8, ones, kSize / 2);
  Set(weights, "experts.0.w2.scale", DSV4MX_DTYPE_E8M0, scale_small, 1);
  Check(dsv4mx_weights_prepare(weights, NULL, NULL));

  union { /* x and y are rows of bf16 with 16-byte alignment */
    uint16_t values[kSize];
    long double align;
  } x = {{0}}, y;
  const int32_t id = 0;
  const float weight = 1.0f;
  x.values[5] = 0x3f80; /* 1.0 */
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = x.values;
  args.topk_ids = &id;
  args.topk_weights = &weight;
  args.out = y.values;
  args.tokens = 1;
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  Check(dsv4mx_layer_query_workspace(layer, args.tokens, NULL, &need));
  args.workspace_bytes = need.bytes;
  Check(dsv4mx_context_alloc(context, args.workspace_bytes, &args.workspace));
  Check(dsv4mx_layer_apply(layer, weights, &args, NULL));
  Check(dsv4mx_context_synchronize(context, NULL));

  const uint32_t bits = (uint32_t)y.values[0] << 16;
  float first;
  memcpy(&first, &bits, sizeof first);
  printf("dsv4mx %s: y[0] = %.4f, expected 0.7311\n", dsv4mx_version_string(), (double)first);

  dsv4mx_context_free(context, args.workspace);
  dsv4mx_weights_destroy(weights);
  dsv4mx_layer_destroy(layer);
  dsv4mx_context_destroy(context);
  for (int i = 0; i < kSize; ++i) {
    if (y.values[i] != y.values[0]) return 1;
  }
  return fabs((double)first - 0.7311) < 0.004 ? 0 : 1;
}
