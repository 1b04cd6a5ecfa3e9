//! Tensors that the library reads.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;

use crate::elements::Element;
use crate::enums::{Dtype, Memory, Status};
use crate::error::{Error, Result};
use crate::sys;

/// A tensor that a call reads: elements, a shape of 1 to 4 sizes, and strides.
pub struct Tensor<'a> {
    raw: sys::dsv4mx_tensor,
    data: PhantomData<&'a [u8]>,
}

impl<'a> Tensor<'a> {
    /// Contiguous elements, row-major. The dtype is that of the slice; `u8` stands for packed codes and for raw scale
    /// bytes.
    ///
    /// # Errors
    /// [`Status::InvalidTensor`] if the slice has not as many elements as the shape.
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Result<Self> {
        Self::checked(data, T::DTYPE, shape, 1)
    }

    /// Contiguous bytes of a type that Rust has no name for: [`Dtype::E8m0`], [`Dtype::E2m1`] (whose shape counts values,
    /// two in a byte), or another type of one byte.
    ///
    /// # Errors
    /// [`Status::InvalidTensor`] if the slice has not as many bytes as the shape needs, or the type is of more than a byte.
    pub fn from_bytes(data: &'a [u8], dtype: Dtype, shape: &[usize]) -> Result<Self> {
        match dtype {
            Dtype::E2m1 => Self::checked(data, dtype, shape, 2),
            Dtype::E8m0 | Dtype::E4m3 | Dtype::E5m2 | Dtype::I8 | Dtype::U8 => {
                Self::checked(data, dtype, shape, 1)
            }
            other => Err(invalid(format!("{other} is not a type of bytes"))),
        }
    }

    /// Elements that lie apart: `strides` counts elements between neighbours of each dimension.
    ///
    /// # Errors
    /// [`Status::InvalidTensor`] if the shape and strides lead outside the slice.
    pub fn strided<T: Element>(data: &'a [T], shape: &[usize], strides: &[usize]) -> Result<Self> {
        let mut raw = sys::dsv4mx_tensor { dtype: T::DTYPE.into(), ..Default::default() };
        raw.data = data.as_ptr().cast();
        raw.rank = set(&mut raw.shape, shape, "shape")?;
        if set(&mut raw.stride, strides, "strides")? != raw.rank {
            return Err(invalid(format!("{} sizes and {} strides", shape.len(), strides.len())));
        }
        let empty = shape.contains(&0);
        let last = shape.iter().zip(strides).try_fold(0usize, |last, (&size, &stride)| {
            last.checked_add(size.saturating_sub(1).checked_mul(stride)?)
        });
        if !empty && last.is_none_or(|last| last >= data.len()) {
            return Err(invalid(format!(
                "shape {shape:?} with strides {strides:?} leads outside the slice of {} elements",
                data.len()
            )));
        }
        Ok(Self { raw, data: PhantomData })
    }

    /// Memory that Rust cannot check, e.g. a device's. Empty strides mean contiguous.
    ///
    /// # Errors
    /// [`Status::InvalidTensor`] for a shape or strides of more than 4 sizes.
    ///
    /// # Safety
    /// Shape, strides and dtype lead to readable memory of that kind, until the call that takes the tensor has returned
    /// and, for device memory, its stream has passed the call.
    pub unsafe fn from_raw(
        data: *const c_void,
        dtype: Dtype,
        memory: Memory,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self> {
        let mut raw = sys::dsv4mx_tensor {
            data,
            dtype: dtype.into(),
            memory: memory.into(),
            ..Default::default()
        };
        raw.rank = set(&mut raw.shape, shape, "shape")?;
        set(&mut raw.stride, strides, "strides")?;
        Ok(Self { raw, data: PhantomData })
    }

    fn checked<T>(data: &'a [T], dtype: Dtype, shape: &[usize], per: usize) -> Result<Self> {
        let mut raw = sys::dsv4mx_tensor { dtype: dtype.into(), ..Default::default() };
        raw.data = data.as_ptr().cast();
        raw.rank = set(&mut raw.shape, shape, "shape")?;
        let wanted = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        if wanted != data.len().checked_mul(per) {
            let unit = if per == 1 { "elements" } else { "bytes of two" };
            return Err(invalid(format!(
                "the slice has {} {unit}, shape {shape:?} another number",
                data.len()
            )));
        }
        Ok(Self { raw, data: PhantomData })
    }

    pub(crate) fn raw(&self) -> &sys::dsv4mx_tensor {
        &self.raw
    }

    /// # Safety
    /// As [`Tensor::from_raw`], for the lifetime.
    pub(crate) unsafe fn wrap(raw: sys::dsv4mx_tensor) -> Self {
        Self { raw, data: PhantomData }
    }

    /// Its element type.
    pub fn dtype(&self) -> Dtype {
        self.raw.dtype.into()
    }

    /// Its sizes.
    pub fn shape(&self) -> Vec<usize> {
        shape_of(&self.raw)
    }

    /// The first element.
    pub fn as_ptr(&self) -> *const c_void {
        self.raw.data
    }
}

pub(crate) fn shape_of(raw: &sys::dsv4mx_tensor) -> Vec<usize> {
    let rank = usize::try_from(raw.rank).unwrap_or(0);
    raw.shape.iter().take(rank).map(|&n| usize::try_from(n).unwrap_or(0)).collect()
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype(), self.shape())
    }
}

fn invalid(text: String) -> Error {
    Error::new(Status::InvalidTensor, "tensor", text)
}

fn set(field: &mut [i64; 4], sizes: &[usize], what: &str) -> Result<i32> {
    if sizes.len() > field.len() {
        return Err(invalid(format!("{what} has {} sizes, expected 1 to 4", sizes.len())));
    }
    for (to, &size) in field.iter_mut().zip(sizes) {
        *to = i64::try_from(size).map_err(|_| invalid(format!("{what} {sizes:?} is too large")))?;
    }
    // At most 4.
    Ok(sizes.len() as i32)
}
