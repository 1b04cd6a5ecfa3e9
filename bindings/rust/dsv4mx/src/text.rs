//! Text across the border.

use std::ffi::{CStr, CString, c_char};

use crate::enums::Status;
use crate::error::{Error, Result};

/// A terminated copy; a zero byte inside is refused.
pub fn to_c(operation: &'static str, what: &str, text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).map_err(|error| {
        let at = error.nul_position();
        Error::new(Status::InvalidArgument, operation, format!("{what} has a zero byte at {at}"))
    })
}

/// # Safety
/// NULL, or static text that ends with zero.
pub unsafe fn from_static(text: *const c_char) -> &'static str {
    if text.is_null() {
        return "";
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default()
}

/// Text in a field of a struct.
pub fn from_field(field: &[c_char]) -> String {
    let bytes: Vec<u8> = field.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
