/*
 * dsv4mx: the routed-expert (MoE) layer of DeepSeek-V4 and its MXFP4 relatives behind one C ABI.
 *
 * Weights are FP4 (E2M1, two codes a byte) with one E8M0 scale byte per 32 values of K, activations are bf16 (W4A16).
 * The layer computes, for every token with expert ids e_1..e_k and router weights w_1..w_k,
 *
 *     g = x . w1[e]^T        u = x . w3[e]^T            w1, w3: [intermediate, hidden]
 *     h = activation(g, u)                              SwiGLU with clamp, or the GPT-OSS form
 *     y = routed_scaling_factor * sum_k w_k * (h_k . w2[e_k]^T)        w2: [hidden, intermediate]
 *
 * with fp32 accumulation, gate and up kept in fp32 until after the activation, h rounded once, the sum over k in
 * slot order in fp32, and one rounding of y. Shared experts and the router are the caller's.
 *
 * A complete use, errors left out (each call returns a dsv4mx_status):
 *
 *     dsv4mx_context* ctx;  dsv4mx_layer* layer;  dsv4mx_weights* weights;  void* workspace;  size_t bytes;
 *     dsv4mx_context_create(NULL, &ctx);                            // CUDA device 0 if usable, else the CPU
 *     dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
 *     desc.hidden = 4096; desc.intermediate = 2048; desc.experts = 256; desc.top_k = 6; desc.clamp_limit = 10.0f;
 *     dsv4mx_layer_create(ctx, &desc, &layer);                      // everything is checked here
 *     dsv4mx_weights_create(layer, NULL, &weights);
 *     dsv4mx_weights_set(weights, "layers.3.ffn.experts.0.w1.weight", -1, &tensor, NULL);     // for every tensor
 *     dsv4mx_weights_prepare(weights, NULL, NULL);                  // or dsv4mx_weights_load for a checkpoint
 *     dsv4mx_layer_query_workspace(layer, max_tokens, &bytes);
 *     dsv4mx_context_alloc(ctx, bytes, &workspace);
 *     dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
 *     args.x = x; args.topk_ids = ids; args.topk_weights = w; args.out = y; args.tokens = tokens;
 *     args.workspace = workspace; args.workspace_bytes = bytes;
 *     dsv4mx_layer_apply(layer, weights, &args, stream);            // enqueues; capturable in a CUDA graph
 *     dsv4mx_context_synchronize(ctx, stream);
 *
 * Conventions
 *   Shapes     row-major; [a, b] means b is contiguous. Sizes in elements, strides in elements, bytes where said.
 *   Zero       every field's zero is its default; an all-zero struct with struct_size and the sizes is the recommended
 *              configuration. The one exception is w13_order, which cannot be guessed.
 *   Structs    struct_size comes first and is set by the _INIT macros or dsv4mx_struct_init. A smaller, older struct is
 *              accepted and its missing fields are zero; a larger one is accepted if what is unknown is zero.
 *   NULL       is refused with INVALID_ARGUMENT unless a parameter says otherwise; destroy functions accept NULL.
 *   Ownership  create functions give the caller a reference, destroy takes it back. Children keep their parent alive,
 *              so any order of destruction is legal. Descriptors and their strings live only for the call.
 *   Threads    a const pointer means that concurrent calls on that object are fine; a non-const one means one call at
 *              a time on that object. Different objects are independent.
 *   Streams    the stream comes last and is the caller's. NULL is the legacy default stream; the CPU backend ignores
 *              it and has finished when the call returns. apply only enqueues.
 *   Device     the calling thread's current CUDA device is restored by every function.
 *   Errors     a status code, and one line of text in dsv4mx_last_error(): what, got, wanted. Nothing aborts, throws,
 *              prints or exits. On failure outputs are set to NULL or 0 and no partial object is left.
 *   Loading    the library loads without a GPU, a driver or NCCL.
 */
#ifndef DSV4MX_H_
#define DSV4MX_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------------------------------
 * Version
 * ------------------------------------------------------------------------------------------------------------------ */

#define DSV4MX_VERSION_MAJOR 0
#define DSV4MX_VERSION_MINOR 1
#define DSV4MX_VERSION_PATCH 0

#if defined(__GNUC__) || defined(__clang__)
#define DSV4MX_API __attribute__((visibility("default")))
#define DSV4MX_CHECKED __attribute__((visibility("default"), warn_unused_result))
#else
#define DSV4MX_API
#define DSV4MX_CHECKED
#endif

/* Version of the loaded library as 0x00MMmmpp (major, minor, patch). Threads: any. Since: 0.1.0 */
DSV4MX_API uint32_t dsv4mx_version(void);

/* Version, build and compiled GPU architectures in one line, e.g. "0.1.0 (cpu; cuda sm_90a)". Never NULL, static.
 * Threads: any. Since: 0.1.0 */
DSV4MX_API const char* dsv4mx_version_string(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Status
 * ------------------------------------------------------------------------------------------------------------------ */

/* Result of every function that can fail. Codes are stable and come in decades by cause; text is for people. */
typedef int32_t dsv4mx_status;

enum {
  DSV4MX_STATUS_OK = 0,

  DSV4MX_STATUS_INVALID_ARGUMENT = 10, /* NULL, out of range, contradicting fields */
  DSV4MX_STATUS_INVALID_STRUCT =
      11, /* struct_size too small, or unknown trailing fields that are not zero */
  DSV4MX_STATUS_INVALID_STATE =
      12, /* e.g. apply before prepare, a second prepare, set after prepare */
  DSV4MX_STATUS_INVALID_TENSOR = 13, /* a tensor's dtype, rank, shape, stride or data pointer */
  DSV4MX_STATUS_INVALID_SCALE =
      14, /* E8M0 byte 255, or a numeric scale that is no power of two in range */
  DSV4MX_STATUS_NOT_FOUND = 15, /* unknown tensor name; a tensor that prepare or load misses */

  DSV4MX_STATUS_UNSUPPORTED =
      20, /* legal, but not in this build, on this backend or in this version */
  DSV4MX_STATUS_UNSUPPORTED_SHAPE =
      21, /* a size outside what the layer supports; the text names the nearest legal */
  DSV4MX_STATUS_UNSUPPORTED_DTYPE = 22, /* a dtype or group size the layer does not compute with */
  DSV4MX_STATUS_UNSUPPORTED_DEVICE =
      23, /* compute capability, driver or device kind; the text says found and needed */

  DSV4MX_STATUS_OUT_OF_MEMORY = 30,
  DSV4MX_STATUS_WORKSPACE_TOO_SMALL = 31,
  DSV4MX_STATUS_BUFFER_TOO_SMALL = 32, /* a caller's buffer other than the workspace */
  DSV4MX_STATUS_MISALIGNED = 33, /* a pointer or stride without the alignment its field asks for */

  DSV4MX_STATUS_CUDA_ERROR =
      40, /* a CUDA call of this library failed; the text has its name and number */
  DSV4MX_STATUS_NO_DEVICE = 41, /* no driver, or no CUDA device */
  DSV4MX_STATUS_CUDA_STICKY =
      42, /* the CUDA context was already broken when the call began: not this call's doing */

  DSV4MX_STATUS_IO_ERROR = 60,     /* a file cannot be opened or read */
  DSV4MX_STATUS_FORMAT_ERROR = 61, /* a damaged file, or one of another format */

  DSV4MX_STATUS_CANCELLED = 70, /* a progress callback asked to stop */

  DSV4MX_STATUS_INTERNAL = 90 /* a bug in this library */
};

/* Name of a code, e.g. "INVALID_ARGUMENT"; "UNKNOWN" for anything else. Never NULL, static. Threads: any. Since: 0.1.0 */
DSV4MX_API const char* dsv4mx_status_name(dsv4mx_status status);

/* Text of the last failed call on the calling thread: one line, what, got, wanted; "" if none failed yet. Never NULL.
 * Valid until the next dsv4mx call that fails on this thread. Threads: any, thread-local. Since: 0.1.0 */
DSV4MX_API const char* dsv4mx_last_error(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Types
 * ------------------------------------------------------------------------------------------------------------------ */

/* A CUDA stream: the same type as cudaStream_t and CUstream, so nothing is cast and no CUDA header is needed. */
typedef struct CUstream_st* dsv4mx_stream;

typedef struct dsv4mx_context dsv4mx_context;       /* one device, or the CPU */
typedef struct dsv4mx_layer dsv4mx_layer;           /* an immutable description of one MoE layer */
typedef struct dsv4mx_weights dsv4mx_weights;       /* the experts of one layer */
typedef struct dsv4mx_checkpoint dsv4mx_checkpoint; /* an open safetensors checkpoint */

/* Element types. Values are stable. */
typedef int32_t dsv4mx_dtype;
enum {
  DSV4MX_DTYPE_DEFAULT = 0, /* in descriptors: the field's stated default, or "none" */
  DSV4MX_DTYPE_BF16 = 1,
  DSV4MX_DTYPE_F32 = 2,
  DSV4MX_DTYPE_F16 = 3,
  DSV4MX_DTYPE_I8 = 4, /* as weights: two E2M1 codes a byte; as scales: raw E8M0 bytes */
  DSV4MX_DTYPE_U8 = 5, /* as I8 */
  DSV4MX_DTYPE_E2M1 =
      6, /* packed FP4 whose shape counts values, two to a byte ("F4" in safetensors) */
  DSV4MX_DTYPE_E8M0 = 7, /* scale byte b, value 2^(b-127); 255 is NaN and refused */
  DSV4MX_DTYPE_E4M3 = 8, /* recognised in files, never accepted as an expert's weight */
  DSV4MX_DTYPE_E5M2 = 9,
  DSV4MX_DTYPE_I32 = 10,
  DSV4MX_DTYPE_I64 = 11,
  DSV4MX_DTYPE_F64 = 12,
  DSV4MX_DTYPE_OTHER = 13 /* anything else that a file holds */
};

/* Where a pointer points. */
typedef int32_t dsv4mx_memory;
enum {
  DSV4MX_MEMORY_HOST = 0,  /* any host pointer, of any alignment */
  DSV4MX_MEMORY_DEVICE = 1 /* memory of the context's device; on a CPU context the same as HOST */
};

/* A tensor that the library reads: lives only for the call. */
typedef struct dsv4mx_tensor {
  size_t struct_size;   /* sizeof of this struct as the caller knows it */
  const void* data;     /* first element; host pointers may have any alignment */
  dsv4mx_dtype dtype;   /* element type, see above */
  dsv4mx_memory memory; /* where data points */
  int32_t rank;         /* 1..4 */
  int32_t reserved;     /* 0 */
  int64_t shape[4];     /* elements; I8 and U8 weights count bytes, E2M1 counts values */
  int64_t stride
      [4]; /* elements of dtype (E2M1: bytes in the last dimension's place); all 0 = contiguous */
} dsv4mx_tensor;

/* Sets `bytes` bytes at `s` to zero and its leading size_t to `bytes`: what the _INIT macros do, for callers that
 * cannot use them. Returns INVALID_ARGUMENT for NULL or bytes < sizeof(size_t). Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_struct_init(void* s, size_t bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Context: one device
 * ------------------------------------------------------------------------------------------------------------------ */

typedef int32_t dsv4mx_device;
enum {
  DSV4MX_DEVICE_AUTO =
      0, /* a CUDA device that this build supports if there is one, else the CPU; the query says which */
  DSV4MX_DEVICE_CPU = 1,
  DSV4MX_DEVICE_CUDA = 2
};

/* Instruction set of the CPU backend. */
typedef int32_t dsv4mx_cpu_isa;
enum {
  DSV4MX_CPU_ISA_DEFAULT = 0, /* the best that this processor has */
  DSV4MX_CPU_ISA_PORTABLE = 1,
  DSV4MX_CPU_ISA_AVX2 = 2,  /* AVX2, FMA, F16C */
  DSV4MX_CPU_ISA_AVX512 = 3 /* AVX-512 F, BW, DQ, VL */
};

typedef int32_t dsv4mx_log_level;
enum { DSV4MX_LOG_ERROR = 1, DSV4MX_LOG_WARNING = 2, DSV4MX_LOG_INFO = 3, DSV4MX_LOG_DEBUG = 4 };

/* Receives finished text, one line without newline; called on the thread that made the dsv4mx call. */
typedef void (*dsv4mx_log_fn)(void* user, dsv4mx_log_level level, const char* text);

/* Allocates device memory (host memory on a CPU context) for weights and dsv4mx_context_alloc. Called on the thread
 * that made the dsv4mx call, never inside apply. Returns NULL on failure. */
typedef void* (*dsv4mx_alloc_fn)(void* user, size_t bytes, size_t alignment);
typedef void (*dsv4mx_free_fn)(void* user, void* pointer, size_t bytes);

typedef struct dsv4mx_context_desc {
  size_t struct_size;     /* sizeof of this struct as the caller knows it */
  dsv4mx_device device;   /* 0 = AUTO */
  int32_t device_ordinal; /* CUDA ordinal, >= 0; 0 = first */
  int32_t
      threads; /* CPU backend: threads to use, 1..4096; 0 = what the affinity mask and the cgroup allow */
  dsv4mx_cpu_isa
      cpu_isa; /* CPU backend: 0 = best; one that the processor lacks is UNSUPPORTED_DEVICE */
  dsv4mx_alloc_fn alloc;      /* NULL = the library's own; alloc and free are given together */
  dsv4mx_free_fn free;        /* takes back what alloc gave, with the same number of bytes */
  void* alloc_user;           /* first argument of alloc and free */
  dsv4mx_log_fn log;          /* NULL = none */
  void* log_user;             /* first argument of log */
  dsv4mx_log_level log_level; /* 0 = WARNING */
  uint32_t flags;             /* 0 */
  const char*
      plan_file; /* CSV rows that override the compiled-in kernel plan; NULL = none. CUDA only */
} dsv4mx_context_desc;

#define DSV4MX_CONTEXT_DESC_INIT \
  { sizeof(dsv4mx_context_desc), 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL }

/* Opens a device. desc may be NULL (all defaults). On CUDA all kernels are loaded here, so that the first apply costs
 * what the thousandth does; the device's primary context is used and never created anew.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, NO_DEVICE, UNSUPPORTED (no CUDA in this build), UNSUPPORTED_DEVICE,
 * OUT_OF_MEMORY, CUDA_ERROR, CUDA_STICKY, IO_ERROR and FORMAT_ERROR (plan_file, read in builds with CUDA before a device
 * is looked for). Threads: any. Ownership: *out is the caller's. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_create(const dsv4mx_context_desc* desc,
                                                   dsv4mx_context** out);

/* Gives the reference back. NULL is fine. The caller must have finished its stream work. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_context_destroy(dsv4mx_context* context);

typedef struct dsv4mx_context_info {
  size_t struct_size;         /* sizeof of this struct as the caller knows it */
  dsv4mx_device device;       /* CPU or CUDA */
  int32_t device_ordinal;     /* CUDA ordinal; 0 on the CPU */
  int32_t threads;            /* CPU threads in use; 0 on CUDA */
  dsv4mx_cpu_isa cpu_isa;     /* CPU instruction set in use; 0 on CUDA */
  int32_t compute_capability; /* 90 for SM 9.0; 0 on the CPU */
  int32_t multiprocessors;    /* 0 on the CPU */
  int64_t l2_bytes;           /* 0 on the CPU */
  char name[128];             /* device name, or "CPU" */
} dsv4mx_context_info;

/* What the context runs on. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_query(const dsv4mx_context* context,
                                                  dsv4mx_context_info* out);

/* Memory helpers, so that C, Go and Rust programs need no CUDA headers: device memory on CUDA, plain memory on the CPU.
 * alloc: 256-byte aligned, not initialised; bytes 0 gives NULL. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, CUDA_ERROR.
 * free: takes exactly what alloc gave, or NULL. copy: any direction, stream-ordered (a copy from or to pageable host
 * memory may block the thread). synchronize: waits for the stream and reports what failed on it.
 * Threads: any; these are safe to call concurrently. Stream: copy runs on it in order, synchronize waits for it.
 * Ownership: what alloc gave is the caller's until free. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_alloc(const dsv4mx_context* context, size_t bytes,
                                                  void** out);
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_free(const dsv4mx_context* context, void* pointer);
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_copy(const dsv4mx_context* context, void* to,
                                                 const void* from, size_t bytes,
                                                 dsv4mx_stream stream);
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_synchronize(const dsv4mx_context* context,
                                                        dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Layer: an immutable description
 * ------------------------------------------------------------------------------------------------------------------ */

typedef int32_t dsv4mx_weight_format;
enum { DSV4MX_WEIGHT_FORMAT_MXFP4 = 0 /* E2M1 codes, E8M0 scale per 32 of K */ };

/* How the rows of a fused w13 tensor [2*intermediate, hidden] are ordered. */
typedef int32_t dsv4mx_w13_order;
enum {
  DSV4MX_W13_ORDER_UNSET = 0,   /* only separate gate and up tensors (w1, w3 names) are accepted */
  DSV4MX_W13_ORDER_GATE_UP = 1, /* [w1; w3]: DeepSeek, SGLang, vLLM */
  DSV4MX_W13_ORDER_UP_GATE = 2, /* [w3; w1]: TensorRT-LLM, FlashInfer */
  DSV4MX_W13_ORDER_INTERLEAVED = 3 /* row 2i = gate i, row 2i+1 = up i: GPT-OSS */
};

typedef int32_t dsv4mx_nibble_order;
enum {
  DSV4MX_NIBBLE_ORDER_LOW_FIRST = 0, /* low nibble = even k (DeepSeek, GPT-OSS) */
  DSV4MX_NIBBLE_ORDER_HIGH_FIRST = 1
};

/* With L = clamp_limit: g' = min(g, L), u' = max(-L, min(u, L)), both before the activation; L = 0 means no clamp.
 * NaN propagates through clamp and activation. */
typedef int32_t dsv4mx_activation;
enum {
  DSV4MX_ACTIVATION_SWIGLU = 0,       /* h = g' * sigmoid(g') * u' */
  DSV4MX_ACTIVATION_SWIGLU_GPTOSS = 1 /* h = g' * sigmoid(alpha * g') * (u' + beta) */
};

typedef int32_t dsv4mx_router_weight_position;
enum {
  DSV4MX_ROUTER_WEIGHT_AFTER_W2 = 0, /* y = sum w_k * (h_k . w2 + bias) */
  DSV4MX_ROUTER_WEIGHT_BEFORE_W2 =
      1, /* h_k * w_k before its rounding; refused together with a w2 bias */
  DSV4MX_ROUTER_WEIGHT_ON_INPUT =
      2 /* x * w before GEMM1, in fp32, rounded to bf16; top_k must be 1 */
};

typedef int32_t dsv4mx_compute;
enum {
  DSV4MX_COMPUTE_W4A16 = 0, /* bf16 activations: the product */
  /* E4M3 activations on the same prepared weights, about 20x the error of W4A16; never chosen unasked. x, and h after
   * its rounding to bf16, are divided for each token and 128 values of hidden or intermediate by the least power of two
   * that brings the largest magnitude (at least 1e-4) to 448 or less, and rounded to E4M3 (nearest, ties to even).
   * Every backend computes this; with NaN or Inf a group of 128 is NaN. */
  DSV4MX_COMPUTE_W4A8 = 1,
  DSV4MX_COMPUTE_ORACLE_TRUTH =
      100, /* CPU: fp64, no rounding but the inputs' (out still has out_dtype) */
  DSV4MX_COMPUTE_ORACLE_SPEC = 101, /* CPU: fp64, h rounded once to bf16, out rounded once */
  DSV4MX_COMPUTE_ORACLE_W4A8 = 102  /* CPU: fp64, x and h rounded as W4A8 says, out rounded once */
};

/* Number path of the CUDA backend. Which one runs is the plan's decision unless it is forced here. */
typedef int32_t dsv4mx_number_path;
enum {
  DSV4MX_NUMBER_PATH_AUTO = 0,
  DSV4MX_NUMBER_PATH_BF16 = 1, /* weights converted to bf16 (in W4A8 too: same numbers, slower) */
  DSV4MX_NUMBER_PATH_PLANES =
      2 /* activations split into two exact E4M3 planes; needs weights the census allows */
};

enum {
  /* A token's output is bit-identical alone, in any batch, at any position: one number path and one split of K for
   * every number of tokens. */
  DSV4MX_LAYER_BATCH_INVARIANT = 1u << 0
};

typedef struct dsv4mx_layer_desc {
  size_t struct_size;   /* sizeof of this struct as the caller knows it */
  int32_t hidden;       /* H: a multiple of 32, 32..65536 */
  int32_t intermediate; /* I (of this rank): a multiple of 32, 32..65536 */
  int32_t experts;      /* experts held here, 1..4096 */
  int32_t top_k;        /* ids per token, 1..16 */

  /* Which ids are held here. Ids that are not are skipped: they cost nothing and contribute zero. With no map, id e is
   * local expert e - expert_first. With a map of experts_global entries, id e is local expert expert_map[e], or foreign
   * if that is -1. Negative ids are always skipped. */
  int32_t expert_first; /* first id held here, 0 or more; 0 with a map */
  int32_t
      experts_global; /* 0 = expert_first + experts; needed with a map; ids at or above it are skipped */
  const int32_t* expert_map; /* host memory, copied; NULL = contiguous range */

  dsv4mx_weight_format weight_format; /* 0 = MXFP4 */
  int32_t group_size; /* values of K per scale: 0 = 32; 16 is reserved (NVFP4) and refused */
  dsv4mx_w13_order w13_order;       /* see above; UNSET refuses fused w13 tensors */
  dsv4mx_nibble_order nibble_order; /* 0 = low nibble is even k */

  dsv4mx_activation activation; /* 0 = SWIGLU */
  float clamp_limit;            /* L >= 0, finite; 0 = no clamp */
  float activation_alpha;       /* GPT-OSS: 0 = 1.702 */
  float activation_beta;        /* GPT-OSS: 0 = 1.0 */
  dsv4mx_dtype
      w13_bias; /* 0 = no bias; BF16 or F32: a [2*intermediate] bias per expert is required */
  dsv4mx_dtype w2_bias; /* 0 = no bias; BF16 or F32: a [hidden] bias per expert is required */

  dsv4mx_router_weight_position router_weight_position; /* 0 = AFTER_W2 */
  float routed_scaling_factor; /* 0 = 1.0; finite; applied once, in fp32, in the combine */

  dsv4mx_dtype x_dtype;   /* 0 = BF16, the only one: f16 cannot hold MXFP4's range and is refused */
  dsv4mx_dtype out_dtype; /* 0 = BF16; or F32 */
  dsv4mx_dtype ids_dtype; /* 0 = I32; or I64 */
  dsv4mx_dtype router_weight_dtype; /* 0 = F32; or BF16 */
  dsv4mx_dtype
      slot_dtype; /* between GEMM2 and the combine: 0 = F32; or BF16 (CUDA: less traffic) */

  dsv4mx_compute compute;         /* 0 = W4A16 */
  dsv4mx_number_path number_path; /* 0 = AUTO */
  uint32_t flags;                 /* DSV4MX_LAYER_* */
} dsv4mx_layer_desc;

#define DSV4MX_LAYER_DESC_INIT                                                                   \
  {                                                                                              \
    sizeof(dsv4mx_layer_desc), 0, 0, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0, 0.0f, 0.0f, 0.0f, 0, 0, 0, \
        0.0f, 0, 0, 0, 0, 0, 0, 0, 0                                                             \
  }

/* Validates the whole description before a byte of weights is read.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, UNSUPPORTED, UNSUPPORTED_SHAPE (names the nearest legal size),
 * UNSUPPORTED_DTYPE, OUT_OF_MEMORY. Threads: any. Ownership: *out is the caller's. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_create(const dsv4mx_context* context,
                                                 const dsv4mx_layer_desc* desc, dsv4mx_layer** out);

/* Gives the reference back; NULL is fine. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_layer_destroy(dsv4mx_layer* layer);

typedef struct dsv4mx_layer_info {
  size_t struct_size;   /* sizeof of this struct as the caller knows it */
  dsv4mx_device device; /* CPU or CUDA */
  dsv4mx_number_path
      number_path;          /* forced path, or AUTO: then the plan of a token count says which */
  int64_t prepared_bytes;   /* exact size of the prepared weights of all experts, biases included */
  int64_t peak_extra_bytes; /* upper bound, kept: what set and prepare use beyond prepared_bytes */
  int64_t prepared_alignment;  /* alignment a caller's weights buffer needs, bytes */
  int64_t workspace_alignment; /* alignment of the workspace, bytes */
  int64_t max_tokens;          /* largest legal number of tokens in one apply */
  char backend[64];            /* e.g. "cpu avx2, 2 threads" or "cuda sm_90a, 132 SMs" */
} dsv4mx_layer_info;

/* What will run and how much memory it takes. out->struct_size is set by the caller. The numbers assume that the
 * weights allow every path; dsv4mx_weights_query is final once they are prepared.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query(const dsv4mx_layer* layer, dsv4mx_layer_info* out);

/* Bytes of workspace for calls of up to max_tokens tokens: exactly what the most demanding of them needs, whichever path
 * the weights take. A call of many tokens runs in chunks that share the workspace, so that from the largest chunk on the
 * bytes stay the same, and a call just above it leaves some unused. Does not decrease with max_tokens.
 * Errors: INVALID_ARGUMENT. Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query_workspace(const dsv4mx_layer* layer,
                                                          int64_t max_tokens, size_t* bytes);

/* Writes the plan for `tokens` tokens as one line of text with its reason: path, tiles, launches. `weights` may be
 * NULL: then the plan assumes that the weights allow every path. At most `bytes` bytes with the terminating zero.
 * Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL. Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query_plan(const dsv4mx_layer* layer,
                                                     const dsv4mx_weights* weights, int64_t tokens,
                                                     char* text, size_t bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Weights: the experts of one layer
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct dsv4mx_weights_desc {
  size_t struct_size; /* sizeof of this struct as the caller knows it */
  void*
      memory; /* caller's buffer (device memory on CUDA) that outlives the weights; NULL = allocated */
  size_t memory_bytes; /* at least dsv4mx_layer_info.prepared_bytes */
} dsv4mx_weights_desc;

#define DSV4MX_WEIGHTS_DESC_INIT \
  { sizeof(dsv4mx_weights_desc), NULL, 0 }

/* Makes an empty weights object. desc may be NULL. Errors: INVALID_ARGUMENT, INVALID_STRUCT, BUFFER_TOO_SMALL,
 * MISALIGNED, OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Ownership: *out is the caller's. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_create(const dsv4mx_layer* layer,
                                                   const dsv4mx_weights_desc* desc,
                                                   dsv4mx_weights** out);

/* Frees the experts. NULL is fine. The caller must have finished its stream work. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_weights_destroy(dsv4mx_weights* weights);

/* Copies one tensor into the weights; the caller's memory is not referenced afterwards (device memory: after the
 * stream has passed this point). With E experts, H hidden and I intermediate:
 *
 *   name (any prefix up to a dot is ignored)          shape (whole; without E for one expert)       dtype
 *   w13_weight                                        [E, 2I, H/2]                                  I8 U8, or E2M1 [.., H]
 *   w13_weight_scale, w13_weight_scale_inv            [E, 2I, H/32]                                 E8M0 I8 U8 F32 BF16 F16
 *   w13_bias, w13_weight_bias                         [E, 2I]                                       BF16 F32
 *   w2_weight                                         [E, H, I/2]                                   as w13_weight
 *   w2_weight_scale, w2_weight_scale_inv              [E, H, I/32]                                  as w13_weight_scale
 *   w2_bias, w2_weight_bias                           [E, H]                                        BF16 F32
 *   w1.weight, gate_proj.weight                       [E, I, H/2]                                   as w13_weight
 *   w3.weight, up_proj.weight                         [E, I, H/2]
 *   w2.weight, down_proj.weight                       [E, H, I/2]
 *   w1.scale, .weight_scale, .weight_scale_inv        [E, I, H/32]  (w3, w2, gate_proj, ... alike)  as w13_weight_scale
 *
 * A name that contains "experts.M." fixes the expert: M is the id as the checkpoint counts it, and `expert` must be -1
 * or the same. Otherwise `expert` is the local expert, or -1 for a whole tensor of all local experts. A name with a
 * foreign id (not held here) is accepted and ignored. Where one tensor has several names, the first in the order above
 * wins, whichever is set first; the others are ignored. Setting a tensor again under the same name replaces it.
 * Any strides are accepted, so a slice of a larger tensor (tensor parallel) needs no copy. Scales given as numbers must
 * be exact powers of two from 2^-127 to 2^127; they are stored as one byte.
 *
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (prepared), INVALID_TENSOR, INVALID_SCALE (position in the
 * text), NOT_FOUND (unknown name), OUT_OF_MEMORY, CUDA_ERROR. After a failure the tensor counts as not set.
 * Threads: one at a time per object. Stream: device tensors are read in stream order. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_set(dsv4mx_weights* weights, const char* name,
                                                int32_t expert, const dsv4mx_tensor* tensor,
                                                dsv4mx_stream stream);

/* Called at least once a second during long work with a fraction in 0..1; a non-zero result cancels. */
typedef int32_t (*dsv4mx_progress_fn)(void* user, double fraction);

typedef struct dsv4mx_prepare_args {
  size_t struct_size;          /* sizeof of this struct as the caller knows it */
  dsv4mx_progress_fn progress; /* NULL = none */
  void* progress_user;         /* first argument of progress */
} dsv4mx_prepare_args;

#define DSV4MX_PREPARE_ARGS_INIT \
  { sizeof(dsv4mx_prepare_args), NULL, NULL }

/* Finishes the weights: names what is missing, takes the census of scales, makes the backend's layout. args may be
 * NULL. Afterwards the weights are immutable and may be used by any number of threads and streams. May synchronise.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (prepared before), NOT_FOUND (what is missing), INVALID_SCALE,
 * UNSUPPORTED (a forced number path that these weights do not allow), CANCELLED, OUT_OF_MEMORY, CUDA_ERROR. After
 * CANCELLED the call may be repeated. Threads: one at a time per object. Stream: work runs on it in order, and the call
 * may wait for it. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_prepare(dsv4mx_weights* weights,
                                                    const dsv4mx_prepare_args* args,
                                                    dsv4mx_stream stream);

typedef int32_t dsv4mx_weights_state;
enum { DSV4MX_WEIGHTS_EMPTY = 0, DSV4MX_WEIGHTS_FILLING = 1, DSV4MX_WEIGHTS_PREPARED = 2 };

typedef struct dsv4mx_weights_info {
  size_t struct_size;         /* sizeof of this struct as the caller knows it */
  dsv4mx_weights_state state; /* EMPTY, FILLING or PREPARED */
  int32_t planes_exact; /* prepared: 1 if the two-plane path is exact for every block, else 0 */
  int32_t
      scale_min; /* prepared: smallest scale byte of groups that are not all zero; 0 if there are none */
  int32_t scale_max; /* prepared: largest such byte; 0 if there are none */
  int32_t
      span_max; /* prepared: most binades between such scales inside one row's block of 512 of K */
  int32_t reserved;        /* 0 */
  int64_t bytes;           /* resident bytes */
  int64_t tensors_missing; /* how many (expert, tensor) pairs prepare would still miss */
} dsv4mx_weights_info;

/* State, census and sizes. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT.
 * Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_query(const dsv4mx_weights* weights,
                                                  dsv4mx_weights_info* out);

/* The Marlin MXFP4 form that SGLang and vLLM hold on Hopper. Rows of w13 are [w1; w3], each half padded from I to
 * intermediate_padded; K of w13 and rows of w2 are padded from H to hidden_padded. A NULL tensor is left out. */
typedef struct dsv4mx_marlin {
  size_t struct_size;    /* sizeof of this struct as the caller knows it */
  int32_t expert_first;  /* first local expert covered */
  int32_t expert_count;  /* 0 = all from expert_first on */
  int32_t hidden_padded; /* 0 = the default of dsv4mx_layer_query_marlin; a multiple of 64, >= H */
  int32_t
      intermediate_padded; /* 0 = the default; a multiple of 32, >= I (w13 has 2 x this, a multiple of 64) */
  dsv4mx_memory
      memory; /* where the pointers point; w13 and w2 in device memory are 4-byte aligned */
  dsv4mx_dtype bias_dtype; /* 0 = BF16, or F32 */
  void* w13;               /* int32 [count, hidden_padded/16, 4*intermediate_padded] */
  void* w13_scale;         /* E8M0  [count, hidden_padded/32, 2*intermediate_padded] */
  void* w13_bias;          /* [count, 2*intermediate_padded] */
  void* w2;                /* int32 [count, intermediate_padded/16, 2*hidden_padded] */
  void* w2_scale;          /* E8M0  [count, intermediate_padded/32, hidden_padded] */
  void* w2_bias;           /* [count, hidden_padded] */
} dsv4mx_marlin;

#define DSV4MX_MARLIN_INIT \
  { sizeof(dsv4mx_marlin), 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL }

/* Fills hidden_padded and intermediate_padded with the padding rule of SGLang's preparation: I to 64 when H is a
 * multiple of 128, else to 128; H to 64. Other fields are left alone. Errors: INVALID_ARGUMENT, INVALID_STRUCT.
 * Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query_marlin(const dsv4mx_layer* layer,
                                                       dsv4mx_marlin* marlin);

/* Takes experts in Marlin form instead of dsv4mx_weights_set; what the padding contains is ignored. Scale bytes 255
 * are refused. Errors: as dsv4mx_weights_set, INVALID_ARGUMENT for paddings, MISALIGNED. Threads: one at a time per object.
 * Stream: device tensors are read in stream order. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_import_marlin(dsv4mx_weights* weights,
                                                          const dsv4mx_marlin* marlin,
                                                          dsv4mx_stream stream);

/* Gives prepared experts in Marlin form, bit for bit what SGLang's preparation makes; padding is zero codes and zero
 * scale bytes. To host memory a call takes at most dsv4mx_layer_info.peak_extra_bytes, until it returns.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared), MISALIGNED, OUT_OF_MEMORY, CUDA_ERROR.
 * Threads: any. Stream: device tensors are written in stream order. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_export_marlin(const dsv4mx_weights* weights,
                                                          const dsv4mx_marlin* marlin,
                                                          dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Apply
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct dsv4mx_apply_args {
  size_t struct_size; /* sizeof of this struct as the caller knows it */
  const void* x;      /* [tokens, hidden] x_dtype, 16-byte aligned */
  int64_t x_stride;   /* elements between rows, a multiple of 8; 0 = hidden */
  const void*
      topk_ids; /* [tokens, top_k] ids_dtype, contiguous, aligned to an id; negative or foreign ids are skipped */
  const void*
      topk_weights; /* [tokens, top_k] router_weight_dtype, contiguous, aligned to a weight */
  void* out; /* [tokens, hidden] out_dtype, 16-byte aligned; every element is written; not x */
  int64_t out_stride; /* elements between rows, a multiple of 8; 0 = hidden */
  int64_t tokens;     /* 0..131072; the bound when tokens_device is given */
  const int32_t*
      tokens_device; /* device memory, 4-byte aligned: tokens to process, clamped to 0..tokens; rows of
                                   out beyond it are left alone. NULL = exactly `tokens`. Read when the kernels
                                   run, so a captured graph can serve varying batches */
  void*
      workspace; /* device memory, 256-byte aligned; contents are neither read nor kept. Not shared by calls
                               in flight */
  size_t workspace_bytes; /* at least dsv4mx_layer_query_workspace(layer, tokens) */
} dsv4mx_apply_args;

#define DSV4MX_APPLY_ARGS_INIT \
  { sizeof(dsv4mx_apply_args), NULL, 0, NULL, NULL, NULL, 0, 0, NULL, NULL, 0 }

/* y = the layer applied to x: see the top of this file. Enqueues only: no allocation, no synchronisation, no read-back,
 * legal inside a CUDA graph capture, bit-identical from run to run. A token whose ids are all skipped gets a zero row.
 * NaN or Inf in a row of x reaches that row of out and no other. Duplicate ids in a row add. tokens 0 is legal.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared, or weights of another layer),
 * WORKSPACE_TOO_SMALL, MISALIGNED, CUDA_ERROR, CUDA_STICKY. Threads: any; each call in flight needs its own workspace.
 * Stream: everything runs on it, in order. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_apply(const dsv4mx_layer* layer,
                                                const dsv4mx_weights* weights,
                                                const dsv4mx_apply_args* args,
                                                dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Checkpoint: safetensors files in the DeepSeek-V4 naming
 * ------------------------------------------------------------------------------------------------------------------ */

/* Opens a checkpoint: a .safetensors file, a model.safetensors.index.json, or the folder of either. Files are mapped,
 * headers are checked in full. Errors: INVALID_ARGUMENT, IO_ERROR, FORMAT_ERROR, OUT_OF_MEMORY. Threads: any.
 * Ownership: *out is the caller's. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_create(const char* path, dsv4mx_checkpoint** out);

/* Unmaps the files: tensors got from it end with it. NULL is fine. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_checkpoint_destroy(dsv4mx_checkpoint* checkpoint);

/* Number of tensors; 0 for NULL. Threads: any. Since: 0.1.0 */
DSV4MX_API int64_t dsv4mx_checkpoint_get_count(const dsv4mx_checkpoint* checkpoint);

/* Name of tensor `index` (0..count-1) in name order; NULL if there is none. Lives as long as the checkpoint.
 * Threads: any. Since: 0.1.0 */
DSV4MX_API const char* dsv4mx_checkpoint_get_name(const dsv4mx_checkpoint* checkpoint,
                                                  int64_t index);

/* The tensor of that name, its data inside the mapped file. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, NOT_FOUND, UNSUPPORTED_SHAPE (rank above 4). Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_get_tensor(const dsv4mx_checkpoint* checkpoint,
                                                          const char* name, dsv4mx_tensor* out);

/* Fills hidden, intermediate, experts, experts_global, w13_order and group_size of *out from the tensors of layer
 * `layer` ([model.]layers.N.{ffn,mlp}.experts...; N = -1-K means mtp.K). Other fields are left alone. Refuses by name what
 * is no MXFP4 expert (FP8, NVFP4, INT4). Errors: INVALID_ARGUMENT, INVALID_STRUCT, NOT_FOUND, FORMAT_ERROR,
 * UNSUPPORTED_DTYPE. Threads: any. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_query_layer(const dsv4mx_checkpoint* checkpoint,
                                                           int32_t layer, dsv4mx_layer_desc* out);

/* Sets every expert tensor of layer `layer` that the weights need. args may be NULL; its progress callback is called as
 * in prepare, which the caller calls next. Errors: as dsv4mx_weights_set and dsv4mx_checkpoint_query_layer, CANCELLED.
 * Threads: one at a time per weights object. Stream: as dsv4mx_weights_prepare. Since: 0.1.0 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_load(dsv4mx_weights* weights,
                                                 const dsv4mx_checkpoint* checkpoint, int32_t layer,
                                                 const dsv4mx_prepare_args* args,
                                                 dsv4mx_stream stream);

#ifdef __cplusplus
}
#endif

#endif /* DSV4MX_H_ */
