//! A layer: a description, checked.

use std::fmt;
use std::ptr::{self, NonNull};

use crate::buffer::Workspace;
use crate::context::{Context, non_null};
use crate::desc::LayerDesc;
use crate::elements::Element;
use crate::enums::{Device, Dtype, Status};
use crate::error::{Error, Result};
use crate::marlin::MarlinPadding;
use crate::stream::Stream;
use crate::weights::Weights;
use crate::{sys, text};

/// One MoE layer. Only its placement can change: every method that takes `&self` may be called from any number of threads at once.
pub struct Layer {
    raw: NonNull<sys::dsv4mx_layer>,
    /// What a slice must be: C sees pointers only.
    pub(crate) types: SliceTypes,
    #[cfg(feature = "cudarc")]
    pub(crate) pending: crate::cuda::Pending,
    // Dropped last.
    context: Context,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SliceTypes {
    pub hidden: usize,
    pub top_k: usize,
    pub ids: Dtype,
    pub router_weights: Dtype,
    pub out: Dtype,
}

// SAFETY: only functions that take a const layer are called on it; destroying may happen on any thread.
unsafe impl Send for Layer {}
// SAFETY: a const layer may be used by any number of threads at once.
unsafe impl Sync for Layer {}

impl Drop for Layer {
    fn drop(&mut self) {
        #[cfg(feature = "cudarc")]
        self.pending.wait();
        // SAFETY: made by create, destroyed once.
        unsafe { self.context.api().dsv4mx_layer_destroy(self.raw.as_ptr()) }
    }
}

impl Layer {
    /// Checks the whole description, before a byte of weights is read.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::Unsupported`], [`Status::UnsupportedShape`] (names the nearest legal size),
    /// [`Status::UnsupportedDtype`], [`Status::OutOfMemory`], [`Status::CudaError`]
    pub fn new(context: &Context, desc: &LayerDesc) -> Result<Self> {
        let mut raw = ptr::null_mut();
        let status = desc.with_raw(|desc| {
            // SAFETY: a live context; the descriptor lives for the call.
            unsafe { context.api().dsv4mx_layer_create(context.raw(), desc, &mut raw) }
        });
        context.check("layer_create", status)?;
        let numbers = desc.numbers();
        let or = |dtype: i32, default| match Dtype::from(dtype) {
            Dtype::Default => default,
            other => other,
        };
        // A created layer's sizes are positive.
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        Ok(Self {
            raw: non_null("layer_create", raw)?,
            types: SliceTypes {
                hidden: size(numbers.hidden),
                top_k: size(numbers.top_k),
                ids: or(numbers.ids_dtype, Dtype::I32),
                router_weights: or(numbers.router_weight_dtype, Dtype::F32),
                out: or(numbers.out_dtype, Dtype::Bf16),
            },
            #[cfg(feature = "cudarc")]
            pending: Default::default(),
            context: context.clone(),
        })
    }

    /// What will run and how much memory it takes.
    ///
    /// # Errors
    /// None that a live layer gives.
    pub fn query(&self) -> Result<LayerInfo> {
        let mut info = sys::dsv4mx_layer_info::INIT;
        // SAFETY: a live layer, and a struct with its size.
        let status = unsafe { self.context.api().dsv4mx_layer_query(self.raw(), &mut info) };
        self.context.check("layer_query", status)?;
        Ok(LayerInfo {
            device: info.device.into(),
            hidden: info.hidden,
            intermediate: info.intermediate,
            intermediate_first: info.intermediate_first,
            intermediate_count: info.intermediate_count,
            experts: info.experts,
            experts_global: info.experts_global,
            top_k: info.top_k,
            prepared_bytes: info.prepared_bytes,
            peak_extra_bytes: info.peak_extra_bytes,
            prepared_alignment: info.prepared_alignment,
            max_tokens: info.max_tokens,
            prepared_id: info.prepared_id,
            numerics_id: info.numerics_id,
            backend: text::from_field(&info.backend),
        })
    }

    /// Workspace for calls of up to `max_tokens` tokens.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`]
    pub fn query_workspace(&self, max_tokens: usize) -> Result<WorkspaceInfo> {
        self.query_workspace_of(max_tokens, ptr::null())
    }

    /// `comm` is NULL or live.
    pub(crate) fn query_workspace_of(
        &self,
        max_tokens: usize,
        comm: *const sys::dsv4mx_comm,
    ) -> Result<WorkspaceInfo> {
        let mut info = sys::dsv4mx_workspace_info::INIT;
        let args = sys::dsv4mx_workspace_args { comm, ..Default::default() };
        let tokens = i64::try_from(max_tokens).unwrap_or(i64::MAX);
        // SAFETY: a live layer and communicator, and structs with their sizes.
        let status = unsafe {
            let api = self.context.api();
            api.dsv4mx_layer_query_workspace(self.raw(), tokens, &args, &mut info)
        };
        self.context.check("layer_query_workspace", status)?;
        Ok(WorkspaceInfo {
            bytes: info.bytes,
            minimum_bytes: info.minimum_bytes,
            alignment: info.alignment,
        })
    }

    /// The workspace with which calls of up to `max_tokens` tokens run at full speed.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::OutOfMemory`], [`Status::CudaError`]
    pub fn workspace(&self, max_tokens: usize) -> Result<Workspace> {
        Workspace::new(&self.context, self.query_workspace(max_tokens)?.bytes)
    }

    /// Faults that applies of this layer met so far: a poll, without a CUDA call.
    ///
    /// # Errors
    /// None that a live layer gives.
    pub fn query_faults(&self) -> Result<FaultInfo> {
        let mut info = sys::dsv4mx_fault_info::INIT;
        // SAFETY: a live layer, and a struct with its size.
        let status = unsafe { self.context.api().dsv4mx_layer_query_faults(self.raw(), &mut info) };
        self.context.check("layer_query_faults", status)?;
        Ok(FaultInfo { status: info.status.into(), invalid_ids: info.invalid_ids })
    }

    /// The plan for `tokens` tokens with its reason, one line for people. Without weights: as if they allowed every path.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`]
    pub fn query_plan(&self, weights: Option<&Weights>, tokens: usize) -> Result<String> {
        let weights = weights.map_or(ptr::null(), |w| w.raw());
        let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        let mut text = [0; 2048];
        // SAFETY: live objects, and a place of the size that is told.
        let status = unsafe {
            let api = self.context.api();
            api.dsv4mx_layer_query_plan(self.raw(), weights, tokens, text.as_mut_ptr(), text.len())
        };
        self.context.check("layer_query_plan", status)?;
        Ok(text::from_field(&text))
    }

    /// Changes which experts the slots hold: local expert s is expert `placement[s]` of the layer from now on, for applies
    /// and for what is set or loaded. The layer was made with a placement and without physical ids. On CUDA it waits for
    /// applies of the feature `cudarc` and for the stream.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] (an entry, their number), [`Status::InvalidState`] (no placement, physical ids),
    /// [`Status::OutOfMemory`], [`Status::CudaError`]
    pub fn set_placement(&mut self, placement: &[i32], stream: Stream<'_>) -> Result<()> {
        #[cfg(feature = "cudarc")]
        self.pending.wait();
        // SAFETY: waited for before the layer can be used again.
        unsafe { self.enqueue_placement(placement, stream)? };
        match self.context.device() {
            Device::Cpu => Ok(()),
            _ => self.context.synchronize(stream),
        }
    }

    /// As [`Layer::set_placement`], but only enqueues: applies enqueued before on the stream go by the old placement, those
    /// after it, replays of captured graphs included, by the new one.
    ///
    /// # Errors
    /// As [`Layer::set_placement`], [`Status::InvalidState`] (the stream is being captured)
    ///
    /// # Safety
    /// The layer lives until the stream has passed the change, and applies on other streams are ordered by the caller's
    /// events.
    pub unsafe fn enqueue_placement(
        &mut self,
        placement: &[i32],
        stream: Stream<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "layer_set_placement";
        let experts = self.query()?.experts;
        if usize::try_from(experts) != Ok(placement.len()) {
            let text = format!("placement has {} entries, expected {experts}", placement.len());
            return Err(Error::new(Status::InvalidArgument, OPERATION, text));
        }
        let api = self.context.api();
        // SAFETY: a layer that nobody else uses, and as many entries as it has experts, which are copied.
        let status = unsafe {
            api.dsv4mx_layer_set_placement(self.raw.as_ptr(), placement.as_ptr(), stream.raw())
        };
        self.context.check(OPERATION, status)
    }

    /// How Marlin's form of this layer is padded by SGLang.
    ///
    /// # Errors
    /// None that a live layer gives.
    pub fn query_marlin(&self) -> Result<MarlinPadding> {
        let mut raw = sys::dsv4mx_marlin::INIT;
        // SAFETY: a live layer, and a struct with its size.
        let status = unsafe { self.context.api().dsv4mx_layer_query_marlin(self.raw(), &mut raw) };
        self.context.check("layer_query_marlin", status)?;
        Ok(MarlinPadding { hidden: raw.hidden_padded, intermediate: raw.intermediate_padded })
    }

    /// The context it was made from.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn raw(&self) -> *const sys::dsv4mx_layer {
        self.raw.as_ptr()
    }

    /// The types of slices against those that the layer was made for: nothing is ever reinterpreted.
    pub(crate) fn check_types<I: Element, W: Element, O: Element>(&self) -> Result<()> {
        for (what, found, wanted) in [
            ("topk_ids", I::DTYPE, self.types.ids),
            ("topk_weights", W::DTYPE, self.types.router_weights),
            ("out", O::DTYPE, self.types.out),
        ] {
            if found != wanted {
                let text = format!("{what} is {found}, the layer was made for {wanted}");
                return Err(Error::new(Status::InvalidTensor, "layer_apply", text));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("types", &self.types)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

/// What a layer is and takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// CPU or CUDA.
    pub device: Device,
    /// Values of a token.
    pub hidden: i32,
    /// Channels of the whole layer.
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
    /// Exact size of the prepared weights.
    pub prepared_bytes: i64,
    /// Upper bound of what setting, preparing and loading use beyond it.
    pub peak_extra_bytes: i64,
    /// Alignment that a caller's memory for weights needs.
    pub prepared_alignment: i64,
    /// Largest legal number of tokens in one apply.
    pub max_tokens: i64,
    /// Layers of one context with the same id can run with the same weights.
    pub prepared_id: u64,
    /// Layers with the same id give the same bits for the same weights, inputs and number of tokens.
    pub numerics_id: u64,
    /// E.g. "cpu avx2, 2 threads".
    pub backend: String,
}

/// The workspace of calls up to a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkspaceInfo {
    /// Bytes with which a call runs at full speed.
    pub bytes: usize,
    /// The fewest legal bytes: smaller chunks, the same bits.
    pub minimum_bytes: usize,
    /// Alignment in bytes.
    pub alignment: usize,
}

/// Faults that applies of one layer met while they ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultInfo {
    /// [`Status::InvalidId`] if there were any, else [`Status::Ok`].
    pub status: Status,
    /// Ids outside -1..experts_global-1; counted by a layer that checks ids.
    pub invalid_ids: i64,
}
