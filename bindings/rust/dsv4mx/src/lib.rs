#![doc = include_str!("../README.md")]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod apply;
mod buffer;
mod checkpoint;
mod comm;
mod context;
mod control;
#[cfg(feature = "cudarc")]
mod cuda;
mod desc;
mod elements;
mod enums;
mod error;
#[cfg(feature = "experimental")]
pub mod experimental;
mod experts;
mod gather;
mod hooks;
mod layer;
mod marlin;
mod nccl;
mod slab;
mod snapshot;
mod stream;
mod tensor;
mod text;
mod weights;

/// The raw layer below this crate.
pub use dsv4mx_sys as sys;
/// [`half::bf16`], the type of activations.
pub use half::bf16;

pub use apply::{Batch, Bound, DeviceBatch};
pub use buffer::{Buffer, Workspace};
pub use checkpoint::{
    Block, Checkpoint, CheckpointOptions, FoundBlock, ModelInfo, ModelOptions, TensorInfo,
};
pub use comm::{AbortHandle, Comm, CommDesc, CommFaultInfo, CommInfo};
pub use context::{Context, ContextBuilder, ContextInfo, DeviceInfo};
pub use control::{CancelFlag, Control, Progress};
#[cfg(feature = "cudarc")]
pub use cuda::CudaBatch;
pub use desc::{Activation, LayerDesc};
pub use elements::{Element, Id, Out, RouterWeight};
pub use enums::{
    CommKind, CommStage, CommTransport, Compute, CpuIsa, Device, Dtype, EpCombine, LogLevel,
    Memory, NibbleOrder, RouterWeightPosition, Stage, Status, TpReduce, W13Order, WeightsState,
};
pub use error::{Error, Result};
pub use experts::ExpertInfo;
pub use hooks::Allocator;
pub use layer::{FaultInfo, Layer, LayerInfo, WorkspaceInfo};
pub use marlin::{Bias, Marlin, MarlinPadding};
pub use nccl::NcclInfo;
pub use slab::Slab;
pub use snapshot::{Snapshot, SnapshotOptions};
pub use stream::Stream;
pub use tensor::Tensor;
pub use weights::{Weights, WeightsInfo};

/// Version of the loaded library: major, minor, patch.
///
/// # Errors
/// [`Status::LibraryNotLoaded`]
pub fn version() -> Result<(u32, u32, u32)> {
    // SAFETY: takes nothing.
    let version = unsafe { sys::api()?.dsv4mx_version() };
    Ok((version >> 16, version >> 8 & 0xFF, version & 0xFF))
}

/// Version, build and compiled GPU architectures of the loaded library in one line.
///
/// # Errors
/// [`Status::LibraryNotLoaded`]
pub fn version_string() -> Result<&'static str> {
    // SAFETY: takes nothing; the text is static.
    Ok(unsafe { text::from_static(sys::api()?.dsv4mx_version_string()) })
}

/// Loads the library at `path` for this process, in place of the search that the first call makes.
///
/// # Errors
/// [`Status::LibraryNotLoaded`], also if another library is loaded already.
pub fn load(path: impl AsRef<std::path::Path>) -> Result<()> {
    sys::load_from(path)?;
    Ok(())
}
