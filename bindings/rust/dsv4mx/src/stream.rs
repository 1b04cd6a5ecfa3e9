//! CUDA streams, which stay the caller's.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

use crate::sys;

/// A CUDA stream that lives at least for `'a`. The CPU backend ignores it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stream<'a> {
    raw: sys::dsv4mx_stream,
    lives: PhantomData<&'a ()>,
}

// SAFETY: a stream is a handle that CUDA lets any thread use.
unsafe impl Send for Stream<'_> {}
// SAFETY: as above.
unsafe impl Sync for Stream<'_> {}

impl Stream<'static> {
    /// The legacy default stream.
    pub const DEFAULT: Self = Self { raw: ptr::null_mut(), lives: PhantomData };
    /// The calling thread's default stream.
    pub const PER_THREAD: Self = Self { raw: ptr::without_provenance_mut(2), lives: PhantomData };
}

impl<'a> Stream<'a> {
    /// A `cudaStream_t` or `CUstream`.
    ///
    /// # Safety
    /// The stream lives for `'a` and until the work that is enqueued on it has finished, and belongs to the device of the
    /// context that it is used with.
    pub const unsafe fn from_raw(stream: *mut c_void) -> Self {
        Self { raw: stream.cast(), lives: PhantomData }
    }

    pub(crate) fn raw(self) -> sys::dsv4mx_stream {
        self.raw
    }
}

impl Default for Stream<'_> {
    fn default() -> Self {
        Stream::DEFAULT
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:p})", self.raw)
    }
}
