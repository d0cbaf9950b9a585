//! Two relays in one process, and the small programs that measure through them; `benchmarks/network.py` drives it.
//!
//! `relay_bench pair SERVER` prints the address of a listener whose connections cross both relays to SERVER, and ends
//! with its standard input; `outside SERVER` the address of a public port whose clients reach SERVER. `echo` and `sink`
//! print theirs; a sink takes a length (8 bytes, big endian) and so many bytes, and answers with one. `pingpong ADDRESS COUNT`, `connect ADDRESS COUNT` and
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
use securetf_netshield::policy::OutsideRule;
use securetf_netshield::relay::{Limits, OutsideLimits, OutsideListener, TunnelListener};
use support::pki::{Ca, Leaf};
use support::{Pair, node, policy};

const MESSAGE: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["pair", server] => pair(server.parse().unwrap()),
        ["outside", server] => outside(server.parse().unwrap()),
        ["echo"] => echo(),
        ["sink"] => sink(),
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

fn outside(server: SocketAddr) {
    let ca = Ca::new("session");
    let mut policy = policy("ps", 0);
    policy.outside = vec![OutsideRule {
        name: "rest".into(),
        port: 8501,
        alpn: vec!["http/1.1".into()],
        clients: None,
    }];
    let mut node = node(&ca, &Leaf::right("ps", 0), policy, Limits::default());
    *node.program.address.lock().unwrap() = Some(server);
    let public = TunnelListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    println!("{}", public.address().unwrap());
    let listeners = vec![OutsideListener {
        name: "rest".into(),
        listener: public,
    }];
    node.relay
        .open_outside(listeners, OutsideLimits::default())
        .unwrap();
    wait_for_end();
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

fn sink() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    thread::spawn(wait_for_end_and_exit);
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        thread::spawn(move || {
            let (mut length, mut part) = ([0; 8], vec![0; 1 << 20]);
            while stream.read_exact(&mut length).is_ok() {
                let mut left = usize::try_from(u64::from_be_bytes(length)).unwrap();
                while left > 0 {
                    let most = part.len().min(left);
                    match stream.read(&mut part[..most]) {
                        Ok(0) | Err(_) => return,
                        Ok(got) => left -= got,
                    }
                }
                if stream.write_all(&[1]).is_err() {
                    return;
                }
            }
        });
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
