//! Two relays in one process, and the small programs that measure through them; `benchmarks/network.py` drives it.
//!
//! `relay_bench pair SERVER` prints the address of a listener whose connections cross both relays to SERVER, and ends
//! with its standard input. `echo` prints its address. `pingpong ADDRESS COUNT`, `connect ADDRESS COUNT` and
//! `hold ADDRESS COUNT` print microseconds, or hold connections until standard input ends.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss
)]

#[path = "../tests/relay/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use securetf_netshield::event::{Caller, Outbound};
use securetf_netshield::relay::Limits;
use support::Pair;
use support::pki::Leaf;

const MESSAGE: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["pair", server] => pair(server.parse().unwrap()),
        ["echo"] => echo(),
        ["pingpong", address, count] => pingpong(address.parse().unwrap(), count.parse().unwrap()),
        ["connect", address, count] => connect(address.parse().unwrap(), count.parse().unwrap()),
        ["hold", address, count] => hold(address.parse().unwrap(), count.parse().unwrap()),
        _ => panic!("see the first lines of the source"),
    }
}

fn pair(server: SocketAddr) {
    let pair = Pair::with(
        Limits::default(),
        &Leaf::right("worker", 0),
        &Leaf::right("ps", 0),
    );
    *pair.ps.program.address.lock().unwrap() = Some(server);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!(
        "{} {}",
        listener.local_addr().unwrap(),
        pair.ps.relay.tunnel_address()
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok((stream, source)) = listener.accept() {
                let destination = "100.64.0.100:2222".parse().unwrap();
                pair.worker.relay.outbound(Outbound {
                    stream,
                    destination,
                    source,
                    caller: Caller::new(|| "7 test".to_owned()),
                });
            }
        });
        wait_for_end();
        std::process::exit(0);
    });
}

fn wait_for_end() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn echo() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    thread::spawn(wait_for_end_and_exit);
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        thread::Builder::new()
            .stack_size(64 * 1024)
            .spawn(move || {
                let mut message = [0; MESSAGE];
                while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok()
                {
                }
            })
            .unwrap();
    }
}

fn wait_for_end_and_exit() {
    wait_for_end();
    std::process::exit(0);
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn exchange(stream: &mut TcpStream) {
    let mut message = [7; MESSAGE];
    stream.write_all(&message).unwrap();
    stream.read_exact(&mut message).unwrap();
}

fn print_percentiles(mut micros: Vec<f64>) {
    micros.sort_by(f64::total_cmp);
    let at = |share: usize| micros[(micros.len() - 1) * share / 100];
    println!("{:.2} {:.2} {:.2}", at(50), at(99), at(0));
}

fn pingpong(address: SocketAddr, count: usize) {
    let mut stream = dial(address);
    let once = |stream: &mut TcpStream| {
        let begin = Instant::now();
        exchange(stream);
        begin.elapsed().as_nanos() as f64 / 1e3
    };
    for _ in 0..count / 10 {
        once(&mut stream);
    }
    print_percentiles((0..count).map(|_| once(&mut stream)).collect());
}

fn connect(address: SocketAddr, count: usize) {
    let once = || {
        let begin = Instant::now();
        exchange(&mut dial(address));
        begin.elapsed().as_nanos() as f64 / 1e3
    };
    once();
    print_percentiles((0..count).map(|_| once()).collect());
}

fn hold(address: SocketAddr, count: usize) {
    let mut streams: Vec<TcpStream> = (0..count).map(|_| dial(address)).collect();
    for stream in &mut streams {
        exchange(stream);
    }
    println!("{}", streams.len());
    wait_for_end();
}
