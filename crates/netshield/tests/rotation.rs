//! Streams outlive certificates: they change tunnels under traffic, half-close and backpressure, and lose nothing;
//! what is not renewed ends at expiry.
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

#[path = "relay/support/mod.rs"]
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use securetf_netshield::relay::Limits;
use support::pki::Leaf;
use support::{Pair, eventually};

fn short(workload: &str, seconds: i64) -> Leaf {
    Leaf {
        valid: (-60, seconds),
        ..Leaf::right(workload, 0)
    }
}

/// One test at a time: what they check are times, and all share two cores.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pair(seconds: i64) -> Pair {
    Pair::with(
        Limits::default(),
        &short("worker", seconds),
        &short("ps", seconds),
    )
}

/// Runs `work` while both certificates are renewed every `every`.
fn renewing<T>(pair: &Pair, seconds: i64, every: Duration, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = Instant::now() + every;
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
                if Instant::now() >= next {
                    next += every;
                    pair.renew(&pair.worker, &short("worker", seconds));
                    pair.renew(&pair.ps, &short("ps", seconds));
                }
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        if result.is_err() {
            for node in [&pair.worker, &pair.ps] {
                eprintln!(
                    "{:?} {:?}",
                    node.relay.stats(),
                    node.denials.0.lock().unwrap()
                );
            }
        }
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The byte at a place of a stream, so that lost, doubled or swapped bytes show.
fn at(seed: u64, place: u64) -> u8 {
    let mixed = (place / 8)
        .wrapping_add(seed)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed.to_le_bytes()[(place % 8) as usize] ^ seed as u8
}

fn write_until(
    stream: &mut TcpStream,
    seed: u64,
    stop: Instant,
    chunk: usize,
    pause: Duration,
) -> u64 {
    let mut place = 0;
    while Instant::now() < stop {
        let bytes: Vec<u8> = (place..place + chunk as u64)
            .map(|one| at(seed, one))
            .collect();
        stream.write_all(&bytes).unwrap();
        place += chunk as u64;
        thread::sleep(pause);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    place
}

fn read_all(stream: &mut TcpStream, seed: u64, before: Duration) -> u64 {
    thread::sleep(before);
    let mut place = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return place;
        }
        for byte in &buffer[..count] {
            assert_eq!(*byte, at(seed, place), "at {place}");
            place += 1;
        }
    }
}

/// How one connection behaves.
#[derive(Clone, Copy)]
struct Manner {
    up: Duration,
    down: Duration,
    chunk: usize,
    pause: Duration,
    reads_after: Duration,
}

fn exercise(seed: u64, near: TcpStream, far: TcpStream, manner: Manner) {
    let begin = Instant::now();
    thread::scope(|scope| {
        let [(mut a, mut b), (mut c, mut d)] = [(&near, &far), (&far, &near)]
            .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
        let sent = scope.spawn(move || {
            write_until(&mut a, seed, begin + manner.up, manner.chunk, manner.pause)
        });
        let read = scope.spawn(move || read_all(&mut b, seed, manner.reads_after));
        let back = scope.spawn(move || {
            write_until(
                &mut c,
                !seed,
                begin + manner.down,
                manner.chunk,
                manner.pause,
            )
        });
        let heard = scope.spawn(move || read_all(&mut d, !seed, manner.reads_after));
        assert_eq!(
            sent.join().unwrap(),
            read.join().unwrap(),
            "upward bytes of {seed}"
        );
        assert_eq!(
            back.join().unwrap(),
            heard.join().unwrap(),
            "downward bytes of {seed}"
        );
    });
}

fn nothing_was_cut(pair: &Pair) {
    eventually("the end of all streams", || {
        pair.worker.relay.stats().live == 0 && pair.ps.relay.stats().live == 0
    });
    let denials = (
        pair.worker.denials.0.lock().unwrap().clone(),
        pair.ps.denials.0.lock().unwrap().clone(),
    );
    assert_eq!(
        pair.worker.relay.stats().cut + pair.ps.relay.stats().cut,
        0,
        "{denials:?}"
    );
}

#[test]
fn traffic_in_both_directions_outlives_many_certificates() {
    let _alone = alone();
    let pair = pair(6);
    renewing(&pair, 6, Duration::from_millis(1500), || {
        thread::scope(|scope| {
            for (seed, chunk, pause) in [(1, 50_000, 1), (2, 64, 2), (3, 1, 700)] {
                let (near, far) = pair.connect();
                let long = Duration::from_secs(15);
                let pause = Duration::from_millis(pause);
                let manner = Manner {
                    up: long,
                    down: long,
                    chunk,
                    pause,
                    reads_after: Duration::ZERO,
                };
                scope.spawn(move || exercise(seed, near, far, manner));
            }
        });
    });
    nothing_was_cut(&pair);
    assert!(
        pair.worker.relay.stats().resumed >= 6,
        "{:?}",
        pair.worker.relay.stats()
    );
}

#[test]
fn idle_and_half_closed_streams_outlive_certificates() {
    let _alone = alone();
    let pair = pair(5);
    renewing(&pair, 5, Duration::from_secs(1), || {
        let (mut idle_near, mut idle_far) = pair.connect();
        let (mut half_near, mut half_far) = pair.connect();
        let (mut other_near, mut other_far) = pair.connect();
        half_near.write_all(b"last words").unwrap();
        half_near.shutdown(Shutdown::Write).unwrap();
        other_far.shutdown(Shutdown::Write).unwrap();
        thread::sleep(Duration::from_secs(9));
        idle_near.write_all(b"x").unwrap();
        idle_far.read_exact(&mut [0]).unwrap();
        let mut text = String::new();
        half_far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
        half_far.write_all(b"answer").unwrap();
        drop(half_far);
        text.clear();
        half_near.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
        other_near.write_all(b"still open").unwrap();
        drop(idle_near);
        assert_eq!(other_near.read(&mut [0]).unwrap(), 0);
        drop(other_near);
        text.clear();
        other_far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still open");
        drop(idle_far);
    });
    nothing_was_cut(&pair);
}

#[test]
fn ends_that_race_the_change_of_tunnels_lose_nothing() {
    let _alone = alone();
    let pair = pair(5);
    renewing(&pair, 5, Duration::from_secs(1), || {
        thread::scope(|scope| {
            for seed in 0..60_u64 {
                let (near, far) = pair.connect();
                // Ends of either side spread over the times at which the first changes happen.
                let up = Duration::from_millis(2000 + seed * 37 % 2000);
                let down = Duration::from_millis(2000 + seed * 61 % 2000);
                let pause = Duration::from_millis(5 + seed % 20);
                let manner = Manner {
                    up,
                    down,
                    chunk: 700,
                    pause,
                    reads_after: Duration::ZERO,
                };
                scope.spawn(move || exercise(seed, near, far, manner));
            }
        });
    });
    nothing_was_cut(&pair);
    assert!(pair.worker.relay.stats().resumed > 10);
}

#[test]
fn a_program_that_does_not_read_while_certificates_change_gets_every_byte() {
    let _alone = alone();
    let pair = pair(6);
    renewing(&pair, 6, Duration::from_millis(1500), || {
        let (near, far) = pair.connect();
        let manner = Manner {
            up: Duration::from_secs(2),
            down: Duration::from_millis(10),
            chunk: 1_000_000,
            pause: Duration::ZERO,
            reads_after: Duration::from_secs(12),
        };
        exercise(5, near, far, manner);
    });
    nothing_was_cut(&pair);
}

fn reset_within(stream: &mut TcpStream, seconds: std::ops::Range<u64>, begin: Instant) {
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let took = begin.elapsed();
    let range = Duration::from_secs(seconds.start)..Duration::from_secs(seconds.end);
    assert!(range.contains(&took), "reset after {took:?}");
}

#[test]
fn without_renewal_streams_are_cut_at_expiry_and_new_ones_refused() {
    let _alone = alone();
    let begin = Instant::now();
    let pair = pair(3);
    let (mut near, mut far) = pair.connect();
    reset_within(&mut near, 1..6, begin);
    reset_within(&mut far, 1..6, begin);
    pair.worker.denials.expect("cut: the certificate expired");
    // `notAfter` is inclusive in whole seconds.
    thread::sleep(Duration::from_millis(1500));
    let mut late = support::dial(&pair.worker.relay, "100.64.0.100:2222");
    assert!(late.read(&mut [0]).is_err());
    pair.worker.denials.expect("the certificate has expired");
}

#[test]
fn renewal_of_one_side_only_does_not_prolong() {
    let _alone = alone();
    let begin = Instant::now();
    let pair = Pair::with(Limits::default(), &short("worker", 600), &short("ps", 3));
    let (mut near, _far) = pair.connect();
    pair.renew(&pair.worker, &short("worker", 900));
    reset_within(&mut near, 1..6, begin);
    // The server's relay may be the first to notice; either way it is expiry.
    let both = [&pair.worker, &pair.ps]
        .map(|node| node.denials.0.lock().unwrap().clone())
        .concat();
    assert!(
        both.iter().any(|one| one.reason.contains("expired")),
        "{both:?}"
    );
}
