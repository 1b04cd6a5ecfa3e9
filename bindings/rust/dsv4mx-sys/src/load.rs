//! Finds and opens the library at run time, and tells apart what can be wrong with a file.

use std::env;
use std::fs::File;
use std::io::Read;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use crate::error::{Attempt, LoadError, Reason};
use crate::{Api, bindings, experimental};

const SONAME: &str = "libdsv4mx.so.0";

/// Places to look in: what the user named and nothing else, or the program's folder and the system's.
fn candidates() -> Vec<PathBuf> {
    if let Some(named) = env::var_os("DSV4MX_LIBRARY").filter(|v| !v.is_empty()) {
        return vec![named.into()];
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(SONAME)));
    beside.into_iter().chain([SONAME.into()]).collect()
}

pub fn search() -> Result<Api, LoadError> {
    search_in(candidates())
}

/// The first candidate that can be used.
pub fn search_in(candidates: Vec<PathBuf>) -> Result<Api, LoadError> {
    let mut attempts = Vec::new();
    for path in candidates {
        match open(&path) {
            Ok(api) => return Ok(api),
            Err(reason) => attempts.push(Attempt { path, reason }),
        }
    }
    Err(LoadError { attempts })
}

fn open(path: &Path) -> Result<Api, Reason> {
    // A name without a slash is the loader's to find.
    if path.components().count() > 1 {
        check_file(path)?;
    }
    // SAFETY: dsv4mx has no initialisers that ask anything of the caller; a file that only bears its name could do
    // anything, as with every way of loading a library.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| explain(path, &e))?;
    // Never unloaded: a CUDA binary registers itself with the driver, and handles may outlive any owner.
    let library = ManuallyDrop::new(library);
    // SAFETY: the one signature that every version has, checked before any other function is called.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> u32>(b"dsv4mx_version\0") }
        .map_err(|_| Reason::MissingSymbol { name: "dsv4mx_version" })?;
    // SAFETY: takes nothing.
    Api::check_version(unsafe { version() })?;
    // SAFETY: a library of the version that the signatures were made from.
    let functions = unsafe { bindings::Functions::load(&library) }
        .map_err(|name| Reason::MissingSymbol { name })?;
    // SAFETY: as above.
    let experimental = unsafe { experimental::Functions::load(&library) };
    Ok(Api { functions, experimental, path: path.to_owned() })
}

/// What the loader's own words hide: it says "no such file" also of a library for another processor.
fn check_file(path: &Path) -> Result<(), Reason> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Reason::Missing,
        _ => Reason::Other(error.to_string()),
    })?;
    // The header; the offsets are those of the ELF specification.
    let mut head = [0; 64];
    if file.read_exact(&mut head).is_err() || !head.starts_with(b"\x7fELF") {
        return Err(Reason::NotALibrary);
    }
    let (class, data) = (head[4], head[5]);
    let machine = if data == 2 {
        u16::from_be_bytes([head[18], head[19]])
    } else {
        u16::from_le_bytes([head[18], head[19]])
    };
    let Some((wanted_machine, wanted)) = this_machine() else { return Ok(()) };
    if (class, data, machine) != (2, 1, wanted_machine) {
        return Err(Reason::WrongArchitecture { found: machine_name(class, machine), wanted });
    }
    // The table of sections stands at the end. The loader would map what is missing, and the process would die.
    let number = |at: usize, bytes: usize| {
        head[at..at + bytes].iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte))
    };
    let whole = number(40, 8).saturating_add(number(58, 2) * number(60, 2));
    let size = file.metadata().map_err(|error| Reason::Other(error.to_string()))?.len();
    if size < whole {
        return Err(Reason::Other(format!("cut short: {size} bytes, wanted {whole}")));
    }
    Ok(())
}

fn this_machine() -> Option<(u16, &'static str)> {
    match env::consts::ARCH {
        "x86_64" => Some((62, "x86-64")),
        "aarch64" => Some((183, "aarch64")),
        _ => None,
    }
}

fn machine_name(class: u8, machine: u16) -> String {
    match (machine, class) {
        (3, _) => "x86 (32 bit)".into(),
        (62, 1) => "x32".into(),
        (62, _) => "x86-64".into(),
        (40, _) => "arm (32 bit)".into(),
        (183, _) => "aarch64".into(),
        (21, _) => "powerpc64".into(),
        (243, _) => "risc-v".into(),
        (other, _) => format!("ELF machine {other}"),
    }
}

/// glibc says "NAME: what is wrong", where NAME is the file asked for, or a library that it needs.
fn explain(path: &Path, error: &libloading::Error) -> Reason {
    use std::error::Error;
    let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    let about = text.split(": ").next().unwrap_or_default();
    let itself = Path::new(about) == path;
    if text.contains("cannot open shared object file") {
        return if itself {
            Reason::Missing
        } else {
            Reason::MissingDependency { name: about.to_owned() }
        };
    }
    if itself && text.contains("wrong ELF class") {
        let wanted = this_machine().map_or(env::consts::ARCH, |(_, name)| name);
        return Reason::WrongArchitecture { found: "another word size".into(), wanted };
    }
    if itself && (text.contains("invalid ELF header") || text.contains("file too short")) {
        return Reason::NotALibrary;
    }
    Reason::Other(text)
}
