//! Why the library could not be loaded.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// Why one place did not give the library.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// There is no such file.
    Missing,
    /// The file is there, but a library that it needs is not.
    MissingDependency {
        /// The missing library, as the file names it.
        name: String,
    },
    /// A library for another processor.
    WrongArchitecture {
        /// What the file is made for.
        found: String,
        /// What this program runs on.
        wanted: &'static str,
    },
    /// A library whose major or minor version differs from that of the header behind this crate.
    WrongVersion {
        /// Version of the library: major, minor, patch.
        found: (u32, u32, u32),
        /// Version of this crate's header: major and minor.
        wanted: (u32, u32),
    },
    /// A file that is no shared library.
    NotALibrary,
    /// A library without a function that every dsv4mx of this version has.
    MissingSymbol {
        /// The missing function.
        name: &'static str,
    },
    /// Anything else, in the words of the system's loader.
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "no such file"),
            Self::MissingDependency { name } => write!(f, "needs {name}, which is missing"),
            Self::WrongArchitecture { found, wanted } => {
                write!(f, "wrong architecture: found {found}, wanted {wanted}")
            }
            Self::WrongVersion { found: (major, minor, patch), wanted: (a, b) } => {
                write!(f, "wrong ABI version: found {major}.{minor}.{patch}, wanted {a}.{b}")
            }
            Self::NotALibrary => write!(f, "not a shared library"),
            Self::MissingSymbol { name } => write!(f, "has no function {name}"),
            Self::Other(text) => write!(f, "{text}"),
        }
    }
}

/// One place that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The path, or a bare name that the system's loader looked for.
    pub path: PathBuf,
    /// What was wrong there.
    pub reason: Reason,
}

/// The library could not be loaded: every place that was tried, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    pub(crate) attempts: Vec<Attempt>,
}

impl LoadError {
    /// Every place that was tried, in order; never empty.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot load libdsv4mx:")?;
        for attempt in &self.attempts {
            write!(f, " {}: {};", attempt.path.display(), attempt.reason)?;
        }
        write!(f, " DSV4MX_LIBRARY can name the file")
    }
}

impl Error for LoadError {}
