//! Prepared experts in a file.

use std::path::Path;

use crate::control::Control;
use crate::desc::LayerDesc;
use crate::error::{Result, check};
use crate::weights::Weights;
use crate::{sys, text};

/// How a snapshot is written or read. Everything has a default.
#[derive(Clone, Debug, Default)]
pub struct SnapshotOptions {
    threads: i32,
    level: i32,
}

impl SnapshotOptions {
    /// All defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Threads that compress, read and check, 1..64; 0 = the library's choice.
    pub fn threads(mut self, threads: i32) -> Self {
        self.threads = threads;
        self
    }

    /// Saving: zstd level of what compresses, 1..19; 0 = the library's choice, -1 = nothing is compressed.
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }
}

/// What a snapshot holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Version of the file's format.
    pub version: i32,
    /// Experts in the file.
    pub experts: i32,
    /// Number in the whole layer of the first of them.
    pub expert_first: i32,
    /// Experts of the whole layer.
    pub experts_global: i32,
    /// Smallest scale byte of groups that are not all zero; 0 if there are none.
    pub scale_min: i32,
    /// Largest such byte; 0 if there are none.
    pub scale_max: i32,
    /// Their form: [`crate::Slab::id`].
    pub slab_id: u64,
    /// Bytes of one slab.
    pub slab_bytes: i64,
    /// Length of the file.
    pub file_bytes: i64,
    /// The layout in words, e.g. "cpu 1" or "sm90 1".
    pub layout: String,
    /// The layer that was saved, with its defaults resolved, without placement, and with the experts of this file.
    pub layer: LayerDesc,
}

impl Snapshot {
    /// Describes a snapshot from its header.
    ///
    /// # Errors
    /// [`crate::Status::LibraryNotLoaded`], [`crate::Status::InvalidArgument`], [`crate::Status::IoError`],
    /// [`crate::Status::FormatError`], [`crate::Status::Unsupported`] (another version), [`crate::Status::OutOfMemory`]
    pub fn query(path: impl AsRef<Path>) -> Result<Self> {
        const OPERATION: &str = "snapshot_query";
        let api = sys::api()?;
        let path = text::to_c(OPERATION, "the path", path.as_ref().as_os_str().as_encoded_bytes())?;
        let mut info = sys::dsv4mx_snapshot_info::INIT;
        let mut desc = sys::dsv4mx_layer_desc::INIT;
        // SAFETY: a path, and structs with their sizes.
        let status = unsafe { api.dsv4mx_snapshot_query(path.as_ptr(), &mut info, &mut desc) };
        check(api, OPERATION, status)?;
        Ok(Self {
            version: info.version,
            experts: info.experts,
            expert_first: info.expert_first,
            experts_global: info.experts_global,
            scale_min: info.scale_min,
            scale_max: info.scale_max,
            slab_id: info.slab_id,
            slab_bytes: info.slab_bytes,
            file_bytes: info.file_bytes,
            layout: text::from_field(&info.layout),
            layer: LayerDesc::from_raw(desc),
        })
    }
}

impl Weights {
    /// Writes the prepared experts to one file, which appears under `path` when it is complete.
    ///
    /// # Errors
    /// [`crate::Status::InvalidArgument`], [`crate::Status::InvalidState`] (not prepared), [`crate::Status::Unsupported`]
    /// (more than one file holds), [`crate::Status::IoError`], [`crate::Status::OutOfMemory`], [`crate::Status::CudaError`]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_with(path, &SnapshotOptions::new(), &mut Control::new())
    }

    /// As [`Weights::save`], with options and under control.
    ///
    /// # Errors
    /// As [`Weights::save`], [`crate::Status::Cancelled`], [`crate::Status::DeadlineExceeded`]
    pub fn save_with(
        &self,
        path: impl AsRef<Path>,
        options: &SnapshotOptions,
        control: &mut Control<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "weights_save";
        let path = text::to_c(OPERATION, "the path", path.as_ref().as_os_str().as_encoded_bytes())?;
        let status = control.run(|control, stream| {
            let args = options.raw(control);
            // SAFETY: live weights; path and args live for the call.
            unsafe {
                self.context().api().dsv4mx_weights_save(self.raw(), path.as_ptr(), &args, stream)
            }
        });
        self.context().check(OPERATION, status)
    }

    /// Fills empty weights from a file of [`Weights::save`] and prepares them. After a failure they are empty.
    ///
    /// # Errors
    /// [`crate::Status::InvalidArgument`], [`crate::Status::InvalidState`] (not empty), [`crate::Status::NotFound`] (an expert
    /// that the file lacks), [`crate::Status::Unsupported`] (another version or layout), [`crate::Status::InvalidTensor`]
    /// (another shape), [`crate::Status::InvalidScale`], [`crate::Status::IoError`], [`crate::Status::FormatError`] (also a
    /// damaged byte), [`crate::Status::OutOfMemory`], [`crate::Status::CudaError`]
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.restore_with(path, &SnapshotOptions::new(), &mut Control::new())
    }

    /// As [`Weights::restore`], with options and under control.
    ///
    /// # Errors
    /// As [`Weights::restore`], [`crate::Status::Cancelled`], [`crate::Status::DeadlineExceeded`]
    pub fn restore_with(
        &mut self,
        path: impl AsRef<Path>,
        options: &SnapshotOptions,
        control: &mut Control<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "weights_restore";
        let path = text::to_c(OPERATION, "the path", path.as_ref().as_os_str().as_encoded_bytes())?;
        let api = self.context().api();
        let weights = self.raw_mut();
        let status = control.run(|control, stream| {
            let args = options.raw(control);
            // SAFETY: weights that nobody else uses; path and args live for the call.
            unsafe { api.dsv4mx_weights_restore(weights, path.as_ptr(), &args, stream) }
        });
        self.context().check(OPERATION, status)
    }
}

impl SnapshotOptions {
    fn raw(&self, control: *const sys::dsv4mx_control) -> sys::dsv4mx_snapshot_args {
        sys::dsv4mx_snapshot_args {
            control,
            threads: self.threads,
            level: self.level,
            ..Default::default()
        }
    }
}
