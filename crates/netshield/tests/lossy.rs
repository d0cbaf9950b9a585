//! A tunnel over a link that loses packets: slower, and nothing else.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "relay/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketType, eth, recv, socket};
use securetf_netshield::relay::Limits;
use support::machines::{run, two_machines};

/// What no wire may show, and as many bytes as tell a lossy link from a good one.
const CANARY: &str = "gradients of the second layer, not for any wire ";
const BULK: usize = 4 << 20;
/// Room for every frame of both directions, so that none is missed.
const WIRE: usize = 256 << 20;

/// Canaries, each with its place, so that a byte that is lost, doubled or moved differs.
fn bulk() -> Vec<u8> {
    let blocks = 0..BULK / 64;
    blocks
        .flat_map(|place| format!("{CANARY}{place:016x}").into_bytes())
        .collect()
}

/// One of both machines loses each packet that arrives with a chance of 2 %. Packets are single segments, so that there are
/// thousands. Returns what hears every frame of the cable.
fn lose_and_listen(link: &str) -> OwnedFd {
    run(&format!("ip link set {link} gso_max_segs 1"));
    run("nft add table inet lossy");
    run("nft add chain inet lossy arriving { type filter hook input priority 0 ; }");
    run("nft add rule inet lossy arriving numgen random mod 100 < 2 counter drop");
    let wire = socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL)).unwrap();
    set_socket_recv_buffer_size_force(&wire, WIRE).unwrap();
    wire
}

/// Every frame that was on the cable until now.
fn heard(wire: &OwnedFd) -> Vec<u8> {
    let (mut frames, mut frame) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok((count, _)) = recv(wire, frame.as_mut_slice(), RecvFlags::DONTWAIT) {
        frames.extend_from_slice(&frame[..count]);
    }
    frames
}

fn shows(frames: &[u8]) -> bool {
    let canary = CANARY.as_bytes();
    frames.windows(canary.len()).any(|bytes| bytes == canary)
}

/// Packets that the rule of [`lose_and_listen`] dropped, and segments that TCP sent again, on this thread's machine.
fn lost_here() -> (u64, u64) {
    let rules = run("nft list table inet lossy");
    let dropped = rules.split("packets ").nth(1).unwrap();
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    let (_, again) = fields.find(|(name, _)| *name == "RetransSegs").unwrap();
    let dropped = dropped.split(' ').next().unwrap();
    (dropped.parse().unwrap(), again.parse().unwrap())
}

#[test]
fn a_link_that_loses_packets_gives_both_programs_every_byte_once_and_shows_none() {
    let patient = Limits {
        dial: Duration::from_mins(1),
        handshake: Duration::from_mins(1),
        ..Limits::default()
    };
    let (pair, end) = two_machines(patient, lose_and_listen, |wire| {
        let shielded = heard(&wire);
        let plain = UdpSocket::bind("10.77.0.1:0").unwrap();
        plain.send_to(CANARY.as_bytes(), "10.77.0.2:9").unwrap();
        (shielded, heard(&wire), lost_here())
    });
    let (near, far) = pair.connect();
    let sent = bulk();
    thread::scope(|scope| {
        for mut program in [&near, &far] {
            let sent = &sent;
            scope.spawn(move || {
                program.write_all(sent).unwrap();
                program.shutdown(Shutdown::Write).unwrap();
            });
        }
        for mut program in [&near, &far] {
            let mut came = Vec::new();
            program.read_to_end(&mut came).unwrap();
            assert!(came == sent, "{} bytes, or others, came", came.len());
        }
    });
    let (shielded, plain, (dropped, again)) = end();
    assert!(shielded.len() > 2 * BULK, "not everything was heard");
    assert!(!shows(&shielded), "bytes of a program are on the cable");
    assert!(shows(&plain), "what is sent in clear is not heard");
    assert!(dropped > 0 && again > 0, "{dropped} lost, {again} again");
}
