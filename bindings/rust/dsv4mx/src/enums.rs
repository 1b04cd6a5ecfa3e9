//! The header's codes as enums. Each is open: a code that this crate does not know is `Unknown`.

use std::fmt;

/// The header's constants, and the one code that no C function gives: -1 is what the header keeps as "no code".
mod codes {
    pub use crate::sys::*;
    pub const DSV4MX_STATUS_LIBRARY_NOT_LOADED: i32 = -1;
}

macro_rules! codes {
    ($(
        $(#[$doc:meta])*
        $name:ident, $prefix:literal {
            $( $(#[$variant_doc:meta])* $variant:ident = $code:ident, )*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            #[non_exhaustive]
            pub enum $name {
                $( $(#[$variant_doc])* $variant, )*
                /// A code that this version of the crate does not know.
                Unknown(i32),
            }

            impl From<i32> for $name {
                fn from(code: i32) -> Self {
                    match code {
                        $( codes::$code => Self::$variant, )*
                        other => Self::Unknown(other),
                    }
                }
            }

            impl From<$name> for i32 {
                fn from(value: $name) -> i32 {
                    match value {
                        $( $name::$variant => codes::$code, )*
                        $name::Unknown(code) => code,
                    }
                }
            }

            impl $name {
                /// The header's name of the code without its prefix, e.g. `CPU` of `DSV4MX_DEVICE_CPU`.
                pub fn name(self) -> &'static str {
                    match self {
                        $( Self::$variant => {
                            let name = stringify!($code);
                            name.strip_prefix($prefix).unwrap_or(name)
                        } )*
                        Self::Unknown(_) => "UNKNOWN",
                    }
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    match self {
                        Self::Unknown(code) => write!(f, "UNKNOWN ({code})"),
                        known => f.write_str(known.name()),
                    }
                }
            }
        )*
    };
}

codes! {
    /// Result of a call. Codes are stable and come in decades by cause.
    Status, "DSV4MX_STATUS_" {
        /// No failure.
        Ok = DSV4MX_STATUS_OK,
        /// Out of range, or contradicting fields.
        InvalidArgument = DSV4MX_STATUS_INVALID_ARGUMENT,
        /// A struct that this version of the library does not know.
        InvalidStruct = DSV4MX_STATUS_INVALID_STRUCT,
        /// E.g. apply before prepare, a second prepare, set after prepare.
        InvalidState = DSV4MX_STATUS_INVALID_STATE,
        /// A tensor's dtype, rank, shape, stride or length.
        InvalidTensor = DSV4MX_STATUS_INVALID_TENSOR,
        /// E8M0 byte 255, or a numeric scale that is no power of two in range.
        InvalidScale = DSV4MX_STATUS_INVALID_SCALE,
        /// An unknown tensor name, or a tensor that prepare or load misses.
        NotFound = DSV4MX_STATUS_NOT_FOUND,
        /// An expert id outside -1..experts_global-1, met by a layer that checks ids.
        InvalidId = DSV4MX_STATUS_INVALID_ID,
        /// Legal, but not in this build, on this backend or in this version.
        Unsupported = DSV4MX_STATUS_UNSUPPORTED,
        /// A size outside what the layer supports; the text names the nearest legal one.
        UnsupportedShape = DSV4MX_STATUS_UNSUPPORTED_SHAPE,
        /// A dtype or group size the layer does not compute with.
        UnsupportedDtype = DSV4MX_STATUS_UNSUPPORTED_DTYPE,
        /// Compute capability, driver or device kind.
        UnsupportedDevice = DSV4MX_STATUS_UNSUPPORTED_DEVICE,
        /// No memory.
        OutOfMemory = DSV4MX_STATUS_OUT_OF_MEMORY,
        /// Fewer bytes than a workspace query named.
        WorkspaceTooSmall = DSV4MX_STATUS_WORKSPACE_TOO_SMALL,
        /// A caller's buffer other than the workspace.
        BufferTooSmall = DSV4MX_STATUS_BUFFER_TOO_SMALL,
        /// A pointer or stride without the alignment it needs.
        Misaligned = DSV4MX_STATUS_MISALIGNED,
        /// A CUDA call of the library failed.
        CudaError = DSV4MX_STATUS_CUDA_ERROR,
        /// No driver, or no CUDA device.
        NoDevice = DSV4MX_STATUS_NO_DEVICE,
        /// The CUDA context was already broken when the call began.
        CudaSticky = DSV4MX_STATUS_CUDA_STICKY,
        /// A communicator's transport failed.
        CommError = DSV4MX_STATUS_COMM_ERROR,
        /// A rank did not arrive in time.
        CommTimeout = DSV4MX_STATUS_COMM_TIMEOUT,
        /// A rank ended or aborted.
        CommRankLost = DSV4MX_STATUS_COMM_RANK_LOST,
        /// Ranks disagree about descriptors or the order of calls.
        CommMismatch = DSV4MX_STATUS_COMM_MISMATCH,
        /// NCCL could not be loaded.
        NcclUnavailable = DSV4MX_STATUS_NCCL_UNAVAILABLE,
        /// An NCCL call failed.
        NcclError = DSV4MX_STATUS_NCCL_ERROR,
        /// A file cannot be opened or read.
        IoError = DSV4MX_STATUS_IO_ERROR,
        /// A damaged file, or one of another format.
        FormatError = DSV4MX_STATUS_FORMAT_ERROR,
        /// A progress callback or a cancel flag asked to stop.
        Cancelled = DSV4MX_STATUS_CANCELLED,
        /// A call did not finish within its timeout.
        DeadlineExceeded = DSV4MX_STATUS_DEADLINE_EXCEEDED,
        /// A bug in the library.
        Internal = DSV4MX_STATUS_INTERNAL,
        /// No call was made: the library could not be loaded. The error's source says why.
        LibraryNotLoaded = DSV4MX_STATUS_LIBRARY_NOT_LOADED,
    }

    /// A device, or a kind of device.
    Device, "DSV4MX_DEVICE_" {
        /// The CUDA device if the library supports it, else the CPU.
        Auto = DSV4MX_DEVICE_AUTO,
        /// The CPU.
        Cpu = DSV4MX_DEVICE_CPU,
        /// A CUDA device.
        Cuda = DSV4MX_DEVICE_CUDA,
    }

    /// Instruction set of the CPU backend.
    CpuIsa, "DSV4MX_CPU_ISA_" {
        /// The best that this processor has.
        Default = DSV4MX_CPU_ISA_DEFAULT,
        /// Plain C++.
        Portable = DSV4MX_CPU_ISA_PORTABLE,
        /// AVX2, FMA, F16C.
        Avx2 = DSV4MX_CPU_ISA_AVX2,
        /// AVX-512 F, BW, DQ, VL.
        Avx512 = DSV4MX_CPU_ISA_AVX512,
        /// AVX-512 with BF16.
        Avx512Bf16 = DSV4MX_CPU_ISA_AVX512_BF16,
    }

    /// Level of a line of the log.
    LogLevel, "DSV4MX_LOG_" {
        /// What no status can report.
        Error = DSV4MX_LOG_ERROR,
        /// What works, but probably not as meant.
        Warning = DSV4MX_LOG_WARNING,
        /// One line for each object made.
        Info = DSV4MX_LOG_INFO,
        /// One line for each tensor set or ignored.
        Debug = DSV4MX_LOG_DEBUG,
    }

    /// Kind of memory.
    Memory, "DSV4MX_MEMORY_" {
        /// Any host pointer.
        Host = DSV4MX_MEMORY_HOST,
        /// Memory of the context's device; on a CPU context the same as `Host`.
        Device = DSV4MX_MEMORY_DEVICE,
        /// Page-locked host memory.
        Pinned = DSV4MX_MEMORY_PINNED,
    }

    /// Element type.
    Dtype, "DSV4MX_DTYPE_" {
        /// In descriptors: the field's default, or "none".
        Default = DSV4MX_DTYPE_DEFAULT,
        /// [`half::bf16`]
        Bf16 = DSV4MX_DTYPE_BF16,
        /// [`f32`]
        F32 = DSV4MX_DTYPE_F32,
        /// [`half::f16`]
        F16 = DSV4MX_DTYPE_F16,
        /// As weights: two E2M1 codes per byte; as scales: raw E8M0 bytes.
        I8 = DSV4MX_DTYPE_I8,
        /// As `I8`.
        U8 = DSV4MX_DTYPE_U8,
        /// Packed FP4 whose shape counts values, two per byte ("F4" in safetensors).
        E2m1 = DSV4MX_DTYPE_E2M1,
        /// Scale byte b, value 2^(b-127).
        E8m0 = DSV4MX_DTYPE_E8M0,
        /// Recognised in files, never accepted as an expert's weight.
        E4m3 = DSV4MX_DTYPE_E4M3,
        /// As `E4m3`.
        E5m2 = DSV4MX_DTYPE_E5M2,
        /// [`i32`]
        I32 = DSV4MX_DTYPE_I32,
        /// [`i64`]
        I64 = DSV4MX_DTYPE_I64,
        /// [`f64`]
        F64 = DSV4MX_DTYPE_F64,
        /// Anything else that a file holds.
        Other = DSV4MX_DTYPE_OTHER,
        /// As weights: eight E2M1 codes per little-endian word (MLX).
        U32 = DSV4MX_DTYPE_U32,
    }

    /// What a long call is doing.
    Stage, "DSV4MX_STAGE_" {
        /// Waiting for work that the caller enqueued before.
        Wait = DSV4MX_STAGE_WAIT,
        /// Opening a checkpoint; counts files.
        Open = DSV4MX_STAGE_OPEN,
        /// Reading and repacking tensors; counts bytes.
        Load = DSV4MX_STAGE_LOAD,
        /// Preparing; counts experts.
        Prepare = DSV4MX_STAGE_PREPARE,
        /// Importing or exporting another form; counts experts.
        Convert = DSV4MX_STAGE_CONVERT,
        /// Writing a snapshot; counts bytes.
        Save = DSV4MX_STAGE_SAVE,
        /// Waiting for other ranks of a group; counts ranks.
        Join = DSV4MX_STAGE_JOIN,
    }

    /// How the rows of a fused w13 tensor `[2 * intermediate, hidden]` are ordered.
    W13Order, "DSV4MX_W13_ORDER_" {
        /// Only separate gate and up tensors are accepted.
        Unset = DSV4MX_W13_ORDER_UNSET,
        /// `[w1; w3]`: DeepSeek, SGLang, vLLM.
        GateUp = DSV4MX_W13_ORDER_GATE_UP,
        /// `[w3; w1]`: TensorRT-LLM, FlashInfer.
        UpGate = DSV4MX_W13_ORDER_UP_GATE,
        /// Row 2i is gate i, row 2i+1 is up i: GPT-OSS.
        Interleaved = DSV4MX_W13_ORDER_INTERLEAVED,
    }

    /// Which half of a byte is the even k.
    NibbleOrder, "DSV4MX_NIBBLE_ORDER_" {
        /// The low one: DeepSeek, GPT-OSS.
        LowFirst = DSV4MX_NIBBLE_ORDER_LOW_FIRST,
        /// The high one.
        HighFirst = DSV4MX_NIBBLE_ORDER_HIGH_FIRST,
    }

    /// Where the router weight multiplies.
    RouterWeightPosition, "DSV4MX_ROUTER_WEIGHT_" {
        /// y = sum w_k * (h_k . w2 + bias)
        AfterW2 = DSV4MX_ROUTER_WEIGHT_AFTER_W2,
        /// h_k * w_k before its rounding; refused together with a w2 bias.
        BeforeW2 = DSV4MX_ROUTER_WEIGHT_BEFORE_W2,
        /// x * w before the first product; top_k must be 1.
        OnInput = DSV4MX_ROUTER_WEIGHT_ON_INPUT,
    }

    /// What is computed with.
    Compute, "DSV4MX_COMPUTE_" {
        /// bf16 activations.
        W4a16 = DSV4MX_COMPUTE_W4A16,
        /// E4M3 activations: more error.
        W4a8 = DSV4MX_COMPUTE_W4A8,
    }

    /// State of weights.
    WeightsState, "DSV4MX_WEIGHTS_" {
        /// Nothing is set.
        Empty = DSV4MX_WEIGHTS_EMPTY,
        /// Something is set.
        Filling = DSV4MX_WEIGHTS_FILLING,
        /// Ready.
        Prepared = DSV4MX_WEIGHTS_PREPARED,
    }

    /// How the ranks of a group met.
    CommKind, "DSV4MX_COMM_" {
        /// One rank, no exchange.
        SelfOnly = DSV4MX_COMM_SELF,
        /// Threads of one process that gave the same group number.
        Local = DSV4MX_COMM_LOCAL,
        /// By a unique id of NCCL.
        NcclId = DSV4MX_COMM_NCCL_ID,
        /// By a communicator of NCCL that the caller has.
        NcclBorrow = DSV4MX_COMM_NCCL_BORROW,
        /// By the caller's all-gather.
        Callback = DSV4MX_COMM_CALLBACK,
    }

    /// What carries rows between ranks.
    CommTransport, "DSV4MX_COMM_TRANSPORT_" {
        /// `Peer` where every rank can write every other's window, else `Collective`.
        Auto = DSV4MX_COMM_TRANSPORT_AUTO,
        /// Stores into the other ranks' windows, inside one host.
        Peer = DSV4MX_COMM_TRANSPORT_PEER,
        /// NCCL's collectives, or the caller's all-gather alone: any number of hosts.
        Collective = DSV4MX_COMM_TRANSPORT_COLLECTIVE,
    }

    /// How expert-parallel results come home.
    EpCombine, "DSV4MX_EP_" {
        /// Each route's row by itself, summed at home in slot order: the bits of one rank that holds all experts.
        RouteExact = DSV4MX_EP_ROUTE_EXACT,
        /// One partial sum per token and rank: fewer bytes.
        RankReduce = DSV4MX_EP_RANK_REDUCE,
    }

    /// How tensor-parallel partial sums are added.
    TpReduce, "DSV4MX_TP_" {
        /// In fp32, in the order of the ranks.
        RankOrder = DSV4MX_TP_RANK_ORDER,
        /// The same bits at every number of tensor-parallel ranks.
        Invariant = DSV4MX_TP_INVARIANT,
    }

    /// Where in a collective call ranks wait for each other.
    CommStage, "DSV4MX_COMM_STAGE_" {
        /// In none.
        None = DSV4MX_COMM_STAGE_NONE,
        /// Rows on the way to their experts.
        Dispatch = DSV4MX_COMM_STAGE_DISPATCH,
        /// Results on the way home.
        Combine = DSV4MX_COMM_STAGE_COMBINE,
        /// Partial sums of tensor-parallel ranks.
        Reduce = DSV4MX_COMM_STAGE_REDUCE,
    }
}
