//! Requests of the kernel to a mount, which the machine's operator may have replaced: no input panics; what is understood
//! has no byte too many or too few, and is the same by either transport; a name has no slash and no zero byte.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/volume-fuse/src/abi.rs"]
mod abi;
#[path = "../../crates/volume-fuse/src/message.rs"]
mod message;
#[path = "../../crates/volume-fuse/src/request.rs"]
mod request;

use abi::{IN_HEADER, OP_HEADER_MAX};
use message::Request;
use request::Operation;

/// The same bytes with a true length, which the fuzzer does not find, and an operation that exists.
fn with_head(bytes: &[u8]) -> Vec<u8> {
    let mut message = bytes.to_vec();
    if let [_, _, _, _, opcode, rest @ ..] = message.as_mut_slice()
        && let [second, third, fourth, ..] = rest
    {
        *opcode %= 48;
        [*second, *third, *fourth] = [0; 3];
    }
    with_length(message)
}

fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("libFuzzer's inputs are short");
    if let Some(field) = message.first_chunk_mut() {
        *field = length.to_ne_bytes();
    }
    message
}

fn assert_name(name: &[u8]) {
    assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0));
}

fn assert_names(operation: &Operation<'_>) {
    match operation {
        Operation::Lookup { name }
        | Operation::MakeNode { name, .. }
        | Operation::MakeDir { name, .. }
        | Operation::Symlink { name, .. }
        | Operation::Unlink { name }
        | Operation::RemoveDir { name }
        | Operation::Link { name, .. }
        | Operation::Create { name, .. } => assert_name(name),
        Operation::Rename { name, new_name, .. } => {
            assert_name(name);
            assert_name(new_name);
        }
        _ => {}
    }
}

fn understood(message: &mut [u8]) -> Option<Operation<'_>> {
    Operation::parse(Request::of_message(message).ok()?).ok()
}

fn read(message: &[u8]) {
    let mut whole = message.to_vec(); // data is sealed where it stands: what is parsed may be written to
    let Ok(request) = Request::of_message(&mut whole) else {
        return;
    };
    let (head, mut payload) = (request.head, request.payload.to_vec());
    let mut area = [0xa5; OP_HEADER_MAX]; // what an entry of io_uring held before
    area[..request.header.len()].copy_from_slice(request.header);
    let length = payload.len();
    let operation = Operation::parse(request).ok();
    let parts = Request::of_parts(head, &area, &mut payload).expect("the same lengths");
    assert_eq!(Operation::parse(parts).ok(), operation);
    let Some(operation) = operation else { return };
    assert_names(&operation);
    if let Operation::BatchForget(pairs) = &operation {
        assert_eq!(pairs.clone().count() * 16, length);
    }
    if operation != Operation::Other {
        let mut shorter = with_length(message[..message.len() - 1].to_vec());
        assert!(shorter.len() < IN_HEADER || understood(&mut shorter).is_none());
        let mut longer = with_length([message, &[0]].concat());
        assert!(understood(&mut longer).is_none());
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&with_head(bytes));
});
