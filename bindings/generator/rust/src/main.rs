//! Writes the raw layer of the Rust binding from `include/dsv4mx.h`: what bindgen makes of it, in three committed files.
//!
//! ```text
//! dsv4mx-bindgen include/dsv4mx.h bindings/rust/dsv4mx-sys
//! ```
//!
//! - `src/bindings.rs`: types, constants and functions of the stable header,
//! - `src/experimental.rs`: what stands behind `DSV4MX_EXPERIMENTAL`,
//! - `tests/layout/table.rs`: names of all fields and constants, which a test compares with a C compiler's view.
//!
//! The functions are written as `functions! { pub fn ...; }` in place of bindgen's `extern "C"` block: `functions!` in
//! `src/lib.rs` makes the table for loading at run time or the block for linking from the same text.

mod markdown;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use bindgen::callbacks::{EnumVariantCustomBehavior, EnumVariantValue, ParseCallbacks};
use syn::{
    Attribute, Expr, ExprLit, Fields, ForeignItem, Item, Lit, Meta, MetaNameValue, parse_quote,
};

/// Structs that the stable header names and `DSV4MX_EXPERIMENTAL` defines.
const EXPERIMENTAL_STRUCTS: &str = "dsv4mx_(context|layer)_experimental";

#[derive(Debug)]
struct Callbacks;

impl ParseCallbacks for Callbacks {
    fn process_comment(&self, comment: &str) -> Option<String> {
        Some(markdown::from_c_comment(comment))
    }

    // The sentinels make the C types signed and are no codes.
    fn enum_variant_behavior(
        &self,
        _enum_name: Option<&str>,
        variant: &str,
        _value: EnumVariantValue,
    ) -> Option<EnumVariantCustomBehavior> {
        variant.ends_with("_SENTINEL").then_some(EnumVariantCustomBehavior::Hide)
    }
}

fn bindgen_items(header: &str, experimental: bool) -> Result<Vec<Item>, String> {
    let mut builder = bindgen::builder()
        .header(header)
        .clang_args(["--target=x86_64-linux-gnu", "-nostdinc", "-isystem"])
        .clang_arg(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
        .allowlist_file(".*dsv4mx\\.h")
        .allowlist_recursively(true)
        .use_core()
        .ctypes_prefix("::core::ffi")
        .prepend_enum_name(false)
        .enable_function_attribute_detection()
        .merge_extern_blocks(true)
        .disable_header_comment()
        .formatter(bindgen::Formatter::None)
        .parse_callbacks(Box::new(Callbacks));
    if experimental {
        builder = builder.clang_arg("-DDSV4MX_EXPERIMENTAL");
    } else {
        builder = builder.blocklist_type(EXPERIMENTAL_STRUCTS);
    }
    let text = builder.generate().map_err(|e| e.to_string())?.to_string();
    let mut items = syn::parse_file(&text).map_err(|e| e.to_string())?.items;
    let header = fs::read_to_string(header).map_err(|e| format!("{header}: {e}"))?;
    tidy_docs(&mut items, &header);
    Ok(items)
}

/// The name by which an item is told apart; bindgen's layout assertions have none and go by their text.
fn key(item: &Item) -> String {
    match item {
        Item::Const(c) if c.ident != "_" => c.ident.to_string(),
        Item::Struct(s) => s.ident.to_string(),
        Item::Type(t) => t.ident.to_string(),
        other => prettyplease::unparse(&file(vec![other.clone()])),
    }
}

/// Docs of one item as single lines, which print as `/// text`. What libclang repeats is dropped: an enumerator without a
/// comment gets that of the one before it.
fn set_docs(attributes: &mut Vec<Attribute>, docs: &str) {
    attributes.retain(|a| !a.path().is_ident("doc"));
    for line in docs.lines().rev() {
        let line = if line.is_empty() { String::new() } else { format!(" {line}") };
        attributes.insert(0, parse_quote!(#[doc = #line]));
    }
}

fn docs(attributes: &[Attribute]) -> String {
    let text =
        attributes.iter().filter(|a| a.path().is_ident("doc")).filter_map(|a| match &a.meta {
            Meta::NameValue(MetaNameValue {
                value: Expr::Lit(ExprLit { lit: Lit::Str(s), .. }),
                ..
            }) => Some(s.value()),
            _ => None,
        });
    text.collect::<Vec<_>>().join("\n")
}

/// bindgen drops `typedef struct X X;`, whose comment documents the opaque struct.
fn typedef_docs(header: &str, name: &str) -> Option<String> {
    let (before, _) = header.split_once(&format!("typedef struct {name} {name};"))?;
    let comment = before.trim_end().strip_suffix("*/")?;
    Some(markdown::from_c_comment(comment.rsplit_once("/**")?.1))
}

fn tidy_docs(items: &mut [Item], header: &str) {
    let mut previous = String::new();
    for item in items {
        match item {
            Item::Const(c) => {
                let text = docs(&c.attrs);
                set_docs(&mut c.attrs, if text == previous { "" } else { &text });
                previous = text;
            }
            Item::Type(t) => {
                let text = docs(&t.attrs);
                set_docs(&mut t.attrs, &text);
            }
            Item::Struct(s) => {
                let mut text = docs(&s.attrs);
                if text.is_empty() {
                    text = typedef_docs(header, &s.ident.to_string()).unwrap_or_default();
                }
                set_docs(&mut s.attrs, &text);
                for field in &mut s.fields {
                    let text = docs(&field.attrs);
                    set_docs(&mut field.attrs, &text);
                }
            }
            Item::ForeignMod(block) => {
                for function in &mut block.items {
                    if let ForeignItem::Fn(f) = function {
                        let text = docs(&f.attrs);
                        set_docs(&mut f.attrs, &text);
                    }
                }
            }
            _ => {}
        }
    }
}

fn file(items: Vec<Item>) -> syn::File {
    syn::File { shebang: None, attrs: Vec::new(), items }
}

/// Splits functions from the other items.
fn split(items: Vec<Item>) -> (Vec<Item>, Vec<ForeignItem>) {
    let mut others = Vec::new();
    let mut functions = Vec::new();
    for item in items {
        match item {
            Item::ForeignMod(block) => functions.extend(block.items),
            other => others.push(other),
        }
    }
    (others, functions)
}

fn function_name(function: &ForeignItem) -> Option<String> {
    match function {
        ForeignItem::Fn(f) => Some(f.sig.ident.to_string()),
        _ => None,
    }
}

fn fields(item: &Item) -> Option<(String, Vec<String>)> {
    let Item::Struct(s) = item else { return None };
    let Fields::Named(named) = &s.fields else { return None };
    let names: Vec<String> =
        named.named.iter().filter_map(|f| f.ident.as_ref().map(ToString::to_string)).collect();
    (names.first()? == "struct_size").then(|| (s.ident.to_string(), names))
}

const GENERATED: &str = "// Generated from include/dsv4mx.h by bindings/generate. Do not edit.\n\n";

fn source(
    items: Vec<Item>,
    functions: Vec<ForeignItem>,
    macro_name: &str,
) -> Result<String, String> {
    let sized: Vec<String> = items.iter().filter_map(fields).map(|(name, _)| name).collect();
    let mut text = GENERATED.to_owned();
    text += &prettyplease::unparse(&file(items));
    let block: Item = syn::parse_str("unsafe extern \"C\" {}").map_err(|e| e.to_string())?;
    let Item::ForeignMod(mut block) = block else { return Err("no extern block".into()) };
    block.items = functions;
    let block = prettyplease::unparse(&file(vec![Item::ForeignMod(block)]));
    let body = block.strip_prefix("unsafe extern \"C\" {").ok_or("no extern block")?;
    let _ = write!(text, "\n{macro_name}! {{{body}\nsized! {{\n");
    for name in sized {
        let _ = writeln!(text, "    {name},");
    }
    text += "}\n";
    Ok(text)
}

/// `layouts!` lists the fields of every struct, `constants!` the constants.
fn layout_table(items: &[Item]) -> String {
    let mut text = GENERATED.to_owned() + "layouts! {\n";
    for (name, fields) in items.iter().filter_map(fields) {
        let _ = writeln!(text, "    {name} {{ {} }}", fields.join(" "));
    }
    text += "}\n\nconstants! {\n";
    for item in items {
        match item {
            Item::Const(c) if c.ident != "_" => {
                let _ = writeln!(text, "    {}", c.ident);
            }
            _ => {}
        }
    }
    text + "}\n"
}

fn generate(header: &str, out: &Path) -> Result<(), String> {
    let (stable, stable_functions) = split(bindgen_items(header, false)?);
    let (all, all_functions) = split(bindgen_items(header, true)?);
    let known: HashSet<String> = stable.iter().map(key).collect();
    let known_functions: HashSet<_> = stable_functions.iter().map(function_name).collect();
    let table = layout_table(&all);
    let experimental = all.into_iter().filter(|i| !known.contains(&key(i))).collect();
    let experimental_functions = all_functions
        .into_iter()
        .filter(|f| !known_functions.contains(&function_name(f)))
        .collect();

    let write = |name: &str, text: String| {
        let path = out.join(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    let mut stable_items: Vec<Item> = vec![parse_quote!(
        use crate::experimental::{dsv4mx_context_experimental, dsv4mx_layer_experimental};
    )];
    stable_items.extend(stable);
    write("src/bindings.rs", source(stable_items, stable_functions, "functions")?)?;
    write(
        "src/experimental.rs",
        source(experimental, experimental_functions, "experimental_functions")?,
    )?;
    write("tests/layout/table.rs", table)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let [_, header, out] = arguments.as_slice() else {
        eprintln!("usage: dsv4mx-bindgen include/dsv4mx.h bindings/rust/dsv4mx-sys");
        return ExitCode::from(2);
    };
    match generate(header, Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("dsv4mx-bindgen: {text}");
            ExitCode::FAILURE
        }
    }
}
