// Generated from include/dsv4mx.h by bindings/generate. Do not edit.

/// dsv4mx_context_desc.experimental.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_context_experimental {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// CSV rows that override the compiled-in kernel plan; NULL = none. CUDA only. IO_ERROR and FORMAT_ERROR come from
    /// dsv4mx_context_create, in builds with CUDA before a device is looked for.
    pub plan_file: *const ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_context_experimental",
    ][::core::mem::size_of::<dsv4mx_context_experimental>() - 16usize];
    [
        "Alignment of dsv4mx_context_experimental",
    ][::core::mem::align_of::<dsv4mx_context_experimental>() - 8usize];
    [
        "Offset of field: dsv4mx_context_experimental::struct_size",
    ][::core::mem::offset_of!(dsv4mx_context_experimental, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_context_experimental::plan_file",
    ][::core::mem::offset_of!(dsv4mx_context_experimental, plan_file) - 8usize];
};
/// Number path of the CUDA backend. Which one runs is the plan's decision unless it is forced.
pub type dsv4mx_number_path = i32;
/// What is fastest: for many tokens an expert also fp16 operands, where the scale bytes of the weights are 102 to 128.
pub const DSV4MX_NUMBER_PATH_AUTO: dsv4mx_number_path_value = 0;
/// Weights converted to bf16; with W4A8 activations that E4M3 holds.
pub const DSV4MX_NUMBER_PATH_BF16: dsv4mx_number_path_value = 1;
/// Activations split into two exact E4M3 planes; needs weights the census allows.
pub const DSV4MX_NUMBER_PATH_PLANES: dsv4mx_number_path_value = 2;
/// Values of dsv4mx_number_path.
pub type dsv4mx_number_path_value = ::core::ffi::c_int;
/// References of the CPU backend in fp64.
pub type dsv4mx_oracle = i32;
pub const DSV4MX_ORACLE_NONE: dsv4mx_oracle_value = 0;
/// No rounding but the inputs' (out still has out_dtype).
pub const DSV4MX_ORACLE_TRUTH: dsv4mx_oracle_value = 1;
/// What compute promises: h rounded once as it is there, out rounded once.
pub const DSV4MX_ORACLE_SPEC: dsv4mx_oracle_value = 2;
/// Values of dsv4mx_oracle.
pub type dsv4mx_oracle_value = ::core::ffi::c_int;
/// dsv4mx_layer_desc.experimental.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_layer_experimental {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// CUDA: 0 = AUTO.
    pub number_path: dsv4mx_number_path,
    /// CPU: compute with a reference instead.
    pub oracle: dsv4mx_oracle,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_layer_experimental",
    ][::core::mem::size_of::<dsv4mx_layer_experimental>() - 16usize];
    [
        "Alignment of dsv4mx_layer_experimental",
    ][::core::mem::align_of::<dsv4mx_layer_experimental>() - 8usize];
    [
        "Offset of field: dsv4mx_layer_experimental::struct_size",
    ][::core::mem::offset_of!(dsv4mx_layer_experimental, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_layer_experimental::number_path",
    ][::core::mem::offset_of!(dsv4mx_layer_experimental, number_path) - 8usize];
    [
        "Offset of field: dsv4mx_layer_experimental::oracle",
    ][::core::mem::offset_of!(dsv4mx_layer_experimental, oracle) - 12usize];
};
/// Census of prepared weights.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dsv4mx_weights_census {
    /// Size of this struct as the caller knows it.
    pub struct_size: usize,
    /// 1 if the two-plane path is exact for every block, else 0.
    pub planes_exact: i32,
    /// Most binades between scales of groups that are not all zero inside one row's block of 512 of K.
    pub span_max: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of dsv4mx_weights_census",
    ][::core::mem::size_of::<dsv4mx_weights_census>() - 16usize];
    [
        "Alignment of dsv4mx_weights_census",
    ][::core::mem::align_of::<dsv4mx_weights_census>() - 8usize];
    [
        "Offset of field: dsv4mx_weights_census::struct_size",
    ][::core::mem::offset_of!(dsv4mx_weights_census, struct_size) - 0usize];
    [
        "Offset of field: dsv4mx_weights_census::planes_exact",
    ][::core::mem::offset_of!(dsv4mx_weights_census, planes_exact) - 8usize];
    [
        "Offset of field: dsv4mx_weights_census::span_max",
    ][::core::mem::offset_of!(dsv4mx_weights_census, span_max) - 12usize];
};

experimental_functions! {
    /// Census of scales. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT, INVALID_STATE (not
    /// prepared). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_query_census(
        weights: *const dsv4mx_weights,
        out: *mut dsv4mx_weights_census,
    ) -> dsv4mx_status;
    /// Census of one prepared local expert. out->struct_size is set by the caller. Errors: INVALID_ARGUMENT, INVALID_STRUCT,
    /// INVALID_STATE (not prepared). Threads: any. Since: 0.1.0
    #[must_use]
    pub fn dsv4mx_weights_query_expert_census(
        weights: *const dsv4mx_weights,
        expert: i32,
        out: *mut dsv4mx_weights_census,
    ) -> dsv4mx_status;
}

sized! {
    dsv4mx_context_experimental,
    dsv4mx_layer_experimental,
    dsv4mx_weights_census,
}
