/* One layer over several ranks of this process: a thread per rank, experts dealt out, tokens of its own on each.
 *
 *     ranks [--device cpu|cuda] [RANKS [TP]]     default 4 ranks, of which TP = 1 hold slices of the same experts
 *
 * With --device cuda ranks take the host's GPUs in turn. Every rank makes a context, its part of the layer and a communicator
 * of kind LOCAL; dsv4mx_comm_prepare tells the ranks who holds what; then each call of dsv4mx_layer_apply is the whole layer for the rank's own tokens. The result is compared with
 * one rank that holds everything: the same bits without slices, close with them. */
#include <dsv4mx.h>
#include <pthread.h>

#include "example.h"

enum { HIDDEN = 256, INTERMEDIATE = 128, EXPERTS = 16, TOP_K = 4, TOKENS = 64, MOST_RANKS = 16 };

/* The whole layer and all tokens, as a checkpoint and a batch would give them. */
static uint8_t w13[EXPERTS][2][INTERMEDIATE][HIDDEN / 2],
    w13_scale[EXPERTS][2][INTERMEDIATE][HIDDEN / 32];
static uint8_t w2[EXPERTS][HIDDEN][INTERMEDIATE / 2], w2_scale[EXPERTS][HIDDEN][INTERMEDIATE / 32];
static uint16_t x[TOKENS][HIDDEN] __attribute__((aligned(16))),
    y[TOKENS][HIDDEN] __attribute__((aligned(16)));
static int32_t ids[TOKENS][TOP_K];
static float router_weights[TOKENS][TOP_K];

static int gpus; /* that ranks take in turn; 0: the CPU */

static void Check(dsv4mx_status status, const char* what, int rank) {
  if (status != DSV4MX_STATUS_OK)
    Die("ranks: rank %d, %s: %s: %s", rank, what, dsv4mx_status_name(status), dsv4mx_last_error());
}

/* Rows and columns of one expert's matrix, by strides: nothing is copied before the library does. */
static void SetSlice(dsv4mx_weights* weights, const char* name, int expert, const uint8_t* data,
                     int64_t row_bytes, int64_t rows, int64_t columns, dsv4mx_dtype dtype,
                     int rank) {
  dsv4mx_tensor tensor = DSV4MX_TENSOR_INIT;
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = 2;
  tensor.shape[0] = rows;
  tensor.shape[1] = columns;
  tensor.stride[0] = row_bytes;
  tensor.stride[1] = 1;
  Check(dsv4mx_weights_set(weights, name, expert, &tensor, NULL, NULL), name, rank);
}

/* Memory of the context's device with these bytes; on the CPU the bytes themselves. */
static void* Place(const dsv4mx_context* context, const void* bytes, size_t count, int rank) {
  if (gpus == 0) return (void*)bytes;
  void* memory;
  Check(dsv4mx_context_alloc(context, count, &memory), "alloc", rank);
  Check(dsv4mx_context_copy(context, memory, bytes, count, NULL), "copy", rank);
  return memory;
}

/* Applies the part of rank `rank` of `size` to its tokens. size 1 is the whole. */
static void RunRank(int rank, int size, int tp, uint16_t (*out)[HIDDEN]) {
  const int ep = size / tp, part = rank / tp, slice = rank % tp;
  const int experts = EXPERTS / ep, share = INTERMEDIATE / tp;
  dsv4mx_context_desc context_desc = DSV4MX_CONTEXT_DESC_INIT;
  context_desc.device = gpus ? DSV4MX_DEVICE_CUDA : DSV4MX_DEVICE_CPU;
  context_desc.device_ordinal = gpus ? rank % gpus : 0;
  dsv4mx_context* context;
  Check(dsv4mx_context_create(&context_desc, &context), "context", rank);
  dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
  desc.hidden = HIDDEN;
  desc.intermediate = INTERMEDIATE;
  desc.top_k = TOP_K;
  desc.experts = experts;
  desc.experts_global = EXPERTS;
  desc.expert_first = part * experts;
  desc.tp_rank = slice;
  desc.tp_size = tp;
  desc.slot_dtype = DSV4MX_DTYPE_BF16; /* as the communicator's default */
  desc.flags = DSV4MX_LAYER_BATCH_INVARIANT;
  dsv4mx_layer* layer;
  Check(dsv4mx_layer_create(context, &desc, &layer), "layer", rank);
  dsv4mx_weights* weights;
  Check(dsv4mx_weights_create(layer, NULL, &weights), "weights", rank);
  for (int e = 0; e < experts; e++) {
    const int g = part * experts + e, first = slice * share;
    SetSlice(weights, "w1.weight", e, w13[g][0][first], HIDDEN / 2, share, HIDDEN / 2,
             DSV4MX_DTYPE_U8, rank);
    SetSlice(weights, "w1.scale", e, w13_scale[g][0][first], HIDDEN / 32, share, HIDDEN / 32,
             DSV4MX_DTYPE_E8M0, rank);
    SetSlice(weights, "w3.weight", e, w13[g][1][first], HIDDEN / 2, share, HIDDEN / 2,
             DSV4MX_DTYPE_U8, rank);
    SetSlice(weights, "w3.scale", e, w13_scale[g][1][first], HIDDEN / 32, share, HIDDEN / 32,
             DSV4MX_DTYPE_E8M0, rank);
    SetSlice(weights, "w2.weight", e, &w2[g][0][first / 2], INTERMEDIATE / 2, HIDDEN, share / 2,
             DSV4MX_DTYPE_U8, rank);
    SetSlice(weights, "w2.scale", e, &w2_scale[g][0][first / 32], INTERMEDIATE / 32, HIDDEN,
             share / 32, DSV4MX_DTYPE_E8M0, rank);
  }
  Check(dsv4mx_weights_prepare(weights, NULL, NULL), "prepare", rank);

  dsv4mx_comm_desc comm_desc = DSV4MX_COMM_DESC_INIT;
  comm_desc.kind = size == 1 ? DSV4MX_COMM_SELF : DSV4MX_COMM_LOCAL;
  comm_desc.rank = rank;
  comm_desc.size = size;
  comm_desc.tp_size = tp;
  comm_desc.max_tokens = TOKENS;
  comm_desc.max_hidden = HIDDEN;
  comm_desc.max_top_k = TOP_K;
  comm_desc.timeout_ns = INT64_C(60000000000); /* ranks may share a device; 0 is 10 s */
  dsv4mx_comm* comm;
  Check(dsv4mx_comm_create(context, &comm_desc, &comm), "comm_create", rank);
  Check(dsv4mx_comm_prepare(comm, layer, NULL), "comm_prepare", rank);

  const int first = TOKENS * part / ep, end = TOKENS * (part + 1) / ep;
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.tokens = end - first;
  const size_t bytes = (size_t)args.tokens * sizeof x[0];
  args.x = Place(context, x[first], bytes, rank);
  args.topk_ids = Place(context, ids[first], (size_t)args.tokens * sizeof ids[0], rank);
  args.topk_weights =
      Place(context, router_weights[first], (size_t)args.tokens * sizeof router_weights[0], rank);
  args.out = Place(context, out[first], bytes, rank);
  args.comm = comm;
  dsv4mx_workspace_args workspace_args = DSV4MX_WORKSPACE_ARGS_INIT;
  workspace_args.comm = comm; /* rows of other ranks need room too */
  dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
  Check(dsv4mx_layer_query_workspace(layer, args.tokens, &workspace_args, &need), "workspace",
        rank);
  args.workspace_bytes = need.bytes;
  Check(dsv4mx_context_alloc(context, need.bytes, &args.workspace), "workspace", rank);
  Check(dsv4mx_layer_apply(layer, weights, &args, NULL), "apply", rank);
  if (gpus) Check(dsv4mx_context_copy(context, out[first], args.out, bytes, NULL), "copy", rank);
  Check(dsv4mx_context_synchronize(context, NULL), "synchronize", rank);
  /* Apply only enqueues on a GPU: what kernels found is asked for. */
  dsv4mx_comm_fault_info fault = DSV4MX_COMM_FAULT_INFO_INIT;
  Check(dsv4mx_comm_query_faults(comm, &fault), "query_faults", rank);
  Check(fault.status, "the group", rank);

  if (gpus) {
    void* const memory[] = {(void*)args.x, (void*)args.topk_ids, (void*)args.topk_weights,
                            args.out};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
      dsv4mx_context_free(context, memory[i]);
  }
  dsv4mx_context_free(context, args.workspace);
  dsv4mx_comm_destroy(comm);
  dsv4mx_weights_destroy(weights);
  dsv4mx_layer_destroy(layer);
  dsv4mx_context_destroy(context);
}

typedef struct {
  int rank, size, tp;
  uint16_t (*out)[HIDDEN];
} Rank;

static void* RankThread(void* given) {
  const Rank* r = given;
  RunRank(r->rank, r->size, r->tp, r->out);
  return NULL;
}

static float Value(uint16_t bf16) {
  const uint32_t bits = (uint32_t)bf16 << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static void Fill(void* data, size_t bytes, int low, int count) {
  for (size_t i = 0; i < bytes; i++) ((uint8_t*)data)[i] = (uint8_t)(low + rand() / 7 % count);
}

int main(int argc, char** argv) {
  if (argc > 2 && strcmp(argv[1], "--device") == 0) {
    if (strcmp(argv[2], "cuda") == 0) {
      Check(dsv4mx_device_get_count(DSV4MX_DEVICE_CUDA, &gpus), "devices", 0);
      if (gpus < 1) gpus = 1; /* the context says what is missing */
    } else if (strcmp(argv[2], "cpu") != 0) {
      Die("ranks: what is --device %s? cpu and cuda are known", argv[2]);
    }
    argc -= 2, argv += 2;
  }
  const int size = argc > 1 ? atoi(argv[1]) : 4, tp = argc > 2 ? atoi(argv[2]) : 1;
  if (size < 1 || size > MOST_RANKS || tp < 1 || size % tp != 0 || EXPERTS % (size / tp) != 0 ||
      INTERMEDIATE / 32 % tp != 0)
    Die("usage: ranks [--device cpu|cuda] [RANKS [TP]], RANKS up to %d, TP a divisor", MOST_RANKS);
  Fill(w13, sizeof w13, 0, 256);
  Fill(w2, sizeof w2, 0, 256);
  Fill(w13_scale, sizeof w13_scale, 118, 4);
  Fill(w2_scale, sizeof w2_scale, 118, 4);
  for (int t = 0; t < TOKENS; t++) {
    for (int i = 0; i < HIDDEN; i++) x[t][i] = (uint16_t)(0x3f00 + rand() / 7 % 256); /* 0.5 .. 2 */
    for (int k = 0; k < TOP_K; k++)
      ids[t][k] = (t * 5 + k * 3) % EXPERTS, router_weights[t][k] = 0.25f;
  }

  static uint16_t one[TOKENS][HIDDEN] __attribute__((aligned(16)));
  RunRank(0, 1, 1, one);

  pthread_t threads[MOST_RANKS];
  Rank ranks[MOST_RANKS];
  /* Tensor-parallel ranks of a part get the same rows; the first keeps them in y. */
  static uint16_t copies[MOST_RANKS][TOKENS][HIDDEN] __attribute__((aligned(16)));
  for (int r = 0; r < size; r++) {
    ranks[r] = (Rank){r, size, tp, r % tp == 0 ? y : copies[r]};
    if (pthread_create(&threads[r], NULL, RankThread, &ranks[r]) != 0)
      Die("ranks: no thread for rank %d", r);
  }
  for (int r = 0; r < size; r++) pthread_join(threads[r], NULL);

  double error = 0, norm = 0;
  for (int t = 0; t < TOKENS; t++) {
    for (int i = 0; i < HIDDEN; i++) {
      const double a = Value(y[t][i]), b = Value(one[t][i]);
      error += (a - b) * (a - b);
      norm += b * b;
    }
  }
  const int same = memcmp(y, one, sizeof y) == 0;
  printf("%d rank%s, %d tensor-parallel, %d tokens: %s, relative distance %.1e\n", size,
         size == 1 ? "" : "s", tp, TOKENS,
         same ? "the bits of one rank" : "not the bits of one rank", sqrt(error / norm));
  return tp == 1 ? !same : !(sqrt(error / norm) < 5e-3);
}
