//! The Marlin MXFP4 form that SGLang and vLLM hold on Hopper.

use std::borrow::Cow;
use std::ffi::c_void;

use half::bf16;

use crate::control::Control;
use crate::enums::{Dtype, Status};
use crate::error::{Error, Result};
use crate::sys;
use crate::weights::Weights;

/// Sizes after padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarlinPadding {
    /// A multiple of 64, at least hidden.
    pub hidden: i32,
    /// A multiple of 32, at least the channels held here.
    pub intermediate: i32,
}

/// A bias per expert.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Bias<'a> {
    /// bf16
    Bf16(Cow<'a, [bf16]>),
    /// f32
    F32(Cow<'a, [f32]>),
}

/// Experts in Marlin form, in host memory. What is `None` is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Marlin<'a> {
    /// Sizes after padding.
    pub padding: MarlinPadding,
    /// First local expert covered.
    pub expert_first: usize,
    /// Number of experts covered.
    pub expert_count: usize,
    /// `[count, hidden / 16, 4 * intermediate]`, padded sizes here and below.
    pub w13: Option<Cow<'a, [i32]>>,
    /// E8M0 bytes `[count, hidden / 32, 2 * intermediate]`
    pub w13_scale: Option<Cow<'a, [u8]>>,
    /// `[count, 2 * intermediate]`
    pub w13_bias: Option<Bias<'a>>,
    /// `[count, intermediate / 16, 2 * hidden]`
    pub w2: Option<Cow<'a, [i32]>>,
    /// E8M0 bytes `[count, intermediate / 32, hidden]`
    pub w2_scale: Option<Cow<'a, [u8]>>,
    /// `[count, hidden]`
    pub w2_bias: Option<Bias<'a>>,
}

impl<'a> Marlin<'a> {
    /// No tensors yet, for the experts from `expert_first` on.
    pub fn new(padding: MarlinPadding, expert_first: usize, expert_count: usize) -> Self {
        Self {
            padding,
            expert_first,
            expert_count,
            w13: None,
            w13_scale: None,
            w13_bias: None,
            w2: None,
            w2_scale: None,
            w2_bias: None,
        }
    }

    /// Zeros in every tensor but the biases, as room for an export.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for sizes whose product does not fit in memory's numbers.
    pub fn zeroed(
        padding: MarlinPadding,
        expert_first: usize,
        expert_count: usize,
    ) -> Result<Self> {
        let mut marlin = Self::new(padding, expert_first, expert_count);
        let [w13, w13_scale, _, w2, w2_scale, _] = marlin.lengths("marlin")?;
        marlin.w13 = Some(vec![0; w13].into());
        marlin.w13_scale = Some(vec![0; w13_scale].into());
        marlin.w2 = Some(vec![0; w2].into());
        marlin.w2_scale = Some(vec![0; w2_scale].into());
        Ok(marlin)
    }

    /// Elements of w13, w13_scale, w13_bias, w2, w2_scale, w2_bias.
    fn lengths(&self, operation: &'static str) -> Result<[usize; 6]> {
        let size = |n: i32| usize::try_from(n).ok();
        let lengths = || {
            let (h, i) = (size(self.padding.hidden)?, size(self.padding.intermediate)?);
            let each = |a: usize, b: usize| a.checked_mul(b)?.checked_mul(self.expert_count);
            Some([
                each(h / 16, i.checked_mul(4)?)?,
                each(h / 32, i.checked_mul(2)?)?,
                each(2, i)?,
                each(i / 16, h.checked_mul(2)?)?,
                each(i / 32, h)?,
                each(1, h)?,
            ])
        };
        lengths().ok_or_else(|| {
            let text = format!("{:?} of {} experts", self.padding, self.expert_count);
            Error::new(Status::InvalidArgument, operation, text)
        })
    }

    /// The C struct, after checking what C cannot see: the lengths of slices.
    fn raw(&self, operation: &'static str) -> Result<sys::dsv4mx_marlin> {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let mut raw = sys::dsv4mx_marlin {
            expert_first: number(self.expert_first),
            expert_count: number(self.expert_count),
            hidden_padded: self.padding.hidden,
            intermediate_padded: self.padding.intermediate,
            ..Default::default()
        };
        if self.expert_count == 0 {
            // C would take it for "all".
            let text = "expert_count is 0, expected 1 or more";
            return Err(Error::new(Status::InvalidArgument, operation, text));
        }
        let [w13, w13_scale, w13_bias, w2, w2_scale, w2_bias] = self.lengths(operation)?;
        raw.w13 = address(operation, "w13", self.w13.as_deref(), w13)?;
        raw.w13_scale = address(operation, "w13_scale", self.w13_scale.as_deref(), w13_scale)?;
        raw.w2 = address(operation, "w2", self.w2.as_deref(), w2)?;
        raw.w2_scale = address(operation, "w2_scale", self.w2_scale.as_deref(), w2_scale)?;
        let (w13_bias_dtype, w2_bias_dtype);
        (raw.w13_bias, w13_bias_dtype) = bias(operation, "w13_bias", &self.w13_bias, w13_bias)?;
        (raw.w2_bias, w2_bias_dtype) = bias(operation, "w2_bias", &self.w2_bias, w2_bias)?;
        raw.bias_dtype = match (w13_bias_dtype, w2_bias_dtype) {
            (Some(a), Some(b)) if a != b => {
                let text = format!("w13_bias is {a}, w2_bias {b}: expected one type");
                return Err(Error::new(Status::InvalidTensor, operation, text));
            }
            (a, b) => a.or(b).unwrap_or(Dtype::Default).into(),
        };
        Ok(raw)
    }
}

fn address<T>(
    operation: &'static str,
    what: &str,
    data: Option<&[T]>,
    wanted: usize,
) -> Result<*mut c_void> {
    match data {
        None => Ok(std::ptr::null_mut()),
        Some(data) if data.len() == wanted => Ok(data.as_ptr().cast_mut().cast()),
        Some(data) => {
            let text = format!("{what} has {} elements, expected {wanted}", data.len());
            Err(Error::new(Status::InvalidTensor, operation, text))
        }
    }
}

fn bias(
    operation: &'static str,
    what: &str,
    bias: &Option<Bias<'_>>,
    wanted: usize,
) -> Result<(*mut c_void, Option<Dtype>)> {
    Ok(match bias {
        None => (std::ptr::null_mut(), None),
        Some(Bias::Bf16(data)) => {
            (address(operation, what, Some(data), wanted)?, Some(Dtype::Bf16))
        }
        Some(Bias::F32(data)) => (address(operation, what, Some(data), wanted)?, Some(Dtype::F32)),
    })
}

/// The address of a tensor's own memory, to be written to.
fn owned<T: Clone>(data: &mut Option<Cow<'_, [T]>>) -> *mut c_void {
    data.as_mut().map_or(std::ptr::null_mut(), |data| data.to_mut().as_mut_ptr().cast())
}

fn owned_bias(bias: &mut Option<Bias<'_>>) -> *mut c_void {
    match bias {
        None => std::ptr::null_mut(),
        Some(Bias::Bf16(data)) => data.to_mut().as_mut_ptr().cast(),
        Some(Bias::F32(data)) => data.to_mut().as_mut_ptr().cast(),
    }
}

impl Weights {
    /// Takes experts in Marlin form instead of [`Weights::set`]; what the padding contains is ignored.
    ///
    /// # Errors
    /// As [`Weights::set`], and [`Status::InvalidArgument`] for paddings.
    pub fn import_marlin(&mut self, marlin: &Marlin<'_>, control: &mut Control<'_>) -> Result<()> {
        let raw = marlin.raw("weights_import_marlin")?;
        // SAFETY: the slices have the lengths that the struct says, and are only read.
        unsafe { self.import_marlin_raw(&raw, control) }
    }

    /// As [`Weights::import_marlin`], from pointers, e.g. to an engine's device memory.
    ///
    /// # Errors
    /// As [`Weights::import_marlin`], [`Status::Misaligned`]
    ///
    /// # Safety
    /// The pointers lead to memory of the kind and the sizes that the struct says, until the stream has passed the call.
    pub unsafe fn import_marlin_raw(
        &mut self,
        marlin: &sys::dsv4mx_marlin,
        control: &mut Control<'_>,
    ) -> Result<()> {
        let api = self.context().api();
        let weights = self.raw_mut();
        let status = control.run(|control, stream| {
            let args = sys::dsv4mx_marlin_args { control, ..Default::default() };
            // SAFETY: weights that nobody else uses; the rest is this function's contract.
            unsafe { api.dsv4mx_weights_import_marlin(weights, marlin, &args, stream) }
        });
        self.context().check("weights_import_marlin", status)
    }

    /// Writes prepared experts in Marlin form into the tensors that `marlin` has, e.g. those of [`Marlin::zeroed`].
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::InvalidState`] (not prepared), [`Status::InvalidTensor`] (a length),
    /// [`Status::Cancelled`], [`Status::DeadlineExceeded`], [`Status::OutOfMemory`], [`Status::CudaError`]
    pub fn export_marlin(&self, marlin: &mut Marlin<'_>, control: &mut Control<'_>) -> Result<()> {
        let mut raw = marlin.raw("weights_export_marlin")?;
        // Borrowed tensors are copied first: what is written must be owned.
        raw.w13 = owned(&mut marlin.w13);
        raw.w13_scale = owned(&mut marlin.w13_scale);
        raw.w2 = owned(&mut marlin.w2);
        raw.w2_scale = owned(&mut marlin.w2_scale);
        raw.w13_bias = owned_bias(&mut marlin.w13_bias);
        raw.w2_bias = owned_bias(&mut marlin.w2_bias);
        // SAFETY: owned vectors, borrowed mutably, of the lengths that the struct says. On CUDA the call has finished
        // with host memory when it returns.
        unsafe { self.export_marlin_raw(&raw, control) }
    }

    /// As [`Weights::export_marlin`], to pointers.
    ///
    /// # Errors
    /// As [`Weights::export_marlin`], [`Status::Misaligned`]
    ///
    /// # Safety
    /// The pointers lead to memory of the kind and the sizes that the struct says, which nobody else uses until the stream
    /// has passed the call.
    pub unsafe fn export_marlin_raw(
        &self,
        marlin: &sys::dsv4mx_marlin,
        control: &mut Control<'_>,
    ) -> Result<()> {
        let status = control.run(|control, stream| {
            let args = sys::dsv4mx_marlin_args { control, ..Default::default() };
            // SAFETY: live weights; the rest is this function's contract.
            unsafe {
                self.context().api().dsv4mx_weights_export_marlin(self.raw(), marlin, &args, stream)
            }
        });
        self.context().check("weights_export_marlin", status)
    }
}
