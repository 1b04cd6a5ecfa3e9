//! One prepared expert as bytes.

use std::borrow::Cow;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::slice;

use crate::context::Context;
use crate::enums::Memory;
use crate::error::Result;
use crate::stream::Stream;
use crate::sys;

/// One prepared expert as bytes: all of it, relocatable, of one size for every expert of a layer.
///
/// [`crate::Weights::get_slab`] gives one inside its weights, which stay as they are while it is there; [`Slab::copy`] gives
/// one that owns its bytes, and [`Slab::new`] makes one of bytes that a transport brought. [`crate::Weights::set_slab`]
/// takes all of them.
pub struct Slab<'a> {
    id: u64,
    bytes: Bytes<'a>,
}

enum Bytes<'a> {
    Host(Cow<'a, [u8]>),
    Device { data: *const c_void, size: usize, context: Context },
}

// SAFETY: bytes that are only read, and a context, which is Send and Sync.
unsafe impl Send for Slab<'_> {}
// SAFETY: as above.
unsafe impl Sync for Slab<'_> {}

impl<'a> Slab<'a> {
    /// Bytes in host memory, borrowed or owned, with the [`Slab::id`] of the slab that was sent.
    pub fn new(id: u64, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { id, bytes: Bytes::Host(bytes.into()) }
    }

    /// Bytes in memory of the context's device.
    ///
    /// # Safety
    /// `data` leads to `size` readable bytes there, which do not change, for `'a`.
    pub unsafe fn on_device(context: &Context, id: u64, data: *const c_void, size: usize) -> Self {
        Self { id, bytes: Bytes::Device { data, size, context: context.clone() } }
    }

    /// # Safety
    /// What the struct says is readable and does not change for `'a`.
    pub(crate) unsafe fn of_weights(raw: &sys::dsv4mx_slab, context: &Context) -> Self {
        if Memory::from(raw.memory) == Memory::Device {
            // SAFETY: this function's contract.
            return unsafe { Self::on_device(context, raw.id, raw.data, raw.bytes) };
        }
        // SAFETY: as above.
        Self::new(raw.id, unsafe { slice::from_raw_parts(raw.data.cast::<u8>(), raw.bytes) })
    }

    /// The form: slabs of the same id fit, in another process too; a CPU's and a GPU's differ.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        match &self.bytes {
            Bytes::Host(bytes) => bytes.len(),
            Bytes::Device { size, .. } => *size,
        }
    }

    /// The bytes, where they lie in host memory.
    pub fn as_slice(&self) -> Option<&[u8]> {
        match &self.bytes {
            Bytes::Host(bytes) => Some(bytes),
            Bytes::Device { .. } => None,
        }
    }

    /// The first byte, of the memory that it lies in.
    pub fn as_ptr(&self) -> *const c_void {
        match &self.bytes {
            Bytes::Host(bytes) => bytes.as_ptr().cast(),
            Bytes::Device { data, .. } => *data,
        }
    }

    /// A slab that owns its bytes, in host memory. On CUDA it is copied after what was enqueued on the default stream.
    ///
    /// # Errors
    /// [`crate::Status::CudaError`], [`crate::Status::CudaSticky`]
    pub fn copy(&self) -> Result<Slab<'static>> {
        Ok(Slab::new(self.id, self.to_vec()?))
    }

    /// The bytes in host memory, as [`Slab::copy`] copies them.
    ///
    /// # Errors
    /// As [`Slab::copy`].
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        match &self.bytes {
            Bytes::Host(bytes) => Ok(bytes.to_vec()),
            Bytes::Device { data, size, context } => {
                let mut to = vec![0; *size];
                // SAFETY: both have that many bytes; the wait ends the copy.
                unsafe { context.copy(to.as_mut_ptr().cast(), *data, *size, Stream::DEFAULT)? };
                context.synchronize(Stream::DEFAULT)?;
                Ok(to)
            }
        }
    }

    pub(crate) fn raw(&self) -> sys::dsv4mx_slab {
        let memory = match &self.bytes {
            Bytes::Host(_) => Memory::Host,
            Bytes::Device { .. } => Memory::Device,
        };
        sys::dsv4mx_slab {
            id: self.id,
            // An empty slice has no address to speak of.
            data: if self.bytes() == 0 { ptr::null() } else { self.as_ptr() },
            bytes: self.bytes(),
            memory: memory.into(),
            ..Default::default()
        }
    }
}

impl fmt::Debug for Slab<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab({:#018x}, {} bytes)", self.id, self.bytes())
    }
}
