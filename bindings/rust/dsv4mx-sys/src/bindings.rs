// Generated from include/dsv4mx.h by bindings/generate. Do not edit.

use crate::experimental::{dsv4mx_context_experimental, dsv4mx_layer_experimental};
pub const DSV4MX_VERSION_MAJOR: u32 = 0;
pub const DSV4MX_VERSION_MINOR: u32 = 1;
pub const DSV4MX_VERSION_PATCH: u32 = 0;
pub const DSV4MX_VERSION: u32 = 256;
/// Result of every function that can fail. Codes are stable and come in decades by cause; text is for people.
pub type dsv4mx_status = i32;
pub const DSV4MX_STATUS_OK: dsv4mx_status_value = 0;
/// NULL, out of range, contradicting fields.
pub const DSV4MX_STATUS_INVALID_ARGUMENT: dsv4mx_status_value = 10;
/// A struct_size that no version had, or unknown trailing fields that are not zero.
pub const DSV4MX_STATUS_INVALID_STRUCT: dsv4mx_status_value = 11;
/// E.g. apply before prepare, a second prepare, set after prepare.
pub const DSV4MX_STATUS_INVALID_STATE: dsv4mx_status_value = 12;
/// A tensor's dtype, rank, shape, stride or data pointer.
pub const DSV4MX_STATUS_INVALID_TENSOR: dsv4mx_status_value = 13;
/// E8M0 byte 255, or a numeric scale that is no power of two in range.
pub const DSV4MX_STATUS_INVALID_SCALE: dsv4mx_status_value = 14;
/// An unknown tensor name, or a tensor that prepare or load misses.
pub const DSV4MX_STATUS_NOT_FOUND: dsv4mx_status_value = 15;
/// An expert id outside -1..experts_global-1, met by a layer with DSV4MX_LAYER_CHECKED_IDS.
pub const DSV4MX_STATUS_INVALID_ID: dsv4mx_status_value = 16;
/// Legal, but not in this build, on this backend or in this version.
pub const DSV4MX_STATUS_UNSUPPORTED: dsv4mx_status_value = 20;
/// A size outside what the layer supports; the text names the nearest legal one.
pub const DSV4MX_STATUS_UNSUPPORTED_SHAPE: dsv4mx_status_value = 21;
/// A dtype or group size the layer does not compute with.
pub const DSV4MX_STATUS_UNSUPPORTED_DTYPE: dsv4mx_status_value = 22;
/// Compute capability, driver or device kind; the text says found and needed.
pub const DSV4MX_STATUS_UNSUPPORTED_DEVICE: dsv4mx_status_value = 23;
pub const DSV4MX_STATUS_OUT_OF_MEMORY: dsv4mx_status_value = 30;
pub const DSV4MX_STATUS_WORKSPACE_TOO_SMALL: dsv4mx_status_value = 31;
/// A caller's buffer other than the workspace.
pub const DSV4MX_STATUS_BUFFER_TOO_SMALL: dsv4mx_status_value = 32;
/// A pointer or stride without the alignment its field asks for.
pub const DSV4MX_STATUS_MISALIGNED: dsv4mx_status_value = 33;
/// A CUDA call of this library failed; the text has its name and number.
pub const DSV4MX_STATUS_CUDA_ERROR: dsv4mx_status_value = 40;
/// No driver, or no CUDA device.
pub const DSV4MX_STATUS_NO_DEVICE: dsv4mx_status_value = 41;
/// The CUDA context was already broken when the call began: not this call's doing.
pub const DSV4MX_STATUS_CUDA_STICKY: dsv4mx_status_value = 42;
/// A communicator's transport failed; the text has stage, round and rank.
pub const DSV4MX_STATUS_COMM_ERROR: dsv4mx_status_value = 50;
/// A rank did not arrive within the communicator's timeout.
pub const DSV4MX_STATUS_COMM_TIMEOUT: dsv4mx_status_value = 51;
/// A rank ended or aborted.
pub const DSV4MX_STATUS_COMM_RANK_LOST: dsv4mx_status_value = 52;
/// Ranks disagree about descriptors or the order of calls.
pub const DSV4MX_STATUS_COMM_MISMATCH: dsv4mx_status_value = 53;
/// NCCL could not be loaded, or is a version outside the supported range.
pub const DSV4MX_STATUS_NCCL_UNAVAILABLE: dsv4mx_status_value = 54;
/// An NCCL call failed; the text has its name and result.
pub const DSV4MX_STATUS_NCCL_ERROR: dsv4mx_status_value = 55;
/// A file cannot be opened or read.
pub const DSV4MX_STATUS_IO_ERROR: dsv4mx_status_value = 60;
/// A damaged file, or one of another format.
pub const DSV4MX_STATUS_FORMAT_ERROR: dsv4mx_status_value = 61;
/// A progress callback or a cancel flag asked to stop.
pub const DSV4MX_STATUS_CANCELLED: dsv4mx_status_value = 70;
/// A call did not finish within dsv4mx_control.timeout_ns.
pub const DSV4MX_STATUS_DEADLINE_EXCEEDED: dsv4mx_status_value = 71;
/// A bug in this library.
pub const DSV4MX_STATUS_INTERNAL: dsv4mx_status_value = 90;
/// Values of dsv4mx_status.
pub type dsv4mx_status_value = ::core::ffi::c_int;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct CUstream_st {
    _unused: [u8; 0],
}
/// A CUDA stream: the same type as cudaStream_t and CUstream, so nothing is cast and no CUDA header is needed.
pub type dsv4mx_stream = *mut CUstream_st;
/// One device, or the CPU.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_context {
    _unused: [u8; 0],
}
/// A description of one MoE layer; only its placement can change.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_layer {
    _unused: [u8; 0],
}
/// The experts of one layer: filled, prepared, and then changed by whole experts alone.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_weights {
    _unused: [u8; 0],
}
/// An open checkpoint.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_checkpoint {
    _unused: [u8; 0],
}
/// One rank of a tensor- or expert-parallel group.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_comm {
    _unused: [u8; 0],
}
/// Element types.
pub type dsv4mx_dtype = i32;
/// In descriptors: the field's stated default, or "none".
pub const DSV4MX_DTYPE_DEFAULT: dsv4mx_dtype_value = 0;
pub const DSV4MX_DTYPE_BF16: dsv4mx_dtype_value = 1;
pub const DSV4MX_DTYPE_F32: dsv4mx_dtype_value = 2;
pub const DSV4MX_DTYPE_F16: dsv4mx_dtype_value = 3;
/// As weights: two E2M1 codes per byte; as scales: raw E8M0 bytes.
pub const DSV4MX_DTYPE_I8: dsv4mx_dtype_value = 4;
/// As I8.
pub const DSV4MX_DTYPE_U8: dsv4mx_dtype_value = 5;
/// Packed FP4 whose shape counts values, two per byte ("F4" in safetensors).
pub const DSV4MX_DTYPE_E2M1: dsv4mx_dtype_value = 6;
/// Scale byte b, value 2^(b-127); 255 is NaN and refused.
pub const DSV4MX_DTYPE_E8M0: dsv4mx_dtype_value = 7;
/// Recognised in files, never accepted as an expert's weight.
pub const DSV4MX_DTYPE_E4M3: dsv4mx_dtype_value = 8;
/// As E4M3.
pub const DSV4MX_DTYPE_E5M2: dsv4mx_dtype_value = 9;
pub const DSV4MX_DTYPE_I32: dsv4mx_dtype_value = 10;
pub const DSV4MX_DTYPE_I64: dsv4mx_dtype_value = 11;
pub const DSV4MX_DTYPE_F64: dsv4mx_dtype_value = 12;
/// Anything else that a file holds.
pub const DSV4MX_DTYPE_OTHER: dsv4mx_dtype_value = 13;
/// As weights: eight E2M1 codes per little-endian word, the first in the lowest bits (MLX).
pub const DSV4MX_DTYPE_U32: dsv4mx_dtype_value = 14;
/// Values of dsv4mx_dtype. Stable.
pub type dsv4mx_dtype_value = ::core::ffi::c_int;
/// Kinds of memory.
pub type dsv4mx_memory = i32;
/// Any host pointer, of any alignment.
pub const DSV4MX_MEMORY_HOST: dsv4mx_memory_value = 0;
/// Memory of the context's device; on a CPU context the same as HOST.
pub const DSV4MX_MEMORY_DEVICE: dsv4mx_memory_value = 1;
/// Page-locked host memory, for the allocator hook; as a tensor's memory the same as HOST.
pub const DSV4MX_MEMORY_PINNED: dsv4mx_memory_value = 2;
/// Values of dsv4mx_memory.
pub type dsv4mx_memory_value = ::core::ffi::c_int;
/// A tensor that the library reads: lives only for the call.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_tensor {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// First element; host pointers may have any alignment.
    pub data: *const ::core::ffi::c_void,
    /// Element type.
    pub dtype: dsv4mx_dtype,
    /// Where data points.
    pub memory: dsv4mx_memory,
    /// Number of dimensions, 1..4.
    pub rank: i32,
    /// 0.
    pub reserved: i32,
    /// Elements; I8 and U8 weights count bytes, E2M1 counts values.
    pub shape: [i64; 4usize],
    /// Elements between neighbours of each dimension; all 0 = contiguous. For E2M1 strides count bytes: those of the last
    /// dimension lie between bytes of two values, those of the others between rows.
    pub stride: [i64; 4usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_tensor"][::core::mem::size_of::<dsv4mx_tensor>() - 96usize];
    ["Alignment of dsv4mx_tensor"][::core::mem::align_of::<dsv4mx_tensor>() - 8usize];
    [
        "Offset of field: dsv4mx_tensor::struct_size",
    ][::core::mem::offset_of!(dsv4mx_tensor, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_tensor::data",
    ][::core::mem::offset_of!(dsv4mx_tensor, data) - 8usize];
    [
        "Offset of field: dsv4mx_tensor::dtype",
    ][::core::mem::offset_of!(dsv4mx_tensor, dtype) - 16usize];
    [
        "Offset of field: dsv4mx_tensor::memory",
    ][::core::mem::offset_of!(dsv4mx_tensor, memory) - 20usize];
    [
        "Offset of field: dsv4mx_tensor::rank",
    ][::core::mem::offset_of!(dsv4mx_tensor, rank) - 24usize];
    [
        "Offset of field: dsv4mx_tensor::reserved",
    ][::core::mem::offset_of!(dsv4mx_tensor, reserved) - 28usize];
    [
        "Offset of field: dsv4mx_tensor::shape",
    ][::core::mem::offset_of!(dsv4mx_tensor, shape) - 32usize];
    [
        "Offset of field: dsv4mx_tensor::stride",
    ][::core::mem::offset_of!(dsv4mx_tensor, stride) - 64usize];
};
/// What a long call is doing.
pub type dsv4mx_stage = i32;
/// Waiting for work that the caller enqueued on the stream before; done and total are 0.
pub const DSV4MX_STAGE_WAIT: dsv4mx_stage_value = 1;
/// Opening a checkpoint; done and total count files.
pub const DSV4MX_STAGE_OPEN: dsv4mx_stage_value = 2;
/// Reading and repacking tensors; done and total count bytes.
pub const DSV4MX_STAGE_LOAD: dsv4mx_stage_value = 3;
/// Preparing; done and total count experts.
pub const DSV4MX_STAGE_PREPARE: dsv4mx_stage_value = 4;
/// Importing or exporting another form, or copying experts; done and total count experts.
pub const DSV4MX_STAGE_CONVERT: dsv4mx_stage_value = 5;
/// Writing a snapshot; done and total count bytes.
pub const DSV4MX_STAGE_SAVE: dsv4mx_stage_value = 6;
/// Waiting for other ranks of a group; done and total count ranks.
pub const DSV4MX_STAGE_JOIN: dsv4mx_stage_value = 7;
/// Values of dsv4mx_stage.
pub type dsv4mx_stage_value = ::core::ffi::c_int;
/// Called at the start and the end of each stage and at least once per second in between, on the thread that made the
/// call. A non-zero result cancels the call. It must not use the object that the call works on.
pub type dsv4mx_progress_fn = ::core::option::Option<
    unsafe extern "C" fn(
        user: *mut ::core::ffi::c_void,
        stage: dsv4mx_stage,
        done: i64,
        total: i64,
    ) -> i32,
>;
/// Control over a long call, pointed to by its args. After CANCELLED or DEADLINE_EXCEEDED the object is usable.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_control {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// NULL = none.
    pub progress: dsv4mx_progress_fn,
    /// First argument of progress.
    pub progress_user: *mut ::core::ffi::c_void,
    /// A flag that any thread may set to a non-zero value to cancel; read as an atomic. NULL = none.
    pub cancel: *const i32,
    /// Nanoseconds from the begin of the call, after which it ends with DEADLINE_EXCEEDED; 0 = no limit.
    pub timeout_ns: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_control"][::core::mem::size_of::<dsv4mx_control>() - 40usize];
    ["Alignment of dsv4mx_control"][::core::mem::align_of::<dsv4mx_control>() - 8usize];
    [
        "Offset of field: dsv4mx_control::struct_size",
    ][::core::mem::offset_of!(dsv4mx_control, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_control::progress",
    ][::core::mem::offset_of!(dsv4mx_control, progress) - 8usize];
    [
        "Offset of field: dsv4mx_control::progress_user",
    ][::core::mem::offset_of!(dsv4mx_control, progress_user) - 16usize];
    [
        "Offset of field: dsv4mx_control::cancel",
    ][::core::mem::offset_of!(dsv4mx_control, cancel) - 24usize];
    [
        "Offset of field: dsv4mx_control::timeout_ns",
    ][::core::mem::offset_of!(dsv4mx_control, timeout_ns) - 32usize];
};
/// Kinds of devices.
pub type dsv4mx_device = i32;
/// The CUDA device device_ordinal if this build supports it, else the CPU, with a WARNING that says why if there is an
/// NVIDIA driver. An ordinal above 0 is never replaced by the CPU.
pub const DSV4MX_DEVICE_AUTO: dsv4mx_device_value = 0;
pub const DSV4MX_DEVICE_CPU: dsv4mx_device_value = 1;
pub const DSV4MX_DEVICE_CUDA: dsv4mx_device_value = 2;
/// Values of dsv4mx_device.
pub type dsv4mx_device_value = ::core::ffi::c_int;
/// What a device is.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_device_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// CPU or CUDA.
    pub device: dsv4mx_device,
    /// 1 if a context can be opened on it, else 0.
    pub supported: i32,
    /// 90 for SM 9.0; 0 on the CPU.
    pub compute_capability: i32,
    /// 0 on the CPU.
    pub multiprocessors: i32,
    /// Memory of the device in bytes.
    pub total_bytes: i64,
    /// Free memory in bytes; -1 where it is not known without opening a CUDA context. On the CPU what the system gives
    /// without swapping (MemAvailable), or what is free where it does not say; limits of control groups do not count.
    pub free_bytes: i64,
    /// Device name, or "CPU". UTF-8, terminated.
    pub name: [::core::ffi::c_char; 128usize],
    /// Why it is not supported, or "".
    pub reason: [::core::ffi::c_char; 256usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_device_info",
    ][::core::mem::size_of::<dsv4mx_device_info>() - 424usize];
    [
        "Alignment of dsv4mx_device_info",
    ][::core::mem::align_of::<dsv4mx_device_info>() - 8usize];
    [
        "Offset of field: dsv4mx_device_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_device_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_device_info::device",
    ][::core::mem::offset_of!(dsv4mx_device_info, device) - 8usize];
    [
        "Offset of field: dsv4mx_device_info::supported",
    ][::core::mem::offset_of!(dsv4mx_device_info, supported) - 12usize];
    [
        "Offset of field: dsv4mx_device_info::compute_capability",
    ][::core::mem::offset_of!(dsv4mx_device_info, compute_capability) - 16usize];
    [
        "Offset of field: dsv4mx_device_info::multiprocessors",
    ][::core::mem::offset_of!(dsv4mx_device_info, multiprocessors) - 20usize];
    [
        "Offset of field: dsv4mx_device_info::total_bytes",
    ][::core::mem::offset_of!(dsv4mx_device_info, total_bytes) - 24usize];
    [
        "Offset of field: dsv4mx_device_info::free_bytes",
    ][::core::mem::offset_of!(dsv4mx_device_info, free_bytes) - 32usize];
    [
        "Offset of field: dsv4mx_device_info::name",
    ][::core::mem::offset_of!(dsv4mx_device_info, name) - 40usize];
    [
        "Offset of field: dsv4mx_device_info::reason",
    ][::core::mem::offset_of!(dsv4mx_device_info, reason) - 168usize];
};
/// Instruction sets of the CPU backend.
pub type dsv4mx_cpu_isa = i32;
/// The best that this processor has.
pub const DSV4MX_CPU_ISA_DEFAULT: dsv4mx_cpu_isa_value = 0;
pub const DSV4MX_CPU_ISA_PORTABLE: dsv4mx_cpu_isa_value = 1;
/// AVX2, FMA, F16C.
pub const DSV4MX_CPU_ISA_AVX2: dsv4mx_cpu_isa_value = 2;
/// AVX-512 F, BW, DQ, VL.
pub const DSV4MX_CPU_ISA_AVX512: dsv4mx_cpu_isa_value = 3;
/// AVX-512 with BF16.
pub const DSV4MX_CPU_ISA_AVX512_BF16: dsv4mx_cpu_isa_value = 4;
/// Values of dsv4mx_cpu_isa.
pub type dsv4mx_cpu_isa_value = ::core::ffi::c_int;
/// Levels of the log.
pub type dsv4mx_log_level = i32;
/// What no status can report, e.g. a block given to free that this context did not allocate.
pub const DSV4MX_LOG_ERROR: dsv4mx_log_level_value = 1;
/// What works, but probably not as meant: a fallback to the CPU beside an NVIDIA driver, fewer threads than asked.
pub const DSV4MX_LOG_WARNING: dsv4mx_log_level_value = 2;
/// One line for each object made: device, layer, weights.
pub const DSV4MX_LOG_INFO: dsv4mx_log_level_value = 3;
/// One line for each tensor set or ignored.
pub const DSV4MX_LOG_DEBUG: dsv4mx_log_level_value = 4;
/// Values of dsv4mx_log_level.
pub type dsv4mx_log_level_value = ::core::ffi::c_int;
/// Receives finished text, one line without newline, on the thread that made the dsv4mx call. Never called by apply.
pub type dsv4mx_log_fn = ::core::option::Option<
    unsafe extern "C" fn(
        user: *mut ::core::ffi::c_void,
        level: dsv4mx_log_level,
        text: *const ::core::ffi::c_char,
    ),
>;
/// Allocates memory of a kind: DEVICE for experts, maps and dsv4mx_context_alloc, PINNED and HOST for staging (on a CPU
/// context HOST is used for everything). Called on the thread that made the dsv4mx call, never inside apply. `stream` is
/// that call's stream: the library uses the memory on it, or has waited. Returns NULL on failure; `alignment` is a power of
/// two.
///
/// Not asked for: the windows of communicators, which other ranks map (dsv4mx_comm_info.window_bytes has their size; on CUDA
/// 8 bytes of pinned memory per rank come with them); what the CUDA driver takes for its context and the kernels; and from
/// the C++ runtime handles, tables of a few bytes per expert, a few rows of a matrix while they change their form, and the
/// names and tables of an open checkpoint, which has no context.
pub type dsv4mx_alloc_fn = ::core::option::Option<
    unsafe extern "C" fn(
        user: *mut ::core::ffi::c_void,
        bytes: usize,
        alignment: usize,
        memory: dsv4mx_memory,
        stream: dsv4mx_stream,
    ) -> *mut ::core::ffi::c_void,
>;
/// Takes back what alloc gave, with the same bytes and memory. Work that used it has finished. Where the thread ends inside
/// it, blocks that the same call had still to give back stay with the caller's allocator.
pub type dsv4mx_free_fn = ::core::option::Option<
    unsafe extern "C" fn(
        user: *mut ::core::ffi::c_void,
        pointer: *mut ::core::ffi::c_void,
        bytes: usize,
        memory: dsv4mx_memory,
        stream: dsv4mx_stream,
    ),
>;
/// How to open a device.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_context_desc {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// 0 = AUTO.
    pub device: dsv4mx_device,
    /// CUDA ordinal, >= 0.
    pub device_ordinal: i32,
    /// CPU backend: threads to use, 1..4096; 0 = what the affinity mask, the cgroup and the process limits allow.
    pub threads: i32,
    /// CPU backend: 0 = best; one that the processor lacks is UNSUPPORTED_DEVICE.
    pub cpu_isa: dsv4mx_cpu_isa,
    /// NULL = the library's own; alloc and free are given together.
    pub alloc: dsv4mx_alloc_fn,
    /// Takes back what alloc gave.
    pub free: dsv4mx_free_fn,
    /// First argument of alloc and free.
    pub alloc_user: *mut ::core::ffi::c_void,
    /// NULL = none.
    pub log: dsv4mx_log_fn,
    /// First argument of log.
    pub log_user: *mut ::core::ffi::c_void,
    /// Least severe level that is logged; 0 = WARNING.
    pub log_level: dsv4mx_log_level,
    /// 0.
    pub flags: u32,
    /// NULL, or what DSV4MX_EXPERIMENTAL defines.
    pub experimental: *const dsv4mx_context_experimental,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_context_desc",
    ][::core::mem::size_of::<dsv4mx_context_desc>() - 80usize];
    [
        "Alignment of dsv4mx_context_desc",
    ][::core::mem::align_of::<dsv4mx_context_desc>() - 8usize];
    [
        "Offset of field: dsv4mx_context_desc::struct_size",
    ][::core::mem::offset_of!(dsv4mx_context_desc, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_context_desc::device",
    ][::core::mem::offset_of!(dsv4mx_context_desc, device) - 8usize];
    [
        "Offset of field: dsv4mx_context_desc::device_ordinal",
    ][::core::mem::offset_of!(dsv4mx_context_desc, device_ordinal) - 12usize];
    [
        "Offset of field: dsv4mx_context_desc::threads",
    ][::core::mem::offset_of!(dsv4mx_context_desc, threads) - 16usize];
    [
        "Offset of field: dsv4mx_context_desc::cpu_isa",
    ][::core::mem::offset_of!(dsv4mx_context_desc, cpu_isa) - 20usize];
    [
        "Offset of field: dsv4mx_context_desc::alloc",
    ][::core::mem::offset_of!(dsv4mx_context_desc, alloc) - 24usize];
    [
        "Offset of field: dsv4mx_context_desc::free",
    ][::core::mem::offset_of!(dsv4mx_context_desc, free) - 32usize];
    [
        "Offset of field: dsv4mx_context_desc::alloc_user",
    ][::core::mem::offset_of!(dsv4mx_context_desc, alloc_user) - 40usize];
    [
        "Offset of field: dsv4mx_context_desc::log",
    ][::core::mem::offset_of!(dsv4mx_context_desc, log) - 48usize];
    [
        "Offset of field: dsv4mx_context_desc::log_user",
    ][::core::mem::offset_of!(dsv4mx_context_desc, log_user) - 56usize];
    [
        "Offset of field: dsv4mx_context_desc::log_level",
    ][::core::mem::offset_of!(dsv4mx_context_desc, log_level) - 64usize];
    [
        "Offset of field: dsv4mx_context_desc::flags",
    ][::core::mem::offset_of!(dsv4mx_context_desc, flags) - 68usize];
    [
        "Offset of field: dsv4mx_context_desc::experimental",
    ][::core::mem::offset_of!(dsv4mx_context_desc, experimental) - 72usize];
};
/// What a context runs on.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_context_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// CPU or CUDA.
    pub device: dsv4mx_device,
    /// CUDA ordinal; 0 on the CPU.
    pub device_ordinal: i32,
    /// CPU threads in use; 0 on CUDA.
    pub threads: i32,
    /// CPU instruction set in use; 0 on CUDA.
    pub cpu_isa: dsv4mx_cpu_isa,
    /// 90 for SM 9.0; 0 on the CPU.
    pub compute_capability: i32,
    /// 0 on the CPU.
    pub multiprocessors: i32,
    /// Second-level cache in bytes; 0 on the CPU.
    pub l2_bytes: i64,
    /// Device name, or "CPU". UTF-8, terminated.
    pub name: [::core::ffi::c_char; 128usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_context_info",
    ][::core::mem::size_of::<dsv4mx_context_info>() - 168usize];
    [
        "Alignment of dsv4mx_context_info",
    ][::core::mem::align_of::<dsv4mx_context_info>() - 8usize];
    [
        "Offset of field: dsv4mx_context_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_context_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_context_info::device",
    ][::core::mem::offset_of!(dsv4mx_context_info, device) - 8usize];
    [
        "Offset of field: dsv4mx_context_info::device_ordinal",
    ][::core::mem::offset_of!(dsv4mx_context_info, device_ordinal) - 12usize];
    [
        "Offset of field: dsv4mx_context_info::threads",
    ][::core::mem::offset_of!(dsv4mx_context_info, threads) - 16usize];
    [
        "Offset of field: dsv4mx_context_info::cpu_isa",
    ][::core::mem::offset_of!(dsv4mx_context_info, cpu_isa) - 20usize];
    [
        "Offset of field: dsv4mx_context_info::compute_capability",
    ][::core::mem::offset_of!(dsv4mx_context_info, compute_capability) - 24usize];
    [
        "Offset of field: dsv4mx_context_info::multiprocessors",
    ][::core::mem::offset_of!(dsv4mx_context_info, multiprocessors) - 28usize];
    [
        "Offset of field: dsv4mx_context_info::l2_bytes",
    ][::core::mem::offset_of!(dsv4mx_context_info, l2_bytes) - 32usize];
    [
        "Offset of field: dsv4mx_context_info::name",
    ][::core::mem::offset_of!(dsv4mx_context_info, name) - 40usize];
};
/// Formats of expert weights.
pub type dsv4mx_weight_format = i32;
/// E2M1 codes, one E8M0 scale per 32 of K.
pub const DSV4MX_WEIGHT_FORMAT_MXFP4: dsv4mx_weight_format_value = 0;
/// Values of dsv4mx_weight_format.
pub type dsv4mx_weight_format_value = ::core::ffi::c_int;
/// How the rows of a fused w13 tensor \[2\*intermediate, hidden\] are ordered.
pub type dsv4mx_w13_order = i32;
/// Only separate gate and up tensors (w1, w3 names) are accepted.
pub const DSV4MX_W13_ORDER_UNSET: dsv4mx_w13_order_value = 0;
/// \[w1; w3\]: DeepSeek, SGLang, vLLM.
pub const DSV4MX_W13_ORDER_GATE_UP: dsv4mx_w13_order_value = 1;
/// \[w3; w1\]: TensorRT-LLM, FlashInfer.
pub const DSV4MX_W13_ORDER_UP_GATE: dsv4mx_w13_order_value = 2;
/// Row 2i = gate i, row 2i+1 = up i: GPT-OSS.
pub const DSV4MX_W13_ORDER_INTERLEAVED: dsv4mx_w13_order_value = 3;
/// Values of dsv4mx_w13_order.
pub type dsv4mx_w13_order_value = ::core::ffi::c_int;
/// Which half of a byte is the even k.
pub type dsv4mx_nibble_order = i32;
/// Low nibble = even k (DeepSeek, GPT-OSS).
pub const DSV4MX_NIBBLE_ORDER_LOW_FIRST: dsv4mx_nibble_order_value = 0;
pub const DSV4MX_NIBBLE_ORDER_HIGH_FIRST: dsv4mx_nibble_order_value = 1;
/// Values of dsv4mx_nibble_order.
pub type dsv4mx_nibble_order_value = ::core::ffi::c_int;
/// Activations. With L = clamp_limit: g' = min(g, L), u' = max(-L, min(u, L)), both before the activation; L = 0 means no
/// clamp. NaN propagates through clamp and activation. More may come.
pub type dsv4mx_activation = i32;
/// h = g' \* sigmoid(g') \* u'
pub const DSV4MX_ACTIVATION_SWIGLU: dsv4mx_activation_value = 0;
/// h = g' \* sigmoid(alpha \* g') \* (u' + beta), where 0 means alpha 1.702 and beta 1 (GPT-OSS).
pub const DSV4MX_ACTIVATION_SWIGLU_GPTOSS: dsv4mx_activation_value = 1;
/// The same form with alpha and beta taken as given, 0 included; alpha 1, beta 0 is SWIGLU bit for bit.
pub const DSV4MX_ACTIVATION_GATED: dsv4mx_activation_value = 2;
/// h = situ_beta \* tanh(g / situ_beta) \* sigmoid(g) \* situ_linear_beta \* tanh(u / situ_linear_beta) (Kimi K3); a
/// clamp_limit beside it is refused.
pub const DSV4MX_ACTIVATION_SITU: dsv4mx_activation_value = 3;
/// Values of dsv4mx_activation.
pub type dsv4mx_activation_value = ::core::ffi::c_int;
/// Where the router weight multiplies.
pub type dsv4mx_router_weight_position = i32;
/// y = sum w_k \* (h_k . w2 + bias)
pub const DSV4MX_ROUTER_WEIGHT_AFTER_W2: dsv4mx_router_weight_position_value = 0;
/// h_k \* w_k before its rounding; refused together with a w2 bias.
pub const DSV4MX_ROUTER_WEIGHT_BEFORE_W2: dsv4mx_router_weight_position_value = 1;
/// x \* w before GEMM1, in fp32, rounded to bf16; top_k must be 1.
pub const DSV4MX_ROUTER_WEIGHT_ON_INPUT: dsv4mx_router_weight_position_value = 2;
/// Values of dsv4mx_router_weight_position.
pub type dsv4mx_router_weight_position_value = ::core::ffi::c_int;
/// What is computed with.
pub type dsv4mx_compute = i32;
/// bf16 activations: the product.
pub const DSV4MX_COMPUTE_W4A16: dsv4mx_compute_value = 0;
/// E4M3 activations on the same prepared weights, about 20 times the error of W4A16; never chosen unasked. x, and h after
/// its rounding to bf16, are divided for each token and 128 values of hidden or intermediate by the least power of two
/// that brings their largest magnitude (at least 1e-4) to 448 or less, and rounded to E4M3 (nearest, ties to even). A
/// group that holds NaN or Inf is NaN. Every backend computes this; on CUDA a value may be off by up to 2^-17 of the largest
/// magnitude of its row of x or h beside that, and a token's bits may depend on how many tokens there are
/// (DSV4MX_LAYER_BATCH_INVARIANT).
pub const DSV4MX_COMPUTE_W4A8: dsv4mx_compute_value = 1;
/// Values of dsv4mx_compute.
pub type dsv4mx_compute_value = ::core::ffi::c_int;
/// A token's output is bit-identical alone, in any batch, at any position: one number path and one split of K for every
/// number of tokens. Without the flag the path may follow how many tokens the call and each of their experts have, and
/// whether some h of the call, or result of a route, is too large or too small for it.
pub const DSV4MX_LAYER_BATCH_INVARIANT: dsv4mx_layer_flag = 1;
/// Ids outside -1..experts_global-1 are counted (dsv4mx_layer_query_faults) and reported: on CUDA by
/// dsv4mx_context_synchronize, on the CPU by the apply that met them, which computes nothing then. Without the flag they
/// are skipped like -1. It catches int64 ids read as int32.
pub const DSV4MX_LAYER_CHECKED_IDS: dsv4mx_layer_flag = 2;
/// topk_ids are physical: id p is local expert p - physical_first. Needs a placement.
pub const DSV4MX_LAYER_PHYSICAL_IDS: dsv4mx_layer_flag = 4;
/// Flags of dsv4mx_layer_desc.
pub type dsv4mx_layer_flag = ::core::ffi::c_int;
/// One MoE layer, or the part of it that one rank holds. Sizes are those of the whole layer; the partition says what is
/// held here. Ranks of one layer describe the same whole layer, so that they choose the same kernels.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_layer_desc {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// H: a multiple of 32, 32..65536.
    pub hidden: i32,
    /// I of the whole layer: a multiple of 32, 32..65536.
    pub intermediate: i32,
    /// Experts held here, copies included: 1..4096.
    pub experts: i32,
    /// Ids per token, 1..16.
    pub top_k: i32,
    /// First expert held here, 0 or more; 0 with a placement.
    pub expert_first: i32,
    /// Experts of the whole layer, 1..1048576. 0 = experts, legal only where all are held here.
    pub experts_global: i32,
    /// Host memory \[experts\], copied: local expert s holds expert placement\[s\] of the layer, 0..experts_global-1. An expert
    /// may stand at several places (redundant copies); an id then means the first of them here. NULL = experts
    /// expert_first..expert_first+experts-1 in order.
    pub placement: *const i32,
    /// With DSV4MX_LAYER_PHYSICAL_IDS: the physical id of local expert 0. Ids of other ranks' experts are skipped.
    pub physical_first: i32,
    /// With DSV4MX_LAYER_PHYSICAL_IDS: physical experts of all ranks; needed then, else 0.
    pub physical_global: i32,
    /// Tensor-parallel rank, 0..tp_size-1. The w2 bias is added by rank 0 alone.
    pub tp_rank: i32,
    /// Tensor-parallel ranks, 1..1024; 0 = 1. Each rank's out is a partial sum over its channels.
    pub tp_size: i32,
    /// With intermediate_count: first channel held here, a multiple of 32.
    pub intermediate_first: i32,
    /// Channels held here, a multiple of 32; 0 = an even cut, intermediate / tp_size from tp_rank times that on.
    pub intermediate_count: i32,
    /// 0 = MXFP4.
    pub weight_format: dsv4mx_weight_format,
    /// Values of K per scale: 0 = 32; 16 (NVFP4) is refused.
    pub group_size: i32,
    /// Row order of fused w13 tensors given to dsv4mx_weights_set; UNSET refuses them.
    pub w13_order: dsv4mx_w13_order,
    /// 0 = low nibble is even k.
    pub nibble_order: dsv4mx_nibble_order,
    /// 0 = SWIGLU.
    pub activation: dsv4mx_activation,
    /// L >= 0, finite; 0 = no clamp.
    pub clamp_limit: f32,
    /// GATED: as given. SWIGLU_GPTOSS: 0 = 1.702. Else 0.
    pub activation_alpha: f32,
    /// GATED: as given. SWIGLU_GPTOSS: 0 = 1. Else 0.
    pub activation_beta: f32,
    /// SITU: above 0. Else 0.
    pub situ_beta: f32,
    /// SITU: above 0. Else 0.
    pub situ_linear_beta: f32,
    /// 0 = no bias; BF16 or F32: a \[2\*intermediate\] bias per expert is required.
    pub w13_bias: dsv4mx_dtype,
    /// 0 = no bias; BF16 or F32: a \[hidden\] bias per expert is required.
    pub w2_bias: dsv4mx_dtype,
    /// 0 = AFTER_W2.
    pub router_weight_position: dsv4mx_router_weight_position,
    /// 0 = 1.0; finite; applied once, in fp32, in the combine.
    pub routed_scaling_factor: f32,
    /// 0 = BF16, the only one: f16 cannot hold MXFP4's range and is refused.
    pub x_dtype: dsv4mx_dtype,
    /// 0 = BF16; or F32.
    pub out_dtype: dsv4mx_dtype,
    /// 0 = I32; or I64.
    pub ids_dtype: dsv4mx_dtype,
    /// 0 = F32; or BF16.
    pub router_weight_dtype: dsv4mx_dtype,
    /// Results of the routes on their way from GEMM2 to the combine. 0 = as precise as F32 is of use: CUDA, where some
    /// tokens meet an expert, keeps 11 bits of each: as f16 times a power of two, which is that of a row of h on planes and
    /// E4M3, and elsewhere a fixed one, or as F32 if any is outside its range. F32 = always F32. BF16 (CUDA: as little
    /// traffic as f16, for any number of tokens, and more error).
    pub slot_dtype: dsv4mx_dtype,
    /// 0 = W4A16.
    pub compute: dsv4mx_compute,
    /// Bits DSV4MX_LAYER_\*.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// NULL, or what DSV4MX_EXPERIMENTAL defines.
    pub experimental: *const dsv4mx_layer_experimental,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_layer_desc",
    ][::core::mem::size_of::<dsv4mx_layer_desc>() - 160usize];
    [
        "Alignment of dsv4mx_layer_desc",
    ][::core::mem::align_of::<dsv4mx_layer_desc>() - 8usize];
    [
        "Offset of field: dsv4mx_layer_desc::struct_size",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_layer_desc::hidden",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, hidden) - 8usize];
    [
        "Offset of field: dsv4mx_layer_desc::intermediate",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, intermediate) - 12usize];
    [
        "Offset of field: dsv4mx_layer_desc::experts",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, experts) - 16usize];
    [
        "Offset of field: dsv4mx_layer_desc::top_k",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, top_k) - 20usize];
    [
        "Offset of field: dsv4mx_layer_desc::expert_first",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, expert_first) - 24usize];
    [
        "Offset of field: dsv4mx_layer_desc::experts_global",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, experts_global) - 28usize];
    [
        "Offset of field: dsv4mx_layer_desc::placement",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, placement) - 32usize];
    [
        "Offset of field: dsv4mx_layer_desc::physical_first",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, physical_first) - 40usize];
    [
        "Offset of field: dsv4mx_layer_desc::physical_global",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, physical_global) - 44usize];
    [
        "Offset of field: dsv4mx_layer_desc::tp_rank",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, tp_rank) - 48usize];
    [
        "Offset of field: dsv4mx_layer_desc::tp_size",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, tp_size) - 52usize];
    [
        "Offset of field: dsv4mx_layer_desc::intermediate_first",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, intermediate_first) - 56usize];
    [
        "Offset of field: dsv4mx_layer_desc::intermediate_count",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, intermediate_count) - 60usize];
    [
        "Offset of field: dsv4mx_layer_desc::weight_format",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, weight_format) - 64usize];
    [
        "Offset of field: dsv4mx_layer_desc::group_size",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, group_size) - 68usize];
    [
        "Offset of field: dsv4mx_layer_desc::w13_order",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, w13_order) - 72usize];
    [
        "Offset of field: dsv4mx_layer_desc::nibble_order",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, nibble_order) - 76usize];
    [
        "Offset of field: dsv4mx_layer_desc::activation",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, activation) - 80usize];
    [
        "Offset of field: dsv4mx_layer_desc::clamp_limit",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, clamp_limit) - 84usize];
    [
        "Offset of field: dsv4mx_layer_desc::activation_alpha",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, activation_alpha) - 88usize];
    [
        "Offset of field: dsv4mx_layer_desc::activation_beta",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, activation_beta) - 92usize];
    [
        "Offset of field: dsv4mx_layer_desc::situ_beta",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, situ_beta) - 96usize];
    [
        "Offset of field: dsv4mx_layer_desc::situ_linear_beta",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, situ_linear_beta) - 100usize];
    [
        "Offset of field: dsv4mx_layer_desc::w13_bias",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, w13_bias) - 104usize];
    [
        "Offset of field: dsv4mx_layer_desc::w2_bias",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, w2_bias) - 108usize];
    [
        "Offset of field: dsv4mx_layer_desc::router_weight_position",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, router_weight_position) - 112usize];
    [
        "Offset of field: dsv4mx_layer_desc::routed_scaling_factor",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, routed_scaling_factor) - 116usize];
    [
        "Offset of field: dsv4mx_layer_desc::x_dtype",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, x_dtype) - 120usize];
    [
        "Offset of field: dsv4mx_layer_desc::out_dtype",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, out_dtype) - 124usize];
    [
        "Offset of field: dsv4mx_layer_desc::ids_dtype",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, ids_dtype) - 128usize];
    [
        "Offset of field: dsv4mx_layer_desc::router_weight_dtype",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, router_weight_dtype) - 132usize];
    [
        "Offset of field: dsv4mx_layer_desc::slot_dtype",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, slot_dtype) - 136usize];
    [
        "Offset of field: dsv4mx_layer_desc::compute",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, compute) - 140usize];
    [
        "Offset of field: dsv4mx_layer_desc::flags",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, flags) - 144usize];
    [
        "Offset of field: dsv4mx_layer_desc::reserved",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, reserved) - 148usize];
    [
        "Offset of field: dsv4mx_layer_desc::experimental",
    ][::core::mem::offset_of!(dsv4mx_layer_desc, experimental) - 152usize];
};
/// What a layer is and takes.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_layer_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// CPU or CUDA.
    pub device: dsv4mx_device,
    /// H.
    pub hidden: i32,
    /// I of the whole layer.
    pub intermediate: i32,
    /// First channel held here.
    pub intermediate_first: i32,
    /// Channels held here.
    pub intermediate_count: i32,
    /// Experts held here.
    pub experts: i32,
    /// Experts of the whole layer.
    pub experts_global: i32,
    /// Ids per token.
    pub top_k: i32,
    /// Exact size of the prepared weights of all experts held here, biases included.
    pub prepared_bytes: i64,
    /// Upper bound, kept: what set, prepare, load, import and export use beyond prepared_bytes.
    pub peak_extra_bytes: i64,
    /// Alignment a caller's weights buffer needs, bytes.
    pub prepared_alignment: i64,
    /// Largest legal number of tokens in one apply.
    pub max_tokens: i64,
    /// Layers of one context with the same prepared_id can run with the same weights.
    pub prepared_id: u64,
    /// Same id, same bits: two layers with the same numerics_id give bit-identical results for the same weights, inputs and
    /// number of tokens. It covers the kernels of this version, the kind of device (SM count and bandwidth class, or CPU
    /// instruction set), the kernel plan, and every option of the layer that enters the arithmetic; it does not depend on
    /// clocks, drivers, threads, streams or memory addresses, and on the size of the workspace only as minimum_bytes says.
    pub numerics_id: u64,
    /// E.g. "cpu avx2, 2 threads" or "cuda sm_90a, 132 SMs".
    pub backend: [::core::ffi::c_char; 64usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_layer_info",
    ][::core::mem::size_of::<dsv4mx_layer_info>() - 152usize];
    [
        "Alignment of dsv4mx_layer_info",
    ][::core::mem::align_of::<dsv4mx_layer_info>() - 8usize];
    [
        "Offset of field: dsv4mx_layer_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_layer_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_layer_info::device",
    ][::core::mem::offset_of!(dsv4mx_layer_info, device) - 8usize];
    [
        "Offset of field: dsv4mx_layer_info::hidden",
    ][::core::mem::offset_of!(dsv4mx_layer_info, hidden) - 12usize];
    [
        "Offset of field: dsv4mx_layer_info::intermediate",
    ][::core::mem::offset_of!(dsv4mx_layer_info, intermediate) - 16usize];
    [
        "Offset of field: dsv4mx_layer_info::intermediate_first",
    ][::core::mem::offset_of!(dsv4mx_layer_info, intermediate_first) - 20usize];
    [
        "Offset of field: dsv4mx_layer_info::intermediate_count",
    ][::core::mem::offset_of!(dsv4mx_layer_info, intermediate_count) - 24usize];
    [
        "Offset of field: dsv4mx_layer_info::experts",
    ][::core::mem::offset_of!(dsv4mx_layer_info, experts) - 28usize];
    [
        "Offset of field: dsv4mx_layer_info::experts_global",
    ][::core::mem::offset_of!(dsv4mx_layer_info, experts_global) - 32usize];
    [
        "Offset of field: dsv4mx_layer_info::top_k",
    ][::core::mem::offset_of!(dsv4mx_layer_info, top_k) - 36usize];
    [
        "Offset of field: dsv4mx_layer_info::prepared_bytes",
    ][::core::mem::offset_of!(dsv4mx_layer_info, prepared_bytes) - 40usize];
    [
        "Offset of field: dsv4mx_layer_info::peak_extra_bytes",
    ][::core::mem::offset_of!(dsv4mx_layer_info, peak_extra_bytes) - 48usize];
    [
        "Offset of field: dsv4mx_layer_info::prepared_alignment",
    ][::core::mem::offset_of!(dsv4mx_layer_info, prepared_alignment) - 56usize];
    [
        "Offset of field: dsv4mx_layer_info::max_tokens",
    ][::core::mem::offset_of!(dsv4mx_layer_info, max_tokens) - 64usize];
    [
        "Offset of field: dsv4mx_layer_info::prepared_id",
    ][::core::mem::offset_of!(dsv4mx_layer_info, prepared_id) - 72usize];
    [
        "Offset of field: dsv4mx_layer_info::numerics_id",
    ][::core::mem::offset_of!(dsv4mx_layer_info, numerics_id) - 80usize];
    [
        "Offset of field: dsv4mx_layer_info::backend",
    ][::core::mem::offset_of!(dsv4mx_layer_info, backend) - 88usize];
};
/// Options of a workspace query; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_workspace_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// The communicator of the calls, whose ranks' rows count too; NULL = none.
    pub comm: *const dsv4mx_comm,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_workspace_args",
    ][::core::mem::size_of::<dsv4mx_workspace_args>() - 24usize];
    [
        "Alignment of dsv4mx_workspace_args",
    ][::core::mem::align_of::<dsv4mx_workspace_args>() - 8usize];
    [
        "Offset of field: dsv4mx_workspace_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_workspace_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_workspace_args::comm",
    ][::core::mem::offset_of!(dsv4mx_workspace_args, comm) - 8usize];
    [
        "Offset of field: dsv4mx_workspace_args::flags",
    ][::core::mem::offset_of!(dsv4mx_workspace_args, flags) - 16usize];
    [
        "Offset of field: dsv4mx_workspace_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_workspace_args, reserved) - 20usize];
};
/// The workspace of calls up to a number of tokens.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_workspace_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Bytes with which a call runs at full speed, whichever path the weights take.
    pub bytes: usize,
    /// The fewest legal bytes: the call runs in smaller chunks, with the same bits (without DSV4MX_LAYER_BATCH_INVARIANT only if no
    /// h of the call, and no result of a route, is too large or too small for fp16).
    pub minimum_bytes: usize,
    /// Alignment in bytes.
    pub alignment: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_workspace_info",
    ][::core::mem::size_of::<dsv4mx_workspace_info>() - 32usize];
    [
        "Alignment of dsv4mx_workspace_info",
    ][::core::mem::align_of::<dsv4mx_workspace_info>() - 8usize];
    [
        "Offset of field: dsv4mx_workspace_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_workspace_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_workspace_info::bytes",
    ][::core::mem::offset_of!(dsv4mx_workspace_info, bytes) - 8usize];
    [
        "Offset of field: dsv4mx_workspace_info::minimum_bytes",
    ][::core::mem::offset_of!(dsv4mx_workspace_info, minimum_bytes) - 16usize];
    [
        "Offset of field: dsv4mx_workspace_info::alignment",
    ][::core::mem::offset_of!(dsv4mx_workspace_info, alignment) - 24usize];
};
/// Faults that applies of one layer met while they ran.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_fault_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// INVALID_ID if invalid_ids is above 0, else OK.
    pub status: dsv4mx_status,
    /// 0.
    pub reserved: i32,
    /// Ids outside -1..experts_global-1 since the layer was made; counted with DSV4MX_LAYER_CHECKED_IDS only.
    pub invalid_ids: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_fault_info"][::core::mem::size_of::<dsv4mx_fault_info>() - 24usize];
    [
        "Alignment of dsv4mx_fault_info",
    ][::core::mem::align_of::<dsv4mx_fault_info>() - 8usize];
    [
        "Offset of field: dsv4mx_fault_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_fault_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_fault_info::status",
    ][::core::mem::offset_of!(dsv4mx_fault_info, status) - 8usize];
    [
        "Offset of field: dsv4mx_fault_info::reserved",
    ][::core::mem::offset_of!(dsv4mx_fault_info, reserved) - 12usize];
    [
        "Offset of field: dsv4mx_fault_info::invalid_ids",
    ][::core::mem::offset_of!(dsv4mx_fault_info, invalid_ids) - 16usize];
};
/// Where the experts live.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_weights_desc {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Caller's device memory that outlives the weights; NULL = allocated through the context.
    pub memory: *mut ::core::ffi::c_void,
    /// At least dsv4mx_layer_info.prepared_bytes; 0 with NULL.
    pub memory_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_weights_desc",
    ][::core::mem::size_of::<dsv4mx_weights_desc>() - 24usize];
    [
        "Alignment of dsv4mx_weights_desc",
    ][::core::mem::align_of::<dsv4mx_weights_desc>() - 8usize];
    [
        "Offset of field: dsv4mx_weights_desc::struct_size",
    ][::core::mem::offset_of!(dsv4mx_weights_desc, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_weights_desc::memory",
    ][::core::mem::offset_of!(dsv4mx_weights_desc, memory) - 8usize];
    [
        "Offset of field: dsv4mx_weights_desc::memory_bytes",
    ][::core::mem::offset_of!(dsv4mx_weights_desc, memory_bytes) - 16usize];
};
/// Options of dsv4mx_weights_set; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_set_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_set_args"][::core::mem::size_of::<dsv4mx_set_args>() - 24usize];
    [
        "Alignment of dsv4mx_set_args",
    ][::core::mem::align_of::<dsv4mx_set_args>() - 8usize];
    [
        "Offset of field: dsv4mx_set_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_set_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_set_args::control",
    ][::core::mem::offset_of!(dsv4mx_set_args, control) - 8usize];
    [
        "Offset of field: dsv4mx_set_args::flags",
    ][::core::mem::offset_of!(dsv4mx_set_args, flags) - 16usize];
    [
        "Offset of field: dsv4mx_set_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_set_args, reserved) - 20usize];
};
/// Options of dsv4mx_weights_prepare; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_prepare_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_prepare_args",
    ][::core::mem::size_of::<dsv4mx_prepare_args>() - 24usize];
    [
        "Alignment of dsv4mx_prepare_args",
    ][::core::mem::align_of::<dsv4mx_prepare_args>() - 8usize];
    [
        "Offset of field: dsv4mx_prepare_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_prepare_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_prepare_args::control",
    ][::core::mem::offset_of!(dsv4mx_prepare_args, control) - 8usize];
    [
        "Offset of field: dsv4mx_prepare_args::flags",
    ][::core::mem::offset_of!(dsv4mx_prepare_args, flags) - 16usize];
    [
        "Offset of field: dsv4mx_prepare_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_prepare_args, reserved) - 20usize];
};
/// State of a weights object.
pub type dsv4mx_weights_state = i32;
pub const DSV4MX_WEIGHTS_EMPTY: dsv4mx_weights_state_value = 0;
pub const DSV4MX_WEIGHTS_FILLING: dsv4mx_weights_state_value = 1;
pub const DSV4MX_WEIGHTS_PREPARED: dsv4mx_weights_state_value = 2;
/// Values of dsv4mx_weights_state.
pub type dsv4mx_weights_state_value = ::core::ffi::c_int;
/// State and sizes of a weights object.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_weights_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// EMPTY, FILLING or PREPARED.
    pub state: dsv4mx_weights_state,
    /// Prepared: smallest scale byte of groups that are not all zero; 0 if there are none.
    pub scale_min: i32,
    /// Prepared: largest such byte; 0 if there are none.
    pub scale_max: i32,
    /// 0.
    pub reserved: i32,
    /// Resident bytes.
    pub bytes: i64,
    /// How many (expert, tensor) pairs prepare would still miss.
    pub tensors_missing: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_weights_info",
    ][::core::mem::size_of::<dsv4mx_weights_info>() - 40usize];
    [
        "Alignment of dsv4mx_weights_info",
    ][::core::mem::align_of::<dsv4mx_weights_info>() - 8usize];
    [
        "Offset of field: dsv4mx_weights_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_weights_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_weights_info::state",
    ][::core::mem::offset_of!(dsv4mx_weights_info, state) - 8usize];
    [
        "Offset of field: dsv4mx_weights_info::scale_min",
    ][::core::mem::offset_of!(dsv4mx_weights_info, scale_min) - 12usize];
    [
        "Offset of field: dsv4mx_weights_info::scale_max",
    ][::core::mem::offset_of!(dsv4mx_weights_info, scale_max) - 16usize];
    [
        "Offset of field: dsv4mx_weights_info::reserved",
    ][::core::mem::offset_of!(dsv4mx_weights_info, reserved) - 20usize];
    [
        "Offset of field: dsv4mx_weights_info::bytes",
    ][::core::mem::offset_of!(dsv4mx_weights_info, bytes) - 24usize];
    [
        "Offset of field: dsv4mx_weights_info::tensors_missing",
    ][::core::mem::offset_of!(dsv4mx_weights_info, tensors_missing) - 32usize];
};
/// The Marlin MXFP4 form that SGLang and vLLM hold on Hopper. Rows of w13 are \[w1; w3\], each half padded from I (the
/// channels held here) to intermediate_padded; K of w13 and rows of w2 are padded from H to hidden_padded. A NULL tensor is
/// left out.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_marlin {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// First local expert covered.
    pub expert_first: i32,
    /// 0 = all from expert_first on.
    pub expert_count: i32,
    /// 0 = the default of dsv4mx_layer_query_marlin; a multiple of 64, >= H.
    pub hidden_padded: i32,
    /// 0 = the default; a multiple of 32, >= I (w13 has 2 x this, a multiple of 64).
    pub intermediate_padded: i32,
    /// Where the pointers point; w13 and w2 in device memory are 4-byte aligned.
    pub memory: dsv4mx_memory,
    /// 0 = BF16, or F32.
    pub bias_dtype: dsv4mx_dtype,
    /// int32 \[count, hidden_padded/16, 4\*intermediate_padded\].
    pub w13: *mut ::core::ffi::c_void,
    /// E8M0 \[count, hidden_padded/32, 2\*intermediate_padded\].
    pub w13_scale: *mut ::core::ffi::c_void,
    /// \[count, 2\*intermediate_padded\].
    pub w13_bias: *mut ::core::ffi::c_void,
    /// int32 \[count, intermediate_padded/16, 2\*hidden_padded\].
    pub w2: *mut ::core::ffi::c_void,
    /// E8M0 \[count, intermediate_padded/32, hidden_padded\].
    pub w2_scale: *mut ::core::ffi::c_void,
    /// \[count, hidden_padded\].
    pub w2_bias: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_marlin"][::core::mem::size_of::<dsv4mx_marlin>() - 80usize];
    ["Alignment of dsv4mx_marlin"][::core::mem::align_of::<dsv4mx_marlin>() - 8usize];
    [
        "Offset of field: dsv4mx_marlin::struct_size",
    ][::core::mem::offset_of!(dsv4mx_marlin, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_marlin::expert_first",
    ][::core::mem::offset_of!(dsv4mx_marlin, expert_first) - 8usize];
    [
        "Offset of field: dsv4mx_marlin::expert_count",
    ][::core::mem::offset_of!(dsv4mx_marlin, expert_count) - 12usize];
    [
        "Offset of field: dsv4mx_marlin::hidden_padded",
    ][::core::mem::offset_of!(dsv4mx_marlin, hidden_padded) - 16usize];
    [
        "Offset of field: dsv4mx_marlin::intermediate_padded",
    ][::core::mem::offset_of!(dsv4mx_marlin, intermediate_padded) - 20usize];
    [
        "Offset of field: dsv4mx_marlin::memory",
    ][::core::mem::offset_of!(dsv4mx_marlin, memory) - 24usize];
    [
        "Offset of field: dsv4mx_marlin::bias_dtype",
    ][::core::mem::offset_of!(dsv4mx_marlin, bias_dtype) - 28usize];
    [
        "Offset of field: dsv4mx_marlin::w13",
    ][::core::mem::offset_of!(dsv4mx_marlin, w13) - 32usize];
    [
        "Offset of field: dsv4mx_marlin::w13_scale",
    ][::core::mem::offset_of!(dsv4mx_marlin, w13_scale) - 40usize];
    [
        "Offset of field: dsv4mx_marlin::w13_bias",
    ][::core::mem::offset_of!(dsv4mx_marlin, w13_bias) - 48usize];
    [
        "Offset of field: dsv4mx_marlin::w2",
    ][::core::mem::offset_of!(dsv4mx_marlin, w2) - 56usize];
    [
        "Offset of field: dsv4mx_marlin::w2_scale",
    ][::core::mem::offset_of!(dsv4mx_marlin, w2_scale) - 64usize];
    [
        "Offset of field: dsv4mx_marlin::w2_bias",
    ][::core::mem::offset_of!(dsv4mx_marlin, w2_bias) - 72usize];
};
/// Options of the Marlin import and export; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_marlin_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_marlin_args",
    ][::core::mem::size_of::<dsv4mx_marlin_args>() - 24usize];
    [
        "Alignment of dsv4mx_marlin_args",
    ][::core::mem::align_of::<dsv4mx_marlin_args>() - 8usize];
    [
        "Offset of field: dsv4mx_marlin_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_marlin_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_marlin_args::control",
    ][::core::mem::offset_of!(dsv4mx_marlin_args, control) - 8usize];
    [
        "Offset of field: dsv4mx_marlin_args::flags",
    ][::core::mem::offset_of!(dsv4mx_marlin_args, flags) - 16usize];
    [
        "Offset of field: dsv4mx_marlin_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_marlin_args, reserved) - 20usize];
};
/// Options of the calls on prepared experts; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_expert_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_expert_args",
    ][::core::mem::size_of::<dsv4mx_expert_args>() - 24usize];
    [
        "Alignment of dsv4mx_expert_args",
    ][::core::mem::align_of::<dsv4mx_expert_args>() - 8usize];
    [
        "Offset of field: dsv4mx_expert_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_expert_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_expert_args::control",
    ][::core::mem::offset_of!(dsv4mx_expert_args, control) - 8usize];
    [
        "Offset of field: dsv4mx_expert_args::flags",
    ][::core::mem::offset_of!(dsv4mx_expert_args, flags) - 16usize];
    [
        "Offset of field: dsv4mx_expert_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_expert_args, reserved) - 20usize];
};
/// One prepared expert as bytes: all of it, relocatable, of one size for every expert of a layer. What is derived from it
/// (the census) is found anew where it arrives.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_slab {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// The form: layout, hidden, channels held, biases. Slabs of the same id fit, in another process too; a CPU's and a GPU's
    /// differ.
    pub id: u64,
    /// First byte. From dsv4mx_weights_get_slab: inside the weights, to be read alone.
    pub data: *const ::core::ffi::c_void,
    /// Length in bytes.
    pub bytes: usize,
    /// Where data points.
    pub memory: dsv4mx_memory,
    /// 0.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_slab"][::core::mem::size_of::<dsv4mx_slab>() - 40usize];
    ["Alignment of dsv4mx_slab"][::core::mem::align_of::<dsv4mx_slab>() - 8usize];
    [
        "Offset of field: dsv4mx_slab::struct_size",
    ][::core::mem::offset_of!(dsv4mx_slab, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_slab::id",
    ][::core::mem::offset_of!(dsv4mx_slab, id) - 8usize];
    [
        "Offset of field: dsv4mx_slab::data",
    ][::core::mem::offset_of!(dsv4mx_slab, data) - 16usize];
    [
        "Offset of field: dsv4mx_slab::bytes",
    ][::core::mem::offset_of!(dsv4mx_slab, bytes) - 24usize];
    [
        "Offset of field: dsv4mx_slab::memory",
    ][::core::mem::offset_of!(dsv4mx_slab, memory) - 32usize];
    [
        "Offset of field: dsv4mx_slab::reserved",
    ][::core::mem::offset_of!(dsv4mx_slab, reserved) - 36usize];
};
/// What prepare found in one expert.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_expert_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Smallest scale byte of groups that are not all zero; 0 if there are none.
    pub scale_min: i32,
    /// Largest such byte; 0 if there are none.
    pub scale_max: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_expert_info",
    ][::core::mem::size_of::<dsv4mx_expert_info>() - 16usize];
    [
        "Alignment of dsv4mx_expert_info",
    ][::core::mem::align_of::<dsv4mx_expert_info>() - 8usize];
    [
        "Offset of field: dsv4mx_expert_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_expert_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_expert_info::scale_min",
    ][::core::mem::offset_of!(dsv4mx_expert_info, scale_min) - 8usize];
    [
        "Offset of field: dsv4mx_expert_info::scale_max",
    ][::core::mem::offset_of!(dsv4mx_expert_info, scale_max) - 12usize];
};
/// Which experts are copied.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_copy_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Host memory \[count\]: local experts that are written, each once.
    pub to_experts: *const i32,
    /// Host memory \[count\]: local experts that are read.
    pub from_experts: *const i32,
    /// How many, 0 or more.
    pub count: i32,
    /// 0.
    pub flags: u32,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_copy_args"][::core::mem::size_of::<dsv4mx_copy_args>() - 40usize];
    [
        "Alignment of dsv4mx_copy_args",
    ][::core::mem::align_of::<dsv4mx_copy_args>() - 8usize];
    [
        "Offset of field: dsv4mx_copy_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_copy_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_copy_args::to_experts",
    ][::core::mem::offset_of!(dsv4mx_copy_args, to_experts) - 8usize];
    [
        "Offset of field: dsv4mx_copy_args::from_experts",
    ][::core::mem::offset_of!(dsv4mx_copy_args, from_experts) - 16usize];
    [
        "Offset of field: dsv4mx_copy_args::count",
    ][::core::mem::offset_of!(dsv4mx_copy_args, count) - 24usize];
    [
        "Offset of field: dsv4mx_copy_args::flags",
    ][::core::mem::offset_of!(dsv4mx_copy_args, flags) - 28usize];
    [
        "Offset of field: dsv4mx_copy_args::control",
    ][::core::mem::offset_of!(dsv4mx_copy_args, control) - 32usize];
};
/// Options of the calls on snapshots; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_snapshot_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
    /// Threads that compress, read and check, 1..64; 0 = the library's choice.
    pub threads: i32,
    /// Saving: zstd level of what compresses, 1..19; 0 = the library's choice; -1 = nothing is compressed.
    pub level: i32,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_snapshot_args",
    ][::core::mem::size_of::<dsv4mx_snapshot_args>() - 32usize];
    [
        "Alignment of dsv4mx_snapshot_args",
    ][::core::mem::align_of::<dsv4mx_snapshot_args>() - 8usize];
    [
        "Offset of field: dsv4mx_snapshot_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_snapshot_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_snapshot_args::control",
    ][::core::mem::offset_of!(dsv4mx_snapshot_args, control) - 8usize];
    [
        "Offset of field: dsv4mx_snapshot_args::threads",
    ][::core::mem::offset_of!(dsv4mx_snapshot_args, threads) - 16usize];
    [
        "Offset of field: dsv4mx_snapshot_args::level",
    ][::core::mem::offset_of!(dsv4mx_snapshot_args, level) - 20usize];
    [
        "Offset of field: dsv4mx_snapshot_args::flags",
    ][::core::mem::offset_of!(dsv4mx_snapshot_args, flags) - 24usize];
    [
        "Offset of field: dsv4mx_snapshot_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_snapshot_args, reserved) - 28usize];
};
/// What a snapshot holds.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_snapshot_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Version of the file's format.
    pub version: i32,
    /// Experts in the file.
    pub experts: i32,
    /// Number in the whole layer of the first of them.
    pub expert_first: i32,
    /// Experts of the whole layer.
    pub experts_global: i32,
    /// Smallest scale byte of groups that are not all zero; 0 if there are none.
    pub scale_min: i32,
    /// Largest such byte; 0 if there are none.
    pub scale_max: i32,
    /// Their form: dsv4mx_slab.id.
    pub slab_id: u64,
    /// Bytes of one slab.
    pub slab_bytes: i64,
    /// Length of the file.
    pub file_bytes: i64,
    /// The layout in words, e.g. "cpu 1" or "sm90 1".
    pub layout: [::core::ffi::c_char; 32usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_snapshot_info",
    ][::core::mem::size_of::<dsv4mx_snapshot_info>() - 88usize];
    [
        "Alignment of dsv4mx_snapshot_info",
    ][::core::mem::align_of::<dsv4mx_snapshot_info>() - 8usize];
    [
        "Offset of field: dsv4mx_snapshot_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_snapshot_info::version",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, version) - 8usize];
    [
        "Offset of field: dsv4mx_snapshot_info::experts",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, experts) - 12usize];
    [
        "Offset of field: dsv4mx_snapshot_info::expert_first",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, expert_first) - 16usize];
    [
        "Offset of field: dsv4mx_snapshot_info::experts_global",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, experts_global) - 20usize];
    [
        "Offset of field: dsv4mx_snapshot_info::scale_min",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, scale_min) - 24usize];
    [
        "Offset of field: dsv4mx_snapshot_info::scale_max",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, scale_max) - 28usize];
    [
        "Offset of field: dsv4mx_snapshot_info::slab_id",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, slab_id) - 32usize];
    [
        "Offset of field: dsv4mx_snapshot_info::slab_bytes",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, slab_bytes) - 40usize];
    [
        "Offset of field: dsv4mx_snapshot_info::file_bytes",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, file_bytes) - 48usize];
    [
        "Offset of field: dsv4mx_snapshot_info::layout",
    ][::core::mem::offset_of!(dsv4mx_snapshot_info, layout) - 56usize];
};
/// How the ranks of a group meet.
pub type dsv4mx_comm_kind = i32;
/// One rank, no exchange.
pub const DSV4MX_COMM_SELF: dsv4mx_comm_kind_value = 0;
/// Ranks are threads of one process that give the same group number.
pub const DSV4MX_COMM_LOCAL: dsv4mx_comm_kind_value = 1;
/// NCCL communicator made from a unique id that the caller's bootstrap carries to every rank.
pub const DSV4MX_COMM_NCCL_ID: dsv4mx_comm_kind_value = 2;
/// The caller's ncclComm_t, split once unless DSV4MX_COMM_NO_SPLIT is set.
pub const DSV4MX_COMM_NCCL_BORROW: dsv4mx_comm_kind_value = 3;
/// The caller supplies all_gather (MPI, a store, sockets); nothing of NCCL is touched.
pub const DSV4MX_COMM_CALLBACK: dsv4mx_comm_kind_value = 4;
/// Values of dsv4mx_comm_kind.
pub type dsv4mx_comm_kind_value = ::core::ffi::c_int;
/// What carries rows between ranks.
pub type dsv4mx_comm_transport = i32;
/// PEER where every rank can write every other's window, else COLLECTIVE.
pub const DSV4MX_COMM_TRANSPORT_AUTO: dsv4mx_comm_transport_value = 0;
/// Stores into the other ranks' windows: memory shared by threads or processes of one host.
pub const DSV4MX_COMM_TRANSPORT_PEER: dsv4mx_comm_transport_value = 1;
/// NCCL's collectives, or the caller's all_gather alone: any number of hosts.
pub const DSV4MX_COMM_TRANSPORT_COLLECTIVE: dsv4mx_comm_transport_value = 2;
/// Values of dsv4mx_comm_transport.
pub type dsv4mx_comm_transport_value = ::core::ffi::c_int;
/// How expert-parallel results come home.
pub type dsv4mx_ep_combine = i32;
/// Each route's row by itself, summed at home in slot order: bit-identical to one rank that holds all experts and runs the
/// same descriptor. The layer needs DSV4MX_LAYER_BATCH_INVARIANT and the communicator's slot_dtype; ranks need devices
/// that compute alike.
pub const DSV4MX_EP_ROUTE_EXACT: dsv4mx_ep_combine_value = 0;
/// One partial sum per token and rank, summed in rank order: fewer bytes; the same bits for the same ranks, placement and
/// workspaces, whatever the transport.
pub const DSV4MX_EP_RANK_REDUCE: dsv4mx_ep_combine_value = 1;
/// Values of dsv4mx_ep_combine.
pub type dsv4mx_ep_combine_value = ::core::ffi::c_int;
/// How tensor-parallel partial sums are added.
pub type dsv4mx_tp_reduce = i32;
/// In fp32, ranks 0..tp_size-1 in order: the same bits from run to run and on every rank of one tp_size.
pub const DSV4MX_TP_RANK_ORDER: dsv4mx_tp_reduce_value = 0;
/// The same bits at every tp_size: intermediate is cut into tp_slices slices, each is computed by itself into fp32, and
/// slices are added in a fixed binary tree. Costs a pass of GEMM2 and of the combine per slice. Needs tp_slices slices of
/// a multiple of 32 channels (W4A8, and on CUDA: 128), partials in fp32 and one expert-parallel part; on CUDA also layers
/// with slot_dtype F32, which compute by the bf16 number path. Also for a group of one.
pub const DSV4MX_TP_INVARIANT: dsv4mx_tp_reduce_value = 1;
/// Values of dsv4mx_tp_reduce.
pub type dsv4mx_tp_reduce_value = ::core::ffi::c_int;
/// NCCL_BORROW: use the communicator itself.
pub const DSV4MX_COMM_NO_SPLIT: dsv4mx_comm_flag = 1;
/// NCCL_ID: refuse unless the environment has NCCL_NVLS_ENABLE=0.
pub const DSV4MX_COMM_FORBID_MULTICAST: dsv4mx_comm_flag = 2;
/// Flags of dsv4mx_comm_desc.
pub type dsv4mx_comm_flag = ::core::ffi::c_int;
/// Gathers `bytes` bytes of every rank into all, in rank order. A non-zero result fails the call.
pub type dsv4mx_all_gather_fn = ::core::option::Option<
    unsafe extern "C" fn(
        user: *mut ::core::ffi::c_void,
        mine: *const ::core::ffi::c_void,
        all: *mut ::core::ffi::c_void,
        bytes: usize,
    ) -> i32,
>;
/// Returns when all ranks have called it. A non-zero result fails the call.
pub type dsv4mx_barrier_fn = ::core::option::Option<
    unsafe extern "C" fn(user: *mut ::core::ffi::c_void) -> i32,
>;
/// One function of the caller's NCCL. All elements of an array have one struct_size.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_nccl_function {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// E.g. "ncclAllGather".
    pub name: *const ::core::ffi::c_char,
    /// Its address.
    pub address: *const ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_nccl_function",
    ][::core::mem::size_of::<dsv4mx_nccl_function>() - 24usize];
    [
        "Alignment of dsv4mx_nccl_function",
    ][::core::mem::align_of::<dsv4mx_nccl_function>() - 8usize];
    [
        "Offset of field: dsv4mx_nccl_function::struct_size",
    ][::core::mem::offset_of!(dsv4mx_nccl_function, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_nccl_function::name",
    ][::core::mem::offset_of!(dsv4mx_nccl_function, name) - 8usize];
    [
        "Offset of field: dsv4mx_nccl_function::address",
    ][::core::mem::offset_of!(dsv4mx_nccl_function, address) - 16usize];
};
/// Where NCCL comes from. NCCL is never linked and never loaded unasked.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_nccl_source {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// A program that has NCCL linked in, or a stand-in for it: its functions; nothing is loaded then. NULL = none.
    pub functions: *const dsv4mx_nccl_function,
    /// How many.
    pub function_count: usize,
    /// Path of a libnccl.so.2; NULL = the environment's DSV4MX_NCCL_PATH, what the process has loaded, libnccl.so.2.
    pub path: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_nccl_source",
    ][::core::mem::size_of::<dsv4mx_nccl_source>() - 32usize];
    [
        "Alignment of dsv4mx_nccl_source",
    ][::core::mem::align_of::<dsv4mx_nccl_source>() - 8usize];
    [
        "Offset of field: dsv4mx_nccl_source::struct_size",
    ][::core::mem::offset_of!(dsv4mx_nccl_source, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_nccl_source::functions",
    ][::core::mem::offset_of!(dsv4mx_nccl_source, functions) - 8usize];
    [
        "Offset of field: dsv4mx_nccl_source::function_count",
    ][::core::mem::offset_of!(dsv4mx_nccl_source, function_count) - 16usize];
    [
        "Offset of field: dsv4mx_nccl_source::path",
    ][::core::mem::offset_of!(dsv4mx_nccl_source, path) - 24usize];
};
/// Which NCCL is used.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_nccl_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// As ncclGetVersion gives it, e.g. 22809.
    pub version: i32,
    /// 0.
    pub reserved: i32,
    /// Its file, "" for the caller's functions. UTF-8, terminated.
    pub file: [::core::ffi::c_char; 512usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_nccl_info"][::core::mem::size_of::<dsv4mx_nccl_info>() - 528usize];
    [
        "Alignment of dsv4mx_nccl_info",
    ][::core::mem::align_of::<dsv4mx_nccl_info>() - 8usize];
    [
        "Offset of field: dsv4mx_nccl_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_nccl_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_nccl_info::version",
    ][::core::mem::offset_of!(dsv4mx_nccl_info, version) - 8usize];
    [
        "Offset of field: dsv4mx_nccl_info::reserved",
    ][::core::mem::offset_of!(dsv4mx_nccl_info, reserved) - 12usize];
    [
        "Offset of field: dsv4mx_nccl_info::file",
    ][::core::mem::offset_of!(dsv4mx_nccl_info, file) - 16usize];
};
/// One rank's view of a group. All sizes are fixed here. Everything but rank, nccl_comm, the callbacks and control is the
/// same on every rank, and compared.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_comm_desc {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// 0 = SELF.
    pub kind: dsv4mx_comm_kind,
    /// 0..size-1.
    pub rank: i32,
    /// Ranks of the group, 1..64; 0 = 1.
    pub size: i32,
    /// Tensor-parallel ranks of each expert-parallel part, a divisor of size; 0 = 1.
    pub tp_size: i32,
    /// 0 = AUTO.
    pub transport: dsv4mx_comm_transport,
    /// 0 = ROUTE_EXACT.
    pub ep_combine: dsv4mx_ep_combine,
    /// 0 = RANK_ORDER.
    pub tp_reduce: dsv4mx_tp_reduce,
    /// TP_INVARIANT: slices of intermediate, a power of two from tp_size to 64; 0 = 8. Else 0.
    pub tp_slices: i32,
    /// What routes travel as, and the slot_dtype of layers with ROUTE_EXACT: 0 = BF16; or F32 (twice the bytes).
    pub slot_dtype: dsv4mx_dtype,
    /// What partial sums travel as: 0 = F32; or BF16.
    pub partial_dtype: dsv4mx_dtype,
    /// Most tokens of one round on any rank, 1..131072: it sizes the windows. With SELF 0 = 256.
    pub max_tokens: i64,
    /// Largest hidden of the layers that use it. With SELF and TP_RANK_ORDER not needed.
    pub max_hidden: i32,
    /// Largest top_k of the layers that use it. As max_hidden.
    pub max_top_k: i32,
    /// Longest wait for another rank, nanoseconds; 0 = 10 seconds.
    pub timeout_ns: i64,
    /// Bits DSV4MX_COMM_\*.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// LOCAL: any number that the ranks of one group share, and no other group that forms at the same time.
    pub group: u64,
    /// NCCL_ID: the 128 bytes of an ncclUniqueId.
    pub nccl_id: *const ::core::ffi::c_void,
    /// NCCL_BORROW: an ncclComm_t.
    pub nccl_comm: *mut ::core::ffi::c_void,
    /// NCCL_ID, NCCL_BORROW: where NCCL comes from; NULL = all defaults. A borrowed handle needs the NCCL that made it.
    pub nccl: *const dsv4mx_nccl_source,
    /// CALLBACK: called from create, prepare and reset, and with COLLECTIVE from apply.
    pub all_gather: dsv4mx_all_gather_fn,
    /// CALLBACK: NULL = an all_gather of one byte.
    pub barrier: dsv4mx_barrier_fn,
    /// First argument of all_gather and barrier.
    pub user: *mut ::core::ffi::c_void,
    /// Progress, cancel flag, deadline of the creation; NULL = none.
    pub control: *const dsv4mx_control,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_comm_desc"][::core::mem::size_of::<dsv4mx_comm_desc>() - 144usize];
    [
        "Alignment of dsv4mx_comm_desc",
    ][::core::mem::align_of::<dsv4mx_comm_desc>() - 8usize];
    [
        "Offset of field: dsv4mx_comm_desc::struct_size",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_comm_desc::kind",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, kind) - 8usize];
    [
        "Offset of field: dsv4mx_comm_desc::rank",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, rank) - 12usize];
    [
        "Offset of field: dsv4mx_comm_desc::size",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, size) - 16usize];
    [
        "Offset of field: dsv4mx_comm_desc::tp_size",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, tp_size) - 20usize];
    [
        "Offset of field: dsv4mx_comm_desc::transport",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, transport) - 24usize];
    [
        "Offset of field: dsv4mx_comm_desc::ep_combine",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, ep_combine) - 28usize];
    [
        "Offset of field: dsv4mx_comm_desc::tp_reduce",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, tp_reduce) - 32usize];
    [
        "Offset of field: dsv4mx_comm_desc::tp_slices",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, tp_slices) - 36usize];
    [
        "Offset of field: dsv4mx_comm_desc::slot_dtype",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, slot_dtype) - 40usize];
    [
        "Offset of field: dsv4mx_comm_desc::partial_dtype",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, partial_dtype) - 44usize];
    [
        "Offset of field: dsv4mx_comm_desc::max_tokens",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, max_tokens) - 48usize];
    [
        "Offset of field: dsv4mx_comm_desc::max_hidden",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, max_hidden) - 56usize];
    [
        "Offset of field: dsv4mx_comm_desc::max_top_k",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, max_top_k) - 60usize];
    [
        "Offset of field: dsv4mx_comm_desc::timeout_ns",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, timeout_ns) - 64usize];
    [
        "Offset of field: dsv4mx_comm_desc::flags",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, flags) - 72usize];
    [
        "Offset of field: dsv4mx_comm_desc::reserved",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, reserved) - 76usize];
    [
        "Offset of field: dsv4mx_comm_desc::group",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, group) - 80usize];
    [
        "Offset of field: dsv4mx_comm_desc::nccl_id",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, nccl_id) - 88usize];
    [
        "Offset of field: dsv4mx_comm_desc::nccl_comm",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, nccl_comm) - 96usize];
    [
        "Offset of field: dsv4mx_comm_desc::nccl",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, nccl) - 104usize];
    [
        "Offset of field: dsv4mx_comm_desc::all_gather",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, all_gather) - 112usize];
    [
        "Offset of field: dsv4mx_comm_desc::barrier",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, barrier) - 120usize];
    [
        "Offset of field: dsv4mx_comm_desc::user",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, user) - 128usize];
    [
        "Offset of field: dsv4mx_comm_desc::control",
    ][::core::mem::offset_of!(dsv4mx_comm_desc, control) - 136usize];
};
/// What a communicator is.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_comm_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// How the ranks met.
    pub kind: dsv4mx_comm_kind,
    /// PEER or COLLECTIVE; AUTO for a group of one.
    pub transport: dsv4mx_comm_transport,
    /// This rank.
    pub rank: i32,
    /// Ranks of the group.
    pub size: i32,
    /// Expert-parallel part of this rank.
    pub ep_rank: i32,
    /// Expert-parallel parts.
    pub ep_size: i32,
    /// Tensor-parallel rank of this rank.
    pub tp_rank: i32,
    /// Tensor-parallel ranks.
    pub tp_size: i32,
    /// Memory of this rank's window, as mapped, and of what it works in beside it, bytes.
    pub window_bytes: i64,
    /// As ncclGetVersion gives it; 0 without NCCL.
    pub nccl_version: i32,
    /// 0.
    pub reserved: i32,
    /// Why this transport, e.g. "peer: windows in memory of this process". UTF-8, terminated.
    pub reason: [::core::ffi::c_char; 128usize],
    /// File of NCCL, "" without. UTF-8, terminated.
    pub nccl_file: [::core::ffi::c_char; 512usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_comm_info"][::core::mem::size_of::<dsv4mx_comm_info>() - 696usize];
    [
        "Alignment of dsv4mx_comm_info",
    ][::core::mem::align_of::<dsv4mx_comm_info>() - 8usize];
    [
        "Offset of field: dsv4mx_comm_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_comm_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_comm_info::kind",
    ][::core::mem::offset_of!(dsv4mx_comm_info, kind) - 8usize];
    [
        "Offset of field: dsv4mx_comm_info::transport",
    ][::core::mem::offset_of!(dsv4mx_comm_info, transport) - 12usize];
    [
        "Offset of field: dsv4mx_comm_info::rank",
    ][::core::mem::offset_of!(dsv4mx_comm_info, rank) - 16usize];
    [
        "Offset of field: dsv4mx_comm_info::size",
    ][::core::mem::offset_of!(dsv4mx_comm_info, size) - 20usize];
    [
        "Offset of field: dsv4mx_comm_info::ep_rank",
    ][::core::mem::offset_of!(dsv4mx_comm_info, ep_rank) - 24usize];
    [
        "Offset of field: dsv4mx_comm_info::ep_size",
    ][::core::mem::offset_of!(dsv4mx_comm_info, ep_size) - 28usize];
    [
        "Offset of field: dsv4mx_comm_info::tp_rank",
    ][::core::mem::offset_of!(dsv4mx_comm_info, tp_rank) - 32usize];
    [
        "Offset of field: dsv4mx_comm_info::tp_size",
    ][::core::mem::offset_of!(dsv4mx_comm_info, tp_size) - 36usize];
    [
        "Offset of field: dsv4mx_comm_info::window_bytes",
    ][::core::mem::offset_of!(dsv4mx_comm_info, window_bytes) - 40usize];
    [
        "Offset of field: dsv4mx_comm_info::nccl_version",
    ][::core::mem::offset_of!(dsv4mx_comm_info, nccl_version) - 48usize];
    [
        "Offset of field: dsv4mx_comm_info::reserved",
    ][::core::mem::offset_of!(dsv4mx_comm_info, reserved) - 52usize];
    [
        "Offset of field: dsv4mx_comm_info::reason",
    ][::core::mem::offset_of!(dsv4mx_comm_info, reason) - 56usize];
    [
        "Offset of field: dsv4mx_comm_info::nccl_file",
    ][::core::mem::offset_of!(dsv4mx_comm_info, nccl_file) - 184usize];
};
/// Where in a collective call ranks wait for each other.
pub type dsv4mx_comm_stage = i32;
/// In none.
pub const DSV4MX_COMM_STAGE_NONE: dsv4mx_comm_stage_value = 0;
/// Rows on the way to their experts.
pub const DSV4MX_COMM_STAGE_DISPATCH: dsv4mx_comm_stage_value = 1;
/// Results on the way home.
pub const DSV4MX_COMM_STAGE_COMBINE: dsv4mx_comm_stage_value = 2;
/// Partial sums of tensor-parallel ranks.
pub const DSV4MX_COMM_STAGE_REDUCE: dsv4mx_comm_stage_value = 3;
/// Values of dsv4mx_comm_stage.
pub type dsv4mx_comm_stage_value = ::core::ffi::c_int;
/// The first fault of a communicator.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_comm_fault_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// COMM_TIMEOUT, COMM_RANK_LOST, COMM_MISMATCH, COMM_ERROR, NCCL_ERROR; OK if there is none.
    pub status: dsv4mx_status,
    /// Where.
    pub stage: dsv4mx_comm_stage,
    /// The rank that was waited for, that was out of step, or that aborted; -1 where a collective does not say.
    pub rank: i32,
    /// The rank that found it.
    pub found_by: i32,
    /// Rounds of that stage since the creation or the last reset, this one included.
    pub round: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_comm_fault_info",
    ][::core::mem::size_of::<dsv4mx_comm_fault_info>() - 32usize];
    [
        "Alignment of dsv4mx_comm_fault_info",
    ][::core::mem::align_of::<dsv4mx_comm_fault_info>() - 8usize];
    [
        "Offset of field: dsv4mx_comm_fault_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_comm_fault_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_comm_fault_info::status",
    ][::core::mem::offset_of!(dsv4mx_comm_fault_info, status) - 8usize];
    [
        "Offset of field: dsv4mx_comm_fault_info::stage",
    ][::core::mem::offset_of!(dsv4mx_comm_fault_info, stage) - 12usize];
    [
        "Offset of field: dsv4mx_comm_fault_info::rank",
    ][::core::mem::offset_of!(dsv4mx_comm_fault_info, rank) - 16usize];
    [
        "Offset of field: dsv4mx_comm_fault_info::found_by",
    ][::core::mem::offset_of!(dsv4mx_comm_fault_info, found_by) - 20usize];
    [
        "Offset of field: dsv4mx_comm_fault_info::round",
    ][::core::mem::offset_of!(dsv4mx_comm_fault_info, round) - 24usize];
    [
        "Offset of field: dsv4mx_comm_fault_info::reserved",
    ][::core::mem::offset_of!(dsv4mx_comm_fault_info, reserved) - 28usize];
};
/// out += y instead of out = y: the fp32 sum of out and y, rounded once. Rows beyond tokens_device are left alone.
/// All tensor-parallel ranks of a call give it, or none: where they differ, a large call may end with
/// DSV4MX_STATUS_COMM_MISMATCH.
pub const DSV4MX_APPLY_ACCUMULATE: dsv4mx_apply_flag = 1;
/// Flags of dsv4mx_apply_args.
pub type dsv4mx_apply_flag = ::core::ffi::c_int;
/// Arguments of one apply. Every pointer is device memory on CUDA, host memory on the CPU.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_apply_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Device memory on CUDA: \[tokens, hidden\] x_dtype, 16-byte aligned.
    pub x: *const ::core::ffi::c_void,
    /// Elements between rows of x, a multiple of 8; 0 = hidden.
    pub x_stride: i64,
    /// Scales of an x that is quantised already: NULL in this version, else UNSUPPORTED.
    pub x_scale: *const ::core::ffi::c_void,
    /// Elements between rows of x_scale; 0.
    pub x_scale_stride: i64,
    /// Device memory on CUDA: \[tokens, top_k\] ids_dtype, aligned to an id; ids that are not held here are skipped.
    pub topk_ids: *const ::core::ffi::c_void,
    /// Elements between rows of topk_ids, at least top_k; 0 = top_k.
    pub topk_ids_stride: i64,
    /// Device memory on CUDA: \[tokens, top_k\] router_weight_dtype, aligned to a weight.
    pub topk_weights: *const ::core::ffi::c_void,
    /// Elements between rows of topk_weights, at least top_k; 0 = top_k.
    pub topk_weights_stride: i64,
    /// Device memory on CUDA: \[tokens, hidden\] out_dtype, 16-byte aligned; every element is written. It overlaps no other
    /// argument; rows of two arguments may alternate inside one row-strided matrix.
    pub out: *mut ::core::ffi::c_void,
    /// Elements between rows of out, a multiple of 8; 0 = hidden.
    pub out_stride: i64,
    /// 0..131072; the bound when tokens_device is given.
    pub tokens: i64,
    /// Device memory on CUDA, 4-byte aligned: tokens to process, clamped to 0..tokens; rows of out beyond it are left alone.
    /// NULL = exactly `tokens`. Read when the kernels run, so a captured graph can serve varying batches.
    pub tokens_device: *const i32,
    /// Device memory on CUDA, aligned as the query says; contents are neither read nor kept. Not shared by calls in flight.
    pub workspace: *mut ::core::ffi::c_void,
    /// At least minimum_bytes of dsv4mx_layer_query_workspace(layer, tokens); less than bytes means smaller chunks.
    pub workspace_bytes: usize,
    /// Device memory on CUDA, 8-byte aligned: \[experts\] int64; each call adds the number of pairs that each local expert
    /// computed. NULL = not counted.
    pub expert_counts: *mut i64,
    /// The layer over a group: collective, one call at a time per communicator. NULL = this rank's part alone. Of the layer's
    /// context; with a group of several ranks, or TP_INVARIANT, the layer is prepared for it (dsv4mx_comm_prepare).
    pub comm: *mut dsv4mx_comm,
    /// With comm: the most tokens of this call on any rank, the same number on every rank: it decides the number of rounds.
    /// 0 = the communicator's max_tokens, one round.
    pub comm_tokens: i64,
    /// With comm: any number that all ranks give alike, e.g. the layer's index: ranks out of step get COMM_MISMATCH.
    pub comm_tag: u32,
    /// 0.
    pub reserved: u32,
    /// CUDA: multiprocessors that the GEMMs may occupy, 1..; 0 = all. Does not change bits.
    pub multiprocessors: i32,
    /// Bits DSV4MX_APPLY_\*.
    pub flags: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_apply_args",
    ][::core::mem::size_of::<dsv4mx_apply_args>() - 160usize];
    [
        "Alignment of dsv4mx_apply_args",
    ][::core::mem::align_of::<dsv4mx_apply_args>() - 8usize];
    [
        "Offset of field: dsv4mx_apply_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_apply_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_apply_args::x",
    ][::core::mem::offset_of!(dsv4mx_apply_args, x) - 8usize];
    [
        "Offset of field: dsv4mx_apply_args::x_stride",
    ][::core::mem::offset_of!(dsv4mx_apply_args, x_stride) - 16usize];
    [
        "Offset of field: dsv4mx_apply_args::x_scale",
    ][::core::mem::offset_of!(dsv4mx_apply_args, x_scale) - 24usize];
    [
        "Offset of field: dsv4mx_apply_args::x_scale_stride",
    ][::core::mem::offset_of!(dsv4mx_apply_args, x_scale_stride) - 32usize];
    [
        "Offset of field: dsv4mx_apply_args::topk_ids",
    ][::core::mem::offset_of!(dsv4mx_apply_args, topk_ids) - 40usize];
    [
        "Offset of field: dsv4mx_apply_args::topk_ids_stride",
    ][::core::mem::offset_of!(dsv4mx_apply_args, topk_ids_stride) - 48usize];
    [
        "Offset of field: dsv4mx_apply_args::topk_weights",
    ][::core::mem::offset_of!(dsv4mx_apply_args, topk_weights) - 56usize];
    [
        "Offset of field: dsv4mx_apply_args::topk_weights_stride",
    ][::core::mem::offset_of!(dsv4mx_apply_args, topk_weights_stride) - 64usize];
    [
        "Offset of field: dsv4mx_apply_args::out",
    ][::core::mem::offset_of!(dsv4mx_apply_args, out) - 72usize];
    [
        "Offset of field: dsv4mx_apply_args::out_stride",
    ][::core::mem::offset_of!(dsv4mx_apply_args, out_stride) - 80usize];
    [
        "Offset of field: dsv4mx_apply_args::tokens",
    ][::core::mem::offset_of!(dsv4mx_apply_args, tokens) - 88usize];
    [
        "Offset of field: dsv4mx_apply_args::tokens_device",
    ][::core::mem::offset_of!(dsv4mx_apply_args, tokens_device) - 96usize];
    [
        "Offset of field: dsv4mx_apply_args::workspace",
    ][::core::mem::offset_of!(dsv4mx_apply_args, workspace) - 104usize];
    [
        "Offset of field: dsv4mx_apply_args::workspace_bytes",
    ][::core::mem::offset_of!(dsv4mx_apply_args, workspace_bytes) - 112usize];
    [
        "Offset of field: dsv4mx_apply_args::expert_counts",
    ][::core::mem::offset_of!(dsv4mx_apply_args, expert_counts) - 120usize];
    [
        "Offset of field: dsv4mx_apply_args::comm",
    ][::core::mem::offset_of!(dsv4mx_apply_args, comm) - 128usize];
    [
        "Offset of field: dsv4mx_apply_args::comm_tokens",
    ][::core::mem::offset_of!(dsv4mx_apply_args, comm_tokens) - 136usize];
    [
        "Offset of field: dsv4mx_apply_args::comm_tag",
    ][::core::mem::offset_of!(dsv4mx_apply_args, comm_tag) - 144usize];
    [
        "Offset of field: dsv4mx_apply_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_apply_args, reserved) - 148usize];
    [
        "Offset of field: dsv4mx_apply_args::multiprocessors",
    ][::core::mem::offset_of!(dsv4mx_apply_args, multiprocessors) - 152usize];
    [
        "Offset of field: dsv4mx_apply_args::flags",
    ][::core::mem::offset_of!(dsv4mx_apply_args, flags) - 156usize];
};
/// How tensor bytes are read.
pub type dsv4mx_read_policy = i32;
/// Read through the page cache into bounded staging.
pub const DSV4MX_READ_POLICY_DEFAULT: dsv4mx_read_policy_value = 0;
/// Values of dsv4mx_read_policy.
pub type dsv4mx_read_policy_value = ::core::ffi::c_int;
/// Options of dsv4mx_checkpoint_create; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_checkpoint_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
    /// Only tensors whose names begin so are seen; NULL = all.
    pub prefix: *const ::core::ffi::c_char,
    /// Threads that read when layers are loaded, 1..64; 0 = the library's choice.
    pub threads: i32,
    /// 0 = DEFAULT.
    pub read_policy: dsv4mx_read_policy,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_checkpoint_args",
    ][::core::mem::size_of::<dsv4mx_checkpoint_args>() - 40usize];
    [
        "Alignment of dsv4mx_checkpoint_args",
    ][::core::mem::align_of::<dsv4mx_checkpoint_args>() - 8usize];
    [
        "Offset of field: dsv4mx_checkpoint_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_checkpoint_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_checkpoint_args::control",
    ][::core::mem::offset_of!(dsv4mx_checkpoint_args, control) - 8usize];
    [
        "Offset of field: dsv4mx_checkpoint_args::prefix",
    ][::core::mem::offset_of!(dsv4mx_checkpoint_args, prefix) - 16usize];
    [
        "Offset of field: dsv4mx_checkpoint_args::threads",
    ][::core::mem::offset_of!(dsv4mx_checkpoint_args, threads) - 24usize];
    [
        "Offset of field: dsv4mx_checkpoint_args::read_policy",
    ][::core::mem::offset_of!(dsv4mx_checkpoint_args, read_policy) - 28usize];
    [
        "Offset of field: dsv4mx_checkpoint_args::flags",
    ][::core::mem::offset_of!(dsv4mx_checkpoint_args, flags) - 32usize];
    [
        "Offset of field: dsv4mx_checkpoint_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_checkpoint_args, reserved) - 36usize];
};
/// Kinds of blocks that hold experts.
pub type dsv4mx_block_kind = i32;
/// layers.N under any prefix.
pub const DSV4MX_BLOCK_LAYER: dsv4mx_block_kind_value = 0;
/// A draft block: mtp.N or mtp.layers.N under any prefix.
pub const DSV4MX_BLOCK_MTP: dsv4mx_block_kind_value = 1;
/// The prefix itself: everything up to "experts.".
pub const DSV4MX_BLOCK_PREFIX: dsv4mx_block_kind_value = 2;
/// Values of dsv4mx_block_kind.
pub type dsv4mx_block_kind_value = ::core::ffi::c_int;
/// Which block of a checkpoint.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_block {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// 0 = LAYER.
    pub kind: dsv4mx_block_kind,
    /// N; 0 with PREFIX.
    pub index: i32,
    /// PREFIX: e.g. "model.layers.3.mlp.". LAYER and MTP: NULL, or the prefix under which to look where several have the
    /// same index, as dsv4mx_checkpoint_get_block gives it.
    pub prefix: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_block"][::core::mem::size_of::<dsv4mx_block>() - 24usize];
    ["Alignment of dsv4mx_block"][::core::mem::align_of::<dsv4mx_block>() - 8usize];
    [
        "Offset of field: dsv4mx_block::struct_size",
    ][::core::mem::offset_of!(dsv4mx_block, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_block::kind",
    ][::core::mem::offset_of!(dsv4mx_block, kind) - 8usize];
    [
        "Offset of field: dsv4mx_block::index",
    ][::core::mem::offset_of!(dsv4mx_block, index) - 12usize];
    [
        "Offset of field: dsv4mx_block::prefix",
    ][::core::mem::offset_of!(dsv4mx_block, prefix) - 16usize];
};
/// What dsv4mx_checkpoint_query_layer fills, from the tensors.
pub const DSV4MX_CONFIG_FIELD_TENSORS: dsv4mx_config_field = 1;
/// top_k.
pub const DSV4MX_CONFIG_FIELD_TOP_K: dsv4mx_config_field = 2;
/// activation, activation_alpha, activation_beta, situ_beta and situ_linear_beta.
pub const DSV4MX_CONFIG_FIELD_ACTIVATION: dsv4mx_config_field = 4;
/// clamp_limit.
pub const DSV4MX_CONFIG_FIELD_CLAMP_LIMIT: dsv4mx_config_field = 8;
/// routed_scaling_factor. Filled only if asked for by name: many engines fold it into the router weights.
pub const DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR: dsv4mx_config_field = 16;
/// Groups of fields that dsv4mx_checkpoint_query_config fills.
pub type dsv4mx_config_field = ::core::ffi::c_int;
/// How a whole model is to be held; may be NULL: all of it on one device.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_model_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Options of every layer (top_k, dtypes, compute, flags); sizes, biases and partition are ignored. NULL = defaults.
    /// top_k 0 = that of the config.json, else 16; a block with fewer experts has as many.
    pub layer: *const dsv4mx_layer_desc,
    /// Tensor-parallel ranks, 0 = 1; the figures are those of rank 0, which no rank exceeds: intermediate / tp_size,
    /// rounded up to a multiple of 32.
    pub tp_size: i32,
    /// Expert-parallel ranks, 0 = 1: each holds experts / ep_size, rounded up.
    pub ep_size: i32,
    /// Most tokens of one apply; 0 = 4096.
    pub max_tokens: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_model_args"][::core::mem::size_of::<dsv4mx_model_args>() - 32usize];
    [
        "Alignment of dsv4mx_model_args",
    ][::core::mem::align_of::<dsv4mx_model_args>() - 8usize];
    [
        "Offset of field: dsv4mx_model_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_model_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_model_args::layer",
    ][::core::mem::offset_of!(dsv4mx_model_args, layer) - 8usize];
    [
        "Offset of field: dsv4mx_model_args::tp_size",
    ][::core::mem::offset_of!(dsv4mx_model_args, tp_size) - 16usize];
    [
        "Offset of field: dsv4mx_model_args::ep_size",
    ][::core::mem::offset_of!(dsv4mx_model_args, ep_size) - 20usize];
    [
        "Offset of field: dsv4mx_model_args::max_tokens",
    ][::core::mem::offset_of!(dsv4mx_model_args, max_tokens) - 24usize];
};
/// What a model's experts need on one rank's device.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_model_info {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Blocks with experts: layers and draft blocks.
    pub blocks: i32,
    /// Of these the first so many fit into free_bytes together with workspace and extra; -1 where that is not known.
    pub blocks_fitting: i32,
    /// Bytes of the experts' tensors in the files, all ranks.
    pub source_bytes: i64,
    /// Prepared bytes of all blocks.
    pub prepared_bytes: i64,
    /// Prepared bytes of the largest block.
    pub largest_block_bytes: i64,
    /// What loading takes beside prepared bytes, one block after the other: the largest peak_extra_bytes.
    pub peak_extra_bytes: i64,
    /// One workspace that all blocks share, one after the other.
    pub workspace_bytes: i64,
    /// Memory of the context's device, as dsv4mx_device_query says.
    pub total_bytes: i64,
    /// Free memory of the device, as dsv4mx_device_query says; -1 where it is not known.
    pub free_bytes: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_model_info"][::core::mem::size_of::<dsv4mx_model_info>() - 72usize];
    [
        "Alignment of dsv4mx_model_info",
    ][::core::mem::align_of::<dsv4mx_model_info>() - 8usize];
    [
        "Offset of field: dsv4mx_model_info::struct_size",
    ][::core::mem::offset_of!(dsv4mx_model_info, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_model_info::blocks",
    ][::core::mem::offset_of!(dsv4mx_model_info, blocks) - 8usize];
    [
        "Offset of field: dsv4mx_model_info::blocks_fitting",
    ][::core::mem::offset_of!(dsv4mx_model_info, blocks_fitting) - 12usize];
    [
        "Offset of field: dsv4mx_model_info::source_bytes",
    ][::core::mem::offset_of!(dsv4mx_model_info, source_bytes) - 16usize];
    [
        "Offset of field: dsv4mx_model_info::prepared_bytes",
    ][::core::mem::offset_of!(dsv4mx_model_info, prepared_bytes) - 24usize];
    [
        "Offset of field: dsv4mx_model_info::largest_block_bytes",
    ][::core::mem::offset_of!(dsv4mx_model_info, largest_block_bytes) - 32usize];
    [
        "Offset of field: dsv4mx_model_info::peak_extra_bytes",
    ][::core::mem::offset_of!(dsv4mx_model_info, peak_extra_bytes) - 40usize];
    [
        "Offset of field: dsv4mx_model_info::workspace_bytes",
    ][::core::mem::offset_of!(dsv4mx_model_info, workspace_bytes) - 48usize];
    [
        "Offset of field: dsv4mx_model_info::total_bytes",
    ][::core::mem::offset_of!(dsv4mx_model_info, total_bytes) - 56usize];
    [
        "Offset of field: dsv4mx_model_info::free_bytes",
    ][::core::mem::offset_of!(dsv4mx_model_info, free_bytes) - 64usize];
};
/// Options of dsv4mx_weights_load; may be NULL.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_load_args {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// Progress, cancel flag, deadline; NULL = none.
    pub control: *const dsv4mx_control,
    /// Most memory beside the weights while this call runs, device, pinned and host together; 0 = what
    /// dsv4mx_layer_info.peak_extra_bytes says, at most 64 MiB. What is too little for one run of rows is INVALID_ARGUMENT
    /// with the least that is enough.
    pub staging_bytes: i64,
    /// 0.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dsv4mx_load_args"][::core::mem::size_of::<dsv4mx_load_args>() - 32usize];
    [
        "Alignment of dsv4mx_load_args",
    ][::core::mem::align_of::<dsv4mx_load_args>() - 8usize];
    [
        "Offset of field: dsv4mx_load_args::struct_size",
    ][::core::mem::offset_of!(dsv4mx_load_args, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_load_args::control",
    ][::core::mem::offset_of!(dsv4mx_load_args, control) - 8usize];
    [
        "Offset of field: dsv4mx_load_args::staging_bytes",
    ][::core::mem::offset_of!(dsv4mx_load_args, staging_bytes) - 16usize];
    [
        "Offset of field: dsv4mx_load_args::flags",
    ][::core::mem::offset_of!(dsv4mx_load_args, flags) - 24usize];
    [
        "Offset of field: dsv4mx_load_args::reserved",
    ][::core::mem::offset_of!(dsv4mx_load_args, reserved) - 28usize];
};

functions! {
    /// Version of the loaded library as 0x00MMmmpp (major, minor, patch). Threads: any. Since: 0.1.0
    pub fn dsv4mx_version() -> u32;
    /// Version, build and compiled GPU architectures in one line, e.g. "0.1.0 (cpu; cuda sm_90a; git 1a2b3c4)". Never NULL,
    /// static. Threads: any. Since: 0.1.0
    pub fn dsv4mx_version_string() -> *const ::core::ffi::c_char;
    /// Name of a code, e.g. "INVALID_ARGUMENT"; "UNKNOWN" for anything else. Never NULL, static. Threads: any. Since: 0.1.0
    pub fn dsv4mx_status_name(status: dsv4mx_status) -> *const ::core::ffi::c_char;
    /// Text of the last failed call on the calling thread: one line, what, got, wanted; "" if none failed yet. Never NULL.
    /// Valid until the next dsv4mx call that fails on this thread. Threads: any, thread-local. Since: 0.1.0
    pub fn dsv4mx_last_error() -> *const ::core::ffi::c_char;
    /// Sets `bytes` bytes at `s` to zero and its leading size_t to `bytes`: what the _INIT macros do, for callers that cannot
    /// use them. Errors: INVALID_ARGUMENT for NULL or bytes \< sizeof(size_t). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_struct_init(
        s: *mut ::core::ffi::c_void,
        bytes: usize,
    ) -> dsv4mx_status;
    /// Number of devices of a kind: 1 for CPU; for CUDA those that the driver shows, 0 without a driver or in a build without
    /// CUDA. Opens no CUDA context. Errors: INVALID_ARGUMENT (AUTO is no kind). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_device_get_count(
        device: dsv4mx_device,
        out: *mut i32,
    ) -> dsv4mx_status;
    /// Describes a device, usable or not. Opens no CUDA context. out->struct_size is set by the caller.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, NO_DEVICE (no such ordinal), UNSUPPORTED (no CUDA in this build).
    /// Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_device_query(
        device: dsv4mx_device,
        ordinal: i32,
        out: *mut dsv4mx_device_info,
    ) -> dsv4mx_status;
    /// Opens a device. desc may be NULL (all defaults). On CUDA all kernels are loaded here, so that the first apply costs
    /// what the thousandth does; the device's primary context is used and never created anew.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, NO_DEVICE, UNSUPPORTED (no CUDA in this build), UNSUPPORTED_DEVICE,
    /// OUT_OF_MEMORY, CUDA_ERROR, CUDA_STICKY. Threads: any. Ownership: \*out is the caller's. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_context_create(
        desc: *const dsv4mx_context_desc,
        out: *mut *mut dsv4mx_context,
    ) -> dsv4mx_status;
    /// Gives the reference back; NULL is fine. The caller has finished its stream work. Threads: any. Since: 0.1.0
    pub fn dsv4mx_context_destroy(context: *mut dsv4mx_context);
    /// What the context runs on. out->struct_size is set by the caller.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_context_query(
        context: *const dsv4mx_context,
        out: *mut dsv4mx_context_info,
    ) -> dsv4mx_status;
    /// Memory of the context's device through the allocator hook, so that C, Go and Rust programs need no CUDA headers:
    /// 256-byte aligned, not initialised; bytes 0 gives NULL. Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, MISALIGNED (what the
    /// hook gave), CUDA_ERROR. Threads: any. Ownership: the caller's until free. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_context_alloc(
        context: *const dsv4mx_context,
        bytes: usize,
        out: *mut *mut ::core::ffi::c_void,
    ) -> dsv4mx_status;
    /// Gives back exactly what dsv4mx_context_alloc of this context gave; NULL is fine. Anything else is left alone and logged
    /// as an ERROR. Threads: any. Since: 0.1.0
    pub fn dsv4mx_context_free(
        context: *const dsv4mx_context,
        pointer: *mut ::core::ffi::c_void,
    );
    /// Copies bytes in any direction between host and device memory, in stream order (a copy from or to pageable host memory
    /// may block the thread). Errors: INVALID_ARGUMENT, CUDA_ERROR, CUDA_STICKY. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_context_copy(
        context: *const dsv4mx_context,
        to: *mut ::core::ffi::c_void,
        from: *const ::core::ffi::c_void,
        bytes: usize,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Waits for the stream and reports what failed on it, and INVALID_ID if a layer of this context that checks ids met bad
    /// ones since this was last reported. Errors: INVALID_ARGUMENT, INVALID_ID, CUDA_ERROR, CUDA_STICKY. Threads: any.
    /// Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_context_synchronize(
        context: *const dsv4mx_context,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Validates the whole description before a byte of weights is read.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, UNSUPPORTED, UNSUPPORTED_SHAPE (names the nearest legal size),
    /// UNSUPPORTED_DTYPE, OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Ownership: \*out is the caller's. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_create(
        context: *const dsv4mx_context,
        desc: *const dsv4mx_layer_desc,
        out: *mut *mut dsv4mx_layer,
    ) -> dsv4mx_status;
    /// Gives the reference back; NULL is fine. Threads: any. Since: 0.1.0
    pub fn dsv4mx_layer_destroy(layer: *mut dsv4mx_layer);
    /// What will run and how much memory it takes. out->struct_size is set by the caller.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_query(
        layer: *const dsv4mx_layer,
        out: *mut dsv4mx_layer_info,
    ) -> dsv4mx_status;
    /// Workspace for calls of up to max_tokens tokens. A call of many tokens runs in chunks that share the workspace, so that
    /// from the largest chunk on the bytes stay the same. Neither number decreases with max_tokens. args may be NULL;
    /// out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_query_workspace(
        layer: *const dsv4mx_layer,
        max_tokens: i64,
        args: *const dsv4mx_workspace_args,
        out: *mut dsv4mx_workspace_info,
    ) -> dsv4mx_status;
    /// Asynchronous faults so far, without a CUDA call: a poll that may run beside anything, also during a capture. What an
    /// apply met is there at the latest when its stream has been synchronised. out->struct_size is set by the caller.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_query_faults(
        layer: *const dsv4mx_layer,
        out: *mut dsv4mx_fault_info,
    ) -> dsv4mx_status;
    /// Writes the plan for `tokens` tokens as one line of text with its reason: path, tiles, launches. `weights` may be
    /// NULL: then the plan assumes that the weights allow every path. At most `bytes` bytes with the terminating zero. The
    /// wording is for people and changes. Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_query_plan(
        layer: *const dsv4mx_layer,
        weights: *const dsv4mx_weights,
        tokens: i64,
        text: *mut ::core::ffi::c_char,
        bytes: usize,
    ) -> dsv4mx_status;
    /// Makes an empty weights object. desc may be NULL. Errors: INVALID_ARGUMENT, INVALID_STRUCT, BUFFER_TOO_SMALL,
    /// MISALIGNED, OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Ownership: \*out is the caller's. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_create(
        layer: *const dsv4mx_layer,
        desc: *const dsv4mx_weights_desc,
        out: *mut *mut dsv4mx_weights,
    ) -> dsv4mx_status;
    /// Frees the experts; NULL is fine. The caller has finished its stream work. Threads: any. Since: 0.1.0
    pub fn dsv4mx_weights_destroy(weights: *mut dsv4mx_weights);
    /// Copies one tensor into the weights; the caller's memory is not referenced afterwards (device memory: after the stream
    /// has passed this point). With E experts held here, H hidden and I channels held here, names are
    ///
    /// ```text
    /// of    codes                              scales                                             bias
    /// w13   w13_weight                         w13_weight_scale, w13_weight_scale_inv             w13_bias, w13_weight_bias
    /// w2    w2_weight                          w2_weight_scale, w2_weight_scale_inv               w2_bias, w2_weight_bias
    /// w13   gate_up_proj_blocks                gate_up_proj_scales                                gate_up_proj_bias
    /// w2    down_proj_blocks                   down_proj_scales                                   down_proj_bias
    /// w13   mlp1_weight.blocks                 mlp1_weight.scales                                 mlp1_bias
    /// w2    mlp2_weight.blocks                 mlp2_weight.scales                                 mlp2_bias
    /// w1    w1.weight, .weight_packed          w1.scale, .weight_scale, .weight_scale_inv
    /// w3    w3.weight, .weight_packed          w3.scale, .weight_scale, .weight_scale_inv
    /// w2    w2.weight, .weight_packed          w2.scale, .weight_scale, .weight_scale_inv
    /// w1    gate_proj.weight, .weight_packed   gate_proj.scale, .weight_scale, .weight_scale_inv, .scales  gate_proj.bias
    /// w3    up_proj.weight, .weight_packed     up_proj.scale, .weight_scale, .weight_scale_inv, .scales    up_proj.bias
    /// w2    down_proj.weight, .weight_packed   down_proj.scale, .weight_scale, .weight_scale_inv, .scales  down_proj.bias
    /// ```
    ///
    /// Any prefix up to a dot is ignored. Rows are 2I for w13 (in the layer's w13_order; gate_up_proj and mlp1 names are
    /// INTERLEAVED by themselves), I for w1 and w3, H for w2; K is H, for w2 I. Codes are \[E, rows, K/2\] I8 or U8, \[E, rows,
    /// K/32, 16\] alike, \[E, rows, K\] E2M1, or \[E, rows, K/8\] U32; scales \[E, rows, K/32\] E8M0, I8, U8, F32, BF16 or F16; biases
    /// \[E, rows\] BF16 or F32. Tensors of one expert have no E.
    ///
    /// A name that contains "experts.M." fixes the expert: M is its number in the whole layer, all its copies here are set,
    /// and `expert` must be -1 or M. A name with an expert that is not held here is accepted and ignored. Otherwise `expert` is
    /// the local expert, or -1 for a whole tensor of all local experts.
    /// Codes and scales of one matrix of one expert come from one source: names of w13 and w2 with underscores, _blocks and
    /// _scales, mlp1 and mlp2, names of w1, w3 and w2 with dots, names of gate_proj, up_proj and down_proj with dots, or one
    /// import. Where parts from another source are set, they replace the matrix as a whole: what was set before counts as not
    /// set. Setting a tensor again under the same name replaces it alone. A bias that a tensor-parallel rank above 0 does not
    /// add is accepted and ignored. Any strides are accepted, so a slice of a larger tensor (tensor parallel) needs no copy.
    /// Scales given as numbers must be exact powers of two from 2^-127 to 2^127; they are stored as one byte. args may be NULL.
    ///
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (prepared), INVALID_TENSOR, INVALID_SCALE (position in the
    /// text), NOT_FOUND (unknown name), CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR. After a failure the tensor
    /// counts as not set. Threads: one at a time per object. Stream: device tensors are read in stream order. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_set(
        weights: *mut dsv4mx_weights,
        name: *const ::core::ffi::c_char,
        expert: i32,
        tensor: *const dsv4mx_tensor,
        args: *const dsv4mx_set_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Finishes the weights: names what is missing, takes the census of scales, makes the backend's layout. args may be
    /// NULL. Afterwards the weights may be used by any number of threads and streams, and change by whole experts alone
    /// (dsv4mx_weights_copy_experts, _set_slab). May synchronise.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (prepared before), NOT_FOUND (what is missing), INVALID_SCALE,
    /// UNSUPPORTED (a forced number path that these weights do not allow), CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY,
    /// CUDA_ERROR. After CANCELLED and DEADLINE_EXCEEDED the call may be repeated. Threads: one at a time per object. Stream:
    /// work runs on it in order, and the call may wait for it. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_prepare(
        weights: *mut dsv4mx_weights,
        args: *const dsv4mx_prepare_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// State and sizes. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any.
    /// Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_query(
        weights: *const dsv4mx_weights,
        out: *mut dsv4mx_weights_info,
    ) -> dsv4mx_status;
    /// Fills hidden_padded and intermediate_padded with the padding rule of SGLang's preparation: I to 64 when H is a multiple
    /// of 128, else to 128; H to 64. Other fields are left alone. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any.
    /// Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_query_marlin(
        layer: *const dsv4mx_layer,
        marlin: *mut dsv4mx_marlin,
    ) -> dsv4mx_status;
    /// Takes experts in Marlin form instead of dsv4mx_weights_set; what the padding contains is ignored. Scale bytes 255 are
    /// refused. An import is a source of its own: codes and scales of a matrix are imported together, or were imported before.
    /// args may be NULL. Errors: as dsv4mx_weights_set, INVALID_ARGUMENT for paddings, MISALIGNED. Threads: one at a time per
    /// object. Stream: device tensors are read in stream order. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_import_marlin(
        weights: *mut dsv4mx_weights,
        marlin: *const dsv4mx_marlin,
        args: *const dsv4mx_marlin_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Gives prepared experts in Marlin form, bit for bit what SGLang's preparation makes; padding is zero codes and zero scale
    /// bytes. To host memory a call takes at most dsv4mx_layer_info.peak_extra_bytes, until it returns. args may be NULL.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared), MISALIGNED, CANCELLED, DEADLINE_EXCEEDED,
    /// OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Stream: device tensors are written in stream order. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_export_marlin(
        weights: *const dsv4mx_weights,
        marlin: *const dsv4mx_marlin,
        args: *const dsv4mx_marlin_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Describes prepared local expert `expert`. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT,
    /// INVALID_STRUCT, INVALID_STATE (not prepared). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_query_expert(
        weights: *const dsv4mx_weights,
        expert: i32,
        out: *mut dsv4mx_expert_info,
    ) -> dsv4mx_status;
    /// Copies prepared experts: local expert to_experts\[i\] of `to` becomes from_experts\[i\] of `from`. `to` may be prepared, and
    /// then stays so: applies enqueued before on this stream see the old expert, those after it the new one; other streams are
    /// ordered by the caller's events, those of applies on `to` and those of later writes to `from` alike. A `to` that is not
    /// prepared counts these experts as set, from a source of its own. `to` and `from` may be one object if no expert is both
    /// read and written, may have other numbers of experts, and may belong to different contexts of one kind of device; the
    /// stream is one of the device of `to`.
    ///
    /// To replace an expert (new weights of a training step, say): set and prepare it in a weights object of its own, then copy
    /// it here. The number path that prepare chose stays, for captured graphs and for all layers that run with the weights: an
    /// expert that it does not allow is refused before anything is written. After CANCELLED and DEADLINE_EXCEEDED the first
    /// experts, as many as the text says, are copied.
    ///
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (`from` is not prepared, or the stream is being captured),
    /// UNSUPPORTED (slab ids differ, or the number path does not allow an expert; the text has its census), CANCELLED,
    /// DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR. Threads: one at a time for `to`. Stream: enqueues on it. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_copy_experts(
        to: *mut dsv4mx_weights,
        from: *const dsv4mx_weights,
        args: *const dsv4mx_copy_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Empties a weights object, so that it can be filled and prepared again; its memory stays. Errors: INVALID_ARGUMENT.
    /// Threads: one at a time per object, and neither an apply nor a copy from it in flight. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_reset(weights: *mut dsv4mx_weights) -> dsv4mx_status;
    /// Writes tensor `name` of prepared local expert `expert` (in the names of dsv4mx_weights_set, those of w1, w2, w3 and of
    /// gate_proj, up_proj, down_proj) to tensor->data, which is written although the struct calls it const: codes as I8 or U8
    /// \[rows, K/2\] in the layer's nibble order, scales as E8M0 or U8 \[rows, K/32\], biases as F32 \[rows\], and of codes also the
    /// weights themselves as BF16 \[rows, K\] (exact but for overflow). A name that contains "experts.M." means the first place
    /// of expert M of the whole layer, and `expert` is -1 or M then. Rows and K are those held here. Any strides under which
    /// elements do not overlap. What was set comes back bit for bit. A call takes the bytes of some 128 rows beside. args may be
    /// NULL. Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared), INVALID_TENSOR, NOT_FOUND (no such name, a
    /// bias that is not held here, an expert that is not), CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR.
    /// Threads: any. Stream: waits for it. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_get(
        weights: *const dsv4mx_weights,
        name: *const ::core::ffi::c_char,
        expert: i32,
        tensor: *const dsv4mx_tensor,
        args: *const dsv4mx_expert_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// The bytes of prepared local expert `expert`, in place, for a transport of the caller's own. out->struct_size is set by
    /// the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared). Threads: any. Ownership: the
    /// weights'; valid until they are destroyed or reset. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_get_slab(
        weights: *const dsv4mx_weights,
        expert: i32,
        out: *mut dsv4mx_slab,
    ) -> dsv4mx_status;
    /// Takes a prepared expert from its bytes, as dsv4mx_weights_copy_experts does from another object. Scale bytes 255 are
    /// refused with their position, and derived bytes are made anew; otherwise the bytes are the caller's word. On CUDA a call
    /// on prepared weights takes the bytes of one slab and of the staging beside, until it returns. args may be NULL.
    /// Errors: as dsv4mx_weights_copy_experts, UNSUPPORTED (slab->id), BUFFER_TOO_SMALL (fewer bytes than a slab),
    /// INVALID_TENSOR (more bytes, or no such memory), INVALID_SCALE, OUT_OF_MEMORY. After a failure prepared weights are as
    /// before (CUDA_ERROR aside), and of others the expert counts as not set. Threads: one at a time per object. Stream: read
    /// in stream order; on prepared weights the call waits for it. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_set_slab(
        weights: *mut dsv4mx_weights,
        expert: i32,
        slab: *const dsv4mx_slab,
        args: *const dsv4mx_expert_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Changes which expert of the layer each local expert is, at this point of the stream: placement as in
    /// dsv4mx_layer_desc, host memory \[experts\], copied. Applies enqueued before on this stream go by the old one, those
    /// after, replays of captured graphs included, by the new one; so does what is set or loaded from now on into weights of
    /// this layer. Other layers, also those that run with the same weights, are not touched. The layer must have been made
    /// with a placement and without DSV4MX_LAYER_PHYSICAL_IDS. Together with dsv4mx_weights_copy_experts on the same stream
    /// this moves experts under load. Errors: INVALID_ARGUMENT, INVALID_STATE (no placement, physical ids, or the stream is
    /// being captured), OUT_OF_MEMORY,
    /// CUDA_ERROR. Threads: one at a time per object, and none with a const layer beside it; weights of it are other objects.
    /// Stream: enqueues on it. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_set_placement(
        layer: *mut dsv4mx_layer,
        placement: *const i32,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Writes prepared experts to one file: what they are, each expert's codes, scales and biases with a checksum, compressed
    /// where that pays (scales). Of copies of an expert the first is written; equal weights give equal files. The file appears
    /// under `path` when it is complete and on disk, and replaces a regular file that was there; until then there is nothing
    /// but .dsv4mx-snapshot-\*.part in the same folder, which only a process that is killed leaves behind. What comes when the
    /// file has its name cancels nothing. Beside the weights the threads take at most 256 MiB together. args may be NULL.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared), UNSUPPORTED (more than one file holds), IO_ERROR,
    /// CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, CUDA_ERROR. Threads: any. Stream: waits for it. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_save(
        weights: *const dsv4mx_weights,
        path: *const ::core::ffi::c_char,
        args: *const dsv4mx_snapshot_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Describes a snapshot from its header. desc may be NULL; else the layer that was saved is written to it, without
    /// placement, with its defaults resolved, and with what this file holds as the experts held: as many from the first on. (A
    /// file of a placement with gaps has others; a layer made so is refused by dsv4mx_weights_restore, which names them.)
    /// out->struct_size and desc->struct_size are set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, IO_ERROR,
    /// FORMAT_ERROR, UNSUPPORTED (a version that this library does not read), OUT_OF_MEMORY. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_snapshot_query(
        path: *const ::core::ffi::c_char,
        out: *mut dsv4mx_snapshot_info,
        desc: *mut dsv4mx_layer_desc,
    ) -> dsv4mx_status;
    /// Fills empty weights from a snapshot and prepares them: every expert held here must be in the file, others are not read.
    /// A damaged byte, another version, layout or shape is refused with the name of the section; after any failure the weights
    /// are empty. What is computed with the weights is the layer's matter; where activation, clamp, top_k, scaling factor or
    /// router weight position are others than the saved layer's, a WARNING says so. Beside the weights the threads take at most
    /// 256 MiB together (a thread alone may take more, where pieces of the file are large). args may be NULL.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not empty), NOT_FOUND (an expert that the file lacks),
    /// UNSUPPORTED (version, or the slab id of another layout: save a snapshot anew; a forced number path that these weights do
    /// not allow), INVALID_TENSOR (another shape), INVALID_SCALE, IO_ERROR, FORMAT_ERROR, CANCELLED, DEADLINE_EXCEEDED,
    /// OUT_OF_MEMORY, CUDA_ERROR. Threads: one at a time per object. Stream: as dsv4mx_weights_prepare. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_restore(
        weights: *mut dsv4mx_weights,
        path: *const ::core::ffi::c_char,
        args: *const dsv4mx_snapshot_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Loads NCCL, 2.19 or later, and says which. Works without a GPU. source may be NULL (all defaults). out->struct_size is
    /// set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, NCCL_UNAVAILABLE (what was tried). Threads: any.
    /// Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_nccl_query(
        source: *const dsv4mx_nccl_source,
        out: *mut dsv4mx_nccl_info,
    ) -> dsv4mx_status;
    /// A new unique id, 128 bytes at `id`, for one rank to make and the caller to carry to the others. source may be NULL.
    /// Errors: as dsv4mx_nccl_query, NCCL_ERROR. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_nccl_get_unique_id(
        source: *const dsv4mx_nccl_source,
        id: *mut ::core::ffi::c_void,
    ) -> dsv4mx_status;
    /// Joins a group; collective. desc may be NULL (a group of one). Errors: INVALID_ARGUMENT, INVALID_STRUCT, UNSUPPORTED,
    /// OUT_OF_MEMORY, CANCELLED, DEADLINE_EXCEEDED, COMM_MISMATCH (field, rank, got, wanted), COMM_TIMEOUT (a rank that did not
    /// come), COMM_RANK_LOST, COMM_ERROR, NCCL_\*, CUDA_ERROR. Threads: any. Ownership: \*out is the caller's. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_comm_create(
        context: *const dsv4mx_context,
        desc: *const dsv4mx_comm_desc,
        out: *mut *mut dsv4mx_comm,
    ) -> dsv4mx_status;
    /// Leaves the group; NULL is fine, and not collective: ranks that still wait for this one get COMM_RANK_LOST. The caller has
    /// finished its stream work. Threads: any. Since: 0.1.0
    pub fn dsv4mx_comm_destroy(comm: *mut dsv4mx_comm);
    /// Makes a layer ready for apply with this communicator; collective. Ranks tell each other which ids they hold (ids of
    /// redundant copies are served by this rank's own copy, else by one that the token's place picks), and all are refused where
    /// the parts do not make one layer. To be called again after dsv4mx_layer_set_placement. control may be NULL.
    /// Errors: INVALID_ARGUMENT (sizes beyond the communicator's, an id that no rank holds, a part that does not fit the rank),
    /// UNSUPPORTED (a mode that this layer cannot keep: the text says what it needs), COMM_MISMATCH (field, rank, got, wanted),
    /// CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, COMM_\*, NCCL_\*. Threads: one at a time per communicator. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_comm_prepare(
        comm: *mut dsv4mx_comm,
        layer: *const dsv4mx_layer,
        control: *const dsv4mx_control,
    ) -> dsv4mx_status;
    /// What the communicator is. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT.
    /// Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_comm_query(
        comm: *const dsv4mx_comm,
        out: *mut dsv4mx_comm_info,
    ) -> dsv4mx_status;
    /// The fault that ended this group's work, if any, without a CUDA call: a poll that may run beside anything. Found by this
    /// rank or told by another. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any.
    /// Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_comm_query_faults(
        comm: *const dsv4mx_comm,
        out: *mut dsv4mx_comm_fault_info,
    ) -> dsv4mx_status;
    /// Ends the group's work from any thread, also while another one is inside apply: every rank's apply returns COMM_RANK_LOST
    /// with this rank; with COLLECTIVE on CUDA this rank's alone, and the caller destroys graphs that captured apply first (see
    /// above). Errors: INVALID_ARGUMENT. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_comm_abort(comm: *const dsv4mx_comm) -> dsv4mx_status;
    /// Begins anew after a fault, with the same ranks and prepared layers; collective: all ranks are alive and in no other call.
    /// With a rank lost make a new communicator instead. control may be NULL. Errors: INVALID_ARGUMENT, INVALID_STRUCT,
    /// CANCELLED, DEADLINE_EXCEEDED, COMM_\*, NCCL_\*, UNSUPPORTED (NCCL's own communicator failed). Threads: one at a time per
    /// object. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_comm_reset(
        comm: *mut dsv4mx_comm,
        control: *const dsv4mx_control,
    ) -> dsv4mx_status;
    /// Load of a prepared layer's local experts for a balancer: pairs\[e\] = pairs that local expert e computed here for all ranks
    /// since dsv4mx_comm_prepare. Waits for nothing. `count` is the layer's experts. Errors: INVALID_ARGUMENT, INVALID_STATE (not
    /// prepared, or a group of one, which exchanges and counts nothing: expert_counts of apply does). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_comm_get_loads(
        comm: *const dsv4mx_comm,
        layer: *const dsv4mx_layer,
        pairs: *mut i64,
        count: i32,
    ) -> dsv4mx_status;
    /// y = the layer applied to x: see the top of this file. Enqueues only: no allocation, no synchronisation, no read-back,
    /// legal inside a CUDA graph capture, bit-identical from run to run. A token whose ids are all skipped gets a zero row.
    /// NaN or Inf in a row of x reaches that row of out and no other. Duplicate ids in a row add. tokens 0 is legal. The
    /// weights may have been created from another layer of the same context with the same prepared_id. With a communicator of
    /// several ranks tokens 0 takes part like any other number, and needs a workspace.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not prepared, or weights of another form), INVALID_ID (CPU,
    /// with DSV4MX_LAYER_CHECKED_IDS), UNSUPPORTED, WORKSPACE_TOO_SMALL, MISALIGNED, CUDA_ERROR, CUDA_STICKY, COMM_\*, NCCL_\*.
    /// Threads: any; each call in flight needs its own workspace. Stream: everything runs on it, in order. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_layer_apply(
        layer: *const dsv4mx_layer,
        weights: *const dsv4mx_weights,
        args: *const dsv4mx_apply_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
    /// Opens a checkpoint: a .safetensors or .gguf file, an index (model.safetensors.index.json), or a folder of these. Of a
    /// folder only regular files (or links to them) that belong to the checkpoint count: its index, else its one file, else all
    /// its shards or all files of the official converter's ranks. Headers are checked in full. A shard that an index
    /// names is opened when a tensor in it is wanted, and may be missing until then. args may be NULL.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, IO_ERROR, FORMAT_ERROR, CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY.
    /// Threads: any. Ownership: \*out is the caller's. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_checkpoint_create(
        path: *const ::core::ffi::c_char,
        args: *const dsv4mx_checkpoint_args,
        out: *mut *mut dsv4mx_checkpoint,
    ) -> dsv4mx_status;
    /// Closes the files: pointers got from it end with it. NULL is fine. Threads: any. Since: 0.1.0
    pub fn dsv4mx_checkpoint_destroy(checkpoint: *mut dsv4mx_checkpoint);
    /// Number of tensors; 0 for NULL. Threads: any. Since: 0.1.0
    pub fn dsv4mx_checkpoint_get_count(checkpoint: *const dsv4mx_checkpoint) -> i64;
    /// Name of tensor `index` (0..count-1) in name order; NULL if there is none. Lives as long as the checkpoint.
    /// Threads: any. Since: 0.1.0
    pub fn dsv4mx_checkpoint_get_name(
        checkpoint: *const dsv4mx_checkpoint,
        index: i64,
    ) -> *const ::core::ffi::c_char;
    /// The tensor of that name, its data inside a mapping of the file. Reading through the pointer raises SIGBUS if the file
    /// became shorter or its disk fails; dsv4mx_checkpoint_read never does. out->struct_size is set by the caller.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT, NOT_FOUND, IO_ERROR, FORMAT_ERROR, UNSUPPORTED (no mapping of this file;
    /// read it), UNSUPPORTED_SHAPE (rank above 4). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_checkpoint_get_tensor(
        checkpoint: *const dsv4mx_checkpoint,
        name: *const ::core::ffi::c_char,
        out: *mut dsv4mx_tensor,
    ) -> dsv4mx_status;
    /// Copies bytes offset..offset+bytes-1 of a tensor into host memory. What the file no longer holds is IO_ERROR, never a
    /// signal. Errors: INVALID_ARGUMENT (a range outside the tensor), NOT_FOUND, IO_ERROR, FORMAT_ERROR. Threads: any.
    /// Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_checkpoint_read(
        checkpoint: *const dsv4mx_checkpoint,
        name: *const ::core::ffi::c_char,
        offset: i64,
        to: *mut ::core::ffi::c_void,
        bytes: usize,
    ) -> dsv4mx_status;
    /// Fills hidden, intermediate, expert_first, experts, experts_global, w13_order, w13_bias, w2_bias and group_size of \*out
    /// from the tensors of a block: the whole layer, or the experts that one rank's file holds. Other fields are left alone.
    /// Refuses by name what is no MXFP4 expert (FP8, NVFP4, INT4). Errors: INVALID_ARGUMENT (also where a block stands under
    /// several prefixes), INVALID_STRUCT, NOT_FOUND (with the blocks that there are), IO_ERROR, FORMAT_ERROR,
    /// UNSUPPORTED_DTYPE. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_checkpoint_query_layer(
        checkpoint: *const dsv4mx_checkpoint,
        block: *const dsv4mx_block,
        out: *mut dsv4mx_layer_desc,
    ) -> dsv4mx_status;
    /// Describes a block from its tensors and from the config.json beside them, or from the keys of a GGUF file that has none
    /// beside it. `wanted` has the bits of dsv4mx_config_field to fill, 0 = all but ROUTED_SCALING_FACTOR; \*filled says which
    /// were, since zero is a legal value: nothing is guessed, and what is not filled is left alone (a forgotten clamp gives
    /// fluent nonsense). Of a draft block whose number of experts is not the config's, top_k is not filled. Errors: as
    /// dsv4mx_checkpoint_query_layer, NOT_FOUND (no config.json), FORMAT_ERROR (a config that is damaged or contradicts the
    /// tensors), UNSUPPORTED (an activation that the layer does not have).
    /// Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_checkpoint_query_config(
        checkpoint: *const dsv4mx_checkpoint,
        block: *const dsv4mx_block,
        wanted: u32,
        out: *mut dsv4mx_layer_desc,
        filled: *mut u32,
    ) -> dsv4mx_status;
    /// Number of blocks that hold experts; 0 for NULL. Threads: any. Since: 0.1.0
    pub fn dsv4mx_checkpoint_get_block_count(
        checkpoint: *const dsv4mx_checkpoint,
    ) -> i64;
    /// Block `index` (0..count-1): layers by index, then draft blocks by index, then what has neither number, as PREFIX. The
    /// prefix is set for every kind and lives as long as the checkpoint, so that \*out names this block in every other call.
    /// What it names may still be refused there. out->struct_size is set by the caller.
    /// Errors: INVALID_ARGUMENT, INVALID_STRUCT. Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_checkpoint_get_block(
        checkpoint: *const dsv4mx_checkpoint,
        index: i64,
        out: *mut dsv4mx_block,
    ) -> dsv4mx_status;
    /// Says what all blocks of a checkpoint need on the context's device before a byte of weights is read. Opens the files
    /// that hold them. args may be NULL; out->struct_size is set by the caller. Errors: as dsv4mx_checkpoint_query_layer and
    /// dsv4mx_layer_create (the text begins with the block), NOT_FOUND (no block at all), FORMAT_ERROR and UNSUPPORTED (a
    /// config.json that top_k was looked for in). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_checkpoint_query_model(
        checkpoint: *const dsv4mx_checkpoint,
        context: *const dsv4mx_context,
        args: *const dsv4mx_model_args,
        out: *mut dsv4mx_model_info,
    ) -> dsv4mx_status;
    /// Sets every tensor of the experts held here from a block; the caller prepares next. Files number experts as in the whole
    /// layer. Only held experts are read, and of w1 and w3 only the channels held here; rows of w2 are read whole and cut, in
    /// pieces that stay in the processor's caches. Reading, copying and repacking overlap. args may be NULL. Errors: as
    /// dsv4mx_weights_set and dsv4mx_checkpoint_query_layer, INVALID_STATE (prepared). Threads: one at a time per weights
    /// object. Stream: as dsv4mx_weights_prepare. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_load(
        weights: *mut dsv4mx_weights,
        checkpoint: *const dsv4mx_checkpoint,
        block: *const dsv4mx_block,
        args: *const dsv4mx_load_args,
        stream: dsv4mx_stream,
    ) -> dsv4mx_status;
}

sized! {
    dsv4mx_tensor,
    dsv4mx_control,
    dsv4mx_device_info,
    dsv4mx_context_desc,
    dsv4mx_context_info,
    dsv4mx_layer_desc,
    dsv4mx_layer_info,
    dsv4mx_workspace_args,
    dsv4mx_workspace_info,
    dsv4mx_fault_info,
    dsv4mx_weights_desc,
    dsv4mx_set_args,
    dsv4mx_prepare_args,
    dsv4mx_weights_info,
    dsv4mx_marlin,
    dsv4mx_marlin_args,
    dsv4mx_expert_args,
    dsv4mx_slab,
    dsv4mx_expert_info,
    dsv4mx_copy_args,
    dsv4mx_snapshot_args,
    dsv4mx_snapshot_info,
    dsv4mx_nccl_function,
    dsv4mx_nccl_source,
    dsv4mx_nccl_info,
    dsv4mx_comm_desc,
    dsv4mx_comm_info,
    dsv4mx_comm_fault_info,
    dsv4mx_apply_args,
    dsv4mx_checkpoint_args,
    dsv4mx_block,
    dsv4mx_model_args,
    dsv4mx_model_info,
    dsv4mx_load_args,
}
