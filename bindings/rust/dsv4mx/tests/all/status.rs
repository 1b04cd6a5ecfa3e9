//! Codes.

use std::ffi::CStr;

use dsv4mx::{Device, Status, sys};

#[test]
fn names_are_those_of_the_library() {
    let api = sys::api().unwrap();
    let mut known = 0;
    for code in 0..200 {
        // SAFETY: takes any number; the text is static.
        let name = unsafe { CStr::from_ptr(api.dsv4mx_status_name(code)) }.to_str().unwrap();
        let status = Status::from(code);
        assert_eq!(status.name(), name, "{code}");
        assert_eq!(i32::from(status), code);
        known += i32::from(!matches!(status, Status::Unknown(_)));
    }
    assert!(known > 25);
}

#[test]
fn a_code_of_a_newer_library_is_kept() {
    let status = Status::from(12345);
    assert_eq!(status, Status::Unknown(12345));
    assert_eq!((i32::from(status), status.to_string()), (12345, "UNKNOWN (12345)".to_owned()));
    assert_eq!(i32::from(Device::Unknown(7)), 7);
    assert_eq!(Status::InvalidTensor.to_string(), "INVALID_TENSOR");
}
