//! The library of this process.

use std::fmt;
use std::path::{Path, PathBuf};

#[cfg(feature = "link")]
use std::sync::LazyLock;
#[cfg(not(feature = "link"))]
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::error::{LoadError, Reason};
use crate::{DSV4MX_VERSION_MAJOR, DSV4MX_VERSION_MINOR, bindings, experimental};

/// The loaded (or linked) library: one method for each function of the header. Get it from [`api`].
#[derive(Clone)]
pub struct Api {
    pub(crate) functions: bindings::Functions,
    #[cfg_attr(not(feature = "experimental"), allow(dead_code))]
    pub(crate) experimental: experimental::Functions,
    pub(crate) path: PathBuf,
}

impl Api {
    /// What was loaded: the path or name that the loader was given; empty for a linked library.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A minor version may change the ABI in 0.x, so both must be those of the header.
    pub(crate) fn check_version(found: u32) -> Result<(), Reason> {
        let parts = (found >> 16, found >> 8 & 0xFF, found & 0xFF);
        let wanted = (DSV4MX_VERSION_MAJOR, DSV4MX_VERSION_MINOR);
        if (parts.0, parts.1) == wanted {
            Ok(())
        } else {
            Err(Reason::WrongVersion { found: parts, wanted })
        }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(not(feature = "link"))]
static LOADED: OnceLock<Api> = OnceLock::new();

/// The library of this process, loaded at the first call and never unloaded. A failure is not remembered: a later call
/// tries again.
///
/// It is looked for in this order: the file that `DSV4MX_LIBRARY` names (then nothing else is tried), `libdsv4mx.so.0`
/// beside the running program, and that name wherever the system's loader looks.
///
/// # Errors
/// Every place that was tried and what was wrong there.
#[cfg(not(feature = "link"))]
pub fn api() -> Result<&'static Api, LoadError> {
    match LOADED.get() {
        Some(api) => Ok(api),
        None => first(crate::load::search),
    }
}

/// Loads the library at `path` for this process instead of searching for one.
///
/// # Errors
/// What is wrong with the file; [`Reason::Other`] if another library is loaded already.
#[cfg(not(feature = "link"))]
pub fn load_from(path: impl AsRef<Path>) -> Result<&'static Api, LoadError> {
    let path = path.as_ref();
    let api = first(|| crate::load::search_in(vec![path.to_owned()]))?;
    if api.path == path {
        return Ok(api);
    }
    let reason = Reason::Other(format!("{} is loaded already", api.path.display()));
    Err(LoadError { attempts: vec![crate::Attempt { path: path.to_owned(), reason }] })
}

#[cfg(not(feature = "link"))]
/// Two threads never load two libraries.
fn first(load: impl FnOnce() -> Result<Api, LoadError>) -> Result<&'static Api, LoadError> {
    static LOADING: Mutex<()> = Mutex::new(());
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    match LOADED.get() {
        Some(api) => Ok(api),
        None => {
            let api = load()?;
            Ok(LOADED.get_or_init(|| api))
        }
    }
}

/// The linked library.
///
/// # Errors
/// [`Reason::WrongVersion`] if the library that the system's loader found has another version than the header.
#[cfg(feature = "link")]
pub fn api() -> Result<&'static Api, LoadError> {
    static LINKED: LazyLock<Api> = LazyLock::new(|| Api {
        functions: bindings::Functions::LINKED,
        experimental: experimental::Functions::LINKED,
        path: PathBuf::new(),
    });
    // SAFETY: takes nothing and may be called at any time.
    match Api::check_version(unsafe { LINKED.dsv4mx_version() }) {
        Ok(()) => Ok(&LINKED),
        Err(reason) => {
            let path = PathBuf::from("the linked library");
            Err(LoadError { attempts: vec![crate::Attempt { path, reason }] })
        }
    }
}

/// Refused: this program is linked to its library.
///
/// # Errors
/// Always.
#[cfg(feature = "link")]
pub fn load_from(path: impl AsRef<Path>) -> Result<&'static Api, LoadError> {
    let reason = Reason::Other("this program is linked to its library (feature `link`)".into());
    Err(LoadError { attempts: vec![crate::Attempt { path: path.as_ref().to_owned(), reason }] })
}
