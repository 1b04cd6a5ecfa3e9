//! One apply: from slices on the CPU, from device pointers anywhere.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

use half::bf16;

use crate::buffer::Workspace;
use crate::comm::Comm;
use crate::elements::{Id, Out, RouterWeight};
use crate::enums::{Device, Status};
use crate::error::{Error, Result, check};
use crate::gather::Meeting;
use crate::layer::Layer;
use crate::stream::Stream;
use crate::sys;
use crate::weights::Weights;

const OPERATION: &str = "layer_apply";
/// bindgen gives constants of C enums as int.
const ACCUMULATE: u32 = sys::DSV4MX_APPLY_ACCUMULATE as u32;

/// The arguments of one apply on the CPU: tokens, their expert ids and router weights, and a place for the result.
#[derive(Debug)]
pub struct Batch<'a, I, W, O> {
    x: &'a [bf16],
    topk_ids: &'a [I],
    topk_weights: &'a [W],
    out: &'a mut [O],
    tokens: Option<usize>,
    /// Of x, topk_ids, topk_weights, out; 0 = dense.
    strides: [usize; 4],
    expert_counts: Option<&'a mut [i64]>,
    comm: Option<&'a mut Comm>,
    comm_tokens: usize,
    comm_tag: u32,
    flags: u32,
}

impl<'a, I: Id, W: RouterWeight, O: Out> Batch<'a, I, W, O> {
    /// `x` and `out` are `[tokens, hidden]`, `topk_ids` and `topk_weights` `[tokens, top_k]`. Rows of `x` and `out` are
    /// aligned to 16 bytes, as those of a `Vec` are; an array on the stack may be refused as
    /// [`Status::Misaligned`].
    pub fn new(x: &'a [bf16], topk_ids: &'a [I], topk_weights: &'a [W], out: &'a mut [O]) -> Self {
        Self {
            x,
            topk_ids,
            topk_weights,
            out,
            tokens: None,
            strides: [0; 4],
            expert_counts: None,
            comm: None,
            comm_tokens: 0,
            comm_tag: 0,
            flags: 0,
        }
    }

    /// Only the first `tokens` rows; by default the slices have exactly as many rows as there are tokens.
    pub fn tokens(mut self, tokens: usize) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// Elements between rows of x. With strides the number of tokens must be told.
    pub fn x_stride(mut self, elements: usize) -> Self {
        self.strides[0] = elements;
        self
    }

    /// Elements between rows of topk_ids.
    pub fn topk_ids_stride(mut self, elements: usize) -> Self {
        self.strides[1] = elements;
        self
    }

    /// Elements between rows of topk_weights.
    pub fn topk_weights_stride(mut self, elements: usize) -> Self {
        self.strides[2] = elements;
        self
    }

    /// Elements between rows of out.
    pub fn out_stride(mut self, elements: usize) -> Self {
        self.strides[3] = elements;
        self
    }

    /// Adds to out instead of writing it.
    pub fn accumulate(mut self) -> Self {
        self.flags |= ACCUMULATE;
        self
    }

    /// Adds the number of pairs that each local expert computed.
    pub fn expert_counts(mut self, counts: &'a mut [i64]) -> Self {
        self.expert_counts = Some(counts);
        self
    }

    /// The layer over a group: collective, with any number of tokens on each rank, 0 included. The layer is prepared for it
    /// ([`Comm::prepare`]), and the workspace is one of [`Comm::workspace`].
    pub fn comm(mut self, comm: &'a mut Comm) -> Self {
        self.comm = Some(comm);
        self
    }

    /// With a group: the most tokens of this call on any rank, the same number on every rank; by default the group's
    /// max_tokens.
    pub fn comm_tokens(mut self, tokens: usize) -> Self {
        self.comm_tokens = tokens;
        self
    }

    /// With a group: any number that all ranks give alike, e.g. the layer's index, by which ranks that are out of step find
    /// out.
    pub fn comm_tag(mut self, tag: u32) -> Self {
        self.comm_tag = tag;
        self
    }

    /// The C struct, after checking what C cannot see: the lengths of slices.
    fn into_args(self, layer: &Layer, experts: usize) -> Result<sys::dsv4mx_apply_args> {
        let (hidden, top_k) = (layer.types.hidden, layer.types.top_k);
        let tokens = match self.tokens {
            Some(tokens) => tokens,
            None if self.strides != [0; 4] => {
                return Err(Error::new(
                    Status::InvalidArgument,
                    OPERATION,
                    "with strides the number of tokens must be told",
                ));
            }
            None => self.out.len() / hidden.max(1),
        };
        for (what, length, width, stride) in [
            ("x", self.x.len(), hidden, self.strides[0]),
            ("topk_ids", self.topk_ids.len(), top_k, self.strides[1]),
            ("topk_weights", self.topk_weights.len(), top_k, self.strides[2]),
            ("out", self.out.len(), hidden, self.strides[3]),
        ] {
            let stride = if stride == 0 { width } else { stride };
            let wanted = match tokens {
                0 => Some(0),
                _ => (tokens - 1).checked_mul(stride).and_then(|n| n.checked_add(width)),
            };
            let exact = self.tokens.is_none();
            if wanted.is_none_or(|wanted| length < wanted || exact && length != wanted) {
                let at_least = if exact { "" } else { "at least " };
                let wanted = wanted.map_or("more than memory".into(), |n| n.to_string());
                return Err(Error::new(
                    Status::InvalidTensor,
                    OPERATION,
                    format!(
                        "{what} has {length} elements, {tokens} tokens need {at_least}{wanted}"
                    ),
                ));
            }
        }
        let mut args = sys::dsv4mx_apply_args::INIT;
        // An empty slice has no address to speak of.
        if tokens != 0 {
            args.x = self.x.as_ptr().cast();
            args.topk_ids = self.topk_ids.as_ptr().cast();
            args.topk_weights = self.topk_weights.as_ptr().cast();
            args.out = self.out.as_mut_ptr().cast();
        }
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let [x_stride, ids_stride, weights_stride, out_stride] = self.strides.map(number);
        args.x_stride = x_stride;
        args.topk_ids_stride = ids_stride;
        args.topk_weights_stride = weights_stride;
        args.out_stride = out_stride;
        args.tokens = number(tokens);
        args.flags = self.flags;
        args.comm_tokens = number(self.comm_tokens);
        args.comm_tag = self.comm_tag;
        if let Some(counts) = self.expert_counts {
            if counts.len() != experts {
                return Err(Error::new(
                    Status::InvalidTensor,
                    OPERATION,
                    format!("expert_counts has {} elements, expected {experts}", counts.len()),
                ));
            }
            args.expert_counts = counts.as_mut_ptr();
        }
        Ok(args)
    }
}

/// A call on the CPU whose arguments are checked and bound: it can run any number of times.
pub struct Bound<'a> {
    api: &'static sys::Api,
    layer: *const sys::dsv4mx_layer,
    weights: *const sys::dsv4mx_weights,
    args: sys::dsv4mx_apply_args,
    /// Of a communicator that calls back.
    meeting: Option<&'a Meeting>,
    borrows: PhantomData<(&'a Layer, &'a Weights, &'a mut ())>,
}

// SAFETY: borrows slices of plain data, a workspace that is Send, and objects that are Sync.
unsafe impl Send for Bound<'_> {}
// SAFETY: nothing can be done with a shared reference.
unsafe impl Sync for Bound<'_> {}

impl Bound<'_> {
    /// Applies the layer to what the bound slices hold.
    ///
    /// # Errors
    /// As [`Layer::apply`].
    #[inline]
    pub fn run(&mut self) -> Result<()> {
        // SAFETY: borrowed objects; the slices and the workspace are borrowed and were checked, and the CPU backend has
        // finished when the call returns.
        let status = unsafe {
            let stream = Stream::DEFAULT.raw();
            self.api.dsv4mx_layer_apply(self.layer, self.weights, &self.args, stream)
        };
        if status == sys::DSV4MX_STATUS_OK { Ok(()) } else { self.failed(status) }
    }

    #[cold]
    fn failed(&self, status: sys::dsv4mx_status) -> Result<()> {
        Meeting::finish(self.meeting, check(self.api, OPERATION, status))
    }
}

impl fmt::Debug for Bound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("tokens", &self.args.tokens).finish_non_exhaustive()
    }
}

/// The arguments of one apply as device pointers; see `dsv4mx_apply_args` in the header for what each must be.
#[derive(Clone, Copy, Debug)]
pub struct DeviceBatch {
    args: sys::dsv4mx_apply_args,
    /// Of a communicator that calls back, and lives as long as that; else NULL.
    meeting: *const Meeting,
}

impl DeviceBatch {
    /// Rows of `tokens` tokens, in device memory (host memory on the CPU).
    pub fn new(
        tokens: usize,
        x: *const c_void,
        topk_ids: *const c_void,
        topk_weights: *const c_void,
        out: *mut c_void,
    ) -> Self {
        Self {
            args: sys::dsv4mx_apply_args {
                x,
                topk_ids,
                topk_weights,
                out,
                tokens: i64::try_from(tokens).unwrap_or(i64::MAX),
                ..Default::default()
            },
            meeting: ptr::null(),
        }
    }

    /// Memory that no other call in flight uses.
    pub fn workspace(mut self, memory: *mut c_void, bytes: usize) -> Self {
        self.args.workspace = memory;
        self.args.workspace_bytes = bytes;
        self
    }

    /// Elements between rows of x.
    pub fn x_stride(mut self, elements: i64) -> Self {
        self.args.x_stride = elements;
        self
    }

    /// Elements between rows of topk_ids.
    pub fn topk_ids_stride(mut self, elements: i64) -> Self {
        self.args.topk_ids_stride = elements;
        self
    }

    /// Elements between rows of topk_weights.
    pub fn topk_weights_stride(mut self, elements: i64) -> Self {
        self.args.topk_weights_stride = elements;
        self
    }

    /// Elements between rows of out.
    pub fn out_stride(mut self, elements: i64) -> Self {
        self.args.out_stride = elements;
        self
    }

    /// The number of tokens as the device has it when the kernels run, at most the bound one.
    pub fn tokens_device(mut self, tokens: *const i32) -> Self {
        self.args.tokens_device = tokens;
        self
    }

    /// Adds the number of pairs that each local expert computed to `[experts]` counts.
    pub fn expert_counts(mut self, counts: *mut i64) -> Self {
        self.args.expert_counts = counts;
        self
    }

    /// Adds to out instead of writing it.
    pub fn accumulate(mut self) -> Self {
        self.args.flags |= ACCUMULATE;
        self
    }

    /// Multiprocessors that the products may occupy; 0 = all.
    pub fn multiprocessors(mut self, count: i32) -> Self {
        self.args.multiprocessors = count;
        self
    }

    /// The C struct, for fields that this type has no method for.
    pub fn raw_mut(&mut self) -> &mut sys::dsv4mx_apply_args {
        &mut self.args
    }

    /// The layer over a group, which lives until the work has finished and serves one call at a time; see [`Batch::comm`].
    pub fn comm(mut self, comm: &mut Comm) -> Self {
        self.args.comm = comm.raw();
        self.meeting = comm.meeting().map_or(ptr::null(), ptr::from_ref);
        self
    }

    /// As [`Batch::comm_tokens`].
    pub fn comm_tokens(mut self, tokens: usize) -> Self {
        self.args.comm_tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        self
    }

    /// As [`Batch::comm_tag`].
    pub fn comm_tag(mut self, tag: u32) -> Self {
        self.args.comm_tag = tag;
        self
    }
}

impl Layer {
    /// Checks the slices and binds them to this layer, so that the call itself costs what the C call costs. CPU only: on
    /// CUDA use [`Layer::apply_device`] or the feature `cudarc`.
    ///
    /// # Errors
    /// [`Status::Unsupported`] (not on the CPU), [`Status::InvalidTensor`] (a slice's length or type)
    pub fn bind<'a, I: Id, W: RouterWeight, O: Out>(
        &'a self,
        weights: &'a Weights,
        mut batch: Batch<'a, I, W, O>,
        workspace: &'a mut Workspace,
    ) -> Result<Bound<'a>> {
        for (what, context) in [("layer", self.context()), ("workspace", workspace.context())] {
            if context.device() != Device::Cpu {
                let text = format!(
                    "slices are host memory, the {what} lives on a CUDA device: use device pointers"
                );
                return Err(Error::new(Status::Unsupported, OPERATION, text));
            }
        }
        self.check_types::<I, W, O>()?;
        let [experts, ..] = weights.sizes;
        let comm = batch.comm.take();
        let mut args = batch.into_args(self, experts)?;
        let mut meeting = None;
        if let Some(comm) = comm {
            args.comm = comm.raw();
            meeting = comm.meeting();
        }
        args.workspace = workspace.as_mut_ptr();
        args.workspace_bytes = workspace.bytes();
        Ok(Bound {
            api: self.context().api(),
            layer: self.raw(),
            weights: weights.raw(),
            args,
            meeting,
            borrows: PhantomData,
        })
    }

    /// y = the layer applied to x, on the CPU.
    ///
    /// # Errors
    /// As [`Layer::bind`], [`Status::InvalidState`] (weights not prepared), [`Status::InvalidArgument`] (weights of another
    /// layer), [`Status::InvalidId`] (a layer that checks ids), [`Status::WorkspaceTooSmall`], [`Status::Misaligned`]
    pub fn apply<I: Id, W: RouterWeight, O: Out>(
        &self,
        weights: &Weights,
        batch: Batch<'_, I, W, O>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.bind(weights, batch, workspace)?.run()
    }

    /// y = the layer applied to x, from pointers, on `stream`. Only enqueues: legal inside a CUDA graph capture.
    ///
    /// # Errors
    /// As the header says of `dsv4mx_layer_apply`.
    ///
    /// # Safety
    /// - Every pointer of `batch` is device memory (host memory on the CPU) of the types and sizes that the header asks for
    ///   and the layer was made with, and stays so until the work has finished.
    /// - Layer, weights, their context, a communicator and the stream live until then, or, in a captured graph, as long as the graph.
    /// - No other call in flight uses the workspace, and nobody else touches `out`.
    #[inline]
    pub unsafe fn apply_device(
        &self,
        weights: &Weights,
        batch: &DeviceBatch,
        stream: Stream<'_>,
    ) -> Result<()> {
        let context = self.context();
        // SAFETY: live objects; the rest is this function's contract.
        let status = unsafe {
            context.api().dsv4mx_layer_apply(self.raw(), weights.raw(), &batch.args, stream.raw())
        };
        if status == sys::DSV4MX_STATUS_OK {
            return Ok(());
        }
        // SAFETY: NULL or the communicator's, which lives, by this function's contract.
        Meeting::finish(unsafe { batch.meeting.as_ref() }, context.check(OPERATION, status))
    }
}
