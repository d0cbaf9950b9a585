//! Frames, answers and switches of the tunnel protocol: no input panics, and what is accepted is in its only form.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/netshield/src/relay/frame.rs"]
mod frame;

use frame::{Answer, Frame, Switch};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = Frame::parse(bytes) {
        assert_eq!(found.encode(), bytes);
    }
    if let Ok(found) = Switch::parse(bytes) {
        assert_eq!(found.encode().as_slice(), bytes);
    }
    if let Ok(found) = Answer::parse(bytes) {
        assert_eq!([found as u8].as_slice(), bytes);
    }
});
