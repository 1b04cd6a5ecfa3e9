//! The feature `link`: the same table, filled by the linker.
#![cfg(feature = "link")]

use dsv4mx_sys::{DSV4MX_VERSION, Reason, api, linked, load_from};

#[test]
fn the_linked_library_is_used() {
    let api = api().unwrap();
    assert!(api.path().as_os_str().is_empty());
    // SAFETY: both take nothing.
    let (through_table, direct) = unsafe { (api.dsv4mx_version(), linked::dsv4mx_version()) };
    assert_eq!((through_table >> 8, direct), (DSV4MX_VERSION >> 8, through_table));
    #[cfg(feature = "experimental")]
    assert!(api.dsv4mx_weights_query_census().is_some());
}

#[test]
fn another_one_is_not_loaded_beside_it() {
    let error = load_from("/another/libdsv4mx.so.0").unwrap_err();
    assert!(matches!(error.attempts()[0].reason, Reason::Other(_)), "{error}");
}
