//! DER and the fields of a leaf certificate that decide: no input panics, values lie within the input, lengths add up.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/netshield/src/relay/der.rs"]
mod der;
#[path = "../../crates/netshield/src/relay/peer.rs"]
mod peer;
#[path = "../../crates/netshield/src/relay/refusal.rs"]
mod refusal;

use der::Reader;

fn walk(bytes: &[u8], depth: u32) {
    let mut reader = Reader::new(bytes);
    let mut total = 0;
    while let Ok((tag, value)) = reader.any() {
        // DER has one form: tag, the shortest length, value.
        let length = if value.len() < 0x80 { 1 } else if value.len() < 0x100 { 2 } else { 3 };
        total += 1 + length + value.len();
        assert!(total <= bytes.len());
        assert_eq!(bytes[total - value.len()..total].as_ptr(), value.as_ptr());
        let _ = der::time(tag, value);
        if tag & 0x20 != 0 && depth < 16 {
            walk(value, depth + 1);
        }
    }
    assert!(!reader.is_empty() || total == bytes.len());
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    walk(bytes, 0);
    if let Ok(leaf) = peer::Leaf::parse(bytes) {
        assert!(leaf.uri.is_ascii());
        if let Some(found) = peer::instance_of(&leaf.uri, "cas.example", "acme/train") {
            assert_eq!(leaf.uri, format!("spiffe://cas.example/acme/train/{found}"));
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(found) = peer::instance_of(text, "cas.example", "acme/train")
    {
        assert_eq!(text, format!("spiffe://cas.example/acme/train/{found}"));
    }
});
