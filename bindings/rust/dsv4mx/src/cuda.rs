//! A safe apply for the slices and streams of cudarc.
//!
//! cudarc orders the use of its slices between streams itself. Layer, weights and workspace are ordered here: each notes
//! the streams on which it is in use, and waits for them before it goes away.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::CUstreamCaptureStatus;
use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut};
use half::bf16;

use crate::apply::DeviceBatch;
use crate::buffer::Workspace;
use crate::elements::{Id, Out, RouterWeight};
use crate::enums::{Device, Status};
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::stream::Stream;
use crate::weights::Weights;

const OPERATION: &str = "layer_apply";

/// Streams that may still have work with an object.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Vec<Arc<CudaStream>>>);

impl Pending {
    fn add(&self, stream: &Arc<CudaStream>) {
        /// More than a program has at a time: one that makes streams as it goes waits for the old ones now and then.
        const MOST: usize = 64;
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.iter().any(|known| Arc::ptr_eq(known, stream)) {
            return;
        }
        if streams.len() >= MOST {
            wait(&mut streams);
        }
        streams.push(stream.clone());
    }

    /// Makes `stream` wait for the others, which are done with then.
    fn hand_over(&self, stream: &Arc<CudaStream>) -> Result<()> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for known in streams.iter().filter(|known| !Arc::ptr_eq(known, stream)) {
            stream.join(known).map_err(cuda)?;
        }
        *streams = vec![stream.clone()];
        Ok(())
    }

    /// Waits for all of it. A failure is the stream's, which reports it to its own callers.
    pub fn wait(&self) {
        wait(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn wait(streams: &mut Vec<Arc<CudaStream>>) {
    for stream in streams.drain(..) {
        let _ = stream.synchronize();
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.pending.wait();
    }
}

fn cuda(error: cudarc::driver::DriverError) -> Error {
    Error::new(Status::CudaError, OPERATION, error.to_string())
}

/// The arguments of one apply on a CUDA device: `x` and `out` are `[tokens, hidden]`, `topk_ids` and `topk_weights`
/// `[tokens, top_k]`. `CudaSlice::as_view` makes a view of a whole slice.
#[derive(Debug)]
pub struct CudaBatch<'a, I, W, O> {
    /// Tokens.
    pub x: CudaView<'a, bf16>,
    /// Expert ids.
    pub topk_ids: CudaView<'a, I>,
    /// Router weights.
    pub topk_weights: CudaView<'a, W>,
    /// The result.
    pub out: CudaViewMut<'a, O>,
}

impl<'a> From<&'a CudaStream> for Stream<'a> {
    fn from(stream: &'a CudaStream) -> Self {
        // SAFETY: borrowed for the lifetime; cudarc waits before it destroys a stream.
        unsafe { Stream::from_raw(stream.cu_stream().cast()) }
    }
}

impl Layer {
    /// y = the layer applied to x, enqueued on `stream`.
    ///
    /// A stream that is being captured is refused, because a graph keeps addresses and Rust cannot tell for how long: use
    /// [`Layer::apply_device`] there.
    ///
    /// # Errors
    /// As [`Layer::apply`], [`Status::InvalidState`] (the stream is being captured), [`Status::CudaError`]
    pub fn apply_cuda<I: Id, W: RouterWeight, O: Out>(
        &self,
        weights: &Weights,
        batch: CudaBatch<'_, I, W, O>,
        workspace: &mut Workspace,
        stream: &Arc<CudaStream>,
    ) -> Result<()> {
        let CudaBatch { x, topk_ids, topk_weights, mut out } = batch;
        let refuse = |status, text: String| Err(Error::new(status, OPERATION, text));
        let ordinal = stream.context().ordinal();
        for (what, context) in [("layer", self.context()), ("workspace", workspace.context())] {
            let same = usize::try_from(context.device_ordinal()) == Ok(ordinal);
            if context.device() != Device::Cuda || !same {
                let text = format!("the {what} does not live on CUDA device {ordinal}");
                return refuse(Status::InvalidArgument, text);
            }
        }
        self.check_types::<I, W, O>()?;
        let (hidden, top_k) = (self.types.hidden, self.types.top_k);
        let tokens = out.len() / hidden.max(1);
        for (what, length, width) in [
            ("x", x.len(), hidden),
            ("topk_ids", topk_ids.len(), top_k),
            ("topk_weights", topk_weights.len(), top_k),
            ("out", out.len(), hidden),
        ] {
            if tokens.checked_mul(width) != Some(length) {
                let text =
                    format!("{what} has {length} elements, expected {tokens} rows of {width}");
                return refuse(Status::InvalidTensor, text);
            }
        }
        let status = stream.capture_status().map_err(cuda)?;
        if status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return refuse(Status::InvalidState, "the stream is being captured".into());
        }
        // Noted before the launch: whatever comes of it, they wait before they go.
        workspace.pending.hand_over(stream)?;
        self.pending.add(stream);
        weights.pending.add(stream);
        let (x, _x) = x.device_ptr(stream);
        let (topk_ids, _topk_ids) = topk_ids.device_ptr(stream);
        let (topk_weights, _topk_weights) = topk_weights.device_ptr(stream);
        let (out, _out) = out.device_ptr_mut(stream);
        let batch = DeviceBatch::new(
            tokens,
            x as *const _,
            topk_ids as *const _,
            topk_weights as *const _,
            out as *mut _,
        )
        .workspace(workspace.as_mut_ptr(), workspace.bytes());
        // SAFETY: views of the right types and lengths, whose use cudarc orders after other streams and before their end;
        // the rest waits for this stream before it goes away, see above.
        unsafe { self.apply_device(weights, &batch, stream.as_ref().into()) }
    }
}
