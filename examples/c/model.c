/* Loads the experts of all MoE layers of a model folder, draft blocks included, with a progress
 * bar; applies each layer once to see that it works; prints a table of what was loaded and how
 * fast. Before the first byte is read it asks what the model needs: layers that fit together stay
 * loaded together, else each is freed before the next. Only the public C ABI is used. */
#define _POSIX_C_SOURCE 200809L

#include <dsv4mx.h>

#include "example.h"

enum { kTokens = 4 };

typedef struct {
  const char* path;
  dsv4mx_device device;
  int32_t threads, top_k;
  float clamp_limit;
} Options;

/* One layer on the device. */
typedef struct {
  char name[32];
  dsv4mx_layer* layer;
  dsv4mx_weights* weights;
  int64_t bytes;
  double seconds;
} Loaded;

/* The bar over all layers: each counts the same, nine tenths of it for loading. */
typedef struct {
  const char* name;
  int64_t index, count;
  int shown;
} Bar;

static void Check(dsv4mx_status status, const char* what) {
  if (status != DSV4MX_STATUS_OK)
    Die("%s: %s: %s", what, dsv4mx_status_name(status), dsv4mx_last_error());
}

static int32_t ShowBar(void* user, dsv4mx_stage stage, int64_t done, int64_t total) {
  Bar* bar = user;
  if (!isatty(STDERR_FILENO) || total == 0) return 0;
  const double part = (double)done / (double)total;
  const double here = stage == DSV4MX_STAGE_LOAD ? 0.9 * part : 0.9 + 0.1 * part;
  const double all = ((double)bar->index + here) / (double)bar->count;
  char cells[41];
  for (int i = 0; i < 40; ++i) cells[i] = i < (int)(40.0 * all) ? '#' : '.';
  cells[40] = '\0';
  fprintf(stderr, "\r\033[K[%s] %3.0f %% %s", cells, 100.0 * all, bar->name);
  fflush(stderr);
  bar->shown = 1;
  return 0;
}

static void EndBar(Bar* bar) {
  if (bar->shown) fprintf(stderr, "\r\033[K");
  bar->shown = 0;
}

static void Load(const Options* o, const dsv4mx_context* context,
                 const dsv4mx_checkpoint* checkpoint, const dsv4mx_block* block, Bar* bar,
                 Loaded* out) {
  if (block->kind == DSV4MX_BLOCK_PREFIX)
    snprintf(out->name, sizeof out->name, "%.31s", block->prefix);
  else
    snprintf(out->name, sizeof out->name, "%s.%d",
             block->kind == DSV4MX_BLOCK_MTP ? "mtp" : "layers", block->index);
  bar->name = out->name;
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  Check(dsv4mx_checkpoint_query_layer(checkpoint, block, &desc), out->name);
  desc.top_k = o->top_k < desc.experts_global ? o->top_k : desc.experts_global;
  desc.clamp_limit = o->clamp_limit;
  Check(dsv4mx_layer_create(context, &desc, &out->layer), out->name);
  Check(dsv4mx_weights_create(out->layer, NULL, &out->weights), out->name);
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress = ShowBar;
  control.progress_user = bar;
  dsv4mx_load_args load = DSV4MX_LOAD_ARGS_INIT;
  dsv4mx_prepare_args prepare = DSV4MX_PREPARE_ARGS_INIT;
  load.control = prepare.control = &control;
  const double start = Seconds();
  Check(dsv4mx_weights_load(out->weights, checkpoint, block, &load, NULL), out->name);
  Check(dsv4mx_weights_prepare(out->weights, &prepare, NULL), out->name);
  Check(dsv4mx_context_synchronize(context, NULL), out->name);
  out->seconds = Seconds() - start;
  dsv4mx_layer_info info = DSV4MX_LAYER_INFO_INIT;
  Check(dsv4mx_layer_query(out->layer, &info), out->name);
  out->bytes = info.prepared_bytes;
}

static void* Upload(const dsv4mx_context* context, const void* from, size_t bytes) {
  void* to;
  Check(dsv4mx_context_alloc(context, bytes, &to), "allocating");
  if (from != NULL) Check(dsv4mx_context_copy(context, to, from, bytes, NULL), "copying");
  return to;
}

/* A few random tokens through the layer: what comes out is finite and not all zero. */
static void SmokeCheck(const dsv4mx_context* context, const Loaded* l) {
  dsv4mx_layer_info info = DSV4MX_LAYER_INFO_INIT;
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  Check(dsv4mx_layer_query(l->layer, &info), l->name);
  Check(dsv4mx_layer_query_workspace(l->layer, kTokens, NULL, &need), l->name);
  const size_t values = (size_t)kTokens * (size_t)info.hidden;
  const size_t pairs = (size_t)kTokens * (size_t)info.top_k;
  uint16_t* x = Alloc(2 * values);
  int32_t* ids = Alloc(sizeof(int32_t) * pairs);
  float* weights = Alloc(sizeof(float) * pairs);
  Rng rng = RngMake(1, 1);
  for (size_t i = 0; i < values; ++i) x[i] = ToBf16((float)RngNormal(&rng));
  for (size_t i = 0; i < pairs; ++i) {
    ids[i] = (int32_t)(i % (size_t)info.experts_global);
    weights[i] = 1.0f / (float)info.top_k;
  }
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  void* buffers[] = {Upload(context, x, 2 * values), Upload(context, ids, sizeof(int32_t) * pairs),
                     Upload(context, weights, sizeof(float) * pairs),
                     Upload(context, NULL, 2 * values), Upload(context, NULL, need.bytes)};
  args.x = buffers[0];
  args.topk_ids = buffers[1];
  args.topk_weights = buffers[2];
  args.out = buffers[3];
  args.workspace = buffers[4];
  args.workspace_bytes = need.bytes;
  args.tokens = kTokens;
  Check(dsv4mx_layer_apply(l->layer, l->weights, &args, NULL), l->name);
  Check(dsv4mx_context_copy(context, x, args.out, 2 * values, NULL), l->name);
  Check(dsv4mx_context_synchronize(context, NULL), l->name);
  double sum = 0.0;
  for (size_t i = 0; i < values; ++i) sum += fabs((double)FromBf16(x[i]));
  if (!isfinite(sum) || sum == 0.0) Die("%s: the layer gives %g for random tokens", l->name, sum);
  for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; ++i)
    dsv4mx_context_free(context, buffers[i]);
  free(x);
  free(ids);
  free(weights);
}

static void Free(Loaded* l) {
  dsv4mx_weights_destroy(l->weights);
  dsv4mx_layer_destroy(l->layer);
  l->weights = NULL;
  l->layer = NULL;
}

static void PrintRow(const char* name, int64_t bytes, double seconds) {
  printf("%-16s %14lld %10.3f %8.2f\n", name, (long long)bytes, seconds,
         1e-9 * (double)bytes / seconds);
}

static Options ParseOptions(int argc, char** argv) {
  Options o = {.top_k = 6, .clamp_limit = 10.0f};
  for (int i = 1; i < argc; ++i) {
    const char* a = argv[i];
    if (strcmp(a, "--device") == 0) {
      const char* names[] = {"auto", "cpu", "cuda"}; /* in the order of DSV4MX_DEVICE_* */
      const char* name = OptionText(argc, argv, &i);
      int d = 0;
      while (d < 3 && strcmp(name, names[d]) != 0) ++d;
      if (d == 3) Die("%s: --device is '%s', expected cpu, cuda or auto", argv[0], name);
      o.device = d;
    } else if (strcmp(a, "--top-k") == 0) {
      o.top_k = (int32_t)OptionInt(argc, argv, &i, 1, 16);
    } else if (strcmp(a, "--clamp") == 0) {
      o.clamp_limit = (float)OptionReal(argc, argv, &i, 0.0, 1e30);
    } else if (strcmp(a, "--threads") == 0) {
      o.threads = (int32_t)OptionInt(argc, argv, &i, 0, 4096);
    } else if (a[0] == '-' || o.path != NULL) {
      Die("usage: %s FOLDER [--device auto|cpu|cuda] [--top-k 6] [--clamp 10] [--threads N]",
          argv[0]);
    } else {
      o.path = a;
    }
  }
  if (o.path == NULL)
    Die("usage: %s FOLDER [--device auto|cpu|cuda] [--top-k 6] [--clamp 10] [--threads N]",
        argv[0]);
  return o;
}

int main(int argc, char** argv) {
  const Options o = ParseOptions(argc, argv);
  dsv4mx_checkpoint* checkpoint;
  Check(dsv4mx_checkpoint_create(o.path, NULL, &checkpoint), "opening the checkpoint");
  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  context_desc.device = o.device;
  context_desc.threads = o.threads;
  dsv4mx_context* context;
  Check(dsv4mx_context_create(&context_desc, &context), "opening the device");

  dsv4mx_model_info need = DSV4MX_MODEL_INFO_INIT;
  Check(dsv4mx_checkpoint_query_model(checkpoint, context, NULL, &need), "asking for the model");
  const int together = need.blocks_fitting < 0 || need.blocks_fitting == need.blocks;
  printf("%d layers with experts, %.3f GB, %s\n", need.blocks, 1e-9 * (double)need.prepared_bytes,
         together ? "all loaded together" : "one loaded after the other");

  const int64_t count = dsv4mx_checkpoint_get_block_count(checkpoint);
  Loaded* all = calloc((size_t)count, sizeof *all);
  if (all == NULL) Die("out of memory");
  Bar bar = {.count = count};
  for (bar.index = 0; bar.index < count; ++bar.index) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    Check(dsv4mx_checkpoint_get_block(checkpoint, bar.index, &block), "asking for a block");
    Load(&o, context, checkpoint, &block, &bar, &all[bar.index]);
    if (!together) {
      SmokeCheck(context, &all[bar.index]);
      Free(&all[bar.index]);
    }
  }
  EndBar(&bar);
  for (int64_t i = 0; together && i < count; ++i) SmokeCheck(context, &all[i]);

  printf("%-16s %14s %10s %8s\n", "layer", "bytes", "seconds", "GB/s");
  int64_t bytes = 0;
  double seconds = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    PrintRow(all[i].name, all[i].bytes, all[i].seconds);
    bytes += all[i].bytes;
    seconds += all[i].seconds;
    Free(&all[i]);
  }
  PrintRow("total", bytes, seconds);
  free(all);
  dsv4mx_context_destroy(context);
  dsv4mx_checkpoint_destroy(checkpoint);
  return 0;
}
