//! The small examples as programs, and the README's quick start.

use std::path::Path;
use std::process::{Command, Output};
use std::{env, fs};

use dsv4mx::{Device, DeviceInfo};

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn minimal() {
    let out = Command::new(env!("CARGO_BIN_EXE_minimal")).output().unwrap();
    assert!(out.status.success() && text(&out).starts_with("cpu "), "{}", text(&out));
}

#[test]
fn the_quick_start_is_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = fs::read_to_string(root.join("src/bin/minimal.rs")).unwrap();
    let readme = fs::read_to_string(root.join("../../bindings/rust/dsv4mx/README.md")).unwrap();
    assert!(readme.contains(&format!("```rust\n{example}```\n")), "README.md has another program");
    let lines = example.lines().count();
    assert!((15..=30).contains(&lines), "{lines} lines");
}

/// The library that is not there: every example says so in its own words.
#[test]
fn a_missing_library_is_told() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minimal"));
    let out = command.env("DSV4MX_LIBRARY", "/nonexistent/libdsv4mx.so.0").output().unwrap();
    assert!(!out.status.success());
    assert!(text(&out).contains("/nonexistent/libdsv4mx.so.0: no such file"), "{}", text(&out));
}

#[test]
fn checkpoint() {
    let make = env::var_os("DSV4MX_CHECKPOINT_MAKE")
        .expect("DSV4MX_CHECKPOINT_MAKE must name the program that writes a checkpoint");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("checkpoint");
    let _ = fs::remove_dir_all(&folder);
    let sizes = ["--experts", "8", "--hidden", "320", "--intermediate", "192", "--shards", "3"];
    let made = Command::new(make).arg(&folder).args(sizes).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));

    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkpoint"));
        command.arg(&folder).args(arguments).output().unwrap()
    };
    let out = run(&["--tokens", "24"]);
    let shown = text(&out);
    assert!(out.status.success(), "{shown}");
    assert!(shown.contains("E 8, H 320, I 192, top-k 6"), "{shown}");
    assert!(shown.contains("relative L2 against the fp64 reference"), "{shown}");
    // No terminal, no progress.
    assert!(out.stderr.is_empty(), "{shown}");
    let command = format!("'{}' '{}'", env!("CARGO_BIN_EXE_checkpoint"), folder.display());
    match Command::new("script").args(["-qec", &command, "/dev/null"]).output() {
        Ok(out) => {
            let shown = text(&out);
            assert!(out.status.success(), "{shown}");
            assert!(shown.contains("LOAD: 100 %") && shown.contains("PREPARE: 100 %"), "{shown:?}");
        }
        Err(_) => println!("skipped: progress on a terminal: no program `script`"),
    }

    let out = run(&["--layer", "77"]);
    assert!(!out.status.success() && text(&out).contains("NOT_FOUND"), "{}", text(&out));
    let out = run(&["--top-k", "9"]);
    assert!(
        !out.status.success() && text(&out).contains("the layer has 8 experts"),
        "{}",
        text(&out)
    );
    let out = run(&["--nonsense"]);
    assert!(!out.status.success() && text(&out).contains("what is '--nonsense'?"));
}

/// Groups of threads: experts dealt out, slices, and both.
#[test]
fn ranks() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_ranks")).args(arguments).output().unwrap()
    };
    for arguments in [&["1"][..], &["2"], &[], &["8"], &["2", "2"], &["4", "2"]] {
        let out = run(arguments);
        let shown = text(&out);
        assert!(out.status.success(), "{arguments:?}: {shown}");
        let bits = arguments.len() < 2;
        assert_eq!(shown.contains("tokens: the bits of one rank"), bits, "{arguments:?}: {shown}");
    }
    if DeviceInfo::query(Device::Cuda, 0).is_ok_and(|info| info.supported) {
        // Where there are fewer GPUs than ranks, several share one.
        for arguments in [&["1"][..], &["2"], &["4"], &["2", "2"]] {
            let out = run(&[&["--device", "cuda"], arguments].concat());
            let shown = text(&out);
            assert!(out.status.success(), "{arguments:?}: {shown}");
            let bits = arguments.len() < 2;
            assert_eq!(shown.contains("tokens: the bits of one rank"), bits, "{shown}");
        }
    }
    let out = run(&["--device", "abacus"]);
    assert!(!out.status.success() && text(&out).contains("abacus"), "{}", text(&out));
    for arguments in [&["3"][..], &["4", "3"], &["17"], &["two"]] {
        let out = run(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {}", text(&out));
        assert!(text(&out).starts_with("usage: ranks"), "{}", text(&out));
    }
}

/// Every layer of a model in one table, as the example of the same name in the other languages prints it.
#[test]
fn model() {
    let make = env::var_os("DSV4MX_CHECKPOINT_MAKE")
        .expect("DSV4MX_CHECKPOINT_MAKE must name the program that writes a checkpoint");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model_test.sh");
    let out = Command::new(script).arg(make).arg(env!("CARGO_BIN_EXE_model")).output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
}
