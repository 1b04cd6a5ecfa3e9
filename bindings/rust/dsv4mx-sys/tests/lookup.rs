//! Where the library is looked for, and what is said when it is not usable. Each case is a process of its own, because a
//! process loads the library once.

#![cfg(not(feature = "link"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use dsv4mx_sys::{DSV4MX_VERSION_MAJOR, DSV4MX_VERSION_MINOR, Reason};

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Compiles a shared library from one line of C.
fn library(path: &Path, source: &str, arguments: &[&str]) {
    let c = path.with_extension("c");
    fs::write(&c, source).unwrap();
    let cc = env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut command = Command::new(cc);
    command.args(["-shared", "-fPIC"]).arg(&c).arg("-o").arg(path).args(arguments);
    assert!(command.status().unwrap().success(), "the C compiler refused {}", c.display());
}

/// Runs `probe` below in this program under a name in `folder`, so that what is beside it is known. A link, because a copy
/// cannot be run while a child that another test just forked still has it open for writing.
fn probe_in(folder: &Path, named: Option<&Path>) -> String {
    probe_with(folder, named, None)
}

/// The same where the loader looks in `system` too.
fn probe_with(folder: &Path, named: Option<&Path>, system: Option<&Path>) -> String {
    let program = folder.join("program");
    if !program.exists() {
        fs::hard_link(env::current_exe().unwrap(), &program).unwrap();
    }
    let mut command = Command::new(&program);
    command.args(["--exact", "probe", "--nocapture", "--test-threads=1"]);
    command.env("PROBE", "1").env_remove("LD_LIBRARY_PATH").env_remove("DSV4MX_LIBRARY");
    if let Some(path) = named {
        command.env("DSV4MX_LIBRARY", path);
    }
    if let Some(path) = system {
        command.env("LD_LIBRARY_PATH", path);
    }
    let Output { stdout, stderr, status } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let stdout = String::from_utf8(stdout).unwrap();
    let line = stdout.lines().find_map(|l| l.split_once("PROBE ")).expect("a line of the probe");
    line.1.to_owned()
}

/// No test by itself: prints what loading gave.
#[test]
fn probe() {
    if env::var_os("PROBE").is_none() {
        return;
    }
    match dsv4mx_sys::api() {
        Ok(api) => println!("PROBE loaded {}", api.path().display()),
        Err(error) => {
            assert!(!error.attempts().is_empty());
            println!("PROBE {error}");
        }
    }
}

fn real_library() -> PathBuf {
    env::var_os("DSV4MX_LIBRARY").expect("DSV4MX_LIBRARY must name the library under test").into()
}

#[test]
fn every_place_is_named() {
    let folder = folder("nowhere");
    let text = probe_in(&folder, None);
    let beside = folder.join("libdsv4mx.so.0");
    // The system may have the library installed; the place beside the program has not.
    if !text.starts_with("loaded libdsv4mx.so.0") {
        let wanted = format!(
            "cannot load libdsv4mx: {}: no such file; libdsv4mx.so.0: no such file; DSV4MX_LIBRARY can name the file",
            beside.display()
        );
        assert_eq!(text, wanted);
    }
}

#[test]
fn a_named_library_is_the_only_one() {
    let folder = folder("named");
    let text = probe_in(&folder, Some(Path::new("/nonexistent/libdsv4mx.so")));
    assert_eq!(
        text,
        "cannot load libdsv4mx: /nonexistent/libdsv4mx.so: no such file; DSV4MX_LIBRARY can name the file"
    );
}

#[test]
fn a_missing_dependency_is_told_from_a_missing_file() {
    let folder = folder("dependency");
    let dependency = folder.join("libneeded.so");
    library(&dependency, "int needed(void) { return 1; }\n", &[]);
    let user = folder.join("libuser.so");
    let at = format!("-L{}", folder.display());
    library(&user, "int needed(void); int use(void) { return needed(); }\n", &[&at, "-lneeded"]);
    fs::remove_file(&dependency).unwrap();
    let text = probe_in(&folder, Some(&user));
    assert!(text.contains("libuser.so: needs libneeded.so, which is missing;"), "{text}");
}

#[test]
fn another_processor_is_named() {
    let folder = folder("processor");
    let path = folder.join("lib.so");
    library(&path, "int nothing;\n", &[]);
    let mut bytes = fs::read(&path).unwrap();
    let wanted = if cfg!(target_arch = "x86_64") { "x86-64" } else { "aarch64" };
    let (machine, found) = if wanted == "aarch64" { (62, "x86-64") } else { (183, "aarch64") };
    bytes[18] = machine;
    fs::write(&path, bytes).unwrap();
    let text = probe_in(&folder, Some(&path));
    let expected = format!("lib.so: wrong architecture: found {found}, wanted {wanted};");
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn another_version_is_refused_with_both_versions() {
    let (major, minor) = (DSV4MX_VERSION_MAJOR, DSV4MX_VERSION_MINOR);
    for (a, b) in [(major, minor + 1), (major + 1, minor)] {
        let folder = folder(&format!("version_{a}_{b}"));
        let path = folder.join("libdsv4mx.so.0");
        let version = a << 16 | b << 8 | 7;
        library(&path, &format!("unsigned dsv4mx_version(void) {{ return {version}; }}\n"), &[]);
        // Beside the program: it goes on to the system's, and names both.
        let text = probe_in(&folder, None);
        if !text.starts_with("loaded") {
            let expected = format!(
                "{}: wrong ABI version: found {a}.{b}.7, wanted {major}.{minor}; libdsv4mx.so.0: ",
                path.display()
            );
            assert!(text.contains(&expected), "{text}");
        }
    }
}

#[test]
fn files_that_are_no_library_of_ours() {
    let folder = folder("no_library");
    let (text_file, short, foreign) =
        (folder.join("text.so"), folder.join("short.so"), folder.join("foreign.so"));
    fs::write(&text_file, "INPUT ( /lib/libsomething.so.1 and some more text )\n").unwrap();
    fs::write(&short, "\x7fELF").unwrap();
    library(&foreign, "int nothing;\n", &[]);
    for (path, expected) in [
        (&text_file, "text.so: not a shared library;"),
        (&short, "short.so: not a shared library;"),
        (&foreign, "foreign.so: has no function dsv4mx_version;"),
    ] {
        let text = probe_in(&folder, Some(path));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_library_that_lacks_a_function_is_refused() {
    let folder = folder("lacks");
    let path = folder.join("lib.so");
    let version = DSV4MX_VERSION_MAJOR << 16 | DSV4MX_VERSION_MINOR << 8;
    library(&path, &format!("unsigned dsv4mx_version(void) {{ return {version}; }}\n"), &[]);
    let text = probe_in(&folder, Some(&path));
    assert!(text.contains("lib.so: has no function dsv4mx_version_string;"), "{text}");
}

#[test]
fn the_copy_beside_the_program_is_found() {
    let library = real_library();
    let folder = folder("beside");
    let copy = folder.join("libdsv4mx.so.0");
    fs::copy(library, &copy).unwrap();
    assert_eq!(probe_in(&folder, None), format!("loaded {}", copy.display()));
}

#[test]
fn an_unusable_file_is_passed_over() {
    let library = real_library();
    let (folder, system) = (folder("unusable"), folder("unusable_system"));
    let beside = folder.join("libdsv4mx.so.0");
    fs::write(&beside, &fs::read(&library).unwrap()[..3000]).unwrap();
    fs::copy(library, system.join("libdsv4mx.so.0")).unwrap();
    assert_eq!(probe_with(&folder, None, Some(&system)), "loaded libdsv4mx.so.0");
    let text = probe_in(&folder, None);
    if !text.starts_with("loaded") {
        let both =
            format!("cannot load libdsv4mx: {}: cut short: 3000 bytes, wanted ", beside.display());
        assert!(
            text.starts_with(&both) && text.contains("; libdsv4mx.so.0: no such file"),
            "{text}"
        );
    }
}

#[test]
fn a_library_is_loaded_once() {
    let path = real_library();
    let first = dsv4mx_sys::load_from(&path).unwrap();
    assert_eq!(first.path(), path);
    let again = dsv4mx_sys::api().unwrap();
    assert!(std::ptr::eq(first, again));
    let error = dsv4mx_sys::load_from("/another/libdsv4mx.so").unwrap_err();
    let expected = Reason::Other(format!("{} is loaded already", path.display()));
    assert_eq!(error.attempts()[0].reason, expected);
}
