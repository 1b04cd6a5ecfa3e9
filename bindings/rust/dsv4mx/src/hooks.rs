//! The context's callbacks. Unwinding never reaches C: a panic in a log is dropped after the panic hook has reported it,
//! one in an allocator counts as "no memory".

use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use crate::enums::{LogLevel, Memory};
use crate::sys;

/// Memory of the caller for everything large: experts, staging, [`crate::Buffer`].
///
/// Called on the thread that made the call, never by an apply.
///
/// # Safety
/// `alloc` gives null, or memory of that kind, size and alignment that nobody else uses until `free` gets it back.
pub unsafe trait Allocator: Send + Sync {
    /// Memory for work on `stream` (a `CUstream`), or null. `alignment` is a power of two.
    fn alloc(
        &self,
        bytes: usize,
        alignment: usize,
        memory: Memory,
        stream: *mut c_void,
    ) -> *mut c_void;

    /// Takes back what [`Allocator::alloc`] gave, with the same bytes and kind.
    ///
    /// # Safety
    /// `pointer` came from `alloc` of this allocator, with these bytes and this kind, and is given back once.
    unsafe fn free(&self, pointer: *mut c_void, bytes: usize, memory: Memory, stream: *mut c_void);
}

type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

#[derive(Default)]
pub(crate) struct Hooks {
    pub log: Option<Log>,
    pub allocator: Option<Box<dyn Allocator>>,
}

impl Hooks {
    /// Writes the hooks into a descriptor. They stay where they are for as long as the context lives. (Behind an `Arc`:
    /// moving a `Box` would end the right of C's pointer to it.)
    pub fn bind(self: &Arc<Self>, desc: &mut sys::dsv4mx_context_desc) {
        let user = Arc::as_ptr(self).cast_mut().cast();
        if self.log.is_some() {
            desc.log = Some(on_log);
            desc.log_user = user;
        }
        if self.allocator.is_some() {
            desc.alloc = Some(on_alloc);
            desc.free = Some(on_free);
            desc.alloc_user = user;
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("log", &self.log.is_some())
            .field("allocator", &self.allocator.is_some())
            .finish()
    }
}

unsafe extern "C" fn on_log(user: *mut c_void, level: i32, text: *const c_char) {
    // SAFETY: `bind` gave an object that outlives the context; the text is terminated and lives for this call.
    let (hooks, text) = unsafe { (&*user.cast::<Hooks>(), CStr::from_ptr(text)) };
    if let Some(log) = &hooks.log {
        let _ = catch_unwind(AssertUnwindSafe(|| log(level.into(), &text.to_string_lossy())));
    }
}

unsafe extern "C" fn on_alloc(
    user: *mut c_void,
    bytes: usize,
    alignment: usize,
    memory: i32,
    stream: sys::dsv4mx_stream,
) -> *mut c_void {
    // SAFETY: `bind` gave an object that outlives the context.
    let hooks = unsafe { &*user.cast::<Hooks>() };
    let Some(allocator) = &hooks.allocator else { return ptr::null_mut() };
    catch_unwind(AssertUnwindSafe(|| {
        allocator.alloc(bytes, alignment, memory.into(), stream.cast())
    }))
    .unwrap_or(ptr::null_mut())
}

unsafe extern "C" fn on_free(
    user: *mut c_void,
    pointer: *mut c_void,
    bytes: usize,
    memory: i32,
    stream: sys::dsv4mx_stream,
) {
    // SAFETY: `bind` gave an object that outlives the context.
    let hooks = unsafe { &*user.cast::<Hooks>() };
    if let Some(allocator) = &hooks.allocator {
        let _ = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the library gives back what it got, once.
            unsafe { allocator.free(pointer, bytes, memory.into(), stream.cast()) }
        }));
    }
}
