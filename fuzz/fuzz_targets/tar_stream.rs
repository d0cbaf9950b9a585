//! Tar streams: no input panics; what a member says it stores is read, no more and no less, and its parts lie in its size
//! in order.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/volume-pack/src/error.rs"]
mod error;
#[path = "../../crates/volume-pack/src/tar/member.rs"]
mod member;
#[path = "../../crates/volume-pack/src/tar/pax.rs"]
mod pax;
#[path = "../../crates/volume-pack/src/tar/sparse.rs"]
mod sparse;
#[path = "../../crates/volume-pack/src/tar/stream.rs"]
mod stream;

use std::path::Path;

use stream::Stream;

const BLOCK: usize = 512;
const BLOCK_U64: u64 = BLOCK as u64;

/// Makes each block pass as a header: the fuzzer does not find checksums.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut stream = bytes.to_vec();
    for block in stream.chunks_exact_mut(BLOCK) {
        if block[0] != 0 {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    stream
}

fn read(bytes: &[u8]) {
    let mut stream = Stream::new(bytes, Path::new("fuzz"));
    let (mut buffer, mut all) = (vec![0; 4096], 0);
    while let Ok(Some(member)) = stream.next() {
        let mut end = 0;
        for part in &member.parts {
            assert!(part.offset >= end);
            end = part.offset + part.length;
        }
        assert!(end <= member.size);
        let mut stored = 0;
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => stored += count as u64,
                Err(_) => return, // cut
            }
        }
        assert_eq!(stored, member.parts.iter().map(|part| part.length).sum());
        all += stored;
        assert!(all <= bytes.len() as u64);
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&with_checksums(bytes));
});
