// Generated from include/dsv4mx.h by bindings/generate. Do not edit.

layouts! {
    dsv4mx_tensor { struct_size data dtype memory rank reserved shape stride }
    dsv4mx_control { struct_size progress progress_user cancel timeout_ns }
    dsv4mx_device_info { struct_size device supported compute_capability multiprocessors total_bytes free_bytes name reason }
    dsv4mx_context_desc { struct_size device device_ordinal threads cpu_isa alloc free alloc_user log log_user log_level flags experimental }
    dsv4mx_context_info { struct_size device device_ordinal threads cpu_isa compute_capability multiprocessors l2_bytes name }
    dsv4mx_layer_desc { struct_size hidden intermediate experts top_k expert_first experts_global placement physical_first physical_global tp_rank tp_size intermediate_first intermediate_count weight_format group_size w13_order nibble_order activation clamp_limit activation_alpha activation_beta situ_beta situ_linear_beta w13_bias w2_bias router_weight_position routed_scaling_factor x_dtype out_dtype ids_dtype router_weight_dtype slot_dtype compute flags reserved experimental }
    dsv4mx_layer_info { struct_size device hidden intermediate intermediate_first intermediate_count experts experts_global top_k prepared_bytes peak_extra_bytes prepared_alignment max_tokens prepared_id numerics_id backend }
    dsv4mx_workspace_args { struct_size comm flags reserved }
    dsv4mx_workspace_info { struct_size bytes minimum_bytes alignment }
    dsv4mx_fault_info { struct_size status reserved invalid_ids }
    dsv4mx_weights_desc { struct_size memory memory_bytes }
    dsv4mx_set_args { struct_size control flags reserved }
    dsv4mx_prepare_args { struct_size control flags reserved }
    dsv4mx_weights_info { struct_size state scale_min scale_max reserved bytes tensors_missing }
    dsv4mx_marlin { struct_size expert_first expert_count hidden_padded intermediate_padded memory bias_dtype w13 w13_scale w13_bias w2 w2_scale w2_bias }
    dsv4mx_marlin_args { struct_size control flags reserved }
    dsv4mx_expert_args { struct_size control flags reserved }
    dsv4mx_slab { struct_size id data bytes memory reserved }
    dsv4mx_expert_info { struct_size scale_min scale_max }
    dsv4mx_copy_args { struct_size to_experts from_experts count flags control }
    dsv4mx_snapshot_args { struct_size control threads level flags reserved }
    dsv4mx_snapshot_info { struct_size version experts expert_first experts_global scale_min scale_max slab_id slab_bytes file_bytes layout }
    dsv4mx_nccl_function { struct_size name address }
    dsv4mx_nccl_source { struct_size functions function_count path }
    dsv4mx_nccl_info { struct_size version reserved file }
    dsv4mx_comm_desc { struct_size kind rank size tp_size transport ep_combine tp_reduce tp_slices slot_dtype partial_dtype max_tokens max_hidden max_top_k timeout_ns flags reserved group nccl_id nccl_comm nccl all_gather barrier user control }
    dsv4mx_comm_info { struct_size kind transport rank size ep_rank ep_size tp_rank tp_size window_bytes nccl_version reserved reason nccl_file }
    dsv4mx_comm_fault_info { struct_size status stage rank found_by round reserved }
    dsv4mx_apply_args { struct_size x x_stride x_scale x_scale_stride topk_ids topk_ids_stride topk_weights topk_weights_stride out out_stride tokens tokens_device workspace workspace_bytes expert_counts comm comm_tokens comm_tag reserved multiprocessors flags }
    dsv4mx_checkpoint_args { struct_size control prefix threads read_policy flags reserved }
    dsv4mx_block { struct_size kind index prefix }
    dsv4mx_model_args { struct_size layer tp_size ep_size max_tokens }
    dsv4mx_model_info { struct_size blocks blocks_fitting source_bytes prepared_bytes largest_block_bytes peak_extra_bytes workspace_bytes total_bytes free_bytes }
    dsv4mx_load_args { struct_size control staging_bytes flags reserved }
    dsv4mx_context_experimental { struct_size plan_file }
    dsv4mx_layer_experimental { struct_size number_path oracle }
    dsv4mx_weights_census { struct_size planes_exact span_max }
}

constants! {
    DSV4MX_VERSION_MAJOR
    DSV4MX_VERSION_MINOR
    DSV4MX_VERSION_PATCH
    DSV4MX_VERSION
    DSV4MX_STATUS_OK
    DSV4MX_STATUS_INVALID_ARGUMENT
    DSV4MX_STATUS_INVALID_STRUCT
    DSV4MX_STATUS_INVALID_STATE
    DSV4MX_STATUS_INVALID_TENSOR
    DSV4MX_STATUS_INVALID_SCALE
    DSV4MX_STATUS_NOT_FOUND
    DSV4MX_STATUS_INVALID_ID
    DSV4MX_STATUS_UNSUPPORTED
    DSV4MX_STATUS_UNSUPPORTED_SHAPE
    DSV4MX_STATUS_UNSUPPORTED_DTYPE
    DSV4MX_STATUS_UNSUPPORTED_DEVICE
    DSV4MX_STATUS_OUT_OF_MEMORY
    DSV4MX_STATUS_WORKSPACE_TOO_SMALL
    DSV4MX_STATUS_BUFFER_TOO_SMALL
    DSV4MX_STATUS_MISALIGNED
    DSV4MX_STATUS_CUDA_ERROR
    DSV4MX_STATUS_NO_DEVICE
    DSV4MX_STATUS_CUDA_STICKY
    DSV4MX_STATUS_COMM_ERROR
    DSV4MX_STATUS_COMM_TIMEOUT
    DSV4MX_STATUS_COMM_RANK_LOST
    DSV4MX_STATUS_COMM_MISMATCH
    DSV4MX_STATUS_NCCL_UNAVAILABLE
    DSV4MX_STATUS_NCCL_ERROR
    DSV4MX_STATUS_IO_ERROR
    DSV4MX_STATUS_FORMAT_ERROR
    DSV4MX_STATUS_CANCELLED
    DSV4MX_STATUS_DEADLINE_EXCEEDED
    DSV4MX_STATUS_INTERNAL
    DSV4MX_DTYPE_DEFAULT
    DSV4MX_DTYPE_BF16
    DSV4MX_DTYPE_F32
    DSV4MX_DTYPE_F16
    DSV4MX_DTYPE_I8
    DSV4MX_DTYPE_U8
    DSV4MX_DTYPE_E2M1
    DSV4MX_DTYPE_E8M0
    DSV4MX_DTYPE_E4M3
    DSV4MX_DTYPE_E5M2
    DSV4MX_DTYPE_I32
    DSV4MX_DTYPE_I64
    DSV4MX_DTYPE_F64
    DSV4MX_DTYPE_OTHER
    DSV4MX_DTYPE_U32
    DSV4MX_MEMORY_HOST
    DSV4MX_MEMORY_DEVICE
    DSV4MX_MEMORY_PINNED
    DSV4MX_STAGE_WAIT
    DSV4MX_STAGE_OPEN
    DSV4MX_STAGE_LOAD
    DSV4MX_STAGE_PREPARE
    DSV4MX_STAGE_CONVERT
    DSV4MX_STAGE_SAVE
    DSV4MX_STAGE_JOIN
    DSV4MX_DEVICE_AUTO
    DSV4MX_DEVICE_CPU
    DSV4MX_DEVICE_CUDA
    DSV4MX_CPU_ISA_DEFAULT
    DSV4MX_CPU_ISA_PORTABLE
    DSV4MX_CPU_ISA_AVX2
    DSV4MX_CPU_ISA_AVX512
    DSV4MX_CPU_ISA_AVX512_BF16
    DSV4MX_LOG_ERROR
    DSV4MX_LOG_WARNING
    DSV4MX_LOG_INFO
    DSV4MX_LOG_DEBUG
    DSV4MX_WEIGHT_FORMAT_MXFP4
    DSV4MX_W13_ORDER_UNSET
    DSV4MX_W13_ORDER_GATE_UP
    DSV4MX_W13_ORDER_UP_GATE
    DSV4MX_W13_ORDER_INTERLEAVED
    DSV4MX_NIBBLE_ORDER_LOW_FIRST
    DSV4MX_NIBBLE_ORDER_HIGH_FIRST
    DSV4MX_ACTIVATION_SWIGLU
    DSV4MX_ACTIVATION_SWIGLU_GPTOSS
    DSV4MX_ACTIVATION_GATED
    DSV4MX_ACTIVATION_SITU
    DSV4MX_ROUTER_WEIGHT_AFTER_W2
    DSV4MX_ROUTER_WEIGHT_BEFORE_W2
    DSV4MX_ROUTER_WEIGHT_ON_INPUT
    DSV4MX_COMPUTE_W4A16
    DSV4MX_COMPUTE_W4A8
    DSV4MX_LAYER_BATCH_INVARIANT
    DSV4MX_LAYER_CHECKED_IDS
    DSV4MX_LAYER_PHYSICAL_IDS
    DSV4MX_WEIGHTS_EMPTY
    DSV4MX_WEIGHTS_FILLING
    DSV4MX_WEIGHTS_PREPARED
    DSV4MX_COMM_SELF
    DSV4MX_COMM_LOCAL
    DSV4MX_COMM_NCCL_ID
    DSV4MX_COMM_NCCL_BORROW
    DSV4MX_COMM_CALLBACK
    DSV4MX_COMM_TRANSPORT_AUTO
    DSV4MX_COMM_TRANSPORT_PEER
    DSV4MX_COMM_TRANSPORT_COLLECTIVE
    DSV4MX_EP_ROUTE_EXACT
    DSV4MX_EP_RANK_REDUCE
    DSV4MX_TP_RANK_ORDER
    DSV4MX_TP_INVARIANT
    DSV4MX_COMM_NO_SPLIT
    DSV4MX_COMM_FORBID_MULTICAST
    DSV4MX_COMM_STAGE_NONE
    DSV4MX_COMM_STAGE_DISPATCH
    DSV4MX_COMM_STAGE_COMBINE
    DSV4MX_COMM_STAGE_REDUCE
    DSV4MX_APPLY_ACCUMULATE
    DSV4MX_READ_POLICY_DEFAULT
    DSV4MX_BLOCK_LAYER
    DSV4MX_BLOCK_MTP
    DSV4MX_BLOCK_PREFIX
    DSV4MX_CONFIG_FIELD_TENSORS
    DSV4MX_CONFIG_FIELD_TOP_K
    DSV4MX_CONFIG_FIELD_ACTIVATION
    DSV4MX_CONFIG_FIELD_CLAMP_LIMIT
    DSV4MX_CONFIG_FIELD_ROUTED_SCALING_FACTOR
    DSV4MX_NUMBER_PATH_AUTO
    DSV4MX_NUMBER_PATH_BF16
    DSV4MX_NUMBER_PATH_PLANES
    DSV4MX_ORACLE_NONE
    DSV4MX_ORACLE_TRUTH
    DSV4MX_ORACLE_SPEC
}
