//! Whatever the kernel sends is an operation or malformed.
#![allow(clippy::indexing_slicing)] // of messages that the tests make

use proptest::prelude::*;

use super::*;
use crate::abi::IN_HEADER;
use crate::message::Head;
use crate::reply::Body;

/// A message of `/dev/fuse` that is right about its length.
fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(IN_HEADER + body.len()).expect("small");
    let mut bytes = Vec::new();
    for word in [length, opcode] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(77_u64.to_ne_bytes()); // unique
    bytes.extend(5_u64.to_ne_bytes()); // nodeid
    for word in [1000_u32, 100, 4321, 0] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(body);
    bytes
}

fn parsed(message: &mut [u8]) -> Result<String, Malformed> {
    let request = Request::of_message(message)?;
    Operation::parse(request).map(|operation| format!("{operation:?}"))
}

fn bytes(words: &[u32], rest: &[u8]) -> Vec<u8> {
    let mut found: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    found.extend(rest);
    found
}

#[test]
fn head_says_who_asks_and_of_what() {
    let mut message = message(abi::GETATTR, &[0; 16]);
    let head = Request::of_message(&mut message).expect("whole").head;
    assert_eq!(
        (head.unique, head.ino, head.uid, head.gid),
        (77, 5, 1000, 100)
    );
}

#[test]
fn operations_with_names_have_them_whole() {
    let rename = bytes(&[9, 0, 1, 0], b"old\0new\0");
    assert_eq!(
        Operation::parse(Request::of_message(&mut message(abi::RENAME2, &rename)).expect("whole")),
        Ok(Operation::Rename {
            name: b"old",
            parent: 9,
            new_name: b"new",
            flags: 1
        })
    );
    for (opcode, body) in [
        (abi::LOOKUP, b"".as_slice()),
        (abi::LOOKUP, b"\0"),
        (abi::LOOKUP, b"name"),
        (abi::LOOKUP, b"a/b\0"),
        (abi::LOOKUP, b"name\0more"),
        (abi::UNLINK, b"name\0\0"),
        (abi::SYMLINK, b"name\0"),
        (abi::RENAME2, &bytes(&[9, 0, 1, 0], b"old\0new")),
    ] {
        assert_eq!(
            parsed(&mut message(opcode, body)),
            Err(Malformed),
            "{opcode} {body:?}"
        );
    }
}

#[test]
fn sizes_that_the_message_does_not_hold_are_malformed() {
    let write = |size| bytes(&[0, 0, 0, 0, size, 4, 0, 0, 0, 0], b"data");
    assert_eq!(
        parsed(&mut message(abi::WRITE, &write(4))),
        Ok("Write { offset: 0, data: [100, 97, 116, 97], kill: true }".to_owned())
    );
    for size in [0, 3, 5, u32::MAX] {
        assert_eq!(
            parsed(&mut message(abi::WRITE, &write(size))),
            Err(Malformed)
        );
    }
    let xattr = |size| bytes(&[size, 0], b"user.a\0value");
    assert!(parsed(&mut message(abi::SETXATTR, &xattr(5))).is_ok());
    assert_eq!(
        parsed(&mut message(abi::SETXATTR, &xattr(6))),
        Err(Malformed)
    );
    let forget = |count| bytes(&[count, 0], &[1; 32]);
    assert!(parsed(&mut message(abi::BATCH_FORGET, &forget(2))).is_ok());
    for count in [0, 1, 3, u32::MAX] {
        assert_eq!(
            parsed(&mut message(abi::BATCH_FORGET, &forget(count))),
            Err(Malformed)
        );
    }
    let mut long = message(abi::GETATTR, &[0; 16]);
    long.push(0);
    assert_eq!(Request::of_message(&mut long).err(), Some(Malformed));
}

#[test]
fn an_operation_that_we_do_not_have_is_none_whatever_it_carries() {
    for opcode in [0, 47, 51, 52, 4096, u32::MAX] {
        assert_eq!(
            parsed(&mut message(opcode, b"anything")),
            Ok("Other".to_owned())
        );
        let whole = message(opcode, b"anything");
        let head = Head::parse(&whole).expect("whole");
        let mut more = *b"more";
        let request = Request::of_parts(head, &[1; 88], &mut more).expect("not looked at");
        assert_eq!(Operation::parse(request), Ok(Operation::Other));
    }
}

#[test]
fn times_are_exact_and_saturate_at_the_ends() {
    assert_eq!(nanoseconds(-2, 500_000_000), -1_500_000_000);
    assert_eq!(nanoseconds(1 << 40, 0), i64::MAX);
    assert_eq!(nanoseconds(-(1 << 40), 0), i64::MIN);
    let mut body = vec![0; abi::OP_HEADER_MAX];
    body[..4].copy_from_slice(&(ATIME | ATIME_NOW | MTIME | MODE).to_ne_bytes());
    body[40..48].copy_from_slice(&3_i64.to_ne_bytes());
    body[68..72].copy_from_slice(&0o100_644_u32.to_ne_bytes());
    let mut message = message(abi::SETATTR, &body);
    let expected = SetAttr {
        mode: Some(0o644),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(3_000_000_000)),
        ..SetAttr::default()
    };
    let request = Request::of_message(&mut message).expect("whole");
    assert_eq!(Operation::parse(request), Ok(Operation::SetAttr(expected)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// The kernel is not trusted to be right about lengths: whatever comes is an operation or malformed, and what an
    /// operation borrows lies in the message.
    #[test]
    fn any_bytes_are_an_operation_or_malformed(
        opcode in 0_u32..60,
        body in proptest::collection::vec(any::<u8>(), 0..200),
        claimed in prop_oneof![Just(None), any::<u32>().prop_map(Some)],
        cut in 0_usize..240,
    ) {
        let mut whole = message(opcode, &body);
        if let Some(claimed) = claimed {
            whole[..4].copy_from_slice(&claimed.to_ne_bytes());
        }
        let _ = parsed(&mut whole.get(..cut).unwrap_or(&whole).to_vec());
        if let Ok(Operation::BatchForget(pairs)) =
            Request::of_message(&mut whole).and_then(Operation::parse)
        {
            prop_assert_eq!(pairs.count() * 16 + 8, body.len());
        }
    }

    /// The same request by either transport is the same operation.
    #[test]
    fn both_transports_read_the_same_operation(
        opcode in 1_u32..60,
        body in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], abi::OP_HEADER_MAX..200),
    ) {
        let (mut whole, mut same) = (message(opcode, &body), body.clone());
        let head = Head::parse(&whole).expect("whole");
        let size = abi::op_header(opcode).unwrap_or(0);
        let mut area = [0xAA; abi::OP_HEADER_MAX];
        area[..size].copy_from_slice(&body[..size]);
        let parts = Request::of_parts(head, &area, &mut same[size..]).expect("the length is right");
        let message = Request::of_message(&mut whole).expect("the length is right");
        prop_assert_eq!(Operation::parse(parts), Operation::parse(message));
    }

    /// No answer leaves its buffer, and a listing has whole names alone.
    #[test]
    fn no_answer_leaves_its_buffer(room in 0_usize..400, size in any::<u32>(), length in 0_usize..255) {
        let (mut buffer, name) = (vec![0; room], vec![b'n'; length]);
        let mut body = Body::new(&mut buffer);
        let one = crate::reply::Listed { ino: 2, cookie: 3, kind_bits: 0o100_000, name: &name };
        let mut count = 0;
        while body.name(size, &one, None) {
            count += 1;
        }
        prop_assert_eq!(body.len(), count * (24 + length).next_multiple_of(8));
        prop_assert!(body.len() <= room.min(size as usize));
        let before = body.len();
        let fits = body.bytes(&name).is_ok();
        prop_assert_eq!(body.len(), if fits { before + length } else { before });
    }
}
