//! Attack program: tries to send a canary round the network shield, one way per run, with raw system calls.
//!
//! Build: `rustc --edition 2024 -O -C target-feature=+crt-static -o attack tests/attack/attack.rs` (x86-64, static).
//! Run:   `attack WAY [ADDRESS:PORT] [ALLOWED:PORT] [COUNT]`; IPv6 as `[fd00::2]:2222`.
//!
//! Ways to a destination: connect, mapped (IPv4-mapped IPv6 socket), fastopen-sendto, fastopen-sendmsg, fastopen-sendmmsg,
//!   fastopen-connect, udp, int80, x32, mptcp, io-uring, ulp; foreign-source ADDRESS:PORT SOURCE:PORT; flip-race FORBIDDEN ALLOWED COUNT (sockaddr changes while
//!   connect runs); swap-race FORBIDDEN COUNT (socket and sockaddr change from AF_UNIX to AF_INET while connect runs)
//! Ways without one: vsock (only made, NEVER connected), packet, raw, xdp, smc, netlink-diag, unshare-net, unshare-user,
//!   clone-net, clone-user, setns (into a network), pidfd-getfd (of the parent's descriptor 0), ptrace, bpf
//! For the harness: self-connect ADDRESS:PORT (with a listener of its own on that port), dialogue ADDRESS:PORT (sends the
//!   canary, prints ends and answer), listen PORT (plainly; `sent`: it can), serve PORT COUNT (prints each peer's address), dns NAME, latency ADDRESS:PORT COUNT
//!
//! Prints one line. `refused NAME` (errno) and exit 0: nothing was sent. `sent` and exit 1: the kernel took the canary;
//! whether it arrived is for the listener to say. Killed by SIGSYS (31): refused, too. Exit 2: wrong command line.
//! The canary is `SECURETF-CANARY`.

mod ways;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ways::*;

fn self_connect(to: SocketAddr) -> Outcome {
    let own = TcpListener::bind((Ipv6Addr::UNSPECIFIED, to.port())).unwrap();
    own.set_nonblocking(true).unwrap();
    let outcome = plain(to, 0);
    if own.accept().is_ok() {
        println!("self-connection");
        std::process::exit(3);
    }
    outcome
}

fn dialogue(to: SocketAddr) {
    match TcpStream::connect(to) {
        Err(error) => println!(
            "refused {}",
            name(i64::from(error.raw_os_error().unwrap_or(0)))
        ),
        Ok(mut stream) => {
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            stream.write_all(CANARY).unwrap();
            let mut answer = [0_u8; CANARY.len()];
            let answered = stream.read_exact(&mut answer).is_ok();
            println!("local {} peer {peer} answered {answered}", local.ip());
        }
    }
}

fn serve(port: u16, count: u32) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    println!("listening");
    for _ in 0..count {
        let (mut stream, peer) = listener.accept().unwrap();
        let mut bytes = [0_u8; CANARY.len()];
        if stream.read_exact(&mut bytes).is_ok() {
            stream.write_all(&bytes).unwrap();
        }
        println!(
            "peer {} at {}",
            peer.ip().to_canonical(),
            stream.local_addr().unwrap().ip().to_canonical()
        );
    }
}

/// Asks 127.0.0.1:53 over TCP for the IPv4 and the IPv6 address; prints the addresses.
fn dns(name: &str) {
    let mut stream = TcpStream::connect("127.0.0.1:53").unwrap();
    let mut found = Vec::new();
    for kind in [1_u8, 28] {
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        stream
            .write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())
            .unwrap();
        let mut length = [0_u8; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0_u8; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        match (answer[3] & 15, answer[7]) {
            (0, 1) if kind == 1 => {
                let octets: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
                found.push(std::net::Ipv4Addr::from(octets).to_string());
            }
            (0, 1) => {
                let octets: [u8; 16] = answer[answer.len() - 16..].try_into().unwrap();
                found.push(Ipv6Addr::from(octets).to_string());
            }
            (code, count) => found.push(format!("code {code} with {count}")),
        }
    }
    println!("{}", found.join(" "));
}

fn latency(to: SocketAddr, count: u32) {
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let begin = Instant::now();
            let one = socket(domain(to), STREAM, 0).unwrap();
            connect(one, to).unwrap();
            let time = begin.elapsed();
            let _ = call3(CLOSE, one, 0, 0);
            std::thread::sleep(Duration::from_micros(200));
            time
        })
        .collect();
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_nanos() / 100;
    println!(
        "connect min {} p50 {} p99 {} tenths of a microsecond",
        at(0),
        at(50),
        at(99)
    );
}

fn name(errno: i64) -> String {
    let known = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (13, "EACCES"),
        (22, "EINVAL"),
        (38, "ENOSYS"),
        (92, "ENOPROTOOPT"),
        (93, "EPROTONOSUPPORT"),
        (95, "EOPNOTSUPP"),
        (97, "EAFNOSUPPORT"),
        (99, "EADDRNOTAVAIL"),
        (101, "ENETUNREACH"),
        (104, "ECONNRESET"),
        (110, "ETIMEDOUT"),
        (111, "ECONNREFUSED"),
        (113, "EHOSTUNREACH"),
    ];
    let found = known.iter().find(|(number, _)| *number == errno);
    found.map_or_else(|| errno.to_string(), |(_, name)| (*name).to_owned())
}

fn usage(text: &str) -> ! {
    eprintln!("attack: {text}; see the head of attack.rs");
    std::process::exit(2)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |index: usize| arguments.get(index).map(String::as_str);
    let address = |index: usize| -> SocketAddr {
        let parsed = text(index).and_then(|one| one.parse().ok());
        parsed.unwrap_or_else(|| usage("an address is missing"))
    };
    let count = |index: usize| text(index).and_then(|one| one.parse().ok()).unwrap_or(1500);
    let made = |result: Result<i64, i64>| result.map(|_| ());
    let outcome = match text(0).unwrap_or_else(|| usage("no way given")) {
        "connect" => plain(address(1), 0),
        "mapped" => plain(mapped(address(1)), 0),
        "mptcp" => plain(address(1), 262),
        "fastopen-sendto" => fastopen(address(1), SENDTO),
        "fastopen-sendmsg" => fastopen(address(1), SENDMSG),
        "fastopen-sendmmsg" => fastopen(address(1), SENDMMSG),
        "fastopen-connect" => fastopen_connect(address(1)),
        "foreign-source" => foreign_source(address(1), address(2)),
        "listen" => listen_plainly(count(1) as u16),
        "ulp" => ulp(address(1)),
        "udp" => udp(address(1)),
        "int80" => int80(address(1)),
        "x32" => x32(address(1)),
        "io-uring" => io_uring(address(1)),
        "flip-race" => flip_race(address(1), address(2), count(3)),
        "swap-race" => swap_race(address(1), count(2)),
        "vsock" => made(socket(40, STREAM, 0)),
        "packet" => made(socket(17, RAW, 0x300)),
        "raw" => made(socket(2, RAW, 255)),
        "xdp" => made(socket(44, RAW, 0)),
        "smc" => made(socket(43, STREAM, 0)),
        "netlink-diag" => made(socket(16, RAW, 4)),
        "unshare-net" => made(call3(UNSHARE, NEWNET, 0, 0)),
        "unshare-user" => made(call3(UNSHARE, NEWUSER, 0, 0)),
        "clone-net" => clone_into(NEWNET),
        "clone-user" => clone_into(NEWUSER),
        "setns" => enter_network(),
        "pidfd-getfd" => steal_descriptor(),
        "ptrace" => made(call(
            PTRACE,
            [
                16,
                i64::from(std::os::unix::process::parent_id()),
                0,
                0,
                0,
                0,
            ],
        )),
        "bpf" => made(call3(BPF, 0, 0, 0)),
        "self-connect" => self_connect(address(1)),
        "dialogue" => return dialogue(address(1)),
        "serve" => return serve(count(1) as u16, count(2)),
        "dns" => return dns(text(1).unwrap_or_else(|| usage("a name is missing"))),
        "latency" => return latency(address(1), count(2)),
        _ => usage("no such way"),
    };
    match outcome {
        Ok(()) => {
            println!("sent");
            std::process::exit(1);
        }
        Err(errno) => println!("refused {}", name(errno)),
    }
}
