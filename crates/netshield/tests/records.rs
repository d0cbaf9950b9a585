//! The relay's record layer against rustls's own, and streams that are not the peer's.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

#[path = "relay/support/mod.rs"]
mod support;

use std::io::{Read, Write};

use securetf_netshield::relay::{Frame, Limits};
use support::attacker::{ALPN, attack, issued, open, push};
use support::pki::Leaf;
use support::{PORT, Pair};

#[test]
fn records_and_key_updates_agree_with_those_of_rustls() {
    let limits = Limits {
        records_per_key: 3,
        ..Limits::default()
    };
    let pair = Pair::with(limits, &Leaf::right("worker", 0), &Leaf::right("ps", 0));
    let mut tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    tls.write_all(&Frame::Open(open(PORT)).encode()).unwrap();
    tls.read_exact(&mut [0]).unwrap();
    let mut far = support::accept(&pair.listener);
    for round in 0..40_u8 {
        // rustls changes its keys at will, the relay after every third record.
        if round % 7 == 0 {
            tls.conn.refresh_traffic_keys().unwrap();
        }
        let message = vec![round; 1 + usize::from(round) * 1000];
        let mut received = vec![0; message.len()];
        tls.write_all(&message).unwrap();
        far.read_exact(&mut received).unwrap();
        assert!(received == message);
        far.write_all(&message).unwrap();
        tls.read_exact(&mut received).unwrap();
        assert!(received == message);
    }
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    drop(far);
    assert_eq!(
        tls.read(&mut [0]).unwrap(),
        0,
        "close_notify, or rustls would report truncation"
    );
}

#[test]
fn a_changed_record_resets_the_program() {
    let pair = Pair::new();
    let mut tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    tls.write_all(&Frame::Open(open(PORT)).encode()).unwrap();
    tls.read_exact(&mut [0]).unwrap();
    let mut far = support::accept(&pair.listener);
    let mut record = Vec::new();
    tls.conn.writer().write_all(b"canary").unwrap();
    tls.conn.write_tls(&mut record).unwrap();
    *record.last_mut().unwrap() ^= 1;
    tls.sock.write_all(&record).unwrap();
    assert_eq!(
        far.read(&mut [0]).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    assert_eq!(pair.ps.relay.stats().received_bytes, 0);
}

#[test]
fn resuming_without_knowing_a_stream_of_ones_own_is_refused() {
    let pair = Pair::new();
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Resume([1; 32])), Some(4));
    assert!(pair.ps.program.peers.lock().unwrap().is_empty());
    // A stream of worker/0 is not for worker/1, even if it knew the id.
    let mut owner = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 0)),
        ALPN,
    );
    owner.write_all(&Frame::Open(open(PORT)).encode()).unwrap();
    let mut answer = [0];
    owner.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [1]);
    let tls = attack(
        pair.ps.relay.tunnel_address(),
        issued(&pair.ca, &Leaf::right("worker", 1)),
        ALPN,
    );
    assert_eq!(push(tls, &Frame::Resume([9; 32])), Some(4));
}
