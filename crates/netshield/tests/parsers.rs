//! What strangers send is parsed exactly or refused: no input panics, and every accepted one is in its only form.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use proptest::prelude::*;
use securetf_netshield::relay::{Answer, Frame, FrameError, HelloError, Open, Switch, server_name};

fn open() -> impl Strategy<Value = Open> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(Into::into),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from)
    ];
    (
        any::<[u8; 32]>(),
        "[A-Za-z0-9._-]{1,64}",
        any::<(u16, u16)>(),
        1..=u16::MAX,
        address,
        1..=u16::MAX,
    )
        .prop_map(
            |(stream, workload, (instance, source_instance), port, ip, source_port)| Open {
                stream,
                workload,
                instance,
                port,
                source_instance,
                source: (ip, source_port).into(),
            },
        )
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [
        &kind.to_be_bytes()[..],
        &(value.len() as u16).to_be_bytes(),
        value,
    ]
    .concat()
}

fn name_extension(name: &str) -> Vec<u8> {
    let entry = [
        &[0][..],
        &(name.len() as u16).to_be_bytes(),
        name.as_bytes(),
    ]
    .concat();
    extension(
        0,
        &[&(entry.len() as u16).to_be_bytes()[..], &entry].concat(),
    )
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[5; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let length = (body.len() as u32).to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat())
        .collect()
}

proptest! {
    #[test]
    fn frames_survive_writing_and_reading(open in open(), stream: [u8; 32]) {
        for frame in [Frame::Open(open.clone()), Frame::Resume(stream)] {
            let bytes = frame.encode();
            prop_assert_eq!(Frame::parse(&bytes), Ok(frame));
            for end in 0..bytes.len() {
                prop_assert!(Frame::parse(&bytes[..end]).is_err());
            }
            prop_assert!(Frame::parse(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn any_bytes_are_the_only_form_of_what_they_mean_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = Frame::parse(&bytes) {
            prop_assert_eq!(frame.encode(), bytes.clone());
        }
        if let Ok(switch) = Switch::parse(&bytes) {
            prop_assert_eq!(switch.encode().to_vec(), bytes.clone());
        }
        if let Ok(answer) = Answer::parse(&bytes) {
            prop_assert_eq!(vec![answer as u8], bytes.clone());
        }
        let _ = server_name(&bytes);
    }

    #[test]
    fn changed_frames_do_not_panic(open in open(), place: prop::sample::Index, with: u8) {
        let mut bytes = Frame::Open(open).encode();
        let place = place.index(bytes.len());
        bytes[place] = with;
        if let Ok(frame) = Frame::parse(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }

    #[test]
    fn the_name_is_found_in_any_fragmentation_and_only_when_whole(name in "[a-z0-9.-]{1,60}", size in 1..300_usize) {
        let message = hello(&[extension(43, &[2, 3, 4]), name_extension(&name)].concat());
        let bytes = records(&message, size);
        for end in 0..bytes.len() {
            prop_assert_eq!(server_name(&bytes[..end]), Ok(None));
        }
        prop_assert_eq!(server_name(&bytes), Ok(Some(name)));
        let more = [&bytes[..], &[23]].concat();
        prop_assert_eq!(server_name(&more), Err(HelloError::Malformed));
    }

    #[test]
    fn changed_hellos_do_not_panic(place: prop::sample::Index, with: u8) {
        let mut bytes = records(&hello(&name_extension("api.bank.example")), 1000);
        let place = place.index(bytes.len());
        bytes[place] = with;
        let _ = server_name(&bytes);
    }
}

#[test]
fn hellos_without_one_readable_name_are_refused_with_the_reason() {
    let parse =
        |extensions: &[Vec<u8>]| server_name(&records(&hello(&extensions.concat()), 16_000));
    assert_eq!(parse(&[]), Err(HelloError::NoName));
    let encrypted = extension(0xFE0D, &[0]);
    assert_eq!(
        parse(&[name_extension("a"), encrypted]),
        Err(HelloError::Encrypted)
    );
    assert_eq!(
        parse(&[name_extension("a"), name_extension("b")]),
        Err(HelloError::Malformed)
    );
    assert_eq!(parse(&[name_extension("a\0b")]), Err(HelloError::Malformed));
    assert_eq!(
        parse(&[name_extension("API.Bank.example")]),
        Ok(Some("api.bank.example".into()))
    );
    assert_eq!(
        server_name(b"GET / HTTP/1.1\r\n"),
        Err(HelloError::NotHello)
    );
    assert_eq!(server_name(b"SSH-2.0-x"), Err(HelloError::NotHello));
    assert_eq!(
        server_name(&[22, 3, 1, 0, 5, 2, 0, 0, 1, 0]),
        Err(HelloError::NotHello)
    );
    assert_eq!(
        server_name(&records(&[1, 1, 0, 0, 0], 100)),
        Err(HelloError::TooLong)
    );
}

#[test]
fn frames_of_another_version_or_kind_are_refused_by_name() {
    let mut bytes = Frame::Resume([3; 32]).encode();
    bytes[0] = 2;
    assert_eq!(Frame::parse(&bytes), Err(FrameError::Version(2)));
    bytes[0] = 1;
    bytes[1] = 9;
    assert_eq!(Frame::parse(&bytes), Err(FrameError::Kind(9)));
    assert_eq!(Frame::parse(&[]), Err(FrameError::Length));
}
