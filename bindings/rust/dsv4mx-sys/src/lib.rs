#![doc = include_str!("../README.md")]
#![allow(non_camel_case_types)]

#[cfg(not(any(feature = "load", feature = "link")))]
compile_error!("dsv4mx-sys needs one of its features `load` (default) and `link`");

#[macro_use]
mod functions;

mod api;
#[allow(missing_docs)]
#[rustfmt::skip]
mod bindings;
mod error;
#[cfg(not(feature = "link"))]
mod load;

/// What the header keeps behind `DSV4MX_EXPERIMENTAL`: details of today, outside every promise of compatibility.
#[cfg(feature = "experimental")]
#[allow(missing_docs)]
#[rustfmt::skip]
pub mod experimental;
#[cfg(not(feature = "experimental"))]
#[allow(dead_code, missing_docs)]
#[rustfmt::skip]
mod experimental;

pub use api::{Api, api, load_from};
pub use bindings::*;
pub use error::{Attempt, LoadError, Reason};

/// The functions as the linker finds them (feature `link`).
#[cfg(feature = "link")]
pub mod linked {
    pub use crate::bindings::linked::*;
    #[cfg(feature = "experimental")]
    pub use crate::experimental::linked::*;
}
