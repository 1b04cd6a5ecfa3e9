//! Element types that slices may have: what C takes by pointer and dtype is checked by type here.

use half::{bf16, f16};

use crate::enums::Dtype;

mod sealed {
    pub trait Sealed {}
}

/// A type of the elements of a tensor. Sealed.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// Its code.
    const DTYPE: Dtype;
}

/// A type of expert ids: `i32` or `i64`. Sealed.
pub trait Id: Element {}

/// A type of router weights: `f32` or `bf16`. Sealed.
pub trait RouterWeight: Element {}

/// A type of results: `bf16` or `f32`. Sealed.
pub trait Out: Element {}

macro_rules! elements {
    ($($type:ty = $dtype:ident),* $(,)?) => {
        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const DTYPE: Dtype = Dtype::$dtype;
            }
        )*
    };
}

elements! {
    bf16 = Bf16, f16 = F16, f32 = F32, f64 = F64, i8 = I8, u8 = U8, u32 = U32, i32 = I32, i64 = I64,
}

impl Id for i32 {}
impl Id for i64 {}
impl RouterWeight for f32 {}
impl RouterWeight for bf16 {}
impl Out for bf16 {}
impl Out for f32 {}
