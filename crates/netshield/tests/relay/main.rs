//! Bytes of a program through two relays: whole, in order, with the ends and resets that TCP has.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]
#![allow(
    clippy::unnecessary_wraps,
    clippy::needless_pass_by_value,
    clippy::items_after_statements
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use securetf_netshield::relay::Limits;
use support::pki::Leaf;
use support::{Pair, dial, eventually, policy};

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(step).collect()
}

#[test]
fn bytes_arrive_whole_in_both_directions_and_half_close_is_kept() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    let data = noise(20_000_003);
    let sent = data.clone();
    let server = thread::spawn(move || {
        let mut received = Vec::new();
        far.read_to_end(&mut received).unwrap();
        // The other side has closed its writing half only: the answer still goes through.
        far.write_all(&received).unwrap();
        received
    });
    let mut writer = near.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).unwrap();
    writing.join().unwrap();
    assert!(server.join().unwrap() == data && answer == data);
    let stats = pair.worker.relay.stats();
    assert_eq!(
        (stats.sent_bytes, stats.received_bytes),
        (data.len() as u64, data.len() as u64)
    );
    eventually("the end of the stream", || {
        pair.ps.relay.stats().live == 0 && pair.worker.relay.stats().live == 0
    });
    assert_eq!(pair.ps.relay.stats().cut + pair.worker.relay.stats().cut, 0);
}

#[test]
fn the_program_sees_the_virtual_address_of_its_peer() {
    let pair = Pair::new();
    let (near, _far) = pair.connect();
    let peers = pair.ps.program.peers.lock().unwrap().clone();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].ip().to_string(), "100.64.0.1");
    assert_eq!(peers[0].port(), near.local_addr().unwrap().port());
}

#[test]
fn a_program_that_listens_for_one_family_only_is_reached_by_the_other() {
    let pair = Pair::new();
    pair.ps.program.refuses_v6.store(true, Ordering::Relaxed);
    let mut near = dial(&pair.worker.relay, "[fd00::100]:2222");
    let mut far = support::accept(&pair.listener);
    near.write_all(b"hello").unwrap();
    far.read_exact(&mut [0; 5]).unwrap();
    let peers = pair.ps.program.peers.lock().unwrap().clone();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].ip().to_string(), "100.64.0.1");
}

#[test]
fn a_reset_of_one_program_is_a_reset_for_the_other() {
    let pair = Pair::new();
    for from_near in [true, false] {
        let (near, far) = pair.connect();
        let (gone, mut other) = if from_near { (near, far) } else { (far, near) };
        let linger = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&gone, linger).unwrap();
        drop(gone);
        assert_eq!(
            other.read(&mut [0; 1]).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    }
}

#[test]
fn a_destination_that_is_not_listed_is_reset_at_once_and_noted() {
    let pair = Pair::new();
    for destination in ["100.64.0.100:2223", "100.64.0.7:2222", "192.0.2.1:443"] {
        let begin = Instant::now();
        let mut near = dial(&pair.worker.relay, destination);
        assert_eq!(
            near.read(&mut [0; 1]).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        assert!(begin.elapsed() < Duration::from_secs(4));
        let denials = pair.worker.denials.0.lock().unwrap();
        let denial = denials
            .iter()
            .find(|one| one.destination == destination)
            .unwrap();
        assert_eq!(
            (denial.direction, denial.reason.as_str()),
            ("outbound", "the Manifest does not allow this destination")
        );
    }
}

#[test]
fn a_program_that_does_not_listen_is_a_reset_for_the_dialling_one() {
    let pair = Pair::new();
    *pair.ps.program.address.lock().unwrap() = None;
    let mut near = dial(&pair.worker.relay, "100.64.0.100:2222");
    assert_eq!(
        near.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    pair.worker
        .denials
        .expect("the peer's program does not listen");
}

#[test]
fn without_an_endpoint_or_a_listening_relay_the_program_is_reset() {
    let pair = Pair::new();
    pair.worker.relay.set_endpoints(vec![]);
    let mut near = dial(&pair.worker.relay, "100.64.0.100:2222");
    assert_eq!(
        near.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    pair.worker.denials.expect("no endpoint is known for ps/0");
    pair.worker
        .relay
        .set_endpoints(vec![("ps".into(), 0, "127.0.0.1:1".parse().unwrap())]);
    let mut near = dial(&pair.worker.relay, "100.64.0.100:2222");
    assert_eq!(
        near.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(pair.worker.relay.stats().unreachable, 2);
}

#[test]
fn stopping_a_relay_resets_both_programs() {
    let Pair {
        worker,
        ps,
        listener,
        ..
    } = Pair::new();
    let mut near = dial(&worker.relay, "100.64.0.100:2222");
    let mut far = support::accept(&listener);
    ps.relay.stop();
    assert_eq!(
        far.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(
        near.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn revocation_resets_what_lives_and_refuses_what_comes() {
    let pair = Pair::new();
    let (mut near, mut far) = pair.connect();
    pair.ps.relay.revoke("the Manifest was replaced");
    assert_eq!(
        far.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(
        near.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let mut near = dial(&pair.worker.relay, "100.64.0.100:2222");
    assert_eq!(
        near.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    pair.ps.denials.expect("revoked: the Manifest was replaced");
}

/// A way to `target` that carries bytes until it is muted, and then keeps both ends open in silence.
fn mutable_way(target: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let muted = Arc::new(AtomicBool::new(false));
    let mute = Arc::clone(&muted);
    thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(target).unwrap();
        let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
        let ways = [(near, far), back].map(|(mut from, mut to)| {
            let muted = Arc::clone(&mute);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    if !muted.load(Ordering::Relaxed) && to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            })
        });
        for way in ways {
            let _ = way.join();
        }
    });
    (address, muted)
}

#[test]
fn a_silent_peer_is_cut_and_the_program_is_reset() {
    let limits = Limits {
        heartbeat: Duration::from_millis(100),
        silence: Duration::from_millis(600),
        ..Limits::default()
    };
    let pair = Pair::with(limits, &Leaf::right("worker", 0), &Leaf::right("ps", 0));
    let (way, muted) = mutable_way(pair.ps.relay.tunnel_address());
    pair.worker.relay.set_endpoints(vec![("ps".into(), 0, way)]);
    let (mut near, mut far) = pair.connect();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0; 1]).unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(pair.worker.relay.stats().live, 1, "heartbeats keep it");
    let begin = Instant::now();
    muted.store(true, Ordering::Relaxed);
    for program in [&mut near, &mut far] {
        let error = program.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_program_that_does_not_read_for_long_is_not_cut() {
    let limits = Limits {
        heartbeat: Duration::from_millis(100),
        silence: Duration::from_millis(600),
        ..Limits::default()
    };
    let pair = Pair::with(limits, &Leaf::right("worker", 0), &Leaf::right("ps", 0));
    let (mut near, mut far) = pair.connect();
    let data = noise(40_000_000);
    let sent = data.clone();
    let writing = thread::spawn(move || near.write_all(&sent).map(|()| near));
    thread::sleep(Duration::from_secs(2));
    let mut received = vec![0; data.len()];
    far.read_exact(&mut received).unwrap();
    assert!(received == data);
    let near = writing.join().unwrap().unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(pair.worker.relay.stats().live, 1, "idle streams stay");
    drop((near, far));
    eventually("the end", || pair.worker.relay.stats().live == 0);
}

#[test]
fn a_thousand_connections_at_once_lose_nothing() {
    // A thousand handshakes take long on a busy machine; what counts is that none is lost.
    let patience = Duration::from_mins(2);
    let limits = Limits {
        dial: patience,
        handshake: patience,
        ..Limits::default()
    };
    let pair = Pair::with(limits, &Leaf::right("worker", 0), &Leaf::right("ps", 0));
    const COUNT: usize = 1000;
    static ECHOED: AtomicUsize = AtomicUsize::new(0);
    let listener = pair.listener.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let all: Vec<TcpStream> = (0..COUNT)
                .map(|_| support::accept_within(&listener, patience))
                .collect();
            for mut stream in all {
                let mut message = [0; 64];
                stream.read_exact(&mut message).unwrap();
                stream.write_all(&message).unwrap();
                ECHOED.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut streams: Vec<TcpStream> = (0..COUNT)
            .map(|_| dial(&pair.worker.relay, "100.64.0.100:2222"))
            .collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            let message = [(number % 251) as u8; 64];
            stream.set_read_timeout(Some(patience)).unwrap();
            stream.write_all(&message).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut message = [0; 64];
            stream
                .read_exact(&mut message)
                .unwrap_or_else(|error| panic!("stream {number}: {error}"));
            assert_eq!(message, [(number % 251) as u8; 64]);
        }
        assert_eq!(pair.worker.relay.stats().live, COUNT as u64);
    });
    assert_eq!(ECHOED.load(Ordering::Relaxed), COUNT);
}

#[test]
fn an_identity_that_peers_would_refuse_does_not_start() {
    let ca = support::pki::Ca::new("session");
    let other = support::pki::Ca::new("other");
    let key = securetf_netshield::relay::NetworkKey::generate().unwrap();
    let start = |chain: Vec<Vec<u8>>| {
        securetf_netshield::relay::Relay::start(securetf_netshield::relay::RelayConfig {
            policy: policy("worker", 0),
            identity: securetf_netshield::relay::Identity {
                key: key.clone(),
                chain,
            },
            trust_root: ca.der.clone(),
            tunnel: securetf_netshield::relay::TunnelListener::bind("127.0.0.1:0".parse().unwrap())
                .unwrap(),
            inner: std::sync::Arc::new(support::Program::default()),
            denials: std::sync::Arc::new(support::Denials::default()),
            limits: Limits::default(),
        })
        .map(drop)
        .unwrap_err()
        .to_string()
    };
    let spki = key.spki_der().unwrap();
    let right = Leaf::right("worker", 0);
    assert!(start(vec![other.issue(&spki, &right)]).contains("not valid under this session's CA"));
    assert!(
        start(vec![ca.issue(&spki, &Leaf::right("worker", 1))])
            .contains("expected worker/0, found worker/1")
    );
    let foreign = securetf_netshield::relay::NetworkKey::generate()
        .unwrap()
        .spki_der()
        .unwrap();
    assert!(start(vec![ca.issue(&foreign, &right)]).contains("for another key"));
    assert!(start(vec![]).contains("malformed"));
}
