//! Memory of a context's device, so that programs need no CUDA crate.

use std::ffi::c_void;
use std::fmt;
use std::ptr;

use crate::context::Context;
use crate::elements::Element;
use crate::enums::Status;
use crate::error::{Error, Result};
use crate::stream::Stream;

/// Memory of a context's device (host memory on the CPU): 256-byte aligned, through the context's allocator.
///
/// On CUDA it must outlive the work that uses it, which only unsafe calls can enqueue.
pub struct Buffer {
    context: Context,
    pointer: *mut c_void,
    bytes: usize,
}

// SAFETY: plain memory that this object owns; the context is Send and Sync.
unsafe impl Send for Buffer {}
// SAFETY: as above; nothing behind a shared reference writes.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `bytes` bytes of zeros.
    ///
    /// # Errors
    /// [`Status::OutOfMemory`], [`Status::Misaligned`] (what an own allocator gave), [`Status::CudaError`]
    pub fn zeroed(context: &Context, bytes: usize) -> Result<Self> {
        let buffer = Self::uninitialized(context, bytes)?;
        let zeros = vec![0u8; bytes.min(1 << 20)];
        for at in (0..bytes).step_by(zeros.len().max(1)) {
            let part = zeros.len().min(bytes - at);
            // SAFETY: inside both.
            unsafe {
                let to = buffer.pointer.byte_add(at);
                context.copy(to, zeros.as_ptr().cast(), part, Stream::DEFAULT)?;
            }
        }
        context.synchronize(Stream::DEFAULT)?;
        Ok(buffer)
    }

    /// A copy of `data`.
    ///
    /// # Errors
    /// As [`Buffer::zeroed`].
    pub fn from_slice<T: Element>(context: &Context, data: &[T]) -> Result<Self> {
        let mut buffer = Self::uninitialized(context, size_of_val(data))?;
        buffer.copy_from(data)?;
        Ok(buffer)
    }

    pub(crate) fn uninitialized(context: &Context, bytes: usize) -> Result<Self> {
        let mut pointer = ptr::null_mut();
        // SAFETY: a live context, and a place for the result.
        let status =
            unsafe { context.api().dsv4mx_context_alloc(context.raw(), bytes, &mut pointer) };
        context.check("context_alloc", status)?;
        Ok(Self { context: context.clone(), pointer, bytes })
    }

    /// Copies `data` to the front of the buffer, and waits.
    ///
    /// # Errors
    /// [`Status::BufferTooSmall`], [`Status::CudaError`], [`Status::CudaSticky`]
    pub fn copy_from<T: Element>(&mut self, data: &[T]) -> Result<()> {
        let bytes = self.fits(size_of_val(data))?;
        // SAFETY: both have at least that many bytes; the wait ends the use of `data`.
        unsafe {
            self.context.copy(self.pointer, data.as_ptr().cast(), bytes, Stream::DEFAULT)?;
        }
        self.context.synchronize(Stream::DEFAULT)
    }

    /// Copies the front of the buffer into `data`, and waits.
    ///
    /// # Errors
    /// [`Status::BufferTooSmall`], [`Status::CudaError`], [`Status::CudaSticky`]
    pub fn copy_to<T: Element>(&self, data: &mut [T]) -> Result<()> {
        let bytes = self.fits(size_of_val(data))?;
        // SAFETY: both have at least that many bytes, every bit pattern is an element, and the wait ends the copy.
        unsafe {
            self.context.copy(data.as_mut_ptr().cast(), self.pointer, bytes, Stream::DEFAULT)?;
        }
        self.context.synchronize(Stream::DEFAULT)
    }

    fn fits(&self, bytes: usize) -> Result<usize> {
        if bytes <= self.bytes {
            return Ok(bytes);
        }
        let text = format!("the slice has {bytes} bytes, the buffer {}", self.bytes);
        Err(Error::new(Status::BufferTooSmall, "context_copy", text))
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its address on the device; null for 0 bytes.
    pub fn as_ptr(&self) -> *const c_void {
        self.pointer
    }

    /// Its address on the device; null for 0 bytes.
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        self.pointer
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: what alloc of this context gave, once.
        unsafe { self.context.api().dsv4mx_context_free(self.context.raw(), self.pointer) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes at {:p})", self.bytes, self.pointer)
    }
}

/// The scratch memory of one apply at a time; made by [`crate::Layer::workspace`].
#[derive(Debug)]
pub struct Workspace {
    #[cfg(feature = "cudarc")]
    pub(crate) pending: crate::cuda::Pending,
    buffer: Buffer,
}

impl Workspace {
    /// `bytes` bytes of memory of the context's device: see [`crate::Layer::query_workspace`].
    ///
    /// # Errors
    /// [`Status::OutOfMemory`], [`Status::Misaligned`] (what an own allocator gave), [`Status::CudaError`]
    pub fn new(context: &Context, bytes: usize) -> Result<Self> {
        Ok(Self {
            buffer: Buffer::uninitialized(context, bytes)?,
            #[cfg(feature = "cudarc")]
            pending: Default::default(),
        })
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes
    }

    /// Its address on the device.
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        self.buffer.pointer
    }

    pub(crate) fn context(&self) -> &Context {
        self.buffer.context()
    }
}
