//! Progress, cancelling, a time limit and the stream of a long call.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use crate::enums::Stage;
use crate::stream::Stream;
use crate::sys;

/// How far a long call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What it is doing, and what the numbers count.
    pub stage: Stage,
    /// Finished so far.
    pub done: i64,
    /// All there is to do; 0 if it is not known.
    pub total: i64,
}

/// A flag that any thread may set to cancel the calls that hold it. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicI32>);

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag: calls that hold it end with [`crate::Status::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(1, Ordering::Release);
    }

    /// Takes the wish back, for the next call.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}

type OnProgress<'a> = Box<dyn FnMut(Progress) -> ControlFlow<()> + 'a>;

/// How a long call runs: on which stream, for how long, and who is told. The default is none of it.
#[derive(Default)]
pub struct Control<'a> {
    progress: Option<OnProgress<'a>>,
    cancel: Option<CancelFlag>,
    timeout: Option<Duration>,
    stream: Stream<'a>,
}

impl<'a> Control<'a> {
    /// Nobody is told, nothing is limited, the default stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `progress` at the start and the end of each stage and about once per second, on the thread that made the call.
    /// `ControlFlow::Break` cancels. A panic in it cancels too, and goes on when the call has returned.
    pub fn progress(mut self, progress: impl FnMut(Progress) -> ControlFlow<()> + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Ends the call with [`crate::Status::Cancelled`] when the flag is set.
    pub fn cancel(mut self, flag: &CancelFlag) -> Self {
        self.cancel = Some(flag.clone());
        self
    }

    /// Ends a call that takes longer with [`crate::Status::DeadlineExceeded`].
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// The stream that device tensors are read on, and that work runs on.
    pub fn stream(mut self, stream: Stream<'a>) -> Self {
        self.stream = stream;
        self
    }

    pub(crate) fn on(&self) -> Stream<'a> {
        self.stream
    }

    /// Makes a call with what C calls a control.
    pub(crate) fn run<R>(
        &mut self,
        call: impl FnOnce(*const sys::dsv4mx_control, sys::dsv4mx_stream) -> R,
    ) -> R {
        let stream = self.stream.raw();
        if self.progress.is_none() && self.cancel.is_none() && self.timeout.is_none() {
            return call(ptr::null(), stream);
        }
        let mut raw = sys::dsv4mx_control::INIT;
        let mut state = Running { progress: self.progress.as_mut(), panic: None };
        if state.progress.is_some() {
            raw.progress = Some(on_progress);
            raw.progress_user = ptr::from_mut(&mut state).cast();
        }
        if let Some(flag) = &self.cancel {
            raw.cancel = flag.0.as_ptr();
        }
        if let Some(limit) = self.timeout {
            // 0 would be "no limit".
            raw.timeout_ns = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX).max(1);
        }
        let result = call(&raw, stream);
        match state.panic {
            Some(panic) => resume_unwind(panic),
            None => result,
        }
    }
}

impl fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("progress", &self.progress.is_some())
            .field("cancel", &self.cancel)
            .field("timeout", &self.timeout)
            .field("stream", &self.stream)
            .finish()
    }
}

struct Running<'s, 'a> {
    progress: Option<&'s mut OnProgress<'a>>,
    panic: Option<Box<dyn Any + Send>>,
}

unsafe extern "C" fn on_progress(user: *mut c_void, stage: i32, done: i64, total: i64) -> i32 {
    // SAFETY: `run` gave its own state, which lives until the call returns; the library calls on one thread.
    let state = unsafe { &mut *user.cast::<Running<'_, '_>>() };
    let Some(progress) = state.progress.as_mut() else { return 0 };
    let report = Progress { stage: stage.into(), done, total };
    match catch_unwind(AssertUnwindSafe(|| progress(report))) {
        Ok(ControlFlow::Continue(())) => 0,
        Ok(ControlFlow::Break(())) => 1,
        Err(panic) => {
            state.panic = Some(panic);
            1
        }
    }
}
