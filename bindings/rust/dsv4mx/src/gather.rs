//! The all-gather that a communicator calls back. Unwinding never reaches C: an error or a panic of the closure ends the
//! call, and goes on behind it.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{BoxError, Result};
use crate::sys;

pub(crate) type Gather =
    Box<dyn FnMut(&[u8], &mut [u8]) -> std::result::Result<(), BoxError> + Send>;

/// A closure where C finds it, and what it failed with in the call that runs.
pub(crate) struct Meeting {
    size: usize,
    state: Mutex<State>,
}

struct State {
    gather: Gather,
    error: Option<BoxError>,
    panic: Option<Box<dyn Any + Send>>,
}

impl Meeting {
    pub fn new(gather: Gather, size: i32) -> Self {
        let state = State { gather, error: None, panic: None };
        // A size that is no number of ranks is refused before anything is called.
        Self { size: usize::try_from(size).unwrap_or(0), state: Mutex::new(state) }
    }

    /// Writes the callback into a descriptor. The closure stays where it is for as long as the communicator lives.
    pub fn bind(self: &Arc<Self>, desc: &mut sys::dsv4mx_comm_desc) {
        desc.all_gather = Some(on_all_gather);
        desc.user = Arc::as_ptr(self).cast_mut().cast();
    }

    /// Ends a call: a panic of the closure goes on, its error is the source of the call's.
    pub fn finish<T>(meeting: Option<&Self>, result: Result<T>) -> Result<T> {
        let Some(meeting) = meeting else { return result };
        let mut state = meeting.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (error, panic) = (state.error.take(), state.panic.take());
        drop(state);
        if let Some(panic) = panic {
            drop(result);
            resume_unwind(panic);
        }
        result.map_err(|failed| failed.because(error))
    }
}

impl fmt::Debug for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meeting").field("size", &self.size).finish_non_exhaustive()
    }
}

unsafe extern "C" fn on_all_gather(
    user: *mut c_void,
    mine: *const c_void,
    all: *mut c_void,
    bytes: usize,
) -> i32 {
    // SAFETY: `bind` gave an object that outlives the communicator.
    let meeting = unsafe { &*user.cast::<Meeting>() };
    let mut state = meeting.state.lock().unwrap_or_else(PoisonError::into_inner);
    let State { gather, error, panic } = &mut *state;
    // SAFETY: by the header's contract `mine` has that many bytes and `all` as many for each rank, apart from each other.
    // The closure may not see memory that was never written.
    let (mine, all) = unsafe {
        let total = bytes * meeting.size;
        all.cast::<u8>().write_bytes(0, total);
        (slice::from_raw_parts(mine.cast(), bytes), slice::from_raw_parts_mut(all.cast(), total))
    };
    match catch_unwind(AssertUnwindSafe(|| gather(mine, all))) {
        Ok(Ok(())) => 0,
        Ok(Err(failed)) => {
            *error = Some(failed);
            1
        }
        Err(caught) => {
            *panic = Some(caught);
            1
        }
    }
}
