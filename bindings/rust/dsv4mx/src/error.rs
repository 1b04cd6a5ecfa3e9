//! What went wrong: a status, the call that failed, and one line for people.

use std::ffi::CStr;
use std::fmt;

use crate::enums::Status;
use crate::sys::{self, LoadError};

/// A call failed.
///
/// `{:?}`, which `fn main() -> Result<..>` and `unwrap` print, is the text as well; `{:#?}` shows the fields.
#[derive(thiserror::Error)]
#[error("{operation}: {status}: {text}")]
pub struct Error {
    status: Status,
    operation: &'static str,
    text: String,
    #[source]
    source: Option<BoxError>,
}

/// What a closure of the caller failed with, or why the library could not be loaded.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the calls of this crate give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The cause as a code: what programs compare.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The call that failed, e.g. `layer_create`: the C function's name without its prefix.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// What, got, wanted: one line for people, free to change.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// An error that this crate finds itself, where C sees pointers only.
    #[cold]
    pub(crate) fn new(status: Status, operation: &'static str, text: impl Into<String>) -> Self {
        Self { status, operation, text: text.into(), source: None }
    }

    /// The error of the caller's own code that made the call fail.
    pub(crate) fn because(mut self, source: Option<BoxError>) -> Self {
        self.source = source.or(self.source);
        self
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("Error")
            .field("status", &self.status)
            .field("operation", &self.operation)
            .field("text", &self.text)
            .field("source", &self.source)
            .finish()
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        Self {
            status: Status::LibraryNotLoaded,
            operation: "load",
            text: error.to_string(),
            source: Some(Box::new(error)),
        }
    }
}

/// The status of a call as a result. Called at once, on the thread that made the call: the text is that thread's.
#[inline]
pub(crate) fn check(
    api: &sys::Api,
    operation: &'static str,
    status: sys::dsv4mx_status,
) -> Result<()> {
    if status == sys::DSV4MX_STATUS_OK { Ok(()) } else { Err(failed(api, operation, status)) }
}

#[cold]
fn failed(api: &sys::Api, operation: &'static str, status: sys::dsv4mx_status) -> Error {
    // SAFETY: never NULL, terminated, and this thread's until its next failing call; copied here.
    let text = unsafe { CStr::from_ptr(api.dsv4mx_last_error()) };
    Error::new(status.into(), operation, text.to_string_lossy())
}
