/* What a call of apply costs in C beyond its work: one without tokens, ns, the best of many rounds that are shorter than a
 * time slice. Rust, Go and Python have the same in their own tests. meson test --benchmark prints it.
 *
 *     overhead [cpu|cuda]
 *
 * On a GPU also what the host spends on a call with one token, and both while a stream is captured into a CUDA graph. */
#include <dlfcn.h>
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

typedef struct {
  dsv4mx_context* context;
  dsv4mx_layer* layer;
  dsv4mx_weights* weights;
} Program;

static Program make(dsv4mx_device device) {
  static uint8_t codes[2 * 64 * 16], scales[2 * 64];
  memset(codes, 0x21, sizeof codes);
  memset(scales, 120, sizeof scales);
  Program p;
  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  context_desc.device = device;
  check(dsv4mx_context_create(&context_desc, &p.context));
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  desc.hidden = desc.intermediate = 32;
  desc.experts = 2;
  desc.top_k = 1;
  desc.w13_order = DSV4MX_W13_ORDER_GATE_UP;
  check(dsv4mx_layer_create(p.context, &desc, &p.layer));
  check(dsv4mx_weights_create(p.layer, NULL, &p.weights));
  set(p.weights, "w13_weight", codes, 64, 16);
  set(p.weights, "w13_weight_scale", scales, 64, 1);
  set(p.weights, "w2_weight", codes, 32, 16);
  set(p.weights, "w2_weight_scale", scales, 32, 1);
  check(dsv4mx_weights_prepare(p.weights, NULL, NULL));
  return p;
}

static void destroy(Program* p) {
  dsv4mx_weights_destroy(p->weights);
  dsv4mx_layer_destroy(p->layer);
  dsv4mx_context_destroy(p->context);
}

/* Seconds of `calls` calls. */
static double calls(const Program* p, const dsv4mx_apply_args* args, dsv4mx_stream stream,
                    int count) {
  const double start = seconds();
  for (int i = 0; i < count; ++i) check(dsv4mx_layer_apply(p->layer, p->weights, args, stream));
  return seconds() - start;
}

static void show(double best, const char* what) {
  printf("%8.1f ns  %s\n", best * 1e9, what);
}

/* The driver's functions, so that no toolkit is needed to build this. */
static void* driver;
static int cuda(const char* name, void* a, void* b, void* c, void* d, void* e) {
  int (*function)(void*, void*, void*, void*, void*);
  *(void**)&function = dlsym(driver, name);
  const int result = function == NULL ? -1 : function(a, b, c, d, e);
  if (result != 0) {
    fprintf(stderr, "overhead: %s: %d\n", name, result);
    exit(1);
  }
  return result;
}

static void* device_copy(const Program* p, const void* from, size_t bytes) {
  void* to;
  check(dsv4mx_context_alloc(p->context, bytes, &to));
  check(dsv4mx_context_copy(p->context, to, from, bytes, NULL));
  check(dsv4mx_context_synchronize(p->context, NULL));
  return to;
}

static void on_cuda(const Program* p, dsv4mx_apply_args args) {
  enum { kCalls = 50, kRounds = 400 };
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  void *primary, *stream_handle, *graph, *exec;
  cuda("cuInit", NULL, NULL, NULL, NULL, NULL);
  cuda("cuDevicePrimaryCtxRetain", &primary, NULL, NULL, NULL, NULL);
  cuda("cuCtxSetCurrent", primary, NULL, NULL, NULL, NULL);
  cuda("cuStreamCreate", &stream_handle, (void*)(uintptr_t)1, NULL, NULL, NULL);
  const dsv4mx_stream stream = (dsv4mx_stream)stream_handle;
  static const uint16_t x[32];
  static const int32_t id[1];
  static const float weight[1];
  args.x = device_copy(p, x, sizeof x);
  args.out = device_copy(p, x, sizeof x);
  args.topk_ids = device_copy(p, id, sizeof id);
  args.topk_weights = device_copy(p, weight, sizeof weight);
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  check(dsv4mx_layer_query_workspace(p->layer, 1, NULL, &need));
  args.workspace_bytes = need.bytes;
  check(dsv4mx_context_alloc(p->context, need.bytes, &args.workspace));

  for (args.tokens = 0; args.tokens <= 1; ++args.tokens) {
    double outside = 1, inside = 1, replay = 1;
    for (int round = 0; round < kRounds; ++round) {
      double took = calls(p, &args, stream, kCalls);
      if (took < outside) outside = took;
      check(dsv4mx_context_synchronize(p->context, stream));
      cuda("cuStreamBeginCapture_v2", stream_handle, NULL, NULL, NULL,
           NULL); /* 0: the strictest mode */
      took = calls(p, &args, stream, kCalls);
      if (took < inside) inside = took;
      cuda("cuStreamEndCapture", stream_handle, &graph, NULL, NULL, NULL);
      if (round % 40 == 0 && args.tokens == 1) {
        cuda("cuGraphInstantiateWithFlags", &exec, graph, NULL, NULL, NULL);
        for (int i = 0; i < 20; ++i) {
          const double start = seconds();
          cuda("cuGraphLaunch", exec, stream_handle, NULL, NULL, NULL);
          cuda("cuStreamSynchronize", stream_handle, NULL, NULL, NULL, NULL);
          took = seconds() - start;
          if (took < replay) replay = took;
        }
        cuda("cuGraphExecDestroy", exec, NULL, NULL, NULL, NULL);
      }
      cuda("cuGraphDestroy", graph, NULL, NULL, NULL, NULL);
    }
    show(outside / kCalls, args.tokens ? "one token, the host's part" : "no tokens, on a stream");
    show(inside / kCalls, args.tokens ? "one token, the host's part while a graph is captured"
                                      : "no tokens, while a graph is captured");
    if (args.tokens) show(replay / kCalls, "one token, each of 50 in a graph that is replayed");
  }
  void* const memory[] = {args.workspace, (void*)args.x, args.out, (void*)args.topk_ids,
                          (void*)args.topk_weights};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; ++i)
    dsv4mx_context_free(p->context, memory[i]);
  cuda("cuStreamDestroy_v2", stream_handle, NULL, NULL, NULL, NULL);
}

int main(int argc, char** argv) {
  enum { kCalls = 200, kRounds = 20000 };
  const int gpu = argc > 1 && strcmp(argv[1], "cuda") == 0;
  Program p = make(gpu ? DSV4MX_DEVICE_CUDA : DSV4MX_DEVICE_CPU);
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  double apply = 1, version = 1;
  uint32_t used = 0;
  for (int round = 0; round < kRounds; ++round) {
    double took = calls(&p, &args, NULL, kCalls);
    if (took < apply) apply = took;
    const double start = seconds();
    for (int i = 0; i < kCalls; ++i) used += dsv4mx_version();
    took = seconds() - start;
    if (took < version) version = took;
  }
  show(apply / kCalls, "dsv4mx_layer_apply without tokens");
  show(version / kCalls, "dsv4mx_version, for comparison");
  if (gpu) on_cuda(&p, args);
  destroy(&p);
  return used == 0;
}
