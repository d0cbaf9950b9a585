//! The server name in what a program sends first: no input panics; a name that is found is found only in the whole bytes,
//! and is one that DNS may be asked for.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/netshield/src/relay/client_hello.rs"]
mod client_hello;

use client_hello::{HelloError, server_name};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(name)) = server_name(bytes) {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        assert!(!name.is_empty() && name.len() <= 255 && name.bytes().all(allowed));
        // As if the last byte had not come yet.
        let before = server_name(&bytes[..bytes.len() - 1]);
        assert!(matches!(before, Ok(None) | Err(HelloError::TooLong)));
        let more = [bytes, &[22]].concat();
        assert!(server_name(&more).is_err());
    }
});
