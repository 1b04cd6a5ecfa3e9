/* The library without linking it: dlopen by soname (or the path given), a check of the version,
 * and a tiny layer. This is what a program does that must start where the library is missing,
 * and what the Go and Rust bindings do.
 *
 * The layer is that of minimal.c with two experts, of which expert 1 has doubled w2: y = w_0 *
 * 0.7311 + w_1 * 1.4621. */
#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <dsv4mx.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kSize = 32, kTokens = 3 };

/* Every function that is used, once: a member with the function's type, looked up by its name. */
/* The formatter lays this list out anew with every run. */
/* clang-format off */
#define FUNCTIONS(X) \
  X(version) X(version_string) X(status_name) X(last_error) X(struct_init) \
  X(context_create) X(context_destroy) X(context_alloc) X(context_free) \
  X(context_synchronize) X(layer_create) X(layer_destroy) X(layer_query_workspace) \
  X(weights_create) X(weights_destroy) X(weights_set) X(weights_prepare) X(layer_apply)
/* clang-format on */
#define MEMBER(name) __typeof__(dsv4mx_##name)* name;
static struct { FUNCTIONS(MEMBER) } lib;

static void* Find(void* handle, const char* name) {
  void* symbol = dlsym(handle, name);
  if (symbol == NULL) {
    fprintf(stderr, "dlopen: the library has no %s\n", name);
    exit(1);
  }
  return symbol;
}

static void Load(const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    fprintf(stderr, "dlopen: %s\n", dlerror());
    exit(1);
  }
  /* ISO C has no cast from void* to a function pointer; POSIX promises that the bytes are equal. */
  void* symbol;
#define LOOK_UP(name)                     \
  symbol = Find(handle, "dsv4mx_" #name); \
  memcpy(&lib.name, &symbol, sizeof symbol);
  FUNCTIONS(LOOK_UP)
  if (lib.version() >> 8 !=
      DSV4MX_VERSION >> 8) { /* before 1.0 a minor version may change the ABI */
    fprintf(stderr, "dlopen: wrong ABI version: %s has %s, wanted %d.%d\n", path,
            lib.version_string(), DSV4MX_VERSION_MAJOR, DSV4MX_VERSION_MINOR);
    exit(1);
  }
}

static void Check(dsv4mx_status status) {
  if (status == DSV4MX_STATUS_OK) return;
  fprintf(stderr, "dlopen: %s: %s\n", lib.status_name(status), lib.last_error());
  exit(1);
}

/* The same codes for both experts, scales given: [2, 32, columns]. */
static void Set(dsv4mx_weights* weights, const char* name, dsv4mx_dtype dtype, const void* data,
                int64_t columns) {
  dsv4mx_tensor tensor;
  Check(lib.struct_init(&tensor, sizeof tensor));
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = 3;
  tensor.shape[0] = 2;
  tensor.shape[1] = kSize;
  tensor.shape[2] = columns;
  Check(lib.weights_set(weights, name, -1, &tensor, NULL, NULL));
}

int main(int argc, char** argv) {
  Load(argc > 1 ? argv[1] : "libdsv4mx.so.0");
  static uint8_t ones[2 * kSize * kSize / 2], scale_one[2 * kSize], scale_small[2 * kSize];
  memset(ones, 0x22, sizeof ones);
  memset(scale_one, 127, sizeof scale_one);
  memset(scale_small, 122, kSize);
  memset(scale_small + kSize, 123, kSize);

  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  dsv4mx_context* context;
  dsv4mx_layer* layer;
  dsv4mx_weights* weights;
  context_desc.device = DSV4MX_DEVICE_CPU;
  Check(lib.context_create(&context_desc, &context));
  desc.hidden = desc.intermediate = kSize;
  desc.experts = desc.top_k = 2;
  desc.out_dtype = DSV4MX_DTYPE_F32;
  Check(lib.layer_create(context, &desc, &layer));
  Check(lib.weights_create(layer, NULL, &weights));
  Set(weights, "w1.weight", DSV4MX_DTYPE_U8, ones, kSize / 2);
  Set(weights, "w1.scale", DSV4MX_DTYPE_E8M0, scale_one, 1);
  Set(weights, "w3.weight", DSV4MX_DTYPE_U8, ones, kSize / 2);
  Set(weights, "w3.scale", DSV4MX_DTYPE_E8M0, scale_one, 1);
  Set(weights, "w2.weight", DSV4MX_DTYPE_U8, ones, kSize / 2);
  Set(weights, "w2.scale", DSV4MX_DTYPE_E8M0, scale_small, 1);
  Check(lib.weights_prepare(weights, NULL, NULL));

  const int32_t ids[kTokens][2] = {{0, 1}, {1, -1}, {-1, -1}};
  const float router[kTokens][2] = {{0.25f, 0.75f}, {2.0f, 9.0f}, {9.0f, 9.0f}};
  const double silu = 1.0 / (1.0 + exp(-1.0));
  const double want[kTokens] = {0.25 * silu + 0.75 * 2 * silu, 2.0 * 2 * silu, 0.0};
  void* memory; /* 256-byte aligned; x and out of a layer ask for 16 */
  Check(lib.context_alloc(context, sizeof(uint16_t) * kTokens * kSize, &memory));
  uint16_t* x = memory;
  Check(lib.context_alloc(context, sizeof(float) * kTokens * kSize, &memory));
  float* y = memory;
  memset(x, 0, sizeof(uint16_t) * kTokens * kSize);
  for (int t = 0; t < kTokens; ++t) x[t * kSize + t] = 0x3f80;
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = x;
  args.topk_ids = ids;
  args.topk_weights = router;
  args.out = y;
  args.tokens = kTokens;
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  Check(lib.layer_query_workspace(layer, args.tokens, NULL, &need));
  args.workspace_bytes = need.bytes;
  Check(lib.context_alloc(context, args.workspace_bytes, &args.workspace));
  Check(lib.layer_apply(layer, weights, &args, NULL));
  Check(lib.context_synchronize(context, NULL));

  int wrong = 0;
  printf("dsv4mx %s:", lib.version_string());
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kSize; ++i) {
      if (!(fabs((double)y[t * kSize + i] - want[t]) <= 0.004 * want[t]))
        ++wrong; /* h is rounded to bf16 */
    }
    printf(" y[%d] = %.4f, expected %.4f;", t, (double)y[t * kSize], want[t]);
  }
  printf(" %d wrong\n", wrong);
  lib.context_free(context, args.workspace);
  lib.context_free(context, x);
  lib.context_free(context, y);
  lib.weights_destroy(weights);
  lib.layer_destroy(layer);
  lib.context_destroy(context);
  return wrong == 0 ? 0 : 1;
}
