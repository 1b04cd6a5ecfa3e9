//! Tests against the library that `DSV4MX_LIBRARY` names, on the CPU.

mod apply;
mod callbacks;
mod checkpoint;
mod comm;
mod common;
mod conformance;
mod errors;
mod experts;
mod marlin;
mod status;
mod threads;
