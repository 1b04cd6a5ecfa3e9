//! With the feature `link`: asks pkg-config for the library, and hands its header's folder to dependent build scripts as
//! `DEP_DSV4MX_INCLUDE`. Otherwise nothing is done: the library is found at run time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "link")]
    link();
}

#[cfg(feature = "link")]
fn link() {
    // docs.rs has no library, and documentation links nothing.
    if std::env::var_os("DOCS_RS").is_some() {
        return;
    }
    match pkg_config::Config::new().range_version("0.1".."0.2").probe("dsv4mx") {
        Ok(library) => {
            for path in library.include_paths {
                println!("cargo::metadata=INCLUDE={}", path.display());
            }
        }
        Err(error) => {
            println!("cargo::error=the feature `link` needs dsv4mx.pc of version 0.1: {error}");
        }
    }
}
