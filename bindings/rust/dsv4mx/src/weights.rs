//! The experts of one layer.

use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};

use crate::checkpoint::{Block, Checkpoint};
use crate::context::{Context, non_null};
use crate::control::Control;
use crate::enums::WeightsState;
use crate::error::Result;
use crate::layer::Layer;
use crate::tensor::Tensor;
use crate::{sys, text};

/// The experts of one layer: filled by [`Weights::set`] or [`Weights::load`] and prepared, or restored from a snapshot.
/// From then on they change by whole experts alone: [`Weights::copy_experts`], [`Weights::set_slab`].
///
/// Methods that take `&self` may be called from any number of threads at once.
pub struct Weights {
    raw: NonNull<sys::dsv4mx_weights>,
    /// Experts, hidden and channels held here, for slices that C sees as pointers.
    pub(crate) sizes: [usize; 3],
    #[cfg(feature = "cudarc")]
    pub(crate) pending: crate::cuda::Pending,
    // Dropped last.
    context: Context,
}

// SAFETY: one thread at a time has them mutably, and destroying may happen on any thread.
unsafe impl Send for Weights {}
// SAFETY: const weights may be used by any number of threads at once.
unsafe impl Sync for Weights {}

impl Drop for Weights {
    fn drop(&mut self) {
        #[cfg(feature = "cudarc")]
        self.pending.wait();
        // SAFETY: made by create, destroyed once.
        unsafe { self.context.api().dsv4mx_weights_destroy(self.raw.as_ptr()) }
    }
}

impl Weights {
    /// Empty weights for a layer.
    ///
    /// # Errors
    /// [`crate::Status::OutOfMemory`], [`crate::Status::CudaError`]
    pub fn new(layer: &Layer) -> Result<Self> {
        Self::create(layer, ptr::null())
    }

    /// Empty weights in the caller's device memory: [`crate::LayerInfo::prepared_bytes`], aligned to
    /// [`crate::LayerInfo::prepared_alignment`].
    ///
    /// # Errors
    /// [`crate::Status::BufferTooSmall`], [`crate::Status::Misaligned`], [`crate::Status::OutOfMemory`],
    /// [`crate::Status::CudaError`]
    ///
    /// # Safety
    /// `bytes` bytes at `memory` belong to the weights until they are dropped, and to nobody else.
    pub unsafe fn in_memory(layer: &Layer, memory: *mut c_void, bytes: usize) -> Result<Self> {
        let desc = sys::dsv4mx_weights_desc { memory, memory_bytes: bytes, ..Default::default() };
        Self::create(layer, &desc)
    }

    fn create(layer: &Layer, desc: *const sys::dsv4mx_weights_desc) -> Result<Self> {
        let context = layer.context();
        let info = layer.query()?;
        let mut raw = ptr::null_mut();
        // SAFETY: a live layer; the descriptor lives for the call.
        let status = unsafe { context.api().dsv4mx_weights_create(layer.raw(), desc, &mut raw) };
        context.check("weights_create", status)?;
        Ok(Self {
            raw: non_null("weights_create", raw)?,
            // Positive in a created layer.
            sizes: [info.experts, info.hidden, info.intermediate_count]
                .map(|n| usize::try_from(n).unwrap_or(0)),
            #[cfg(feature = "cudarc")]
            pending: Default::default(),
            context: context.clone(),
        })
    }

    /// Copies one tensor of all experts, e.g. `w13_weight`, or of the expert that the name says, e.g.
    /// `layers.3.ffn.experts.7.w1.weight`. The header has the table of names, shapes and dtypes.
    ///
    /// # Errors
    /// [`crate::Status::InvalidArgument`], [`crate::Status::InvalidState`] (prepared), [`crate::Status::InvalidTensor`],
    /// [`crate::Status::InvalidScale`], [`crate::Status::NotFound`] (unknown name), [`crate::Status::OutOfMemory`],
    /// [`crate::Status::CudaError`]. The tensor counts as not set then.
    pub fn set(&mut self, name: &str, tensor: &Tensor<'_>) -> Result<()> {
        self.set_with(name, None, tensor, &mut Control::new())
    }

    /// As [`Weights::set`], for the local expert `expert` under a name that says none.
    ///
    /// # Errors
    /// As [`Weights::set`].
    pub fn set_expert(&mut self, name: &str, expert: usize, tensor: &Tensor<'_>) -> Result<()> {
        self.set_with(name, Some(expert), tensor, &mut Control::new())
    }

    /// As [`Weights::set`] and [`Weights::set_expert`], under control.
    ///
    /// # Errors
    /// As [`Weights::set`], [`crate::Status::Cancelled`], [`crate::Status::DeadlineExceeded`]
    pub fn set_with(
        &mut self,
        name: &str,
        expert: Option<usize>,
        tensor: &Tensor<'_>,
        control: &mut Control<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "weights_set";
        let name = text::to_c(OPERATION, "the name", name)?;
        let expert = expert.map_or(-1, |e| i32::try_from(e).unwrap_or(i32::MAX));
        let status = control.run(|control, stream| {
            let args = sys::dsv4mx_set_args { control, ..Default::default() };
            // SAFETY: weights that nobody else uses; name, tensor and args live for the call, and `Tensor` vouches for
            // the memory it names.
            unsafe {
                let (api, weights) = (self.context.api(), self.raw.as_ptr());
                api.dsv4mx_weights_set(weights, name.as_ptr(), expert, tensor.raw(), &args, stream)
            }
        });
        self.context.check(OPERATION, status)
    }

    /// Sets every tensor of the experts held here from a block of a checkpoint.
    ///
    /// # Errors
    /// As [`Weights::set`] and [`Checkpoint::query_layer`].
    pub fn load(&mut self, checkpoint: &Checkpoint, block: &Block) -> Result<()> {
        self.load_with(checkpoint, block, 0, &mut Control::new())
    }

    /// As [`Weights::load`], with at most `staging_bytes` of staging (0 = as little as will do), under control.
    ///
    /// # Errors
    /// As [`Weights::load`], [`crate::Status::Cancelled`], [`crate::Status::DeadlineExceeded`]
    pub fn load_with(
        &mut self,
        checkpoint: &Checkpoint,
        block: &Block,
        staging_bytes: usize,
        control: &mut Control<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "weights_load";
        let staging_bytes = i64::try_from(staging_bytes).unwrap_or(i64::MAX);
        let status = block.with_raw(OPERATION, |block| {
            control.run(|control, stream| {
                let args = sys::dsv4mx_load_args { control, staging_bytes, ..Default::default() };
                // SAFETY: weights that nobody else uses; a live checkpoint; block and args live for the call.
                unsafe {
                    let (api, weights) = (self.context.api(), self.raw.as_ptr());
                    api.dsv4mx_weights_load(weights, checkpoint.raw(), block, &args, stream)
                }
            })
        })?;
        self.context.check(OPERATION, status)
    }

    /// Finishes the weights; afterwards only whole experts can be replaced.
    ///
    /// # Errors
    /// [`crate::Status::InvalidState`] (prepared before), [`crate::Status::NotFound`] (names what is missing),
    /// [`crate::Status::InvalidScale`], [`crate::Status::Unsupported`], [`crate::Status::OutOfMemory`],
    /// [`crate::Status::CudaError`]
    pub fn prepare(&mut self) -> Result<()> {
        self.prepare_with(&mut Control::new())
    }

    /// As [`Weights::prepare`], under control. May be repeated when it was cancelled or took too long.
    ///
    /// # Errors
    /// As [`Weights::prepare`], [`crate::Status::Cancelled`], [`crate::Status::DeadlineExceeded`]
    pub fn prepare_with(&mut self, control: &mut Control<'_>) -> Result<()> {
        let status = control.run(|control, stream| {
            let args = sys::dsv4mx_prepare_args { control, ..Default::default() };
            // SAFETY: weights that nobody else uses; args live for the call.
            unsafe { self.context.api().dsv4mx_weights_prepare(self.raw.as_ptr(), &args, stream) }
        });
        self.context.check("weights_prepare", status)
    }

    /// State and sizes.
    ///
    /// # Errors
    /// None that live weights give.
    pub fn query(&self) -> Result<WeightsInfo> {
        let mut info = sys::dsv4mx_weights_info::INIT;
        // SAFETY: live weights, and a struct with its size.
        let status = unsafe { self.context.api().dsv4mx_weights_query(self.raw(), &mut info) };
        self.context.check("weights_query", status)?;
        Ok(WeightsInfo {
            state: info.state.into(),
            scale_min: info.scale_min,
            scale_max: info.scale_max,
            bytes: info.bytes,
            tensors_missing: info.tensors_missing,
        })
    }

    /// The context they live in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn raw(&self) -> *const sys::dsv4mx_weights {
        self.raw.as_ptr()
    }

    pub(crate) fn raw_mut(&mut self) -> *mut sys::dsv4mx_weights {
        self.raw.as_ptr()
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [experts, hidden, channels] = self.sizes;
        write!(f, "Weights({experts} experts, hidden {hidden}, {channels} channels)")
    }
}

/// State and sizes of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightsInfo {
    /// Empty, filling or prepared.
    pub state: WeightsState,
    /// Prepared: smallest scale byte of groups that are not all zero.
    pub scale_min: i32,
    /// Prepared: largest such byte.
    pub scale_max: i32,
    /// Resident bytes.
    pub bytes: i64,
    /// How many (expert, tensor) pairs prepare would still miss.
    pub tensors_missing: i64,
}
