//! Sizes, offsets and constants as a C compiler sees them, against those of the generated file.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use dsv4mx_sys::experimental::*;
use dsv4mx_sys::*;

macro_rules! layouts {
    ($($name:ident { $($field:ident)* })*) => {
        /// (struct, its size, its fields with their offsets)
        fn layouts() -> Vec<(&'static str, usize, Vec<(&'static str, usize)>)> {
            vec![$((
                stringify!($name),
                size_of::<$name>(),
                vec![$((stringify!($field), offset_of!($name, $field))),*],
            )),*]
        }
    };
}

macro_rules! constants {
    ($($name:ident)*) => {
        fn constants() -> Vec<(&'static str, i64)> {
            vec![$((stringify!($name), i64::from($name))),*]
        }
    };
}

include!("table.rs");

fn compiled(name: &str, source: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    let (c, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&c, source).unwrap();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../include");
    let cc = env::var("CC").unwrap_or_else(|_| "cc".into());
    let done = Command::new(cc).arg("-I").arg(include).arg(&c).arg("-o").arg(&program).status();
    assert!(done.unwrap().success(), "the C compiler refused {}", c.display());
    program
}

#[test]
fn sizes_offsets_and_constants_are_those_of_c() {
    let mut c = String::from(
        "#define DSV4MX_EXPERIMENTAL\n#include <dsv4mx.h>\n#include <stdio.h>\n#include <stddef.h>\n\
         int main(void) {\n",
    );
    let mut rust = String::new();
    for (name, size, fields) in layouts() {
        let _ = writeln!(c, "printf(\"{name} %zu\\n\", sizeof(struct {name}));");
        let _ = writeln!(rust, "{name} {size}");
        for (field, offset) in fields {
            let _ =
                writeln!(c, "printf(\"{name}.{field} %zu\\n\", offsetof(struct {name}, {field}));");
            let _ = writeln!(rust, "{name}.{field} {offset}");
        }
    }
    for (name, value) in constants() {
        let _ = writeln!(c, "printf(\"{name} %lld\\n\", (long long)({name}));");
        let _ = writeln!(rust, "{name} {value}");
    }
    c += "return 0;\n}\n";
    let out = Command::new(compiled("layout_of_c", &c)).output().unwrap();
    assert!(rust.lines().count() > 300, "the table is shorter than the header");
    assert_eq!(String::from_utf8(out.stdout).unwrap(), rust);
}

#[test]
fn init_is_zero_with_the_size() {
    let desc = dsv4mx_layer_desc::INIT;
    assert_eq!(desc.struct_size, size_of::<dsv4mx_layer_desc>());
    assert_eq!((desc.hidden, desc.flags, desc.clamp_limit), (0, 0, 0.0));
    assert!(desc.placement.is_null() && desc.experimental.is_null());
    assert!(dsv4mx_context_desc::default().alloc.is_none());
}
