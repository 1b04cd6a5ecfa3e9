//! One device, or the CPU.

use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::enums::{CpuIsa, Device, LogLevel};
use crate::error::{Result, check};
use crate::hooks::{Allocator, Hooks};
use crate::stream::Stream;
use crate::{sys, text};

/// One device, or the CPU. Clones share it, and everything made from it keeps it alive.
///
/// Every method may be called from any number of threads at once.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    api: &'static sys::Api,
    raw: NonNull<sys::dsv4mx_context>,
    device: Device,
    ordinal: i32,
    // Used by the library until `raw` is destroyed.
    _hooks: Arc<Hooks>,
}

// SAFETY: only functions that take a const context are called on it; destroying may happen on any thread.
unsafe impl Send for Inner {}
// SAFETY: a const context may be used by any number of threads at once.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made by create, destroyed once. Children hold the context, so none is left.
        unsafe { self.api.dsv4mx_context_destroy(self.raw.as_ptr()) }
    }
}

impl Context {
    /// The first usable CUDA device, else the CPU.
    ///
    /// # Errors
    /// See [`ContextBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// The CPU.
    ///
    /// # Errors
    /// See [`ContextBuilder::build`].
    pub fn cpu() -> Result<Self> {
        Self::builder().device(Device::Cpu).build()
    }

    /// The CUDA device `ordinal`.
    ///
    /// # Errors
    /// See [`ContextBuilder::build`].
    pub fn cuda(ordinal: i32) -> Result<Self> {
        Self::builder().device(Device::Cuda).ordinal(ordinal).build()
    }

    /// How to open a device.
    pub fn builder() -> ContextBuilder {
        ContextBuilder::default()
    }

    /// What the context runs on.
    ///
    /// # Errors
    /// None that a live context gives.
    pub fn query(&self) -> Result<ContextInfo> {
        let mut info = sys::dsv4mx_context_info::INIT;
        // SAFETY: a live context, and a struct with its size.
        let status = unsafe { self.api().dsv4mx_context_query(self.raw(), &mut info) };
        self.check("context_query", status)?;
        Ok(ContextInfo {
            device: info.device.into(),
            device_ordinal: info.device_ordinal,
            threads: info.threads,
            cpu_isa: info.cpu_isa.into(),
            compute_capability: info.compute_capability,
            multiprocessors: info.multiprocessors,
            l2_bytes: info.l2_bytes,
            name: text::from_field(&info.name),
        })
    }

    /// CPU or CUDA.
    pub fn device(&self) -> Device {
        self.inner.device
    }

    /// Ordinal of the CUDA device; 0 on the CPU.
    pub fn device_ordinal(&self) -> i32 {
        self.inner.ordinal
    }

    /// Copies bytes in any direction between host and device memory, in stream order.
    ///
    /// # Errors
    /// [`crate::Status::CudaError`], [`crate::Status::CudaSticky`]
    ///
    /// # Safety
    /// `from` is readable and `to` writable for `bytes` bytes until the stream has passed the copy, and nobody else writes
    /// the one or touches the other meanwhile.
    pub unsafe fn copy(
        &self,
        to: *mut c_void,
        from: *const c_void,
        bytes: usize,
        stream: Stream<'_>,
    ) -> Result<()> {
        // SAFETY: by this function's contract.
        let status =
            unsafe { self.api().dsv4mx_context_copy(self.raw(), to, from, bytes, stream.raw()) };
        self.check("context_copy", status)
    }

    /// Waits for the stream and reports what failed on it.
    ///
    /// # Errors
    /// [`crate::Status::InvalidId`] if a layer that checks ids met bad ones since this was last reported,
    /// [`crate::Status::CudaError`], [`crate::Status::CudaSticky`]
    pub fn synchronize(&self, stream: Stream<'_>) -> Result<()> {
        // SAFETY: a live context; `Stream` holds a live stream.
        let status = unsafe { self.api().dsv4mx_context_synchronize(self.raw(), stream.raw()) };
        self.check("context_synchronize", status)
    }

    pub(crate) fn api(&self) -> &'static sys::Api {
        self.inner.api
    }

    pub(crate) fn raw(&self) -> *const sys::dsv4mx_context {
        self.inner.raw.as_ptr()
    }

    #[inline]
    pub(crate) fn check(&self, operation: &'static str, status: sys::dsv4mx_status) -> Result<()> {
        check(self.inner.api, operation, status)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("device", &self.inner.device)
            .field("device_ordinal", &self.inner.ordinal)
            .finish_non_exhaustive()
    }
}

/// How to open a device. Everything has a default.
#[derive(Debug, Default)]
pub struct ContextBuilder {
    device: Option<Device>,
    ordinal: i32,
    threads: i32,
    cpu_isa: Option<CpuIsa>,
    log_level: i32,
    hooks: Hooks,
    #[cfg(feature = "experimental")]
    plan_file: Option<std::path::PathBuf>,
}

impl ContextBuilder {
    /// The kind of device; [`Device::Auto`] by default.
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Ordinal of the CUDA device; 0 by default.
    pub fn ordinal(mut self, ordinal: i32) -> Self {
        self.ordinal = ordinal;
        self
    }

    /// CPU: threads to use, 1..4096; by default what the process may use.
    pub fn threads(mut self, threads: i32) -> Self {
        self.threads = threads;
        self
    }

    /// CPU: the instruction set; by default the best that there is.
    pub fn cpu_isa(mut self, isa: CpuIsa) -> Self {
        self.cpu_isa = Some(isa);
        self
    }

    /// Receives lines of the log down to `level`, on the thread that made the call; never from an apply. A panic in it is
    /// caught.
    pub fn log(
        mut self,
        level: LogLevel,
        log: impl Fn(LogLevel, &str) + Send + Sync + 'static,
    ) -> Self {
        self.log_level = level.into();
        self.hooks.log = Some(Box::new(log));
        self
    }

    /// Memory of the caller for everything large. A panic in it counts as "no memory".
    pub fn allocator(mut self, allocator: impl Allocator + 'static) -> Self {
        self.hooks.allocator = Some(Box::new(allocator));
        self
    }

    /// CUDA: a file of rows that override the kernel plan. Experimental.
    #[cfg(feature = "experimental")]
    pub fn plan_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.plan_file = Some(path.into());
        self
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`crate::Status::LibraryNotLoaded`], [`crate::Status::InvalidArgument`], [`crate::Status::NoDevice`],
    /// [`crate::Status::Unsupported`] (no CUDA in the library), [`crate::Status::UnsupportedDevice`],
    /// [`crate::Status::OutOfMemory`], [`crate::Status::CudaError`], [`crate::Status::CudaSticky`]
    pub fn build(self) -> Result<Context> {
        let api = sys::api()?;
        let hooks = Arc::new(self.hooks);
        let mut desc = sys::dsv4mx_context_desc {
            device: self.device.map_or(0, Into::into),
            device_ordinal: self.ordinal,
            threads: self.threads,
            cpu_isa: self.cpu_isa.map_or(0, Into::into),
            log_level: self.log_level,
            ..Default::default()
        };
        hooks.bind(&mut desc);
        #[cfg(feature = "experimental")]
        let plan_file = match self.plan_file {
            Some(path) => Some(text::to_c(
                "context_create",
                "plan_file",
                path.into_os_string().into_encoded_bytes(),
            )?),
            None => None,
        };
        #[cfg(feature = "experimental")]
        let experimental = sys::experimental::dsv4mx_context_experimental {
            plan_file: plan_file.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            ..Default::default()
        };
        #[cfg(feature = "experimental")]
        if plan_file.is_some() {
            desc.experimental = &experimental;
        }
        let mut raw = ptr::null_mut();
        // SAFETY: the descriptor and what it points to live for the call, the hooks for as long as the context.
        let status = unsafe { api.dsv4mx_context_create(&desc, &mut raw) };
        check(api, "context_create", status)?;
        let raw = non_null("context_create", raw)?;
        let mut inner = Inner { api, raw, device: Device::Cpu, ordinal: 0, _hooks: hooks };
        let mut info = sys::dsv4mx_context_info::INIT;
        // SAFETY: the context just made, and a struct with its size.
        let status = unsafe { api.dsv4mx_context_query(raw.as_ptr(), &mut info) };
        check(api, "context_query", status)?;
        inner.device = info.device.into();
        inner.ordinal = info.device_ordinal;
        Ok(Context { inner: Arc::new(inner) })
    }
}

/// What a successful create gave. NULL would be a bug of the library, and is told as one.
pub(crate) fn non_null<T>(operation: &'static str, raw: *mut T) -> Result<NonNull<T>> {
    NonNull::new(raw).ok_or_else(|| {
        crate::Error::new(crate::Status::Internal, operation, "success without an object")
    })
}

/// What a context runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextInfo {
    /// CPU or CUDA.
    pub device: Device,
    /// CUDA ordinal; 0 on the CPU.
    pub device_ordinal: i32,
    /// CPU threads in use; 0 on CUDA.
    pub threads: i32,
    /// CPU instruction set in use.
    pub cpu_isa: CpuIsa,
    /// 90 for SM 9.0; 0 on the CPU.
    pub compute_capability: i32,
    /// 0 on the CPU.
    pub multiprocessors: i32,
    /// Second-level cache in bytes; 0 on the CPU.
    pub l2_bytes: i64,
    /// Device name, or "CPU".
    pub name: String,
}

/// A device, usable or not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// CPU or CUDA.
    pub device: Device,
    /// Whether a context can be opened on it.
    pub supported: bool,
    /// 90 for SM 9.0; 0 on the CPU.
    pub compute_capability: i32,
    /// 0 on the CPU.
    pub multiprocessors: i32,
    /// Memory of the device.
    pub total_bytes: i64,
    /// Free memory, where that is known without opening a CUDA context.
    pub free_bytes: Option<i64>,
    /// Device name, or "CPU".
    pub name: String,
    /// Why it is not supported, or empty.
    pub reason: String,
}

impl DeviceInfo {
    /// Number of devices of a kind; without a driver, or in a library without CUDA, there are 0 CUDA devices.
    ///
    /// # Errors
    /// [`crate::Status::LibraryNotLoaded`], [`crate::Status::InvalidArgument`] ([`Device::Auto`] is no kind).
    pub fn count(kind: Device) -> Result<i32> {
        let api = sys::api()?;
        let mut count = 0;
        // SAFETY: a place for the result.
        let status = unsafe { api.dsv4mx_device_get_count(kind.into(), &mut count) };
        check(api, "device_get_count", status)?;
        Ok(count)
    }

    /// Describes a device without opening it.
    ///
    /// # Errors
    /// [`crate::Status::LibraryNotLoaded`], [`crate::Status::InvalidArgument`], [`crate::Status::NoDevice`],
    /// [`crate::Status::Unsupported`] (no CUDA in the library).
    pub fn query(kind: Device, ordinal: i32) -> Result<Self> {
        let api = sys::api()?;
        let mut info = sys::dsv4mx_device_info::INIT;
        // SAFETY: a struct with its size.
        let status = unsafe { api.dsv4mx_device_query(kind.into(), ordinal, &mut info) };
        check(api, "device_query", status)?;
        Ok(Self {
            device: info.device.into(),
            supported: info.supported != 0,
            compute_capability: info.compute_capability,
            multiprocessors: info.multiprocessors,
            total_bytes: info.total_bytes,
            free_bytes: (info.free_bytes >= 0).then_some(info.free_bytes),
            name: text::from_field(&info.name),
            reason: text::from_field(&info.reason),
        })
    }
}
