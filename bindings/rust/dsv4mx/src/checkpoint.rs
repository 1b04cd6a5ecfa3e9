//! Files of tensors.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::path::Path;
use std::ptr::{self, NonNull};

use crate::context::{Context, non_null};
use crate::control::Control;
use crate::desc::LayerDesc;
use crate::enums::Dtype;
use crate::error::{Result, check};
use crate::tensor::{Tensor, shape_of};
use crate::{sys, text};

/// An open checkpoint. Every method may be called from any number of threads at once.
pub struct Checkpoint {
    api: &'static sys::Api,
    raw: NonNull<sys::dsv4mx_checkpoint>,
}

// SAFETY: only functions that take a const checkpoint are called on it; destroying may happen on any thread.
unsafe impl Send for Checkpoint {}
// SAFETY: a const checkpoint may be used by any number of threads at once.
unsafe impl Sync for Checkpoint {}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: made by create, destroyed once.
        unsafe { self.api.dsv4mx_checkpoint_destroy(self.raw.as_ptr()) }
    }
}

/// How a checkpoint is opened. Everything has a default.
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    prefix: Option<String>,
    threads: i32,
}

impl CheckpointOptions {
    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only tensors whose names begin so are seen.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Threads that read, 1..64; 0 = the library's choice.
    pub fn threads(mut self, threads: i32) -> Self {
        self.threads = threads;
        self
    }
}

/// What a tensor of a checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its element type.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: Vec<usize>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a `model.safetensors.index.json`, or the folder of either.
    ///
    /// # Errors
    /// [`crate::Status::LibraryNotLoaded`], [`crate::Status::InvalidArgument`], [`crate::Status::IoError`], [`crate::Status::FormatError`],
    /// [`crate::Status::OutOfMemory`]
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &CheckpointOptions::new(), &mut Control::new())
    }

    /// As [`Checkpoint::open`], with options and under control.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], [`crate::Status::Cancelled`], [`crate::Status::DeadlineExceeded`]
    pub fn open_with(
        path: impl AsRef<Path>,
        options: &CheckpointOptions,
        control: &mut Control<'_>,
    ) -> Result<Self> {
        const OPERATION: &str = "checkpoint_create";
        let api = sys::api()?;
        let path = text::to_c(OPERATION, "the path", path.as_ref().as_os_str().as_encoded_bytes())?;
        let prefix = optional(OPERATION, "the prefix", options.prefix.as_deref())?;
        let mut raw = ptr::null_mut();
        let status = control.run(|control, _| {
            let args = sys::dsv4mx_checkpoint_args {
                control,
                prefix: pointer(&prefix),
                threads: options.threads,
                ..Default::default()
            };
            // SAFETY: path and args live for the call.
            unsafe { api.dsv4mx_checkpoint_create(path.as_ptr(), &args, &mut raw) }
        });
        check(api, OPERATION, status)?;
        Ok(Self { api, raw: non_null(OPERATION, raw)? })
    }

    /// Number of tensors.
    pub fn count(&self) -> usize {
        // SAFETY: a live checkpoint.
        let count = unsafe { self.api.dsv4mx_checkpoint_get_count(self.raw()) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Name of tensor `index` in the order of names.
    pub fn name(&self, index: usize) -> Option<&str> {
        let index = i64::try_from(index).ok()?;
        // SAFETY: a live checkpoint; the name lives as long as it does.
        unsafe {
            let name = self.api.dsv4mx_checkpoint_get_name(self.raw(), index);
            if name.is_null() { None } else { CStr::from_ptr(name).to_str().ok() }
        }
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.count()).filter_map(|index| self.name(index))
    }

    /// Dtype and shape of a tensor.
    ///
    /// # Errors
    /// [`crate::Status::InvalidArgument`], [`crate::Status::NotFound`], [`crate::Status::IoError`], [`crate::Status::FormatError`],
    /// [`crate::Status::Unsupported`] (a file that cannot be mapped), [`crate::Status::UnsupportedShape`] (rank above 4)
    pub fn tensor_info(&self, name: &str) -> Result<TensorInfo> {
        let raw = self.get(name)?;
        Ok(TensorInfo { dtype: raw.dtype.into(), shape: shape_of(&raw) })
    }

    /// A tensor inside a mapping of its file.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor_info`].
    ///
    /// # Safety
    /// The file is neither changed nor made shorter, and its disk does not fail, while the tensor is read: that would be
    /// other bytes, or a SIGBUS. [`Checkpoint::read`] has no such condition.
    pub unsafe fn tensor(&self, name: &str) -> Result<Tensor<'_>> {
        let raw = self.get(name)?;
        // SAFETY: the mapping lives as long as the checkpoint; the rest is this function's contract.
        Ok(unsafe { Tensor::wrap(raw) })
    }

    fn get(&self, name: &str) -> Result<sys::dsv4mx_tensor> {
        const OPERATION: &str = "checkpoint_get_tensor";
        let name = text::to_c(OPERATION, "the name", name)?;
        let mut raw = sys::dsv4mx_tensor::INIT;
        // SAFETY: a live checkpoint, a name, and a struct with its size.
        let status =
            unsafe { self.api.dsv4mx_checkpoint_get_tensor(self.raw(), name.as_ptr(), &mut raw) };
        check(self.api, OPERATION, status)?;
        Ok(raw)
    }

    /// Copies the bytes of a tensor from `offset` on until `to` is full.
    ///
    /// # Errors
    /// [`crate::Status::InvalidArgument`] (a range outside the tensor), [`crate::Status::NotFound`], [`crate::Status::IoError`],
    /// [`crate::Status::FormatError`]
    pub fn read(&self, name: &str, offset: usize, to: &mut [u8]) -> Result<()> {
        const OPERATION: &str = "checkpoint_read";
        let name = text::to_c(OPERATION, "the name", name)?;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        // SAFETY: a live checkpoint, a name, and a place of the size that is told.
        let status = unsafe {
            let (to, bytes) = (to.as_mut_ptr().cast(), to.len());
            self.api.dsv4mx_checkpoint_read(self.raw(), name.as_ptr(), offset, to, bytes)
        };
        check(self.api, OPERATION, status)
    }

    /// The layer that a block holds: sizes, order and group size. `top_k`, clamp and the like are not in the tensors and
    /// are left to the caller; `top_k` must be set.
    ///
    /// # Errors
    /// [`crate::Status::InvalidArgument`], [`crate::Status::NotFound`], [`crate::Status::IoError`], [`crate::Status::FormatError`],
    /// [`crate::Status::UnsupportedDtype`] (no MXFP4: names what it is)
    pub fn query_layer(&self, block: &Block) -> Result<LayerDesc> {
        const OPERATION: &str = "checkpoint_query_layer";
        let mut desc = sys::dsv4mx_layer_desc::INIT;
        let status = block.with_raw(OPERATION, |block| {
            // SAFETY: a live checkpoint, a block that lives for the call, and a struct with its size.
            unsafe { self.api.dsv4mx_checkpoint_query_layer(self.raw(), block, &mut desc) }
        })?;
        check(self.api, OPERATION, status)?;
        Ok(LayerDesc::from_raw(desc))
    }

    /// Number of blocks that hold experts.
    pub fn block_count(&self) -> usize {
        // SAFETY: a live checkpoint.
        let count = unsafe { self.api.dsv4mx_checkpoint_get_block_count(self.raw()) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Block `index`: layers by index, then draft blocks by index, then what has neither number.
    ///
    /// # Errors
    /// [`crate::Status::InvalidArgument`]
    pub fn block(&self, index: usize) -> Result<FoundBlock> {
        let mut raw = sys::dsv4mx_block::INIT;
        let index = i64::try_from(index).unwrap_or(i64::MAX);
        // SAFETY: a live checkpoint, and a struct with its size.
        let status = unsafe { self.api.dsv4mx_checkpoint_get_block(self.raw(), index, &mut raw) };
        check(self.api, "checkpoint_get_block", status)?;
        // SAFETY: set for every kind, and alive as long as the checkpoint.
        let prefix = unsafe { CStr::from_ptr(raw.prefix) }.to_string_lossy().into_owned();
        let block = match raw.kind {
            sys::DSV4MX_BLOCK_LAYER => Block::Layer(raw.index),
            sys::DSV4MX_BLOCK_MTP => Block::Mtp(raw.index),
            _ => Block::Prefix(prefix.clone()),
        };
        Ok(FoundBlock { block, prefix })
    }

    /// All blocks, in the order of [`Checkpoint::block`].
    ///
    /// # Errors
    /// None that a live checkpoint gives.
    pub fn blocks(&self) -> Result<Vec<FoundBlock>> {
        (0..self.block_count()).map(|index| self.block(index)).collect()
    }

    /// What all blocks need on the context's device, before a byte of weights is read.
    ///
    /// # Errors
    /// As [`Checkpoint::query_layer`] and [`crate::Layer::new`]; the text begins with the block.
    pub fn query_model(&self, context: &Context, options: &ModelOptions) -> Result<ModelInfo> {
        let mut info = sys::dsv4mx_model_info::INIT;
        let mut call = |layer: *const sys::dsv4mx_layer_desc| {
            let args = sys::dsv4mx_model_args {
                layer,
                tp_size: options.tp_size,
                ep_size: options.ep_size,
                max_tokens: i64::try_from(options.max_tokens).unwrap_or(i64::MAX),
                ..Default::default()
            };
            // SAFETY: a live checkpoint and context, args that live for the call, and a struct with its size.
            unsafe {
                self.api.dsv4mx_checkpoint_query_model(self.raw(), context.raw(), &args, &mut info)
            }
        };
        let status = match &options.layer {
            Some(layer) => layer.with_raw(|layer| call(layer)),
            None => call(ptr::null()),
        };
        check(self.api, "checkpoint_query_model", status)?;
        Ok(ModelInfo {
            blocks: info.blocks,
            blocks_fitting: (info.blocks_fitting >= 0).then_some(info.blocks_fitting),
            source_bytes: info.source_bytes,
            prepared_bytes: info.prepared_bytes,
            largest_block_bytes: info.largest_block_bytes,
            peak_extra_bytes: info.peak_extra_bytes,
            workspace_bytes: info.workspace_bytes,
            total_bytes: info.total_bytes,
            free_bytes: (info.free_bytes >= 0).then_some(info.free_bytes),
        })
    }

    pub(crate) fn raw(&self) -> *const sys::dsv4mx_checkpoint {
        self.raw.as_ptr()
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({} tensors)", self.count())
    }
}

/// A block of a checkpoint, and the prefix of its names, which alone names it: `Block::Prefix(found.prefix)`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundBlock {
    /// Its kind and number.
    pub block: Block,
    /// Everything up to `experts.`
    pub prefix: String,
}

/// How a whole model is to be held. Everything has a default: all of it on one device.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    layer: Option<LayerDesc>,
    tp_size: i32,
    ep_size: i32,
    max_tokens: usize,
}

impl ModelOptions {
    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Options of every layer (top_k, dtypes, compute, flags); sizes and partition are ignored.
    pub fn layer(mut self, layer: LayerDesc) -> Self {
        self.layer = Some(layer);
        self
    }

    /// Tensor-parallel ranks; 0 = 1.
    pub fn tp_size(mut self, ranks: i32) -> Self {
        self.tp_size = ranks;
        self
    }

    /// Expert-parallel ranks; 0 = 1.
    pub fn ep_size(mut self, ranks: i32) -> Self {
        self.ep_size = ranks;
        self
    }

    /// Most tokens of one apply; 0 = 4096.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }
}

/// What a model's experts need on one rank's device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Blocks with experts: layers and draft blocks.
    pub blocks: i32,
    /// Of these the first so many fit into the free memory together with workspace and extra, where that is known.
    pub blocks_fitting: Option<i32>,
    /// Bytes of the experts' tensors in the files, all ranks.
    pub source_bytes: i64,
    /// Prepared bytes of all blocks.
    pub prepared_bytes: i64,
    /// Prepared bytes of the largest block.
    pub largest_block_bytes: i64,
    /// What loading takes beside prepared bytes, one block after the other.
    pub peak_extra_bytes: i64,
    /// One workspace that all blocks share.
    pub workspace_bytes: i64,
    /// Memory of the context's device.
    pub total_bytes: i64,
    /// Free memory of the device, where it is known.
    pub free_bytes: Option<i64>,
}

/// Which block of a checkpoint holds the experts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Block {
    /// `layers.N` under any prefix.
    Layer(i32),
    /// A draft block: `mtp.N` or `mtp.layers.N` under any prefix.
    Mtp(i32),
    /// Everything up to `experts.`, e.g. `model.layers.3.mlp.`
    Prefix(String),
}

impl Block {
    pub(crate) fn with_raw<R>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&sys::dsv4mx_block) -> R,
    ) -> Result<R> {
        let mut raw = sys::dsv4mx_block::INIT;
        let prefix = match self {
            Self::Prefix(prefix) => optional(operation, "the prefix", Some(prefix))?,
            _ => None,
        };
        (raw.kind, raw.index) = match self {
            Self::Layer(index) => (sys::DSV4MX_BLOCK_LAYER, *index),
            Self::Mtp(index) => (sys::DSV4MX_BLOCK_MTP, *index),
            Self::Prefix(_) => (sys::DSV4MX_BLOCK_PREFIX, 0),
        };
        raw.prefix = pointer(&prefix);
        Ok(call(&raw))
    }
}

fn optional(operation: &'static str, what: &str, text: Option<&str>) -> Result<Option<CString>> {
    text.map(|text| text::to_c(operation, what, text)).transpose()
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}
