/* The main job: loads one MoE layer of a safetensors checkpoint, prepares it, applies tokens
 * that a router has sent to experts, compares sampled rows with the fp64 oracle, and says what
 * it was and how fast it ran. Only the public C ABI is used, and no CUDA header even where the
 * layer runs on a GPU.
 *
 * The router is the checkpoint's own where it has one (logits = x . gate.weight^T, score =
 * sqrt(softplus(logit)), the k largest of score + bias are chosen, weights are the unbiased
 * scores divided by their sum), else random logits and a softmax over the k largest. The lower
 * id wins a tie. */
#define _POSIX_C_SOURCE 200809L

#define DSV4MX_EXPERIMENTAL /* for the oracle */
#include <dsv4mx.h>

#include "example.h"

enum { kMaxTopK = 16, kMaxRuns = 50 };

/* What the library promises against truth with bf16 output; twice that would be another order of
 * roundings. */
static const double kErrorLimit = 3e-3;

typedef struct {
  const char* path;
  dsv4mx_device device;
  int64_t tokens, rows;
  int32_t layer, threads, top_k;
  int has_layer;
  float routed_scaling_factor, clamp_limit;
  uint64_t seed;
} Options;

typedef struct {
  uint16_t* x;    /* [tokens, hidden] bf16 */
  int32_t* ids;   /* [tokens, top_k] */
  float* weights; /* [tokens, top_k] */
  const char* router;
} Inputs;

static void Check(dsv4mx_status status, const char* what) {
  if (status != DSV4MX_STATUS_OK)
    Die("%s: %s: %s", what, dsv4mx_status_name(status), dsv4mx_last_error());
}

static int32_t OnProgress(void* progress, dsv4mx_stage stage, int64_t done, int64_t total) {
  if (stage != DSV4MX_STAGE_WAIT) ProgressShow(progress, (double)done / (double)total);
  return 0;
}

/* layers.N, or mtp.(-1-N) for a number below 0. */
static dsv4mx_block BlockOf(int32_t layer) {
  dsv4mx_block block = DSV4MX_BLOCK_INIT;
  block.kind = layer < 0 ? DSV4MX_BLOCK_MTP : DSV4MX_BLOCK_LAYER;
  block.index = layer < 0 ? -1 - layer : layer;
  return block;
}

/* ---- the router, which is not the library's ---- */

/* Tensor of the layer's router under any of the prefixes that checkpoints use. */
static int FindRouterTensor(const dsv4mx_checkpoint* checkpoint, int32_t layer, const char* tail,
                            dsv4mx_tensor* out) {
  for (int i = 0; i < 4; ++i) {
    char name[160];
    snprintf(name, sizeof name, "%s%s.%d.%s.%s", i & 2 ? "model." : "",
             layer >= 0 ? "layers" : "mtp", layer >= 0 ? layer : -1 - layer, i & 1 ? "mlp" : "ffn",
             tail);
    memset(out, 0, sizeof *out);
    out->struct_size = sizeof *out;
    if (dsv4mx_checkpoint_get_tensor(checkpoint, name, out) == DSV4MX_STATUS_OK) return 1;
  }
  return 0;
}

/* A bf16 or f32 tensor as floats; NULL for other dtypes or sizes. Tensors of a file have no
 * alignment. */
static float* ToFloats(const dsv4mx_tensor* t, int64_t d0, int64_t d1) {
  if (t->shape[0] != d0 || t->rank != (d1 > 0 ? 2 : 1) || (d1 > 0 && t->shape[1] != d1))
    return NULL;
  if (t->dtype != DSV4MX_DTYPE_BF16 && t->dtype != DSV4MX_DTYPE_F32) return NULL;
  const size_t n = (size_t)(d1 > 0 ? d0 * d1 : d0);
  float* values = Alloc(n * sizeof(float));
  if (t->dtype == DSV4MX_DTYPE_F32) {
    memcpy(values, t->data, n * sizeof(float));
    return values;
  }
  for (size_t i = 0; i < n; ++i) {
    uint16_t bits;
    memcpy(&bits, (const char*)t->data + 2 * i, sizeof bits);
    values[i] = FromBf16(bits);
  }
  return values;
}

static float Dot(const float* a, const float* b, int64_t n) {
  float sums[8] = {
      0}; /* independent sums, so that the compiler may use vectors; n is a multiple of 32 */
  for (int64_t i = 0; i < n; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/* Ids of the k largest of `choice`, in descending order. */
static void TopK(const float* choice, int32_t experts, int32_t k, int32_t* ids) {
  int32_t count = 0;
  for (int32_t e = 0; e < experts; ++e) {
    int32_t at = count;
    while (at > 0 && choice[e] > choice[ids[at - 1]]) --at;
    if (at == k) continue;
    if (count < k) ++count;
    memmove(ids + at + 1, ids + at, sizeof(int32_t) * (size_t)(count - 1 - at));
    ids[at] = e;
  }
}

static Inputs MakeInputs(const Options* o, const dsv4mx_checkpoint* checkpoint,
                         const dsv4mx_layer_desc* desc) {
  const int64_t hidden = desc->hidden, k = desc->top_k;
  const int32_t experts = desc->experts;
  Inputs in;
  in.x = Alloc(sizeof(uint16_t) * (size_t)(o->tokens * hidden));
  in.ids = Alloc(sizeof(int32_t) * (size_t)(o->tokens * k));
  in.weights = Alloc(sizeof(float) * (size_t)(o->tokens * k));
  dsv4mx_tensor tensor;
  float* gate = FindRouterTensor(checkpoint, o->layer, "gate.weight", &tensor)
                    ? ToFloats(&tensor, experts, hidden)
                    : NULL;
  float* bias =
      FindRouterTensor(checkpoint, o->layer, "gate.bias", &tensor) ||
              FindRouterTensor(checkpoint, o->layer, "gate.e_score_correction_bias", &tensor)
          ? ToFloats(&tensor, experts, 0)
          : NULL;
  in.router = gate == NULL   ? "random logits, softmax"
              : bias == NULL ? "gate.weight"
                             : "gate.weight and gate.bias";

  float* row = Alloc(sizeof(float) * (size_t)hidden);
  float* score = Alloc(sizeof(float) * (size_t)experts);
  float* choice = Alloc(sizeof(float) * (size_t)experts);
  Rng rng = RngMake(o->seed, 1);
  Progress progress;
  ProgressStart(&progress, "routing");
  for (int64_t t = 0; t < o->tokens; ++t) {
    for (int64_t i = 0; i < hidden; ++i) {
      in.x[t * hidden + i] = ToBf16((float)RngNormal(&rng));
      row[i] = FromBf16(in.x[t * hidden + i]);
    }
    for (int32_t e = 0; e < experts; ++e) {
      const float logit =
          gate != NULL ? Dot(row, gate + e * hidden, hidden) : (float)RngNormal(&rng);
      score[e] = gate != NULL ? sqrtf(logit > 20.0f ? logit : log1pf(expf(logit))) : expf(logit);
      choice[e] = score[e] + (gate != NULL && bias != NULL ? bias[e] : 0.0f);
    }
    int32_t ids[kMaxTopK + 1];
    TopK(choice, experts, (int32_t)k, ids);
    float sum = 0.0f;
    for (int64_t j = 0; j < k; ++j) sum += score[ids[j]];
    for (int64_t j = 0; j < k; ++j) {
      in.ids[t * k + j] = ids[j];
      in.weights[t * k + j] = score[ids[j]] / sum;
    }
    ProgressShow(&progress, (double)(t + 1) / (double)o->tokens);
  }
  ProgressEnd(&progress);
  free(row);
  free(score);
  free(choice);
  free(gate);
  free(bias);
  return in;
}

/* ---- the layer ---- */

/* A layer with its weights on a device, and device buffers for one call. */
typedef struct {
  dsv4mx_context* context;
  dsv4mx_layer* layer;
  dsv4mx_weights* weights;
  dsv4mx_apply_args args;
  double load_seconds, prepare_seconds;
} Runner;

static void* Upload(const dsv4mx_context* context, const void* from, size_t bytes) {
  void* to;
  Check(dsv4mx_context_alloc(context, bytes, &to), "allocating");
  if (from != NULL) Check(dsv4mx_context_copy(context, to, from, bytes, NULL), "copying");
  return to;
}

static Runner MakeRunner(const Options* o, dsv4mx_device device, const dsv4mx_layer_desc* desc,
                         const dsv4mx_checkpoint* checkpoint) {
  Runner r;
  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  context_desc.device = device;
  context_desc.threads = o->threads;
  Check(dsv4mx_context_create(&context_desc, &r.context), "opening the device");
  Check(dsv4mx_layer_create(r.context, desc, &r.layer), "describing the layer");
  Check(dsv4mx_weights_create(r.layer, NULL, &r.weights), "making room for the weights");
  Progress progress;
  dsv4mx_control control = DSV4MX_CONTROL_INIT;
  control.progress = OnProgress;
  control.progress_user = &progress;
  dsv4mx_load_args load = DSV4MX_LOAD_ARGS_INIT;
  dsv4mx_prepare_args prepare = DSV4MX_PREPARE_ARGS_INIT;
  load.control = prepare.control = &control;
  const dsv4mx_block block = BlockOf(o->layer);
  ProgressStart(&progress, "loading");
  Check(dsv4mx_weights_load(r.weights, checkpoint, &block, &load, NULL), "loading");
  r.load_seconds = ProgressEnd(&progress);
  ProgressStart(&progress, "preparing");
  Check(dsv4mx_weights_prepare(r.weights, &prepare, NULL), "preparing");
  r.prepare_seconds = ProgressEnd(&progress);
  return r;
}

/* Puts the call's inputs on the device and reserves output and workspace. */
static void BindInputs(Runner* r, const dsv4mx_layer_desc* desc, const uint16_t* x,
                       const int32_t* ids, const float* weights, int64_t tokens) {
  const size_t pairs = (size_t)(tokens * desc->top_k), elements = (size_t)(tokens * desc->hidden);
  const dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  r->args = args;
  r->args.tokens = tokens;
  r->args.x = Upload(r->context, x, 2 * elements);
  r->args.topk_ids = Upload(r->context, ids, sizeof(int32_t) * pairs);
  r->args.topk_weights = Upload(r->context, weights, sizeof(float) * pairs);
  r->args.out = Upload(r->context, NULL, (desc->out_dtype == DSV4MX_DTYPE_F32 ? 4 : 2) * elements);
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  Check(dsv4mx_layer_query_workspace(r->layer, tokens, NULL, &need), "asking for the workspace");
  r->args.workspace_bytes = need.bytes;
  r->args.workspace = Upload(r->context, NULL, r->args.workspace_bytes);
}

static double Apply(const Runner* r) {
  const double start = Seconds();
  Check(dsv4mx_layer_apply(r->layer, r->weights, &r->args, NULL), "applying");
  Check(dsv4mx_context_synchronize(r->context, NULL), "applying");
  return Seconds() - start;
}

static void Download(const Runner* r, void* to, size_t bytes) {
  Check(dsv4mx_context_copy(r->context, to, r->args.out, bytes, NULL), "copying the result");
  Check(dsv4mx_context_synchronize(r->context, NULL), "copying the result");
}

static void DestroyRunner(Runner* r) {
  void* buffers[] = {(void*)r->args.x, (void*)r->args.topk_ids, (void*)r->args.topk_weights,
                     r->args.out, r->args.workspace};
  for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; ++i) {
    dsv4mx_context_free(r->context, buffers[i]);
  }
  dsv4mx_weights_destroy(r->weights);
  dsv4mx_layer_destroy(r->layer);
  dsv4mx_context_destroy(r->context);
}

static int CompareDoubles(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

/* Runs until half a second or kMaxRuns are over, after one run to warm up. Returns the median,
 * and how many. */
static double TimeApply(const Runner* r, int* runs) {
  double seconds[kMaxRuns], total = 0.0;
  Progress progress;
  ProgressStart(&progress, "applying");
  Apply(r);
  for (*runs = 0; *runs < kMaxRuns && (*runs < 3 || total < 0.5);) {
    seconds[*runs] = Apply(r);
    total += seconds[(*runs)++];
    ProgressShow(&progress, total < 0.5 ? total / 0.5 : 1.0);
  }
  ProgressEnd(&progress);
  qsort(seconds, (size_t)*runs, sizeof seconds[0], CompareDoubles);
  return seconds[*runs / 2];
}

/* The sampled rows again by the CPU's fp64 oracle. Only the experts that these rows use are
 * loaded, by a placement: a second copy of the layer is not needed. Returns rows of float. */
static float* Oracle(const Options* o, const dsv4mx_checkpoint* checkpoint, dsv4mx_layer_desc desc,
                     const Inputs* in, const int64_t* sampled) {
  const size_t hidden = (size_t)desc.hidden, k = (size_t)desc.top_k, rows = (size_t)o->rows;
  int32_t* placement = Alloc(sizeof(int32_t) * (size_t)desc.experts);
  uint16_t* x = Alloc(2 * rows * hidden);
  int32_t* ids = Alloc(sizeof(int32_t) * rows * k);
  float* weights = Alloc(sizeof(float) * rows * k);
  int32_t local = 0;
  for (size_t i = 0; i < rows; ++i) {
    const size_t t = (size_t)sampled[i];
    memcpy(x + i * hidden, in->x + t * hidden, 2 * hidden);
    memcpy(ids + i * k, in->ids + t * k, sizeof(int32_t) * k);
    memcpy(weights + i * k, in->weights + t * k, sizeof(float) * k);
    for (size_t j = 0; j < k; ++j) {
      int32_t seen = 0;
      while (seen < local && placement[seen] != ids[i * k + j]) ++seen;
      if (seen == local) placement[local++] = ids[i * k + j];
    }
  }
  desc.experts_global = desc.experts;
  desc.experts = local;
  desc.placement = placement;
  dsv4mx_layer_experimental truth_in_fp64 = DSV4MX_LAYER_EXPERIMENTAL_INIT;
  truth_in_fp64.oracle = DSV4MX_ORACLE_TRUTH;
  desc.experimental = &truth_in_fp64;
  desc.out_dtype = DSV4MX_DTYPE_F32;
  Runner r = MakeRunner(o, DSV4MX_DEVICE_CPU, &desc, checkpoint);
  BindInputs(&r, &desc, x, ids, weights, o->rows);
  Apply(&r);
  float* truth = Alloc(sizeof(float) * rows * hidden);
  Download(&r, truth, sizeof(float) * rows * hidden);
  DestroyRunner(&r);
  free(placement);
  free(x);
  free(ids);
  free(weights);
  return truth;
}

/* ---- the program ---- */

/* Smallest N of layers.N with experts; -1 (mtp.0) if there is none, which query_layer then
 * explains. */
static int32_t FirstLayer(const dsv4mx_checkpoint* checkpoint) {
  int32_t first = -1;
  const int64_t count = dsv4mx_checkpoint_get_count(checkpoint);
  for (int64_t i = 0; i < count; ++i) {
    const char* name = dsv4mx_checkpoint_get_name(checkpoint, i);
    int32_t layer;
    char block[4];
    if (strncmp(name, "model.", 6) == 0) name += 6;
    if (sscanf(name, "layers.%9d.%3[a-z].", &layer, block) != 2 ||
        strstr(name, ".experts.") == NULL)
      continue;
    if (first < 0 || layer < first) first = layer;
  }
  return first;
}

static void Usage(const char* program) {
  printf(
      "usage: %s CHECKPOINT [options]\n"
      "CHECKPOINT: a .safetensors file, an index, or a folder with either\n"
      "  --device cpu|cuda|auto   (auto)\n"
      "  --layer N                layers.N; -1 is mtp.0 (the first layer with experts)\n"
      "  --tokens N               (64)\n"
      "  --top-k K                experts per token (6)\n"
      "  --rsf R                  routed scaling factor: 1.5 Flash, 2.5 Pro (1.5)\n"
      "  --clamp L                SwiGLU limit, 0 = off (10)\n"
      "  --threads N              of the CPU backend (all)\n"
      "  --rows N                 rows compared with the oracle (8)\n"
      "  --seed N                 of the tokens (1)\n",
      program);
}

static Options ParseOptions(int argc, char** argv) {
  Options o = {.tokens = 64,
               .rows = 8,
               .top_k = 6,
               .routed_scaling_factor = 1.5f,
               .clamp_limit = 10.0f,
               .seed = 1};
  for (int i = 1; i < argc; ++i) {
    const char* a = argv[i];
    if (strcmp(a, "--help") == 0) {
      Usage(argv[0]);
      exit(0);
    } else if (strcmp(a, "--device") == 0) {
      const char* names[] = {"auto", "cpu", "cuda"}; /* in the order of DSV4MX_DEVICE_* */
      const char* name = OptionText(argc, argv, &i);
      int d = 0;
      while (d < 3 && strcmp(name, names[d]) != 0) ++d;
      if (d == 3) Die("%s: --device is '%s', expected cpu, cuda or auto", argv[0], name);
      o.device = d;
    } else if (strcmp(a, "--layer") == 0) {
      o.layer = (int32_t)OptionInt(argc, argv, &i, -1000, 100000);
      o.has_layer = 1;
    } else if (strcmp(a, "--tokens") == 0) {
      o.tokens = OptionInt(argc, argv, &i, 1, 131072);
    } else if (strcmp(a, "--top-k") == 0) {
      o.top_k = (int32_t)OptionInt(argc, argv, &i, 1, kMaxTopK);
    } else if (strcmp(a, "--rsf") == 0) {
      o.routed_scaling_factor = (float)OptionReal(argc, argv, &i, 1e-6, 1e6);
    } else if (strcmp(a, "--clamp") == 0) {
      o.clamp_limit = (float)OptionReal(argc, argv, &i, 0.0, 1e30);
    } else if (strcmp(a, "--threads") == 0) {
      o.threads = (int32_t)OptionInt(argc, argv, &i, 0, 4096);
    } else if (strcmp(a, "--rows") == 0) {
      o.rows = OptionInt(argc, argv, &i, 1, 1024);
    } else if (strcmp(a, "--seed") == 0) {
      o.seed = (uint64_t)OptionInt(argc, argv, &i, 0, INT64_MAX);
    } else if (a[0] == '-' || o.path != NULL) {
      Die("%s: what is '%s'? try --help", argv[0], a);
    } else {
      o.path = a;
    }
  }
  if (o.path == NULL) Die("%s: no checkpoint given; try --help", argv[0]);
  if (o.rows > o.tokens) o.rows = o.tokens;
  return o;
}

int main(int argc, char** argv) {
  Options o = ParseOptions(argc, argv);
  dsv4mx_checkpoint* checkpoint;
  Check(dsv4mx_checkpoint_create(o.path, NULL, &checkpoint), "opening the checkpoint");
  if (!o.has_layer) o.layer = FirstLayer(checkpoint);
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  const dsv4mx_block block = BlockOf(o.layer);
  Check(dsv4mx_checkpoint_query_layer(checkpoint, &block, &desc), "reading the layer");
  if (o.top_k > desc.experts) Die("--top-k is %d, the layer has %d experts", o.top_k, desc.experts);
  desc.top_k = o.top_k;
  desc.clamp_limit = o.clamp_limit;
  desc.routed_scaling_factor = o.routed_scaling_factor;
  printf("checkpoint  %s: %lld tensors\n", o.path,
         (long long)dsv4mx_checkpoint_get_count(checkpoint));
  printf("layer       %s.%d: E %d, H %d, I %d, top-k %d, clamp %g, routed scaling %g\n",
         o.layer >= 0 ? "layers" : "mtp", o.layer >= 0 ? o.layer : -1 - o.layer, desc.experts,
         desc.hidden, desc.intermediate, desc.top_k, (double)desc.clamp_limit,
         (double)desc.routed_scaling_factor);

  Runner r = MakeRunner(&o, o.device, &desc, checkpoint);
  dsv4mx_context_info device = {.struct_size = sizeof device};
  dsv4mx_layer_info layer = {.struct_size = sizeof layer};
  dsv4mx_weights_info weights = {.struct_size = sizeof weights};
  char plan[512];
  Check(dsv4mx_context_query(r.context, &device), "asking for the device");
  Check(dsv4mx_layer_query(r.layer, &layer), "asking for the layer");
  Check(dsv4mx_weights_query(r.weights, &weights), "asking for the weights");
  Check(dsv4mx_layer_query_plan(r.layer, r.weights, o.tokens, plan, sizeof plan),
        "asking for the plan");
  printf("device      %s: %s; dsv4mx %s\n", device.name, layer.backend, dsv4mx_version_string());
  printf("plan        %s\n", plan);
  printf("weights     %.3f GB resident, scale bytes %d..%d, loaded in %.2f s, prepared in %.2f s\n",
         1e-9 * (double)weights.bytes, weights.scale_min, weights.scale_max, r.load_seconds,
         r.prepare_seconds);
  fflush(stdout);

  const Inputs in = MakeInputs(&o, checkpoint, &desc);
  BindInputs(&r, &desc, in.x, in.ids, in.weights, o.tokens);
  char* hit = calloc((size_t)desc.experts, 1);
  if (hit == NULL) Die("out of memory");
  int32_t experts_hit = 0;
  const int64_t pairs = o.tokens * desc.top_k;
  for (int64_t i = 0; i < pairs; ++i) {
    if (!hit[in.ids[i]]) ++experts_hit;
    hit[in.ids[i]] = 1;
  }
  printf("router      %s: %lld pairs on %d of %d experts\n", in.router, (long long)pairs,
         experts_hit, desc.experts);

  int runs;
  const double seconds = TimeApply(&r, &runs);
  /* Bytes that must move at least once: the experts hit (17 bytes per 32 weights), x and y. */
  const double hidden = desc.hidden, weights_each = 3.0 * hidden * desc.intermediate;
  const double bytes = experts_hit * weights_each * 17.0 / 32.0 + 4.0 * hidden * (double)o.tokens;
  const double flop = 2.0 * weights_each * (double)pairs;
  printf(
      "apply       %lld tokens: %.1f us (median of %d), %.2f GB/s, %.1f GFLOP/s, workspace %.1f "
      "MB\n",
      (long long)o.tokens, 1e6 * seconds, runs, 1e-9 * bytes / seconds, 1e-9 * flop / seconds,
      1e-6 * (double)r.args.workspace_bytes);
  fflush(stdout);

  const size_t elements = (size_t)(o.tokens * desc.hidden);
  uint16_t* y = Alloc(2 * elements);
  Download(&r, y, 2 * elements);
  DestroyRunner(&r);
  int64_t* sampled = Alloc(sizeof(int64_t) * (size_t)o.rows);
  for (int64_t i = 0; i < o.rows; ++i) sampled[i] = i * o.tokens / o.rows;
  float* truth = Oracle(&o, checkpoint, desc, &in, sampled);
  double error2 = 0.0, truth2 = 0.0, max_error = 0.0;
  int finite = 1;
  for (int64_t i = 0; i < o.rows; ++i) {
    for (int64_t j = 0; j < desc.hidden; ++j) {
      const double want = truth[i * desc.hidden + j],
                   got = FromBf16(y[sampled[i] * desc.hidden + j]);
      const double error = fabs(got - want);
      if (!isfinite(got)) finite = 0;
      error2 += error * error;
      truth2 += want * want;
      if (error > max_error) max_error = error;
    }
  }
  const double relative = sqrt(error2 / truth2), rms = sqrt(truth2 / ((double)o.rows * hidden));
  printf(
      "error       %lld rows against the fp64 oracle: relative L2 %.2e (limit %.0e), max %.2e = "
      "%.2e rms\n",
      (long long)o.rows, relative, kErrorLimit, max_error, max_error / rms);
  free(truth);
  free(sampled);
  free(y);
  free(hit);
  free(in.x);
  free(in.ids);
  free(in.weights);
  dsv4mx_checkpoint_destroy(checkpoint);
  if (!finite || !(relative <= kErrorLimit))
    Die("the result is wrong: relative L2 error %.2e, limit %.0e", relative, kErrorLimit);
  return 0;
}
