/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file dsv4mx.h
 * The routed-expert (MoE) layer of DeepSeek-V4 and its MXFP4 relatives behind one C ABI.
 *
 * Weights are FP4 (E2M1, two codes per byte) with one E8M0 scale byte per 32 values of K; activations are bf16 (W4A16).
 * For every token with expert ids e_1..e_k and router weights w_1..w_k the layer computes
 *
 *     g = x . w1[e]^T        u = x . w3[e]^T            w1, w3: [intermediate, hidden]
 *     h = activation(g, u)                              SwiGLU with clamp and its relatives
 *     y = routed_scaling_factor * sum_k w_k * (h_k . w2[e_k]^T)        w2: [hidden, intermediate]
 *
 * with fp32 accumulation, gate and up kept in fp32 until after the activation, h rounded once, the sum over k in slot
 * order in fp32, and one rounding of y. The router and shared experts are the caller's.
 *
 * A complete use, from host arrays to a result on the host:
 *
 *     #include <dsv4mx.h>
 *     #include <stdio.h>
 *     #include <stdlib.h>
 *
 *     enum { HIDDEN = 256, INTERMEDIATE = 128, EXPERTS = 8, TOP_K = 2, TOKENS = 4 };
 *     static unsigned char w13[EXPERTS * 2 * INTERMEDIATE * HIDDEN / 2], w2[EXPERTS * HIDDEN * INTERMEDIATE / 2];
 *     static unsigned char w13_scale[EXPERTS * 2 * INTERMEDIATE * HIDDEN / 32], w2_scale[EXPERTS * HIDDEN * INTERMEDIATE / 32];
 *     static uint16_t x[TOKENS * HIDDEN], y[TOKENS * HIDDEN];  // bf16
 *     static int32_t ids[TOKENS * TOP_K];
 *     static float router_weights[TOKENS * TOP_K];
 *
 *     static void check(dsv4mx_status status) {
 *       if (status == DSV4MX_STATUS_OK) return;
 *       fprintf(stderr, "%s: %s\n", dsv4mx_status_name(status), dsv4mx_last_error());
 *       exit(1);
 *     }
 *
 *     static void set(dsv4mx_weights* weights, const char* name, const void* data, int64_t rows, int64_t columns) {
 *       dsv4mx_tensor tensor = DSV4MX_TENSOR_INIT;  // [experts, rows, columns] bytes in host memory
 *       tensor.data = data;
 *       tensor.dtype = DSV4MX_DTYPE_U8;
 *       tensor.rank = 3;
 *       tensor.shape[0] = EXPERTS;
 *       tensor.shape[1] = rows;
 *       tensor.shape[2] = columns;
 *       check(dsv4mx_weights_set(weights, name, -1, &tensor, NULL, NULL));
 *     }
 *
 *     int main(void) {
 *       for (size_t i = 0; i < sizeof w13; i++) w13[i] = (unsigned char)(rand() >> 7);
 *       for (size_t i = 0; i < sizeof w2; i++) w2[i] = (unsigned char)(rand() >> 7);
 *       for (size_t i = 0; i < sizeof w13_scale; i++) w13_scale[i] = 120;  // 2^(120 - 127)
 *       for (size_t i = 0; i < sizeof w2_scale; i++) w2_scale[i] = 120;
 *       for (int i = 0; i < TOKENS * HIDDEN; i++) x[i] = (uint16_t)(0x3F80 + rand() % 64);  // 1.0 .. 1.5
 *       for (int i = 0; i < TOKENS * TOP_K; i++) ids[i] = (i * 3) % EXPERTS, router_weights[i] = 0.5f;
 *
 *       dsv4mx_context* context;
 *       check(dsv4mx_context_create(NULL, &context));  // the first usable CUDA device, else the CPU
 *       dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
 *       desc.hidden = HIDDEN;
 *       desc.intermediate = INTERMEDIATE;
 *       desc.experts = EXPERTS;
 *       desc.top_k = TOP_K;
 *       desc.clamp_limit = 10.0f;
 *       desc.w13_order = DSV4MX_W13_ORDER_GATE_UP;
 *       dsv4mx_layer* layer;
 *       check(dsv4mx_layer_create(context, &desc, &layer));  // every size and option is checked here
 *       dsv4mx_weights* weights;
 *       check(dsv4mx_weights_create(layer, NULL, &weights));
 *       set(weights, "w13_weight", w13, 2 * INTERMEDIATE, HIDDEN / 2);
 *       set(weights, "w13_weight_scale", w13_scale, 2 * INTERMEDIATE, HIDDEN / 32);
 *       set(weights, "w2_weight", w2, HIDDEN, INTERMEDIATE / 2);
 *       set(weights, "w2_weight_scale", w2_scale, HIDDEN, INTERMEDIATE / 32);
 *       check(dsv4mx_weights_prepare(weights, NULL, NULL));  // ready for any number of threads
 *
 *       // Everything that apply reads and writes is memory of the context's device.
 *       dsv4mx_workspace_info need = DSV4MX_WORKSPACE_INFO_INIT;
 *       check(dsv4mx_layer_query_workspace(layer, TOKENS, NULL, &need));
 *       void *x_device, *y_device, *ids_device, *router_weights_device, *workspace;
 *       check(dsv4mx_context_alloc(context, sizeof x, &x_device));
 *       check(dsv4mx_context_alloc(context, sizeof y, &y_device));
 *       check(dsv4mx_context_alloc(context, sizeof ids, &ids_device));
 *       check(dsv4mx_context_alloc(context, sizeof router_weights, &router_weights_device));
 *       check(dsv4mx_context_alloc(context, need.bytes, &workspace));
 *       check(dsv4mx_context_copy(context, x_device, x, sizeof x, NULL));
 *       check(dsv4mx_context_copy(context, ids_device, ids, sizeof ids, NULL));
 *       check(dsv4mx_context_copy(context, router_weights_device, router_weights, sizeof router_weights, NULL));
 *
 *       dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
 *       args.x = x_device;
 *       args.topk_ids = ids_device;
 *       args.topk_weights = router_weights_device;
 *       args.out = y_device;
 *       args.tokens = TOKENS;
 *       args.workspace = workspace;
 *       args.workspace_bytes = need.bytes;
 *       check(dsv4mx_layer_apply(layer, weights, &args, NULL));  // enqueues; capturable in a CUDA graph
 *       check(dsv4mx_context_copy(context, y, y_device, sizeof y, NULL));
 *       check(dsv4mx_context_synchronize(context, NULL));
 *       printf("y[0] has the bf16 bits 0x%04x\n", (unsigned)y[0]);
 *
 *       dsv4mx_context_free(context, x_device);
 *       dsv4mx_context_free(context, y_device);
 *       dsv4mx_context_free(context, ids_device);
 *       dsv4mx_context_free(context, router_weights_device);
 *       dsv4mx_context_free(context, workspace);
 *       dsv4mx_weights_destroy(weights);
 *       dsv4mx_layer_destroy(layer);
 *       dsv4mx_context_destroy(context);
 *       return 0;
 *     }
 *
 * Conventions
 *   Shapes     Row-major; [a, b] means b is contiguous. Sizes and strides count elements unless bytes are named.
 *   Memory     "Device memory" is memory of the context's CUDA device; on a CPU context it is host memory. Every pointer
 *              of dsv4mx_apply_args is device memory. Descriptors, names and paths are host memory and are read only
 *              during the call.
 *   Zero       Every field's zero is its default; an all-zero struct with struct_size and the sizes is the recommended
 *              configuration. Exceptions: w13_order, which cannot be guessed, and the activations GATED and SITU, whose
 *              alpha and betas are taken as given.
 *   Structs    struct_size comes first and is set by the _INIT macros or dsv4mx_struct_init. A size that a released
 *              version had is accepted, its missing fields count as zero. A larger size (a caller compiled against a newer
 *              header) is accepted for input if everything unknown here is zero; in output nothing is written beyond the
 *              struct that this version knows. Any other size is INVALID_STRUCT.
 *   NULL       Refused with INVALID_ARGUMENT unless a parameter says otherwise; args structs may be NULL (all defaults);
 *              destroy and free accept NULL.
 *   Ownership  create gives the caller a reference, destroy takes it back. Children keep their parents alive, so any
 *              order of destruction is legal. Using a handle after its destroy is undefined, as with free().
 *   Threads    A const pointer means that concurrent calls on that object are fine; a non-const one means one call at a
 *              time on that object and none with a const pointer beside it. Different objects are independent. Weights are
 *              mutable until prepared; afterwards only calls that take them non-const change them, and applies enqueued
 *              before such a call finish with the old experts.
 *   Streams    The stream comes last and is the caller's. NULL is the legacy default stream; cudaStreamPerThread
 *              ((dsv4mx_stream)0x2) and cudaStreamLegacy (0x1) are taken as such, and a caller compiled with
 *              --default-stream per-thread passes the former itself. The CPU backend ignores streams and has finished when
 *              a call returns. apply only enqueues.
 *   Graphs     A captured apply keeps the addresses of its arguments: layer, weights, workspace, tensors and the context
 *              must outlive every graph that holds it. Where tokens_device is given, plan and launch sizes follow the
 *              bound `tokens`, whatever the device count is at replay.
 *   Device     The calling thread's current CUDA device is restored by every function, and so is its floating-point
 *              state, which does not change results.
 *   Errors     A status code, and one line of text in dsv4mx_last_error(): what, got, wanted. Nothing aborts, throws,
 *              prints or exits. A C++ exception out of a caller's callback becomes DSV4MX_INTERNAL; forced unwinding
 *              (pthread_exit, cancellation) passes through. On failure outputs are set to NULL or 0 and no partial
 *              object is left. Text is valid UTF-8 and does not depend on the locale.
 *   Languages  The error text belongs to the OS thread. A goroutine or an async task that may move between the failing
 *              call and dsv4mx_last_error() must be locked to its thread over both.
 *   Fork       A child of fork() must not use handles of its parent; it may create new ones if the parent had no CUDA
 *              context.
 *   Loading    The library loads without a GPU, a driver or NCCL.
 *   Versions   In 0.x a new minor version may change the ABI and the bits of results, a patch version neither. The soname
 *              stays libdsv4mx.so.0 for all of 0.x, so a binding or program compares major and minor of dsv4mx_version()
 *              with its header's and reports "wrong ABI version" (found, wanted) if they differ. From 1.0 on the major
 *              version is the ABI and structs only grow. What stands behind DSV4MX_EXPERIMENTAL is outside every promise.
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

/** The version of this header as one comparable number, 0x00MMmmpp; dsv4mx_version() gives the library's. */
#define DSV4MX_VERSION \
  ((DSV4MX_VERSION_MAJOR << 16) | (DSV4MX_VERSION_MINOR << 8) | DSV4MX_VERSION_PATCH)

#if defined(__GNUC__) || defined(__clang__)
#define DSV4MX_API __attribute__((visibility("default")))
#define DSV4MX_CHECKED __attribute__((visibility("default"), warn_unused_result))
#else
#define DSV4MX_API
#define DSV4MX_CHECKED
#endif

/** Version of the loaded library as 0x00MMmmpp (major, minor, patch). Threads: any. Since: 0.1.0 */
DSV4MX_API uint32_t dsv4mx_version(void);

/**
 * Version, build and compiled GPU architectures in one line, e.g. "0.1.0 (cpu; cuda sm_90a; git 1a2b3c4)". Never NULL,
 * static. Threads: any. Since: 0.1.0
 */
DSV4MX_API const char* dsv4mx_version_string(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Status
 * ------------------------------------------------------------------------------------------------------------------ */

/** Result of every function that can fail. Codes are stable and come in decades by cause; text is for people. */
typedef int32_t dsv4mx_status;

/** Values of dsv4mx_status. */
enum dsv4mx_status_value {
  DSV4MX_STATUS_OK = 0,

  /** NULL, out of range, contradicting fields. */
  DSV4MX_STATUS_INVALID_ARGUMENT = 10,
  /** A struct_size that no version had, or unknown trailing fields that are not zero. */
  DSV4MX_STATUS_INVALID_STRUCT = 11,
  /** E.g. apply before prepare, a second prepare, set after prepare. */
  DSV4MX_STATUS_INVALID_STATE = 12,
  /** A tensor's dtype, rank, shape, stride or data pointer. */
  DSV4MX_STATUS_INVALID_TENSOR = 13,
  /** E8M0 byte 255, or a numeric scale that is no power of two in range. */
  DSV4MX_STATUS_INVALID_SCALE = 14,
  /** An unknown tensor name, or a tensor that prepare or load misses. */
  DSV4MX_STATUS_NOT_FOUND = 15,
  /** An expert id outside -1..experts_global-1, met by a layer with DSV4MX_LAYER_CHECKED_IDS. */
  DSV4MX_STATUS_INVALID_ID = 16,

  /** Legal, but not in this build, on this backend or in this version. */
  DSV4MX_STATUS_UNSUPPORTED = 20,
  /** A size outside what the layer supports; the text names the nearest legal one. */
  DSV4MX_STATUS_UNSUPPORTED_SHAPE = 21,
  /** A dtype or group size the layer does not compute with. */
  DSV4MX_STATUS_UNSUPPORTED_DTYPE = 22,
  /** Compute capability, driver or device kind; the text says found and needed. */
  DSV4MX_STATUS_UNSUPPORTED_DEVICE = 23,

  DSV4MX_STATUS_OUT_OF_MEMORY = 30,
  DSV4MX_STATUS_WORKSPACE_TOO_SMALL = 31,
  /** A caller's buffer other than the workspace. */
  DSV4MX_STATUS_BUFFER_TOO_SMALL = 32,
  /** A pointer or stride without the alignment its field asks for. */
  DSV4MX_STATUS_MISALIGNED = 33,

  /** A CUDA call of this library failed; the text has its name and number. */
  DSV4MX_STATUS_CUDA_ERROR = 40,
  /** No driver, or no CUDA device. */
  DSV4MX_STATUS_NO_DEVICE = 41,
  /** The CUDA context was already broken when the call began: not this call's doing. */
  DSV4MX_STATUS_CUDA_STICKY = 42,

  /** A communicator's transport failed; the text has stage, round and rank. */
  DSV4MX_STATUS_COMM_ERROR = 50,
  /** A rank did not arrive within the communicator's timeout. */
  DSV4MX_STATUS_COMM_TIMEOUT = 51,
  /** A rank ended or aborted. */
  DSV4MX_STATUS_COMM_RANK_LOST = 52,
  /** Ranks disagree about descriptors or the order of calls. */
  DSV4MX_STATUS_COMM_MISMATCH = 53,
  /** NCCL could not be loaded, or is a version outside the supported range. */
  DSV4MX_STATUS_NCCL_UNAVAILABLE = 54,
  /** An NCCL call failed; the text has its name and result. */
  DSV4MX_STATUS_NCCL_ERROR = 55,

  /** A file cannot be opened or read. */
  DSV4MX_STATUS_IO_ERROR = 60,
  /** A damaged file, or one of another format. */
  DSV4MX_STATUS_FORMAT_ERROR = 61,

  /** A progress callback or a cancel flag asked to stop. */
  DSV4MX_STATUS_CANCELLED = 70,
  /** A call did not finish within dsv4mx_control.timeout_ns. */
  DSV4MX_STATUS_DEADLINE_EXCEEDED = 71,

  /** A bug in this library. */
  DSV4MX_STATUS_INTERNAL = 90,

  /** No code: makes the type signed for every compiler and generator. Each enum here ends so. */
  DSV4MX_STATUS_SENTINEL = -1
};

/**
 * Name of a code, e.g. "INVALID_ARGUMENT"; "UNKNOWN" for anything else. Never NULL, static. Threads: any. Since: 0.1.0
 */
DSV4MX_API const char* dsv4mx_status_name(dsv4mx_status status);

/**
 * Text of the last failed call on the calling thread: one line, what, got, wanted; "" if none failed yet. Never NULL.
 * Valid until the next dsv4mx call that fails on this thread. Threads: any, thread-local. Since: 0.1.0
 */
DSV4MX_API const char* dsv4mx_last_error(void);

/* ---------------------------------------------------------------------------------------------------------------------
 * Types
 * ------------------------------------------------------------------------------------------------------------------ */

struct CUstream_st;
/** A CUDA stream: the same type as cudaStream_t and CUstream, so nothing is cast and no CUDA header is needed. */
typedef struct CUstream_st* dsv4mx_stream;

/** One device, or the CPU. */
typedef struct dsv4mx_context dsv4mx_context;
/** A description of one MoE layer; only its placement can change. */
typedef struct dsv4mx_layer dsv4mx_layer;
/** The experts of one layer: filled, prepared, and then changed by whole experts alone. */
typedef struct dsv4mx_weights dsv4mx_weights;
/** An open checkpoint. */
typedef struct dsv4mx_checkpoint dsv4mx_checkpoint;
/** One rank of a tensor- or expert-parallel group. */
typedef struct dsv4mx_comm dsv4mx_comm;

/* Defined only with DSV4MX_EXPERIMENTAL (at the end); the stable structs point to them. */
typedef struct dsv4mx_context_experimental dsv4mx_context_experimental;
typedef struct dsv4mx_layer_experimental dsv4mx_layer_experimental;

/** Element types. */
typedef int32_t dsv4mx_dtype;

/** Values of dsv4mx_dtype. Stable. */
enum dsv4mx_dtype_value {
  /** In descriptors: the field's stated default, or "none". */
  DSV4MX_DTYPE_DEFAULT = 0,
  DSV4MX_DTYPE_BF16 = 1,
  DSV4MX_DTYPE_F32 = 2,
  DSV4MX_DTYPE_F16 = 3,
  /** As weights: two E2M1 codes per byte; as scales: raw E8M0 bytes. */
  DSV4MX_DTYPE_I8 = 4,
  /** As I8. */
  DSV4MX_DTYPE_U8 = 5,
  /** Packed FP4 whose shape counts values, two per byte ("F4" in safetensors). */
  DSV4MX_DTYPE_E2M1 = 6,
  /** Scale byte b, value 2^(b-127); 255 is NaN and refused. */
  DSV4MX_DTYPE_E8M0 = 7,
  /** Recognised in files, never accepted as an expert's weight. */
  DSV4MX_DTYPE_E4M3 = 8,
  /** As E4M3. */
  DSV4MX_DTYPE_E5M2 = 9,
  DSV4MX_DTYPE_I32 = 10,
  DSV4MX_DTYPE_I64 = 11,
  DSV4MX_DTYPE_F64 = 12,
  /** Anything else that a file holds. */
  DSV4MX_DTYPE_OTHER = 13,
  /** As weights: eight E2M1 codes per little-endian word, the first in the lowest bits (MLX). */
  DSV4MX_DTYPE_U32 = 14,
  DSV4MX_DTYPE_SENTINEL = -1
};

/** Kinds of memory. */
typedef int32_t dsv4mx_memory;

/** Values of dsv4mx_memory. */
enum dsv4mx_memory_value {
  /** Any host pointer, of any alignment. */
  DSV4MX_MEMORY_HOST = 0,
  /** Memory of the context's device; on a CPU context the same as HOST. */
  DSV4MX_MEMORY_DEVICE = 1,
  /** Page-locked host memory, for the allocator hook; as a tensor's memory the same as HOST. */
  DSV4MX_MEMORY_PINNED = 2,
  DSV4MX_MEMORY_SENTINEL = -1
};

/** A tensor that the library reads: lives only for the call. */
typedef struct dsv4mx_tensor {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** First element; host pointers may have any alignment. */
  const void* data;
  /** Element type. */
  dsv4mx_dtype dtype;
  /** Where data points. */
  dsv4mx_memory memory;
  /** Number of dimensions, 1..4. */
  int32_t rank;
  /** 0. */
  int32_t reserved;
  /** Elements; I8 and U8 weights count bytes, E2M1 counts values. */
  int64_t shape[4];
  /**
   * Elements between neighbours of each dimension; all 0 = contiguous. For E2M1 strides count bytes: those of the last
   * dimension lie between bytes of two values, those of the others between rows.
   */
  int64_t stride[4];
} dsv4mx_tensor;

#define DSV4MX_TENSOR_INIT                                   \
  {                                                          \
    sizeof(dsv4mx_tensor), NULL, 0, 0, 0, 0, {0, 0, 0, 0}, { \
      0, 0, 0, 0                                             \
    }                                                        \
  }

/**
 * Sets `bytes` bytes at `s` to zero and its leading size_t to `bytes`: what the _INIT macros do, for callers that cannot
 * use them. Errors: INVALID_ARGUMENT for NULL or bytes < sizeof(size_t). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_struct_init(void* s, size_t bytes);

/** What a long call is doing. */
typedef int32_t dsv4mx_stage;

/** Values of dsv4mx_stage. */
enum dsv4mx_stage_value {
  /** Waiting for work that the caller enqueued on the stream before; done and total are 0. */
  DSV4MX_STAGE_WAIT = 1,
  /** Opening a checkpoint; done and total count files. */
  DSV4MX_STAGE_OPEN = 2,
  /** Reading and repacking tensors; done and total count bytes. */
  DSV4MX_STAGE_LOAD = 3,
  /** Preparing; done and total count experts. */
  DSV4MX_STAGE_PREPARE = 4,
  /** Importing or exporting another form, or copying experts; done and total count experts. */
  DSV4MX_STAGE_CONVERT = 5,
  /** Writing a snapshot; done and total count bytes. */
  DSV4MX_STAGE_SAVE = 6,
  /** Waiting for other ranks of a group; done and total count ranks. */
  DSV4MX_STAGE_JOIN = 7,
  DSV4MX_STAGE_SENTINEL = -1
};

/**
 * Called at the start and the end of each stage and at least once per second in between, on the thread that made the
 * call. A non-zero result cancels the call. It must not use the object that the call works on.
 */
typedef int32_t (*dsv4mx_progress_fn)(void* user, dsv4mx_stage stage, int64_t done, int64_t total);

/** Control over a long call, pointed to by its args. After CANCELLED or DEADLINE_EXCEEDED the object is usable. */
typedef struct dsv4mx_control {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** NULL = none. */
  dsv4mx_progress_fn progress;
  /** First argument of progress. */
  void* progress_user;
  /** A flag that any thread may set to a non-zero value to cancel; read as an atomic. NULL = none. */
  const int32_t* cancel;
  /** Nanoseconds from the begin of the call, after which it ends with DEADLINE_EXCEEDED; 0 = no limit. */
  int64_t timeout_ns;
} dsv4mx_control;

#define DSV4MX_CONTROL_INIT \
  { sizeof(dsv4mx_control), NULL, NULL, NULL, 0 }

/* ---------------------------------------------------------------------------------------------------------------------
 * Devices: what a context can be opened on
 * ------------------------------------------------------------------------------------------------------------------ */

/** Kinds of devices. */
typedef int32_t dsv4mx_device;

/** Values of dsv4mx_device. */
enum dsv4mx_device_value {
  /**
   * The CUDA device device_ordinal if this build supports it, else the CPU, with a WARNING that says why if there is an
   * NVIDIA driver. An ordinal above 0 is never replaced by the CPU.
   */
  DSV4MX_DEVICE_AUTO = 0,
  DSV4MX_DEVICE_CPU = 1,
  DSV4MX_DEVICE_CUDA = 2,
  DSV4MX_DEVICE_SENTINEL = -1
};

/** What a device is. */
typedef struct dsv4mx_device_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** CPU or CUDA. */
  dsv4mx_device device;
  /** 1 if a context can be opened on it, else 0. */
  int32_t supported;
  /** 90 for SM 9.0; 0 on the CPU. */
  int32_t compute_capability;
  /** 0 on the CPU. */
  int32_t multiprocessors;
  /** Memory of the device in bytes. */
  int64_t total_bytes;
  /**
   * Free memory in bytes; -1 where it is not known without opening a CUDA context. On the CPU what the system gives
   * without swapping (MemAvailable), or what is free where it does not say; limits of control groups do not count.
   */
  int64_t free_bytes;
  /** Device name, or "CPU". UTF-8, terminated. */
  char name[128];
  /** Why it is not supported, or "". */
  char reason[256];
} dsv4mx_device_info;

#define DSV4MX_DEVICE_INFO_INIT                          \
  {                                                      \
    sizeof(dsv4mx_device_info), 0, 0, 0, 0, 0, 0, {0}, { \
      0                                                  \
    }                                                    \
  }

/**
 * Number of devices of a kind: 1 for CPU; for CUDA those that the driver shows, 0 without a driver or in a build without
 * CUDA. Opens no CUDA context. Errors: INVALID_ARGUMENT (AUTO is no kind). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_device_get_count(dsv4mx_device device, int32_t* out);

/**
 * Describes a device, usable or not. Opens no CUDA context. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, NO_DEVICE (no such ordinal), UNSUPPORTED (no CUDA in this build).
 * Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_device_query(dsv4mx_device device, int32_t ordinal,
                                                 dsv4mx_device_info* out);

/* ---------------------------------------------------------------------------------------------------------------------
 * Context: one device
 * ------------------------------------------------------------------------------------------------------------------ */

/** Instruction sets of the CPU backend. */
typedef int32_t dsv4mx_cpu_isa;

/** Values of dsv4mx_cpu_isa. */
enum dsv4mx_cpu_isa_value {
  /** The best that this processor has. */
  DSV4MX_CPU_ISA_DEFAULT = 0,
  DSV4MX_CPU_ISA_PORTABLE = 1,
  /** AVX2, FMA, F16C. */
  DSV4MX_CPU_ISA_AVX2 = 2,
  /** AVX-512 F, BW, DQ, VL. */
  DSV4MX_CPU_ISA_AVX512 = 3,
  /** AVX-512 with BF16. */
  DSV4MX_CPU_ISA_AVX512_BF16 = 4,
  DSV4MX_CPU_ISA_SENTINEL = -1
};

/** Levels of the log. */
typedef int32_t dsv4mx_log_level;

/** Values of dsv4mx_log_level. */
enum dsv4mx_log_level_value {
  /** What no status can report, e.g. a block given to free that this context did not allocate. */
  DSV4MX_LOG_ERROR = 1,
  /** What works, but probably not as meant: a fallback to the CPU beside an NVIDIA driver, fewer threads than asked. */
  DSV4MX_LOG_WARNING = 2,
  /** One line for each object made: device, layer, weights. */
  DSV4MX_LOG_INFO = 3,
  /** One line for each tensor set or ignored. */
  DSV4MX_LOG_DEBUG = 4,
  DSV4MX_LOG_SENTINEL = -1
};

/** Receives finished text, one line without newline, on the thread that made the dsv4mx call. Never called by apply. */
typedef void (*dsv4mx_log_fn)(void* user, dsv4mx_log_level level, const char* text);

/**
 * Allocates memory of a kind: DEVICE for experts, maps and dsv4mx_context_alloc, PINNED and HOST for staging (on a CPU
 * context HOST is used for everything). Called on the thread that made the dsv4mx call, never inside apply. `stream` is
 * that call's stream: the library uses the memory on it, or has waited. Returns NULL on failure; `alignment` is a power of
 * two.
 *
 * Not asked for: the windows of communicators, which other ranks map (dsv4mx_comm_info.window_bytes has their size; on CUDA
 * 8 bytes of pinned memory per rank come with them); what the CUDA driver takes for its context and the kernels; and from
 * the C++ runtime handles, tables of a few bytes per expert, a few rows of a matrix while they change their form, and the
 * names and tables of an open checkpoint, which has no context.
 */
typedef void* (*dsv4mx_alloc_fn)(void* user, size_t bytes, size_t alignment, dsv4mx_memory memory,
                                 dsv4mx_stream stream);

/**
 * Takes back what alloc gave, with the same bytes and memory. Work that used it has finished. Where the thread ends inside
 * it, blocks that the same call had still to give back stay with the caller's allocator.
 */
typedef void (*dsv4mx_free_fn)(void* user, void* pointer, size_t bytes, dsv4mx_memory memory,
                               dsv4mx_stream stream);

/** How to open a device. */
typedef struct dsv4mx_context_desc {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** 0 = AUTO. */
  dsv4mx_device device;
  /** CUDA ordinal, >= 0. */
  int32_t device_ordinal;
  /** CPU backend: threads to use, 1..4096; 0 = what the affinity mask, the cgroup and the process limits allow. */
  int32_t threads;
  /** CPU backend: 0 = best; one that the processor lacks is UNSUPPORTED_DEVICE. */
  dsv4mx_cpu_isa cpu_isa;
  /** NULL = the library's own; alloc and free are given together. */
  dsv4mx_alloc_fn alloc;
  /** Takes back what alloc gave. */
  dsv4mx_free_fn free;
  /** First argument of alloc and free. */
  void* alloc_user;
  /** NULL = none. */
  dsv4mx_log_fn log;
  /** First argument of log. */
  void* log_user;
  /** Least severe level that is logged; 0 = WARNING. */
  dsv4mx_log_level log_level;
  /** 0. */
  uint32_t flags;
  /** NULL, or what DSV4MX_EXPERIMENTAL defines. */
  const dsv4mx_context_experimental* experimental;
} dsv4mx_context_desc;

#define DSV4MX_CONTEXT_DESC_INIT \
  { sizeof(dsv4mx_context_desc), 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, 0, 0, NULL }

/**
 * Opens a device. desc may be NULL (all defaults). On CUDA all kernels are loaded here, so that the first apply costs
 * what the thousandth does; the device's primary context is used and never created anew.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, NO_DEVICE, UNSUPPORTED (no CUDA in this build), UNSUPPORTED_DEVICE,
 * OUT_OF_MEMORY, CUDA_ERROR, CUDA_STICKY. Threads: any. Ownership: *out is the caller's. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_create(const dsv4mx_context_desc* desc,
                                                   dsv4mx_context** out);

/** Gives the reference back; NULL is fine. The caller has finished its stream work. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_context_destroy(dsv4mx_context* context);

/** What a context runs on. */
typedef struct dsv4mx_context_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** CPU or CUDA. */
  dsv4mx_device device;
  /** CUDA ordinal; 0 on the CPU. */
  int32_t device_ordinal;
  /** CPU threads in use; 0 on CUDA. */
  int32_t threads;
  /** CPU instruction set in use; 0 on CUDA. */
  dsv4mx_cpu_isa cpu_isa;
  /** 90 for SM 9.0; 0 on the CPU. */
  int32_t compute_capability;
  /** 0 on the CPU. */
  int32_t multiprocessors;
  /** Second-level cache in bytes; 0 on the CPU. */
  int64_t l2_bytes;
  /** Device name, or "CPU". UTF-8, terminated. */
  char name[128];
} dsv4mx_context_info;

#define DSV4MX_CONTEXT_INFO_INIT                        \
  {                                                     \
    sizeof(dsv4mx_context_info), 0, 0, 0, 0, 0, 0, 0, { \
      0                                                 \
    }                                                   \
  }

/**
 * What the context runs on. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_query(const dsv4mx_context* context,
                                                  dsv4mx_context_info* out);

/**
 * Memory of the context's device through the allocator hook, so that C, Go and Rust programs need no CUDA headers:
 * 256-byte aligned, not initialised; bytes 0 gives NULL. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, MISALIGNED (what the
 * hook gave), CUDA_ERROR. Threads: any. Ownership: the caller's until free. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_alloc(const dsv4mx_context* context, size_t bytes,
                                                  void** out);

/**
 * Gives back exactly what dsv4mx_context_alloc of this context gave; NULL is fine. Anything else is left alone and logged
 * as an ERROR. Threads: any. Since: 0.1.0
 */
DSV4MX_API void dsv4mx_context_free(const dsv4mx_context* context, void* pointer);

/**
 * Copies bytes in any direction between host and device memory, in stream order (a copy from or to pageable host memory
 * may block the thread). Errors: INVALID_ARGUMENT, CUDA_ERROR, CUDA_STICKY. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_copy(const dsv4mx_context* context, void* to,
                                                 const void* from, size_t bytes,
                                                 dsv4mx_stream stream);

/**
 * Waits for the stream and reports what failed on it, and INVALID_ID if a layer of this context that checks ids met bad
 * ones since this was last reported. Errors: INVALID_ARGUMENT, INVALID_ID, CUDA_ERROR, CUDA_STICKY. Threads: any.
 * Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_context_synchronize(const dsv4mx_context* context,
                                                        dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Layer: a description
 * ------------------------------------------------------------------------------------------------------------------ */

/** Formats of expert weights. */
typedef int32_t dsv4mx_weight_format;

/** Values of dsv4mx_weight_format. */
enum dsv4mx_weight_format_value {
  /** E2M1 codes, one E8M0 scale per 32 of K. */
  DSV4MX_WEIGHT_FORMAT_MXFP4 = 0,
  DSV4MX_WEIGHT_FORMAT_SENTINEL = -1
};

/** How the rows of a fused w13 tensor [2*intermediate, hidden] are ordered. */
typedef int32_t dsv4mx_w13_order;

/** Values of dsv4mx_w13_order. */
enum dsv4mx_w13_order_value {
  /** Only separate gate and up tensors (w1, w3 names) are accepted. */
  DSV4MX_W13_ORDER_UNSET = 0,
  /** [w1; w3]: DeepSeek, SGLang, vLLM. */
  DSV4MX_W13_ORDER_GATE_UP = 1,
  /** [w3; w1]: TensorRT-LLM, FlashInfer. */
  DSV4MX_W13_ORDER_UP_GATE = 2,
  /** Row 2i = gate i, row 2i+1 = up i: GPT-OSS. */
  DSV4MX_W13_ORDER_INTERLEAVED = 3,
  DSV4MX_W13_ORDER_SENTINEL = -1
};

/** Which half of a byte is the even k. */
typedef int32_t dsv4mx_nibble_order;

/** Values of dsv4mx_nibble_order. */
enum dsv4mx_nibble_order_value {
  /** Low nibble = even k (DeepSeek, GPT-OSS). */
  DSV4MX_NIBBLE_ORDER_LOW_FIRST = 0,
  DSV4MX_NIBBLE_ORDER_HIGH_FIRST = 1,
  DSV4MX_NIBBLE_ORDER_SENTINEL = -1
};

/**
 * Activations. With L = clamp_limit: g' = min(g, L), u' = max(-L, min(u, L)), both before the activation; L = 0 means no
 * clamp. NaN propagates through clamp and activation. More may come.
 */
typedef int32_t dsv4mx_activation;

/** Values of dsv4mx_activation. */
enum dsv4mx_activation_value {
  /** h = g' * sigmoid(g') * u' */
  DSV4MX_ACTIVATION_SWIGLU = 0,
  /** h = g' * sigmoid(alpha * g') * (u' + beta), where 0 means alpha 1.702 and beta 1 (GPT-OSS). */
  DSV4MX_ACTIVATION_SWIGLU_GPTOSS = 1,
  /** The same form with alpha and beta taken as given, 0 included; alpha 1, beta 0 is SWIGLU bit for bit. */
  DSV4MX_ACTIVATION_GATED = 2,
  /**
   * h = situ_beta * tanh(g / situ_beta) * sigmoid(g) * situ_linear_beta * tanh(u / situ_linear_beta) (Kimi K3); a
   * clamp_limit beside it is refused.
   */
  DSV4MX_ACTIVATION_SITU = 3,
  DSV4MX_ACTIVATION_SENTINEL = -1
};

/** Where the router weight multiplies. */
typedef int32_t dsv4mx_router_weight_position;

/** Values of dsv4mx_router_weight_position. */
enum dsv4mx_router_weight_position_value {
  /** y = sum w_k * (h_k . w2 + bias) */
  DSV4MX_ROUTER_WEIGHT_AFTER_W2 = 0,
  /** h_k * w_k before its rounding; refused together with a w2 bias. */
  DSV4MX_ROUTER_WEIGHT_BEFORE_W2 = 1,
  /** x * w before GEMM1, in fp32, rounded to bf16; top_k must be 1. */
  DSV4MX_ROUTER_WEIGHT_ON_INPUT = 2,
  DSV4MX_ROUTER_WEIGHT_SENTINEL = -1
};

/** What is computed with. */
typedef int32_t dsv4mx_compute;

/** Values of dsv4mx_compute. */
enum dsv4mx_compute_value {
  /** bf16 activations: the product. */
  DSV4MX_COMPUTE_W4A16 = 0,
  /**
   * E4M3 activations on the same prepared weights, about 20 times the error of W4A16; never chosen unasked. x, and h after
   * its rounding to bf16, are divided for each token and 128 values of hidden or intermediate by the least power of two
   * that brings their largest magnitude (at least 1e-4) to 448 or less, and rounded to E4M3 (nearest, ties to even). A
   * group that holds NaN or Inf is NaN. Every backend computes this; on CUDA a value may be off by up to 2^-17 of the largest
   * magnitude of its row of x or h beside that, and a token's bits may depend on how many tokens there are
   * (DSV4MX_LAYER_BATCH_INVARIANT).
   */
  DSV4MX_COMPUTE_W4A8 = 1,
  DSV4MX_COMPUTE_SENTINEL = -1
};

/** Flags of dsv4mx_layer_desc. */
enum dsv4mx_layer_flag {
  /**
   * A token's output is bit-identical alone, in any batch, at any position: one number path and one split of K for every
   * number of tokens. Without the flag the path may follow how many tokens the call and each of their experts have, and
   * whether some h of the call, or result of a route, is too large or too small for it.
   */
  DSV4MX_LAYER_BATCH_INVARIANT = 1 << 0,
  /**
   * Ids outside -1..experts_global-1 are counted (dsv4mx_layer_query_faults) and reported: on CUDA by
   * dsv4mx_context_synchronize, on the CPU by the apply that met them, which computes nothing then. Without the flag they
   * are skipped like -1. It catches int64 ids read as int32.
   */
  DSV4MX_LAYER_CHECKED_IDS = 1 << 1,
  /** topk_ids are physical: id p is local expert p - physical_first. Needs a placement. */
  DSV4MX_LAYER_PHYSICAL_IDS = 1 << 2,
  DSV4MX_LAYER_SENTINEL = -1
};

/**
 * One MoE layer, or the part of it that one rank holds. Sizes are those of the whole layer; the partition says what is
 * held here. Ranks of one layer describe the same whole layer, so that they choose the same kernels.
 */
typedef struct dsv4mx_layer_desc {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** H: a multiple of 32, 32..65536. */
  int32_t hidden;
  /** I of the whole layer: a multiple of 32, 32..65536. */
  int32_t intermediate;
  /** Experts held here, copies included: 1..4096. */
  int32_t experts;
  /** Ids per token, 1..16. */
  int32_t top_k;

  /** First expert held here, 0 or more; 0 with a placement. */
  int32_t expert_first;
  /** Experts of the whole layer, 1..1048576. 0 = experts, legal only where all are held here. */
  int32_t experts_global;
  /**
   * Host memory [experts], copied: local expert s holds expert placement[s] of the layer, 0..experts_global-1. An expert
   * may stand at several places (redundant copies); an id then means the first of them here. NULL = experts
   * expert_first..expert_first+experts-1 in order.
   */
  const int32_t* placement;
  /** With DSV4MX_LAYER_PHYSICAL_IDS: the physical id of local expert 0. Ids of other ranks' experts are skipped. */
  int32_t physical_first;
  /** With DSV4MX_LAYER_PHYSICAL_IDS: physical experts of all ranks; needed then, else 0. */
  int32_t physical_global;

  /** Tensor-parallel rank, 0..tp_size-1. The w2 bias is added by rank 0 alone. */
  int32_t tp_rank;
  /** Tensor-parallel ranks, 1..1024; 0 = 1. Each rank's out is a partial sum over its channels. */
  int32_t tp_size;
  /** With intermediate_count: first channel held here, a multiple of 32. */
  int32_t intermediate_first;
  /** Channels held here, a multiple of 32; 0 = an even cut, intermediate / tp_size from tp_rank times that on. */
  int32_t intermediate_count;

  /** 0 = MXFP4. */
  dsv4mx_weight_format weight_format;
  /** Values of K per scale: 0 = 32; 16 (NVFP4) is refused. */
  int32_t group_size;
  /** Row order of fused w13 tensors given to dsv4mx_weights_set; UNSET refuses them. */
  dsv4mx_w13_order w13_order;
  /** 0 = low nibble is even k. */
  dsv4mx_nibble_order nibble_order;

  /** 0 = SWIGLU. */
  dsv4mx_activation activation;
  /** L >= 0, finite; 0 = no clamp. */
  float clamp_limit;
  /** GATED: as given. SWIGLU_GPTOSS: 0 = 1.702. Else 0. */
  float activation_alpha;
  /** GATED: as given. SWIGLU_GPTOSS: 0 = 1. Else 0. */
  float activation_beta;
  /** SITU: above 0. Else 0. */
  float situ_beta;
  /** SITU: above 0. Else 0. */
  float situ_linear_beta;
  /** 0 = no bias; BF16 or F32: a [2*intermediate] bias per expert is required. */
  dsv4mx_dtype w13_bias;
  /** 0 = no bias; BF16 or F32: a [hidden] bias per expert is required. */
  dsv4mx_dtype w2_bias;

  /** 0 = AFTER_W2. */
  dsv4mx_router_weight_position router_weight_position;
  /** 0 = 1.0; finite; applied once, in fp32, in the combine. */
  float routed_scaling_factor;

  /** 0 = BF16, the only one: f16 cannot hold MXFP4's range and is refused. */
  dsv4mx_dtype x_dtype;
  /** 0 = BF16; or F32. */
  dsv4mx_dtype out_dtype;
  /** 0 = I32; or I64. */
  dsv4mx_dtype ids_dtype;
  /** 0 = F32; or BF16. */
  dsv4mx_dtype router_weight_dtype;
  /**
   * Results of the routes on their way from GEMM2 to the combine. 0 = as precise as F32 is of use: CUDA, where some
   * tokens meet an expert, keeps 11 bits of each: as f16 times a power of two, which is that of a row of h on planes and
   * E4M3, and elsewhere a fixed one, or as F32 if any is outside its range. F32 = always F32. BF16 (CUDA: as little
   * traffic as f16, for any number of tokens, and more error).
   */
  dsv4mx_dtype slot_dtype;

  /** 0 = W4A16. */
  dsv4mx_compute compute;
  /** Bits DSV4MX_LAYER_*. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
  /** NULL, or what DSV4MX_EXPERIMENTAL defines. */
  const dsv4mx_layer_experimental* experimental;
} dsv4mx_layer_desc;

#define DSV4MX_LAYER_DESC_INIT                                                                \
  {                                                                                           \
    sizeof(dsv4mx_layer_desc), 0, 0, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0f, \
        0.0f, 0.0f, 0.0f, 0.0f, 0, 0, 0, 0.0f, 0, 0, 0, 0, 0, 0, 0, 0, NULL                   \
  }

/**
 * Validates the whole description before a byte of weights is read.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, UNSUPPORTED, UNSUPPORTED_SHAPE (names the nearest legal size),
 * UNSUPPORTED_DTYPE, OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Ownership: *out is the caller's. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_create(const dsv4mx_context* context,
                                                 const dsv4mx_layer_desc* desc, dsv4mx_layer** out);

/** Gives the reference back; NULL is fine. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_layer_destroy(dsv4mx_layer* layer);

/** What a layer is and takes. */
typedef struct dsv4mx_layer_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** CPU or CUDA. */
  dsv4mx_device device;
  /** H. */
  int32_t hidden;
  /** I of the whole layer. */
  int32_t intermediate;
  /** First channel held here. */
  int32_t intermediate_first;
  /** Channels held here. */
  int32_t intermediate_count;
  /** Experts held here. */
  int32_t experts;
  /** Experts of the whole layer. */
  int32_t experts_global;
  /** Ids per token. */
  int32_t top_k;
  /** Exact size of the prepared weights of all experts held here, biases included. */
  int64_t prepared_bytes;
  /** Upper bound, kept: what set, prepare, load, import and export use beyond prepared_bytes. */
  int64_t peak_extra_bytes;
  /** Alignment a caller's weights buffer needs, bytes. */
  int64_t prepared_alignment;
  /** Largest legal number of tokens in one apply. */
  int64_t max_tokens;
  /** Layers of one context with the same prepared_id can run with the same weights. */
  uint64_t prepared_id;
  /**
   * Same id, same bits: two layers with the same numerics_id give bit-identical results for the same weights, inputs and
   * number of tokens. It covers the kernels of this version, the kind of device (SM count and bandwidth class, or CPU
   * instruction set), the kernel plan, and every option of the layer that enters the arithmetic; it does not depend on
   * clocks, drivers, threads, streams or memory addresses, and on the size of the workspace only as minimum_bytes says.
   */
  uint64_t numerics_id;
  /** E.g. "cpu avx2, 2 threads" or "cuda sm_90a, 132 SMs". */
  char backend[64];
} dsv4mx_layer_info;

#define DSV4MX_LAYER_INFO_INIT                                             \
  {                                                                        \
    sizeof(dsv4mx_layer_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, { \
      0                                                                    \
    }                                                                      \
  }

/**
 * What will run and how much memory it takes. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query(const dsv4mx_layer* layer, dsv4mx_layer_info* out);

/** Options of a workspace query; may be NULL. */
typedef struct dsv4mx_workspace_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** The communicator of the calls, whose ranks' rows count too; NULL = none. */
  const dsv4mx_comm* comm;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_workspace_args;

#define DSV4MX_WORKSPACE_ARGS_INIT \
  { sizeof(dsv4mx_workspace_args), NULL, 0, 0 }

/** The workspace of calls up to a number of tokens. */
typedef struct dsv4mx_workspace_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Bytes with which a call runs at full speed, whichever path the weights take. */
  size_t bytes;
  /**
   * The fewest legal bytes: the call runs in smaller chunks, with the same bits (without DSV4MX_LAYER_BATCH_INVARIANT only if no
   * h of the call, and no result of a route, is too large or too small for fp16).
   */
  size_t minimum_bytes;
  /** Alignment in bytes. */
  size_t alignment;
} dsv4mx_workspace_info;

#define DSV4MX_WORKSPACE_INFO_INIT \
  { sizeof(dsv4mx_workspace_info), 0, 0, 0 }

/**
 * Workspace for calls of up to max_tokens tokens. A call of many tokens runs in chunks that share the workspace, so that
 * from the largest chunk on the bytes stay the same. Neither number decreases with max_tokens. args may be NULL;
 * out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query_workspace(const dsv4mx_layer* layer,
                                                          int64_t max_tokens,
                                                          const dsv4mx_workspace_args* args,
                                                          dsv4mx_workspace_info* out);

/** Faults that applies of one layer met while they ran. */
typedef struct dsv4mx_fault_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** INVALID_ID if invalid_ids is above 0, else OK. */
  dsv4mx_status status;
  /** 0. */
  int32_t reserved;
  /** Ids outside -1..experts_global-1 since the layer was made; counted with DSV4MX_LAYER_CHECKED_IDS only. */
  int64_t invalid_ids;
} dsv4mx_fault_info;

#define DSV4MX_FAULT_INFO_INIT \
  { sizeof(dsv4mx_fault_info), 0, 0, 0 }

/**
 * Asynchronous faults so far, without a CUDA call: a poll that may run beside anything, also during a capture. What an
 * apply met is there at the latest when its stream has been synchronised. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query_faults(const dsv4mx_layer* layer,
                                                       dsv4mx_fault_info* out);

/**
 * Writes the plan for `tokens` tokens as one line of text with its reason: path, tiles, launches. `weights` may be
 * NULL: then the plan assumes that the weights allow every path. At most `bytes` bytes with the terminating zero. The
 * wording is for people and changes. Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query_plan(const dsv4mx_layer* layer,
                                                     const dsv4mx_weights* weights, int64_t tokens,
                                                     char* text, size_t bytes);

/* ---------------------------------------------------------------------------------------------------------------------
 * Weights: the experts of one layer
 * ------------------------------------------------------------------------------------------------------------------ */

/** Where the experts live. */
typedef struct dsv4mx_weights_desc {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Caller's device memory that outlives the weights; NULL = allocated through the context. */
  void* memory;
  /** At least dsv4mx_layer_info.prepared_bytes; 0 with NULL. */
  size_t memory_bytes;
} dsv4mx_weights_desc;

#define DSV4MX_WEIGHTS_DESC_INIT \
  { sizeof(dsv4mx_weights_desc), NULL, 0 }

/**
 * Makes an empty weights object. desc may be NULL. Errors: INVALID_ARGUMENT, INVALID_STRUCT, BUFFER_TOO_SMALL,
 * MISALIGNED, OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Ownership: *out is the caller's. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_create(const dsv4mx_layer* layer,
                                                   const dsv4mx_weights_desc* desc,
                                                   dsv4mx_weights** out);

/** Frees the experts; NULL is fine. The caller has finished its stream work. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_weights_destroy(dsv4mx_weights* weights);

/** Options of dsv4mx_weights_set; may be NULL. */
typedef struct dsv4mx_set_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_set_args;

#define DSV4MX_SET_ARGS_INIT \
  { sizeof(dsv4mx_set_args), NULL, 0, 0 }

/**
 * Copies one tensor into the weights; the caller's memory is not referenced afterwards (device memory: after the stream
 * has passed this point). With E experts held here, H hidden and I channels held here, names are
 *
 *   of    codes                              scales                                             bias
 *   w13   w13_weight                         w13_weight_scale, w13_weight_scale_inv             w13_bias, w13_weight_bias
 *   w2    w2_weight                          w2_weight_scale, w2_weight_scale_inv               w2_bias, w2_weight_bias
 *   w13   gate_up_proj_blocks                gate_up_proj_scales                                gate_up_proj_bias
 *   w2    down_proj_blocks                   down_proj_scales                                   down_proj_bias
 *   w13   mlp1_weight.blocks                 mlp1_weight.scales                                 mlp1_bias
 *   w2    mlp2_weight.blocks                 mlp2_weight.scales                                 mlp2_bias
 *   w1    w1.weight, .weight_packed          w1.scale, .weight_scale, .weight_scale_inv
 *   w3    w3.weight, .weight_packed          w3.scale, .weight_scale, .weight_scale_inv
 *   w2    w2.weight, .weight_packed          w2.scale, .weight_scale, .weight_scale_inv
 *   w1    gate_proj.weight, .weight_packed   gate_proj.scale, .weight_scale, .weight_scale_inv, .scales  gate_proj.bias
 *   w3    up_proj.weight, .weight_packed     up_proj.scale, .weight_scale, .weight_scale_inv, .scales    up_proj.bias
 *   w2    down_proj.weight, .weight_packed   down_proj.scale, .weight_scale, .weight_scale_inv, .scales  down_proj.bias
 *
 * Any prefix up to a dot is ignored. Rows are 2I for w13 (in the layer's w13_order; gate_up_proj and mlp1 names are
 * INTERLEAVED by themselves), I for w1 and w3, H for w2; K is H, for w2 I. Codes are [E, rows, K/2] I8 or U8, [E, rows,
 * K/32, 16] alike, [E, rows, K] E2M1, or [E, rows, K/8] U32; scales [E, rows, K/32] E8M0, I8, U8, F32, BF16 or F16; biases
 * [E, rows] BF16 or F32. Tensors of one expert have no E.
 *
 * A name that contains "experts.M." fixes the expert: M is its number in the whole layer, all its copies here are set,
 * and `expert` must be -1 or M. A name with an expert that is not held here is accepted and ignored. Otherwise `expert` is
 * the local expert, or -1 for a whole tensor of all local experts.
 * Codes and scales of one matrix of one expert come from one source: names of w13 and w2 with underscores, _blocks and
 * _scales, mlp1 and mlp2, names of w1, w3 and w2 with dots, names of gate_proj, up_proj and down_proj with dots, or one
 * import. Where parts from another source are set, they replace the matrix as a whole: what was set before counts as not
 * set. Setting a tensor again under the same name replaces it alone. A bias that a tensor-parallel rank above 0 does not
 * add is accepted and ignored. Any strides are accepted, so a slice of a larger tensor (tensor parallel) needs no copy.
 * Scales given as numbers must be exact powers of two from 2^-127 to 2^127; they are stored as one byte. args may be NULL.
 *
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (prepared), INVALID_TENSOR, INVALID_SCALE (position in the
 * text), NOT_FOUND (unknown name), CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR. After a failure the tensor
 * counts as not set. Threads: one at a time per object. Stream: device tensors are read in stream order. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_set(dsv4mx_weights* weights, const char* name,
                                                int32_t expert, const dsv4mx_tensor* tensor,
                                                const dsv4mx_set_args* args, dsv4mx_stream stream);

/** Options of dsv4mx_weights_prepare; may be NULL. */
typedef struct dsv4mx_prepare_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_prepare_args;

#define DSV4MX_PREPARE_ARGS_INIT \
  { sizeof(dsv4mx_prepare_args), NULL, 0, 0 }

/**
 * Finishes the weights: names what is missing, takes the census of scales, makes the backend's layout. args may be
 * NULL. Afterwards the weights may be used by any number of threads and streams, and change by whole experts alone
 * (dsv4mx_weights_copy_experts, _set_slab). May synchronise.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (prepared before), NOT_FOUND (what is missing), INVALID_SCALE,
 * UNSUPPORTED (a forced number path that these weights do not allow), CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY,
 * CUDA_ERROR. After CANCELLED and DEADLINE_EXCEEDED the call may be repeated. Threads: one at a time per object. Stream:
 * work runs on it in order, and the call may wait for it. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_prepare(dsv4mx_weights* weights,
                                                    const dsv4mx_prepare_args* args,
                                                    dsv4mx_stream stream);

/** State of a weights object. */
typedef int32_t dsv4mx_weights_state;

/** Values of dsv4mx_weights_state. */
enum dsv4mx_weights_state_value {
  DSV4MX_WEIGHTS_EMPTY = 0,
  DSV4MX_WEIGHTS_FILLING = 1,
  DSV4MX_WEIGHTS_PREPARED = 2,
  DSV4MX_WEIGHTS_SENTINEL = -1
};

/** State and sizes of a weights object. */
typedef struct dsv4mx_weights_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** EMPTY, FILLING or PREPARED. */
  dsv4mx_weights_state state;
  /** Prepared: smallest scale byte of groups that are not all zero; 0 if there are none. */
  int32_t scale_min;
  /** Prepared: largest such byte; 0 if there are none. */
  int32_t scale_max;
  /** 0. */
  int32_t reserved;
  /** Resident bytes. */
  int64_t bytes;
  /** How many (expert, tensor) pairs prepare would still miss. */
  int64_t tensors_missing;
} dsv4mx_weights_info;

#define DSV4MX_WEIGHTS_INFO_INIT \
  { sizeof(dsv4mx_weights_info), 0, 0, 0, 0, 0, 0 }

/**
 * State and sizes. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any.
 * Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_query(const dsv4mx_weights* weights,
                                                  dsv4mx_weights_info* out);

/**
 * The Marlin MXFP4 form that SGLang and vLLM hold on Hopper. Rows of w13 are [w1; w3], each half padded from I (the
 * channels held here) to intermediate_padded; K of w13 and rows of w2 are padded from H to hidden_padded. A NULL tensor is
 * left out.
 */
typedef struct dsv4mx_marlin {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** First local expert covered. */
  int32_t expert_first;
  /** 0 = all from expert_first on. */
  int32_t expert_count;
  /** 0 = the default of dsv4mx_layer_query_marlin; a multiple of 64, >= H. */
  int32_t hidden_padded;
  /** 0 = the default; a multiple of 32, >= I (w13 has 2 x this, a multiple of 64). */
  int32_t intermediate_padded;
  /** Where the pointers point; w13 and w2 in device memory are 4-byte aligned. */
  dsv4mx_memory memory;
  /** 0 = BF16, or F32. */
  dsv4mx_dtype bias_dtype;
  /** int32 [count, hidden_padded/16, 4*intermediate_padded]. */
  void* w13;
  /** E8M0 [count, hidden_padded/32, 2*intermediate_padded]. */
  void* w13_scale;
  /** [count, 2*intermediate_padded]. */
  void* w13_bias;
  /** int32 [count, intermediate_padded/16, 2*hidden_padded]. */
  void* w2;
  /** E8M0 [count, intermediate_padded/32, hidden_padded]. */
  void* w2_scale;
  /** [count, hidden_padded]. */
  void* w2_bias;
} dsv4mx_marlin;

#define DSV4MX_MARLIN_INIT \
  { sizeof(dsv4mx_marlin), 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL }

/** Options of the Marlin import and export; may be NULL. */
typedef struct dsv4mx_marlin_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_marlin_args;

#define DSV4MX_MARLIN_ARGS_INIT \
  { sizeof(dsv4mx_marlin_args), NULL, 0, 0 }

/**
 * Fills hidden_padded and intermediate_padded with the padding rule of SGLang's preparation: I to 64 when H is a multiple
 * of 128, else to 128; H to 64. Other fields are left alone. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any.
 * Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_query_marlin(const dsv4mx_layer* layer,
                                                       dsv4mx_marlin* marlin);

/**
 * Takes experts in Marlin form instead of dsv4mx_weights_set; what the padding contains is ignored. Scale bytes 255 are
 * refused. An import is a source of its own: codes and scales of a matrix are imported together, or were imported before.
 * args may be NULL. Errors: as dsv4mx_weights_set, INVALID_ARGUMENT for paddings, MISALIGNED. Threads: one at a time per
 * object. Stream: device tensors are read in stream order. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_import_marlin(dsv4mx_weights* weights,
                                                          const dsv4mx_marlin* marlin,
                                                          const dsv4mx_marlin_args* args,
                                                          dsv4mx_stream stream);

/**
 * Gives prepared experts in Marlin form, bit for bit what SGLang's preparation makes; padding is zero codes and zero scale
 * bytes. To host memory a call takes at most dsv4mx_layer_info.peak_extra_bytes, until it returns. args may be NULL.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared), MISALIGNED, CANCELLED, DEADLINE_EXCEEDED,
 * OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Stream: device tensors are written in stream order. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_export_marlin(const dsv4mx_weights* weights,
                                                          const dsv4mx_marlin* marlin,
                                                          const dsv4mx_marlin_args* args,
                                                          dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Prepared experts: copy, replace, read back, move between processes
 * ------------------------------------------------------------------------------------------------------------------ */

/** Options of the calls on prepared experts; may be NULL. */
typedef struct dsv4mx_expert_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_expert_args;

#define DSV4MX_EXPERT_ARGS_INIT \
  { sizeof(dsv4mx_expert_args), NULL, 0, 0 }

/**
 * One prepared expert as bytes: all of it, relocatable, of one size for every expert of a layer. What is derived from it
 * (the census) is found anew where it arrives.
 */
typedef struct dsv4mx_slab {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /**
   * The form: layout, hidden, channels held, biases. Slabs of the same id fit, in another process too; a CPU's and a GPU's
   * differ.
   */
  uint64_t id;
  /** First byte. From dsv4mx_weights_get_slab: inside the weights, to be read alone. */
  const void* data;
  /** Length in bytes. */
  size_t bytes;
  /** Where data points. */
  dsv4mx_memory memory;
  /** 0. */
  int32_t reserved;
} dsv4mx_slab;

#define DSV4MX_SLAB_INIT \
  { sizeof(dsv4mx_slab), 0, NULL, 0, 0, 0 }

/** What prepare found in one expert. */
typedef struct dsv4mx_expert_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Smallest scale byte of groups that are not all zero; 0 if there are none. */
  int32_t scale_min;
  /** Largest such byte; 0 if there are none. */
  int32_t scale_max;
} dsv4mx_expert_info;

#define DSV4MX_EXPERT_INFO_INIT \
  { sizeof(dsv4mx_expert_info), 0, 0 }

/**
 * Describes prepared local expert `expert`. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT,
 * INVALID_STRUCT, INVALID_STATE (not prepared). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_query_expert(const dsv4mx_weights* weights,
                                                         int32_t expert, dsv4mx_expert_info* out);

/** Which experts are copied. */
typedef struct dsv4mx_copy_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Host memory [count]: local experts that are written, each once. */
  const int32_t* to_experts;
  /** Host memory [count]: local experts that are read. */
  const int32_t* from_experts;
  /** How many, 0 or more. */
  int32_t count;
  /** 0. */
  uint32_t flags;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
} dsv4mx_copy_args;

#define DSV4MX_COPY_ARGS_INIT \
  { sizeof(dsv4mx_copy_args), NULL, NULL, 0, 0, NULL }

/**
 * Copies prepared experts: local expert to_experts[i] of `to` becomes from_experts[i] of `from`. `to` may be prepared, and
 * then stays so: applies enqueued before on this stream see the old expert, those after it the new one; other streams are
 * ordered by the caller's events, those of applies on `to` and those of later writes to `from` alike. A `to` that is not
 * prepared counts these experts as set, from a source of its own. `to` and `from` may be one object if no expert is both
 * read and written, may have other numbers of experts, and may belong to different contexts of one kind of device; the
 * stream is one of the device of `to`.
 *
 * To replace an expert (new weights of a training step, say): set and prepare it in a weights object of its own, then copy
 * it here. The number path that prepare chose stays, for captured graphs and for all layers that run with the weights: an
 * expert that it does not allow is refused before anything is written. After CANCELLED and DEADLINE_EXCEEDED the first
 * experts, as many as the text says, are copied.
 *
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (`from` is not prepared, or the stream is being captured),
 * UNSUPPORTED (slab ids differ, or the number path does not allow an expert; the text has its census), CANCELLED,
 * DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR. Threads: one at a time for `to`. Stream: enqueues on it. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_copy_experts(dsv4mx_weights* to,
                                                         const dsv4mx_weights* from,
                                                         const dsv4mx_copy_args* args,
                                                         dsv4mx_stream stream);

/**
 * Empties a weights object, so that it can be filled and prepared again; its memory stays. Errors: INVALID_ARGUMENT.
 * Threads: one at a time per object, and neither an apply nor a copy from it in flight. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_reset(dsv4mx_weights* weights);

/**
 * Writes tensor `name` of prepared local expert `expert` (in the names of dsv4mx_weights_set, those of w1, w2, w3 and of
 * gate_proj, up_proj, down_proj) to tensor->data, which is written although the struct calls it const: codes as I8 or U8
 * [rows, K/2] in the layer's nibble order, scales as E8M0 or U8 [rows, K/32], biases as F32 [rows], and of codes also the
 * weights themselves as BF16 [rows, K] (exact but for overflow). A name that contains "experts.M." means the first place
 * of expert M of the whole layer, and `expert` is -1 or M then. Rows and K are those held here. Any strides under which
 * elements do not overlap. What was set comes back bit for bit. A call takes the bytes of some 128 rows beside. args may be
 * NULL. Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared), INVALID_TENSOR, NOT_FOUND (no such name, a
 * bias that is not held here, an expert that is not), CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR.
 * Threads: any. Stream: waits for it. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_get(const dsv4mx_weights* weights, const char* name,
                                                int32_t expert, const dsv4mx_tensor* tensor,
                                                const dsv4mx_expert_args* args,
                                                dsv4mx_stream stream);

/**
 * The bytes of prepared local expert `expert`, in place, for a transport of the caller's own. out->struct_size is set by
 * the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared). Threads: any. Ownership: the
 * weights'; valid until they are destroyed or reset. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_get_slab(const dsv4mx_weights* weights, int32_t expert,
                                                     dsv4mx_slab* out);

/**
 * Takes a prepared expert from its bytes, as dsv4mx_weights_copy_experts does from another object. Scale bytes 255 are
 * refused with their position, and derived bytes are made anew; otherwise the bytes are the caller's word. On CUDA a call
 * on prepared weights takes the bytes of one slab and of the staging beside, until it returns. args may be NULL.
 * Errors: as dsv4mx_weights_copy_experts, UNSUPPORTED (slab->id), BUFFER_TOO_SMALL (fewer bytes than a slab),
 * INVALID_TENSOR (more bytes, or no such memory), INVALID_SCALE, OUT_OF_MEMORY. After a failure prepared weights are as
 * before (CUDA_ERROR aside), and of others the expert counts as not set. Threads: one at a time per object. Stream: read
 * in stream order; on prepared weights the call waits for it. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_set_slab(dsv4mx_weights* weights, int32_t expert,
                                                     const dsv4mx_slab* slab,
                                                     const dsv4mx_expert_args* args,
                                                     dsv4mx_stream stream);

/**
 * Changes which expert of the layer each local expert is, at this point of the stream: placement as in
 * dsv4mx_layer_desc, host memory [experts], copied. Applies enqueued before on this stream go by the old one, those
 * after, replays of captured graphs included, by the new one; so does what is set or loaded from now on into weights of
 * this layer. Other layers, also those that run with the same weights, are not touched. The layer must have been made
 * with a placement and without DSV4MX_LAYER_PHYSICAL_IDS. Together with dsv4mx_weights_copy_experts on the same stream
 * this moves experts under load. Errors: INVALID_ARGUMENT, INVALID_STATE (no placement, physical ids, or the stream is
 * being captured), OUT_OF_MEMORY,
 * CUDA_ERROR. Threads: one at a time per object, and none with a const layer beside it; weights of it are other objects.
 * Stream: enqueues on it. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_set_placement(dsv4mx_layer* layer,
                                                        const int32_t* placement,
                                                        dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Snapshots: prepared experts in a file
 * ------------------------------------------------------------------------------------------------------------------ */

/** Options of the calls on snapshots; may be NULL. */
typedef struct dsv4mx_snapshot_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
  /** Threads that compress, read and check, 1..64; 0 = the library's choice. */
  int32_t threads;
  /** Saving: zstd level of what compresses, 1..19; 0 = the library's choice; -1 = nothing is compressed. */
  int32_t level;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_snapshot_args;

#define DSV4MX_SNAPSHOT_ARGS_INIT \
  { sizeof(dsv4mx_snapshot_args), NULL, 0, 0, 0, 0 }

/** What a snapshot holds. */
typedef struct dsv4mx_snapshot_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Version of the file's format. */
  int32_t version;
  /** Experts in the file. */
  int32_t experts;
  /** Number in the whole layer of the first of them. */
  int32_t expert_first;
  /** Experts of the whole layer. */
  int32_t experts_global;
  /** Smallest scale byte of groups that are not all zero; 0 if there are none. */
  int32_t scale_min;
  /** Largest such byte; 0 if there are none. */
  int32_t scale_max;
  /** Their form: dsv4mx_slab.id. */
  uint64_t slab_id;
  /** Bytes of one slab. */
  int64_t slab_bytes;
  /** Length of the file. */
  int64_t file_bytes;
  /** The layout in words, e.g. "cpu 1" or "sm90 1". */
  char layout[32];
} dsv4mx_snapshot_info;

#define DSV4MX_SNAPSHOT_INFO_INIT                              \
  {                                                            \
    sizeof(dsv4mx_snapshot_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, { \
      0                                                        \
    }                                                          \
  }

/**
 * Writes prepared experts to one file: what they are, each expert's codes, scales and biases with a checksum, compressed
 * where that pays (scales). Of copies of an expert the first is written; equal weights give equal files. The file appears
 * under `path` when it is complete and on disk, and replaces a regular file that was there; until then there is nothing
 * but .dsv4mx-snapshot-*.part in the same folder, which only a process that is killed leaves behind. What comes when the
 * file has its name cancels nothing. Beside the weights the threads take at most 256 MiB together. args may be NULL.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared), UNSUPPORTED (more than one file holds), IO_ERROR,
 * CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Stream: waits for it. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_save(const dsv4mx_weights* weights, const char* path,
                                                 const dsv4mx_snapshot_args* args,
                                                 dsv4mx_stream stream);

/**
 * Describes a snapshot from its header. desc may be NULL; else the layer that was saved is written to it, without
 * placement, with its defaults resolved, and with what this file holds as the experts held: as many from the first on. (A
 * file of a placement with gaps has others; a layer made so is refused by dsv4mx_weights_restore, which names them.)
 * out->struct_size and desc->struct_size are set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, IO_ERROR,
 * FORMAT_ERROR, UNSUPPORTED (a version that this library does not read), OUT_OF_MEMORY. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_snapshot_query(const char* path, dsv4mx_snapshot_info* out,
                                                   dsv4mx_layer_desc* desc);

/**
 * Fills empty weights from a snapshot and prepares them: every expert held here must be in the file, others are not read.
 * A damaged byte, another version, layout or shape is refused with the name of the section; after any failure the weights
 * are empty. What is computed with the weights is the layer's matter; where activation, clamp, top_k, scaling factor or
 * router weight position are others than the saved layer's, a WARNING says so. Beside the weights the threads take at most
 * 256 MiB together (a thread alone may take more, where pieces of the file are large). args may be NULL.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not empty), NOT_FOUND (an expert that the file lacks),
 * UNSUPPORTED (version, or the slab id of another layout: save a snapshot anew; a forced number path that these weights do
 * not allow), INVALID_TENSOR (another shape), INVALID_SCALE, IO_ERROR, FORMAT_ERROR, CANCELLED, DEADLINE_EXCEEDED,
 * OUT_OF_MEMORY, CUDA_ERROR. Threads: one at a time per object. Stream: as dsv4mx_weights_prepare. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_restore(dsv4mx_weights* weights, const char* path,
                                                    const dsv4mx_snapshot_args* args,
                                                    dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Communicators: one rank of a tensor- or expert-parallel group
 *
 * A group of `size` ranks is ep_size expert-parallel parts of tp_size tensor-parallel ranks each: rank r is tensor-parallel
 * rank r % tp_size of expert-parallel part r / tp_size, and ep_size = size / tp_size. Expert-parallel parts hold different
 * experts and have tokens of their own, 0 included; tensor-parallel ranks hold slices of the same experts and are all given
 * the same tokens, of which each gets the whole result.
 *
 *     every rank    dsv4mx_comm_create      meets the others, compares descriptors, makes and maps the windows
 *     each layer    dsv4mx_comm_prepare     exchanges which rank holds what, refuses what would not give the promised bits
 *     each token    dsv4mx_layer_apply      with args.comm: rows go to their experts' ranks and results come back
 *
 * create, prepare, apply and reset are collective: every rank calls them in the same order, and where one rank fails in
 * create or prepare, all ranks do, with the first error. No call waits longer for another rank than the timeout. A rank
 * that is missing, late, lost or out of step in apply gives every other rank a status with stage, round and rank within
 * that time, and rows of NaN; every later apply gives the same status until a reset or with a new communicator. The
 * process, the context and other communicators stay usable.
 *
 * A communicator serves one call at a time; calls in flight on several streams take one each.
 *
 * Windows of processes (CALLBACK) are shared with this process's effective user and with root, and with nobody else: what has a
 * name in /dev/shm has mode 0600 whatever the umask is, and the kernel is asked who made it, or who is at the other end.
 *
 * Everything is allocated by create and prepare. A rank's window, which other ranks map, does not come through the
 * context's allocator hook (nor, on the CPU, what a rank works in beside it): dsv4mx_comm_query tells its size. On CUDA the
 * rest does.
 *
 * On CUDA contexts apply only enqueues, also with a communicator, and may be captured into a graph: faults that kernels find
 * are told by dsv4mx_comm_query_faults and by the next call, and the rows of the call are NaN. Ranks are threads of one
 * process (LOCAL), each with a device that reaches the memory of all others, or several of them with one device: these wait
 * for each other inside apply, on the host, and are captured together, on one stream. Or they are processes of one host and
 * one user (CALLBACK), which map each other's windows through one /dev/shm and see all ranks' devices; a rank that dies is
 * found by the timeout. Or they are threads or processes that meet through NCCL (NCCL_ID, NCCL_BORROW), whose all-gather and
 * reduce-scatter, or sends and receives, then carry the rows (COLLECTIVE), a device each; a group of several parts of several
 * tensor-parallel ranks splits its NCCL communicator in two more, and with NO_SPLIT is UNSUPPORTED. CALLBACK with COLLECTIVE is
 * UNSUPPORTED on CUDA, where apply only enqueues: a driver that runs host functions of several streams one after the other would
 * let ranks wait for each other for ever. Take NCCL_ID. Ranks of one group are all on CPU contexts or all on CUDA contexts. Windows are memory of the driver's own, not of
 * the allocator hook; window_bytes of dsv4mx_comm_info counts them.
 *
 * What NCCL cannot promise: its kernels know no timeout. On CUDA with COLLECTIVE a rank that does not come to apply, or dies
 * there, is not found; the others' streams wait until dsv4mx_comm_abort, which any thread may call, ends NCCL's work (not that
 * of a borrowed communicator with NO_SPLIT) and so the group's. Ranks out of step whose calls have equal sizes get
 * COMM_MISMATCH; with other sizes NCCL may hang. In a group of parts of several tensor-parallel ranks a fault among parts reaches
 * all ranks in the same call, but one among tensor-parallel ranks those of their part alone: the others wait for them in the next
 * call, until dsv4mx_comm_abort. Destroy graphs that captured apply before dsv4mx_comm_abort or
 * dsv4mx_comm_destroy, also those that run, which then go when they have ended: NCCL's abort, and with it dsv4mx_comm_abort,
 * may else wait for them without end (seen with 2.28.3, at the last rank of a process). An abort of one rank does not reach
 * the others: each rank's communicator is aborted by itself. Another rank's call in which one aborts may end all the same,
 * where all that it needs had been sent: its rows are then right, or NaN where the aborted rank's records had not come, and
 * no fault is found before its own abort. What NCCL leaves of a message that an abort cuts in the middle it does not say: do
 * not use rows of such a call. Several communicators on one device: as NCCL says. Where ranks are threads of one process,
 * cudaFree, and whatever else waits for several devices, may wait for another rank's kernel, which waits for this rank:
 * memory, destroy and graphs have their time while no rank has enqueued a call that another has yet to enqueue.
 * ------------------------------------------------------------------------------------------------------------------ */

/** How the ranks of a group meet. */
typedef int32_t dsv4mx_comm_kind;

/** Values of dsv4mx_comm_kind. */
enum dsv4mx_comm_kind_value {
  /** One rank, no exchange. */
  DSV4MX_COMM_SELF = 0,
  /** Ranks are threads of one process that give the same group number. */
  DSV4MX_COMM_LOCAL = 1,
  /** NCCL communicator made from a unique id that the caller's bootstrap carries to every rank. */
  DSV4MX_COMM_NCCL_ID = 2,
  /** The caller's ncclComm_t, split once unless DSV4MX_COMM_NO_SPLIT is set. */
  DSV4MX_COMM_NCCL_BORROW = 3,
  /** The caller supplies all_gather (MPI, a store, sockets); nothing of NCCL is touched. */
  DSV4MX_COMM_CALLBACK = 4,
  DSV4MX_COMM_SENTINEL = -1
};

/** What carries rows between ranks. */
typedef int32_t dsv4mx_comm_transport;

/** Values of dsv4mx_comm_transport. */
enum dsv4mx_comm_transport_value {
  /** PEER where every rank can write every other's window, else COLLECTIVE. */
  DSV4MX_COMM_TRANSPORT_AUTO = 0,
  /** Stores into the other ranks' windows: memory shared by threads or processes of one host. */
  DSV4MX_COMM_TRANSPORT_PEER = 1,
  /** NCCL's collectives, or the caller's all_gather alone: any number of hosts. */
  DSV4MX_COMM_TRANSPORT_COLLECTIVE = 2,
  DSV4MX_COMM_TRANSPORT_SENTINEL = -1
};

/** How expert-parallel results come home. */
typedef int32_t dsv4mx_ep_combine;

/** Values of dsv4mx_ep_combine. */
enum dsv4mx_ep_combine_value {
  /**
   * Each route's row by itself, summed at home in slot order: bit-identical to one rank that holds all experts and runs the
   * same descriptor. The layer needs DSV4MX_LAYER_BATCH_INVARIANT and the communicator's slot_dtype; ranks need devices
   * that compute alike.
   */
  DSV4MX_EP_ROUTE_EXACT = 0,
  /**
   * One partial sum per token and rank, summed in rank order: fewer bytes; the same bits for the same ranks, placement and
   * workspaces, whatever the transport.
   */
  DSV4MX_EP_RANK_REDUCE = 1,
  DSV4MX_EP_SENTINEL = -1
};

/** How tensor-parallel partial sums are added. */
typedef int32_t dsv4mx_tp_reduce;

/** Values of dsv4mx_tp_reduce. */
enum dsv4mx_tp_reduce_value {
  /** In fp32, ranks 0..tp_size-1 in order: the same bits from run to run and on every rank of one tp_size. */
  DSV4MX_TP_RANK_ORDER = 0,
  /**
   * The same bits at every tp_size: intermediate is cut into tp_slices slices, each is computed by itself into fp32, and
   * slices are added in a fixed binary tree. Costs a pass of GEMM2 and of the combine per slice. Needs tp_slices slices of
   * a multiple of 32 channels (W4A8, and on CUDA: 128), partials in fp32 and one expert-parallel part; on CUDA also layers
   * with slot_dtype F32, which compute by the bf16 number path. Also for a group of one.
   */
  DSV4MX_TP_INVARIANT = 1,
  DSV4MX_TP_SENTINEL = -1
};

/** Flags of dsv4mx_comm_desc. */
enum dsv4mx_comm_flag {
  /** NCCL_BORROW: use the communicator itself. */
  DSV4MX_COMM_NO_SPLIT = 1 << 0,
  /** NCCL_ID: refuse unless the environment has NCCL_NVLS_ENABLE=0. */
  DSV4MX_COMM_FORBID_MULTICAST = 1 << 1,
  DSV4MX_COMM_FLAG_SENTINEL = -1
};

/** Gathers `bytes` bytes of every rank into all, in rank order. A non-zero result fails the call. */
typedef int32_t (*dsv4mx_all_gather_fn)(void* user, const void* mine, void* all, size_t bytes);

/** Returns when all ranks have called it. A non-zero result fails the call. */
typedef int32_t (*dsv4mx_barrier_fn)(void* user);

/** One function of the caller's NCCL. All elements of an array have one struct_size. */
typedef struct dsv4mx_nccl_function {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** E.g. "ncclAllGather". */
  const char* name;
  /** Its address. */
  const void* address;
} dsv4mx_nccl_function;

#define DSV4MX_NCCL_FUNCTION_INIT \
  { sizeof(dsv4mx_nccl_function), NULL, NULL }

/** Where NCCL comes from. NCCL is never linked and never loaded unasked. */
typedef struct dsv4mx_nccl_source {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** A program that has NCCL linked in, or a stand-in for it: its functions; nothing is loaded then. NULL = none. */
  const dsv4mx_nccl_function* functions;
  /** How many. */
  size_t function_count;
  /** Path of a libnccl.so.2; NULL = the environment's DSV4MX_NCCL_PATH, what the process has loaded, libnccl.so.2. */
  const char* path;
} dsv4mx_nccl_source;

#define DSV4MX_NCCL_SOURCE_INIT \
  { sizeof(dsv4mx_nccl_source), NULL, 0, NULL }

/** Which NCCL is used. */
typedef struct dsv4mx_nccl_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** As ncclGetVersion gives it, e.g. 22809. */
  int32_t version;
  /** 0. */
  int32_t reserved;
  /** Its file, "" for the caller's functions. UTF-8, terminated. */
  char file[512];
} dsv4mx_nccl_info;

#define DSV4MX_NCCL_INFO_INIT         \
  {                                   \
    sizeof(dsv4mx_nccl_info), 0, 0, { \
      0                               \
    }                                 \
  }

/**
 * Loads NCCL, 2.19 or later, and says which. Works without a GPU. source may be NULL (all defaults). out->struct_size is
 * set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, NCCL_UNAVAILABLE (what was tried). Threads: any.
 * Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_nccl_query(const dsv4mx_nccl_source* source,
                                               dsv4mx_nccl_info* out);

/**
 * A new unique id, 128 bytes at `id`, for one rank to make and the caller to carry to the others. source may be NULL.
 * Errors: as dsv4mx_nccl_query, NCCL_ERROR. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_nccl_get_unique_id(const dsv4mx_nccl_source* source, void* id);

/**
 * One rank's view of a group. All sizes are fixed here. Everything but rank, nccl_comm, the callbacks and control is the
 * same on every rank, and compared.
 */
typedef struct dsv4mx_comm_desc {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** 0 = SELF. */
  dsv4mx_comm_kind kind;
  /** 0..size-1. */
  int32_t rank;
  /** Ranks of the group, 1..64; 0 = 1. */
  int32_t size;
  /** Tensor-parallel ranks of each expert-parallel part, a divisor of size; 0 = 1. */
  int32_t tp_size;
  /** 0 = AUTO. */
  dsv4mx_comm_transport transport;
  /** 0 = ROUTE_EXACT. */
  dsv4mx_ep_combine ep_combine;
  /** 0 = RANK_ORDER. */
  dsv4mx_tp_reduce tp_reduce;
  /** TP_INVARIANT: slices of intermediate, a power of two from tp_size to 64; 0 = 8. Else 0. */
  int32_t tp_slices;
  /** What routes travel as, and the slot_dtype of layers with ROUTE_EXACT: 0 = BF16; or F32 (twice the bytes). */
  dsv4mx_dtype slot_dtype;
  /** What partial sums travel as: 0 = F32; or BF16. */
  dsv4mx_dtype partial_dtype;
  /** Most tokens of one round on any rank, 1..131072: it sizes the windows. With SELF 0 = 256. */
  int64_t max_tokens;
  /** Largest hidden of the layers that use it. With SELF and TP_RANK_ORDER not needed. */
  int32_t max_hidden;
  /** Largest top_k of the layers that use it. As max_hidden. */
  int32_t max_top_k;
  /** Longest wait for another rank, nanoseconds; 0 = 10 seconds. */
  int64_t timeout_ns;
  /** Bits DSV4MX_COMM_*. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
  /** LOCAL: any number that the ranks of one group share, and no other group that forms at the same time. */
  uint64_t group;
  /** NCCL_ID: the 128 bytes of an ncclUniqueId. */
  const void* nccl_id;
  /** NCCL_BORROW: an ncclComm_t. */
  void* nccl_comm;
  /** NCCL_ID, NCCL_BORROW: where NCCL comes from; NULL = all defaults. A borrowed handle needs the NCCL that made it. */
  const dsv4mx_nccl_source* nccl;
  /** CALLBACK: called from create, prepare and reset, and with COLLECTIVE from apply. */
  dsv4mx_all_gather_fn all_gather;
  /** CALLBACK: NULL = an all_gather of one byte. */
  dsv4mx_barrier_fn barrier;
  /** First argument of all_gather and barrier. */
  void* user;
  /** Progress, cancel flag, deadline of the creation; NULL = none. */
  const dsv4mx_control* control;
} dsv4mx_comm_desc;

#define DSV4MX_COMM_DESC_INIT                                                                      \
  {                                                                                                \
    sizeof(dsv4mx_comm_desc), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, \
        NULL, NULL, NULL, NULL                                                                     \
  }

/**
 * Joins a group; collective. desc may be NULL (a group of one). Errors: INVALID_ARGUMENT, INVALID_STRUCT, UNSUPPORTED,
 * OUT_OF_MEMORY, CANCELLED, DEADLINE_EXCEEDED, COMM_MISMATCH (field, rank, got, wanted), COMM_TIMEOUT (a rank that did not
 * come), COMM_RANK_LOST, COMM_ERROR, NCCL_*, CUDA_ERROR. Threads: any. Ownership: *out is the caller's. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_comm_create(const dsv4mx_context* context,
                                                const dsv4mx_comm_desc* desc, dsv4mx_comm** out);

/**
 * Leaves the group; NULL is fine, and not collective: ranks that still wait for this one get COMM_RANK_LOST. The caller has
 * finished its stream work. Threads: any. Since: 0.1.0
 */
DSV4MX_API void dsv4mx_comm_destroy(dsv4mx_comm* comm);

/**
 * Makes a layer ready for apply with this communicator; collective. Ranks tell each other which ids they hold (ids of
 * redundant copies are served by this rank's own copy, else by one that the token's place picks), and all are refused where
 * the parts do not make one layer. To be called again after dsv4mx_layer_set_placement. control may be NULL.
 * Errors: INVALID_ARGUMENT (sizes beyond the communicator's, an id that no rank holds, a part that does not fit the rank),
 * UNSUPPORTED (a mode that this layer cannot keep: the text says what it needs), COMM_MISMATCH (field, rank, got, wanted),
 * CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, COMM_*, NCCL_*. Threads: one at a time per communicator. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_comm_prepare(dsv4mx_comm* comm, const dsv4mx_layer* layer,
                                                 const dsv4mx_control* control);

/** What a communicator is. */
typedef struct dsv4mx_comm_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** How the ranks met. */
  dsv4mx_comm_kind kind;
  /** PEER or COLLECTIVE; AUTO for a group of one. */
  dsv4mx_comm_transport transport;
  /** This rank. */
  int32_t rank;
  /** Ranks of the group. */
  int32_t size;
  /** Expert-parallel part of this rank. */
  int32_t ep_rank;
  /** Expert-parallel parts. */
  int32_t ep_size;
  /** Tensor-parallel rank of this rank. */
  int32_t tp_rank;
  /** Tensor-parallel ranks. */
  int32_t tp_size;
  /** Memory of this rank's window, as mapped, and of what it works in beside it, bytes. */
  int64_t window_bytes;
  /** As ncclGetVersion gives it; 0 without NCCL. */
  int32_t nccl_version;
  /** 0. */
  int32_t reserved;
  /** Why this transport, e.g. "peer: windows in memory of this process". UTF-8, terminated. */
  char reason[128];
  /** File of NCCL, "" without. UTF-8, terminated. */
  char nccl_file[512];
} dsv4mx_comm_info;

#define DSV4MX_COMM_INFO_INIT                                         \
  {                                                                   \
    sizeof(dsv4mx_comm_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0}, { \
      0                                                               \
    }                                                                 \
  }

/**
 * What the communicator is. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT.
 * Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_comm_query(const dsv4mx_comm* comm, dsv4mx_comm_info* out);

/** Where in a collective call ranks wait for each other. */
typedef int32_t dsv4mx_comm_stage;

/** Values of dsv4mx_comm_stage. */
enum dsv4mx_comm_stage_value {
  /** In none. */
  DSV4MX_COMM_STAGE_NONE = 0,
  /** Rows on the way to their experts. */
  DSV4MX_COMM_STAGE_DISPATCH = 1,
  /** Results on the way home. */
  DSV4MX_COMM_STAGE_COMBINE = 2,
  /** Partial sums of tensor-parallel ranks. */
  DSV4MX_COMM_STAGE_REDUCE = 3,
  DSV4MX_COMM_STAGE_SENTINEL = -1
};

/** The first fault of a communicator. */
typedef struct dsv4mx_comm_fault_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** COMM_TIMEOUT, COMM_RANK_LOST, COMM_MISMATCH, COMM_ERROR, NCCL_ERROR; OK if there is none. */
  dsv4mx_status status;
  /** Where. */
  dsv4mx_comm_stage stage;
  /** The rank that was waited for, that was out of step, or that aborted; -1 where a collective does not say. */
  int32_t rank;
  /** The rank that found it. */
  int32_t found_by;
  /** Rounds of that stage since the creation or the last reset, this one included. */
  uint32_t round;
  /** 0. */
  uint32_t reserved;
} dsv4mx_comm_fault_info;

#define DSV4MX_COMM_FAULT_INFO_INIT \
  { sizeof(dsv4mx_comm_fault_info), 0, 0, 0, 0, 0, 0 }

/**
 * The fault that ended this group's work, if any, without a CUDA call: a poll that may run beside anything. Found by this
 * rank or told by another. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any.
 * Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_comm_query_faults(const dsv4mx_comm* comm,
                                                      dsv4mx_comm_fault_info* out);

/**
 * Ends the group's work from any thread, also while another one is inside apply: every rank's apply returns COMM_RANK_LOST
 * with this rank; with COLLECTIVE on CUDA this rank's alone, and the caller destroys graphs that captured apply first (see
 * above). Errors: INVALID_ARGUMENT. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_comm_abort(const dsv4mx_comm* comm);

/**
 * Begins anew after a fault, with the same ranks and prepared layers; collective: all ranks are alive and in no other call.
 * With a rank lost make a new communicator instead. control may be NULL. Errors: INVALID_ARGUMENT, INVALID_STRUCT,
 * CANCELLED, DEADLINE_EXCEEDED, COMM_*, NCCL_*, UNSUPPORTED (NCCL's own communicator failed). Threads: one at a time per
 * object. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_comm_reset(dsv4mx_comm* comm, const dsv4mx_control* control);

/**
 * Load of a prepared layer's local experts for a balancer: pairs[e] = pairs that local expert e computed here for all ranks
 * since dsv4mx_comm_prepare. Waits for nothing. `count` is the layer's experts. Errors: INVALID_ARGUMENT, INVALID_STATE (not
 * prepared, or a group of one, which exchanges and counts nothing: expert_counts of apply does). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_comm_get_loads(const dsv4mx_comm* comm,
                                                   const dsv4mx_layer* layer, int64_t* pairs,
                                                   int32_t count);

/* ---------------------------------------------------------------------------------------------------------------------
 * Apply
 * ------------------------------------------------------------------------------------------------------------------ */

/** Flags of dsv4mx_apply_args. */
enum dsv4mx_apply_flag {
  /**
   * out += y instead of out = y: the fp32 sum of out and y, rounded once. Rows beyond tokens_device are left alone.
   * All tensor-parallel ranks of a call give it, or none: where they differ, a large call may end with
   * DSV4MX_STATUS_COMM_MISMATCH.
   */
  DSV4MX_APPLY_ACCUMULATE = 1 << 0,
  DSV4MX_APPLY_SENTINEL = -1
};

/** Arguments of one apply. Every pointer is device memory on CUDA, host memory on the CPU. */
typedef struct dsv4mx_apply_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Device memory on CUDA: [tokens, hidden] x_dtype, 16-byte aligned. */
  const void* x;
  /** Elements between rows of x, a multiple of 8; 0 = hidden. */
  int64_t x_stride;
  /** Scales of an x that is quantised already: NULL in this version, else UNSUPPORTED. */
  const void* x_scale;
  /** Elements between rows of x_scale; 0. */
  int64_t x_scale_stride;
  /** Device memory on CUDA: [tokens, top_k] ids_dtype, aligned to an id; ids that are not held here are skipped. */
  const void* topk_ids;
  /** Elements between rows of topk_ids, at least top_k; 0 = top_k. */
  int64_t topk_ids_stride;
  /** Device memory on CUDA: [tokens, top_k] router_weight_dtype, aligned to a weight. */
  const void* topk_weights;
  /** Elements between rows of topk_weights, at least top_k; 0 = top_k. */
  int64_t topk_weights_stride;
  /**
   * Device memory on CUDA: [tokens, hidden] out_dtype, 16-byte aligned; every element is written. It overlaps no other
   * argument; rows of two arguments may alternate inside one row-strided matrix.
   */
  void* out;
  /** Elements between rows of out, a multiple of 8; 0 = hidden. */
  int64_t out_stride;
  /** 0..131072; the bound when tokens_device is given. */
  int64_t tokens;
  /**
   * Device memory on CUDA, 4-byte aligned: tokens to process, clamped to 0..tokens; rows of out beyond it are left alone.
   * NULL = exactly `tokens`. Read when the kernels run, so a captured graph can serve varying batches.
   */
  const int32_t* tokens_device;
  /**
   * Device memory on CUDA, aligned as the query says; contents are neither read nor kept. Not shared by calls in flight.
   */
  void* workspace;
  /** At least minimum_bytes of dsv4mx_layer_query_workspace(layer, tokens); less than bytes means smaller chunks. */
  size_t workspace_bytes;
  /**
   * Device memory on CUDA, 8-byte aligned: [experts] int64; each call adds the number of pairs that each local expert
   * computed. NULL = not counted.
   */
  int64_t* expert_counts;
  /**
   * The layer over a group: collective, one call at a time per communicator. NULL = this rank's part alone. Of the layer's
   * context; with a group of several ranks, or TP_INVARIANT, the layer is prepared for it (dsv4mx_comm_prepare).
   */
  dsv4mx_comm* comm;
  /**
   * With comm: the most tokens of this call on any rank, the same number on every rank: it decides the number of rounds.
   * 0 = the communicator's max_tokens, one round.
   */
  int64_t comm_tokens;
  /** With comm: any number that all ranks give alike, e.g. the layer's index: ranks out of step get COMM_MISMATCH. */
  uint32_t comm_tag;
  /** 0. */
  uint32_t reserved;
  /** CUDA: multiprocessors that the GEMMs may occupy, 1..; 0 = all. Does not change bits. */
  int32_t multiprocessors;
  /** Bits DSV4MX_APPLY_*. */
  uint32_t flags;
} dsv4mx_apply_args;

#define DSV4MX_APPLY_ARGS_INIT                                                                \
  {                                                                                           \
    sizeof(dsv4mx_apply_args), NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, 0, NULL, NULL, 0, \
        NULL, NULL, 0, 0, 0, 0, 0                                                             \
  }

/**
 * y = the layer applied to x: see the top of this file. Enqueues only: no allocation, no synchronisation, no read-back,
 * legal inside a CUDA graph capture, bit-identical from run to run. A token whose ids are all skipped gets a zero row.
 * NaN or Inf in a row of x reaches that row of out and no other. Duplicate ids in a row add. tokens 0 is legal. The
 * weights may have been created from another layer of the same context with the same prepared_id. With a communicator of
 * several ranks tokens 0 takes part like any other number, and needs a workspace.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared, or weights of another form), INVALID_ID (CPU,
 * with DSV4MX_LAYER_CHECKED_IDS), UNSUPPORTED, WORKSPACE_TOO_SMALL, MISALIGNED, CUDA_ERROR, CUDA_STICKY, COMM_*, NCCL_*.
 * Threads: any; each call in flight needs its own workspace. Stream: everything runs on it, in order. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_layer_apply(const dsv4mx_layer* layer,
                                                const dsv4mx_weights* weights,
                                                const dsv4mx_apply_args* args,
                                                dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Checkpoints
 * ------------------------------------------------------------------------------------------------------------------ */

/** How tensor bytes are read. */
typedef int32_t dsv4mx_read_policy;

/** Values of dsv4mx_read_policy. */
enum dsv4mx_read_policy_value {
  /** Read through the page cache into bounded staging. */
  DSV4MX_READ_POLICY_DEFAULT = 0,
  DSV4MX_READ_POLICY_SENTINEL = -1
};

/** Options of dsv4mx_checkpoint_create; may be NULL. */
typedef struct dsv4mx_checkpoint_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
  /** Only tensors whose names begin so are seen; NULL = all. */
  const char* prefix;
  /** Threads that read when layers are loaded, 1..64; 0 = the library's choice. */
  int32_t threads;
  /** 0 = DEFAULT. */
  dsv4mx_read_policy read_policy;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_checkpoint_args;

#define DSV4MX_CHECKPOINT_ARGS_INIT \
  { sizeof(dsv4mx_checkpoint_args), NULL, NULL, 0, 0, 0, 0 }

/**
 * Opens a checkpoint: a .safetensors or .gguf file, an index (model.safetensors.index.json), or a folder of these. Of a
 * folder only regular files (or links to them) that belong to the checkpoint count: its index, else its one file, else all
 * its shards or all files of the official converter's ranks. Headers are checked in full. A shard that an index
 * names is opened when a tensor in it is wanted, and may be missing until then. args may be NULL.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, IO_ERROR, FORMAT_ERROR, CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY.
 * Threads: any. Ownership: *out is the caller's. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_create(const char* path,
                                                      const dsv4mx_checkpoint_args* args,
                                                      dsv4mx_checkpoint** out);

/** Closes the files: pointers got from it end with it. NULL is fine. Threads: any. Since: 0.1.0 */
DSV4MX_API void dsv4mx_checkpoint_destroy(dsv4mx_checkpoint* checkpoint);

/** Number of tensors; 0 for NULL. Threads: any. Since: 0.1.0 */
DSV4MX_API int64_t dsv4mx_checkpoint_get_count(const dsv4mx_checkpoint* checkpoint);

/**
 * Name of tensor `index` (0..count-1) in name order; NULL if there is none. Lives as long as the checkpoint.
 * Threads: any. Since: 0.1.0
 */
DSV4MX_API const char* dsv4mx_checkpoint_get_name(const dsv4mx_checkpoint* checkpoint,
                                                  int64_t index);

/**
 * The tensor of that name, its data inside a mapping of the file. Reading through the pointer raises SIGBUS if the file
 * became shorter or its disk fails; dsv4mx_checkpoint_read never does. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT, NOT_FOUND, IO_ERROR, FORMAT_ERROR, UNSUPPORTED (no mapping of this file;
 * read it), UNSUPPORTED_SHAPE (rank above 4). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_get_tensor(const dsv4mx_checkpoint* checkpoint,
                                                          const char* name, dsv4mx_tensor* out);

/**
 * Copies bytes offset..offset+bytes-1 of a tensor into host memory. What the file no longer holds is IO_ERROR, never a
 * signal. Errors: INVALID_ARGUMENT (a range outside the tensor), NOT_FOUND, IO_ERROR, FORMAT_ERROR. Threads: any.
 * Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_read(const dsv4mx_checkpoint* checkpoint,
                                                    const char* name, int64_t offset, void* to,
                                                    size_t bytes);

/** Kinds of blocks that hold experts. */
typedef int32_t dsv4mx_block_kind;

/** Values of dsv4mx_block_kind. */
enum dsv4mx_block_kind_value {
  /** layers.N under any prefix. */
  DSV4MX_BLOCK_LAYER = 0,
  /** A draft block: mtp.N or mtp.layers.N under any prefix. */
  DSV4MX_BLOCK_MTP = 1,
  /** The prefix itself: everything up to "experts.". */
  DSV4MX_BLOCK_PREFIX = 2,
  DSV4MX_BLOCK_SENTINEL = -1
};

/** Which block of a checkpoint. */
typedef struct dsv4mx_block {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** 0 = LAYER. */
  dsv4mx_block_kind kind;
  /** N; 0 with PREFIX. */
  int32_t index;
  /**
   * PREFIX: e.g. "model.layers.3.mlp.". LAYER and MTP: NULL, or the prefix under which to look where several have the
   * same index, as dsv4mx_checkpoint_get_block gives it.
   */
  const char* prefix;
} dsv4mx_block;

#define DSV4MX_BLOCK_INIT \
  { sizeof(dsv4mx_block), 0, 0, NULL }

/**
 * Fills hidden, intermediate, expert_first, experts, experts_global, w13_order, w13_bias, w2_bias and group_size of *out
 * from the tensors of a block: the whole layer, or the experts that one rank's file holds. Other fields are left alone.
 * Refuses by name what is no MXFP4 expert (FP8, NVFP4, INT4). Errors: INVALID_ARGUMENT (also where a block stands under
 * several prefixes), INVALID_STRUCT, NOT_FOUND (with the blocks that there are), IO_ERROR, FORMAT_ERROR,
 * UNSUPPORTED_DTYPE. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_query_layer(const dsv4mx_checkpoint* checkpoint,
                                                           const dsv4mx_block* block,
                                                           dsv4mx_layer_desc* out);

/** Groups of fields that dsv4mx_checkpoint_query_config fills. */
enum dsv4mx_config_field {
  /** What dsv4mx_checkpoint_query_layer fills, from the tensors. */
  DSV4MX_CONFIG_FIELD_TENSORS = 1 << 0,
  /** top_k. */
  DSV4MX_CONFIG_FIELD_TOP_K = 1 << 1,
  /** activation, activation_alpha, activation_beta, situ_beta and situ_linear_beta. */
  DSV4MX_CONFIG_FIELD_ACTIVATION = 1 << 2,
  /** clamp_limit. */
  DSV4MX_CONFIG_FIELD_CLAMP_LIMIT = 1 << 3,
  /** routed_scaling_factor. Filled only if asked for by name: many engines fold it into the router weights. */
  DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR = 1 << 4,
  DSV4MX_CONFIG_FIELD_SENTINEL = -1
};

/**
 * Describes a block from its tensors and from the config.json beside them, or from the keys of a GGUF file that has none
 * beside it. `wanted` has the bits of dsv4mx_config_field to fill, 0 = all but ROUTED_SCALING_FACTOR; *filled says which
 * were, since zero is a legal value: nothing is guessed, and what is not filled is left alone (a forgotten clamp gives
 * fluent nonsense). Of a draft block whose number of experts is not the config's, top_k is not filled. Errors: as
 * dsv4mx_checkpoint_query_layer, NOT_FOUND (no config.json), FORMAT_ERROR (a config that is damaged or contradicts the
 * tensors), UNSUPPORTED (an activation that the layer does not have).
 * Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_query_config(const dsv4mx_checkpoint* checkpoint,
                                                            const dsv4mx_block* block,
                                                            uint32_t wanted, dsv4mx_layer_desc* out,
                                                            uint32_t* filled);

/** Number of blocks that hold experts; 0 for NULL. Threads: any. Since: 0.1.0 */
DSV4MX_API int64_t dsv4mx_checkpoint_get_block_count(const dsv4mx_checkpoint* checkpoint);

/**
 * Block `index` (0..count-1): layers by index, then draft blocks by index, then what has neither number, as PREFIX. The
 * prefix is set for every kind and lives as long as the checkpoint, so that *out names this block in every other call.
 * What it names may still be refused there. out->struct_size is set by the caller.
 * Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_get_block(const dsv4mx_checkpoint* checkpoint,
                                                         int64_t index, dsv4mx_block* out);

/** How a whole model is to be held; may be NULL: all of it on one device. */
typedef struct dsv4mx_model_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /**
   * Options of every layer (top_k, dtypes, compute, flags); sizes, biases and partition are ignored. NULL = defaults.
   * top_k 0 = that of the config.json, else 16; a block with fewer experts has as many.
   */
  const dsv4mx_layer_desc* layer;
  /**
   * Tensor-parallel ranks, 0 = 1; the figures are those of rank 0, which no rank exceeds: intermediate / tp_size,
   * rounded up to a multiple of 32.
   */
  int32_t tp_size;
  /** Expert-parallel ranks, 0 = 1: each holds experts / ep_size, rounded up. */
  int32_t ep_size;
  /** Most tokens of one apply; 0 = 4096. */
  int64_t max_tokens;
} dsv4mx_model_args;

#define DSV4MX_MODEL_ARGS_INIT \
  { sizeof(dsv4mx_model_args), NULL, 0, 0, 0 }

/** What a model's experts need on one rank's device. */
typedef struct dsv4mx_model_info {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Blocks with experts: layers and draft blocks. */
  int32_t blocks;
  /** Of these the first so many fit into free_bytes together with workspace and extra; -1 where that is not known. */
  int32_t blocks_fitting;
  /** Bytes of the experts' tensors in the files, all ranks. */
  int64_t source_bytes;
  /** Prepared bytes of all blocks. */
  int64_t prepared_bytes;
  /** Prepared bytes of the largest block. */
  int64_t largest_block_bytes;
  /** What loading takes beside prepared bytes, one block after the other: the largest peak_extra_bytes. */
  int64_t peak_extra_bytes;
  /** One workspace that all blocks share, one after the other. */
  int64_t workspace_bytes;
  /** Memory of the context's device, as dsv4mx_device_query says. */
  int64_t total_bytes;
  /** Free memory of the device, as dsv4mx_device_query says; -1 where it is not known. */
  int64_t free_bytes;
} dsv4mx_model_info;

#define DSV4MX_MODEL_INFO_INIT \
  { sizeof(dsv4mx_model_info), 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/**
 * Says what all blocks of a checkpoint need on the context's device before a byte of weights is read. Opens the files
 * that hold them. args may be NULL; out->struct_size is set by the caller. Errors: as dsv4mx_checkpoint_query_layer and
 * dsv4mx_layer_create (the text begins with the block), NOT_FOUND (no block at all), FORMAT_ERROR and UNSUPPORTED (a
 * config.json that top_k was looked for in). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_checkpoint_query_model(const dsv4mx_checkpoint* checkpoint,
                                                           const dsv4mx_context* context,
                                                           const dsv4mx_model_args* args,
                                                           dsv4mx_model_info* out);

/** Options of dsv4mx_weights_load; may be NULL. */
typedef struct dsv4mx_load_args {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** Progress, cancel flag, deadline; NULL = none. */
  const dsv4mx_control* control;
  /**
   * Most memory beside the weights while this call runs, device, pinned and host together; 0 = what
   * dsv4mx_layer_info.peak_extra_bytes says, at most 64 MiB. What is too little for one run of rows is INVALID_ARGUMENT
   * with the least that is enough.
   */
  int64_t staging_bytes;
  /** 0. */
  uint32_t flags;
  /** 0. */
  uint32_t reserved;
} dsv4mx_load_args;

#define DSV4MX_LOAD_ARGS_INIT \
  { sizeof(dsv4mx_load_args), NULL, 0, 0, 0 }

/**
 * Sets every tensor of the experts held here from a block; the caller prepares next. Files number experts as in the whole
 * layer. Only held experts are read, and of w1 and w3 only the channels held here; rows of w2 are read whole and cut, in
 * pieces that stay in the processor's caches. Reading, copying and repacking overlap. args may be NULL. Errors: as
 * dsv4mx_weights_set and dsv4mx_checkpoint_query_layer, INVALID_STATE (prepared). Threads: one at a time per weights
 * object. Stream: as dsv4mx_weights_prepare. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_load(dsv4mx_weights* weights,
                                                 const dsv4mx_checkpoint* checkpoint,
                                                 const dsv4mx_block* block,
                                                 const dsv4mx_load_args* args,
                                                 dsv4mx_stream stream);

/* ---------------------------------------------------------------------------------------------------------------------
 * Experimental: details of today, outside every promise; symbols in a version node of their own
 * ------------------------------------------------------------------------------------------------------------------ */
#ifdef DSV4MX_EXPERIMENTAL

/** dsv4mx_context_desc.experimental. */
struct dsv4mx_context_experimental {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /**
   * CSV rows that override the compiled-in kernel plan; NULL = none. CUDA only. IO_ERROR and FORMAT_ERROR come from
   * dsv4mx_context_create, in builds with CUDA before a device is looked for.
   */
  const char* plan_file;
};

#define DSV4MX_CONTEXT_EXPERIMENTAL_INIT \
  { sizeof(dsv4mx_context_experimental), NULL }

/** Number path of the CUDA backend. Which one runs is the plan's decision unless it is forced. */
typedef int32_t dsv4mx_number_path;

/** Values of dsv4mx_number_path. */
enum dsv4mx_number_path_value {
  /** What is fastest: for many tokens an expert also fp16 operands, where the scale bytes of the weights are 102 to 128. */
  DSV4MX_NUMBER_PATH_AUTO = 0,
  /** Weights converted to bf16; with W4A8 activations that E4M3 holds. */
  DSV4MX_NUMBER_PATH_BF16 = 1,
  /** Activations split into two exact E4M3 planes; needs weights the census allows. */
  DSV4MX_NUMBER_PATH_PLANES = 2,
  DSV4MX_NUMBER_PATH_SENTINEL = -1
};

/** References of the CPU backend in fp64. */
typedef int32_t dsv4mx_oracle;

/** Values of dsv4mx_oracle. */
enum dsv4mx_oracle_value {
  DSV4MX_ORACLE_NONE = 0,
  /** No rounding but the inputs' (out still has out_dtype). */
  DSV4MX_ORACLE_TRUTH = 1,
  /** What compute promises: h rounded once as it is there, out rounded once. */
  DSV4MX_ORACLE_SPEC = 2,
  DSV4MX_ORACLE_SENTINEL = -1
};

/** dsv4mx_layer_desc.experimental. */
struct dsv4mx_layer_experimental {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** CUDA: 0 = AUTO. */
  dsv4mx_number_path number_path;
  /** CPU: compute with a reference instead. */
  dsv4mx_oracle oracle;
};

#define DSV4MX_LAYER_EXPERIMENTAL_INIT \
  { sizeof(dsv4mx_layer_experimental), 0, 0 }

/** Census of prepared weights. */
typedef struct dsv4mx_weights_census {
  /** Size of this struct as the caller knows it. */
  size_t struct_size;
  /** 1 if the two-plane path is exact for every block, else 0. */
  int32_t planes_exact;
  /** Most binades between scales of groups that are not all zero inside one row's block of 512 of K. */
  int32_t span_max;
} dsv4mx_weights_census;

#define DSV4MX_WEIGHTS_CENSUS_INIT \
  { sizeof(dsv4mx_weights_census), 0, 0 }

/**
 * Census of scales. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not
 * prepared). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_query_census(const dsv4mx_weights* weights,
                                                         dsv4mx_weights_census* out);

/**
 * Census of one prepared local expert. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT,
 * INVALID_STATE (not prepared). Threads: any. Since: 0.1.0
 */
DSV4MX_CHECKED dsv4mx_status dsv4mx_weights_query_expert_census(const dsv4mx_weights* weights,
                                                                int32_t expert,
                                                                dsv4mx_weights_census* out);

#endif /* DSV4MX_EXPERIMENTAL */

#ifdef __cplusplus
}
#endif

#endif /* DSV4MX_H_ */
