//! Which NCCL there is. It is never linked, and never loaded unasked.

use std::ffi::CString;
use std::path::Path;
use std::ptr;

use crate::error::{Result, check};
use crate::{sys, text};

/// Which NCCL is used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NcclInfo {
    /// As `ncclGetVersion` gives it, e.g. 22809.
    pub version: i32,
    /// Its file.
    pub file: String,
}

impl NcclInfo {
    /// Loads NCCL, 2.19 or later, and says which; works without a GPU. `None` is the file of `DSV4MX_NCCL_PATH`, what the
    /// process has loaded, or `libnccl.so.2`.
    ///
    /// # Errors
    /// [`crate::Status::LibraryNotLoaded`], [`crate::Status::NcclUnavailable`] (what was tried)
    pub fn query(path: Option<&Path>) -> Result<Self> {
        const OPERATION: &str = "nccl_query";
        let api = sys::api()?;
        let mut info = sys::dsv4mx_nccl_info::INIT;
        let path = path_to_c(OPERATION, path)?;
        let source = source(&path);
        // SAFETY: a source that lives for the call, and a struct with its size.
        let status = unsafe { api.dsv4mx_nccl_query(&source, &mut info) };
        check(api, OPERATION, status)?;
        Ok(Self { version: info.version, file: text::from_field(&info.file) })
    }

    /// A new unique id, for one rank to make and the caller to carry to the others: [`crate::CommDesc::nccl_id`].
    ///
    /// # Errors
    /// As [`NcclInfo::query`], [`crate::Status::NcclError`]
    pub fn unique_id(path: Option<&Path>) -> Result<[u8; 128]> {
        const OPERATION: &str = "nccl_get_unique_id";
        let api = sys::api()?;
        let mut id = [0; 128];
        let path = path_to_c(OPERATION, path)?;
        let source = source(&path);
        // SAFETY: a source that lives for the call, and the 128 bytes that it asks for.
        let status = unsafe { api.dsv4mx_nccl_get_unique_id(&source, id.as_mut_ptr().cast()) };
        check(api, OPERATION, status)?;
        Ok(id)
    }
}

pub(crate) fn path_to_c(operation: &'static str, path: Option<&Path>) -> Result<Option<CString>> {
    path.map(|path| text::to_c(operation, "the path", path.as_os_str().as_encoded_bytes()))
        .transpose()
}

/// It points into `path`, which outlives it.
pub(crate) fn source(path: &Option<CString>) -> sys::dsv4mx_nccl_source {
    sys::dsv4mx_nccl_source {
        path: path.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
        ..Default::default()
    }
}
