//! What supervision costs: `cargo test --release -p securetf-netshield --test supervise measure -- --ignored --nocapture`.

#![allow(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Raised, exit_code};

/// Runs under supervision, and once without.
#[test]
#[ignore = "run by `report`"]
fn program() {
    for name in ["FIRST", "SECOND"] {
        let to: SocketAddr = std::env::var(name).unwrap().parse().unwrap();
        let mut times: Vec<Duration> = (0..5000).map(|_| time(to)).collect();
        times.sort();
        let at = |part: usize| times[times.len() * part / 1000].as_nanos();
        println!(
            "{to}: min {} ns, p50 {} ns, p99 {} ns",
            at(0),
            at(500),
            at(990)
        );
    }
}

fn time(to: SocketAddr) -> Duration {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    let begin = Instant::now();
    let _ = rustix::net::connect(&socket, &to);
    let time = begin.elapsed();
    drop(socket);
    thread::sleep(Duration::from_micros(100));
    time
}

#[test]
#[ignore = "takes seconds and asserts nothing"]
fn report() {
    let raised = Raised::with(drop);
    let this = std::env::current_exe().unwrap();
    let argv = [
        this.to_str().unwrap(),
        "--exact",
        "measure::program",
        "--ignored",
        "--nocapture",
    ];
    println!("supervised, permitted and refused:");
    exit_code(raised.start(
        &argv,
        &[("FIRST", "100.64.0.9:2222"), ("SECOND", "100.64.0.9:2223")],
    ));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let open = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        listener
            .incoming()
            .flatten()
            .for_each(|stream: TcpStream| drop(stream));
    });
    println!("without a shield, open and closed port:");
    let mut command = std::process::Command::new(&this);
    command
        .args(&argv[1..])
        .env("FIRST", open)
        .env("SECOND", "127.0.0.1:1");
    assert!(command.status().unwrap().success());
}
