//! What networks and machines do to tunnels: sockets that are destroyed, paths that vanish, relays that are killed. Programs
//! see a reset, soon, and never an end that the other program did not make.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "relay/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use securetf_netshield::event::{Caller, Denial, Outbound};
use securetf_netshield::relay::{Identity, Limits, NetworkKey, Relay, RelayConfig, TunnelListener};
use support::machines::{run, two_machines};
use support::pki::{Ca, Leaf};
use support::{Node, Pair, node, policy};

/// Longer than a busy machine takes for anything here.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes that do not fit into the buffers on the way.
const PAUSED: usize = 256 << 20;

/// Heartbeats and silence that a test can wait for.
fn short() -> Limits {
    Limits {
        heartbeat: Duration::from_millis(200),
        silence: Duration::from_secs(2),
        ..Limits::default()
    }
}

fn is_reset(program: &mut TcpStream) {
    let error = program.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Nobody had to find out by waiting.
fn nobody_was_silent(node: &Node) {
    let denials = node.denials.0.lock().unwrap();
    let silent = |one: &Denial| one.reason.contains("silent");
    assert!(!denials.iter().any(silent), "{denials:?}");
}

/// Of each place of a stream, a byte that others do not have.
fn pattern(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(4)).map(|place| u32::try_from(place).unwrap().to_be_bytes());
    words.flatten().take(length).collect()
}

#[test]
fn a_tunnel_whose_socket_is_destroyed_resets_both_programs_after_right_bytes_and_the_next_one_works()
 {
    let pair = Pair::new();
    let port = pair.ps.relay.tunnel_address().port();
    let sent = pattern(PAUSED);
    // As an administrator does it: the dialling side's socket, then the accepting side's.
    for socket in ["dport", "sport"] {
        let destroy = format!("ss -K -t state established {socket} = :{port}");
        let (mut near, mut far) = pair.connect();
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        run(&destroy);
        is_reset(&mut near);
        is_reset(&mut far);
        let (near, mut far) = pair.connect();
        let mut came = vec![0; 3_000_000];
        thread::scope(|scope| {
            let writing = scope.spawn(|| (&near).write_all(&sent));
            far.read_exact(&mut came).unwrap();
            run(&destroy);
            let error = far.read_to_end(&mut came).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{socket}");
            writing.join().unwrap().unwrap_err();
        });
        assert!(sent.starts_with(&came), "{socket}: other bytes came");
    }
    nobody_was_silent(&pair.worker);
    nobody_was_silent(&pair.ps);
}

/// Two machines whose cable the function cuts, by a command on the worker's.
fn cable(cut_by: &'static str) -> (Pair, impl FnOnce()) {
    two_machines(short(), |_| (), move |()| drop(run(cut_by)))
}

#[test]
fn a_peer_that_vanishes_without_a_word_is_cut_in_bounded_time_on_both_sides() {
    let (pair, cut) = cable(NO_WAY);
    let (mut near, mut far) = pair.connect();
    near.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    cut();
    // One waits, the other has bytes under way: both must hear of it.
    far.write_all(&[1; 1000]).unwrap();
    is_reset(&mut near);
    is_reset(&mut far);
    for Node { denials, .. } in [&pair.worker, &pair.ps] {
        denials.expect("cut: the peer is silent");
    }
}

/// What cuts the cable: nothing can be sent any more.
const NO_WAY: &str = "ip link delete near";
/// What makes the worker's machine deaf: what the other one sends arrives nowhere.
const NOBODY: &str = "ip address flush dev near";

#[test]
fn a_peer_that_vanishes_after_its_last_byte_is_cut_in_bounded_time() {
    let (pair, cut) = cable(NO_WAY);
    let (near, far) = pair.connect();
    vanishes_after_its_last_byte(&pair, near, far, cut);
    let (pair, cut) = cable(NOBODY);
    let (near, far) = pair.connect();
    vanishes_after_its_last_byte(&pair, far, near, cut);
}

/// `ending` ends its direction, then its machine is gone; nobody writes, so heartbeats alone must tell `listening`.
fn vanishes_after_its_last_byte(
    pair: &Pair,
    mut listening: TcpStream,
    mut ending: TcpStream,
    cut: impl FnOnce(),
) {
    ending.shutdown(Shutdown::Write).unwrap();
    assert_eq!(listening.read(&mut [0]).unwrap(), 0);
    let begin = Instant::now();
    cut();
    let error = loop {
        if let Some(error) = listening.take_error().unwrap() {
            break error;
        }
        assert!(begin.elapsed() < PATIENCE, "the program was never told");
        thread::sleep(Duration::from_millis(50));
    };
    // How a reset shows where the end of the stream was read before; tcp_reset() in the kernel.
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    is_reset(&mut ending);
    for Node { denials, .. } in [&pair.worker, &pair.ps] {
        denials.expect("cut: the peer is silent");
    }
}

#[test]
fn a_program_that_does_not_read_after_its_last_byte_is_no_dead_peer() {
    let (pair, _cut) = cable(NO_WAY);
    let (mut near, mut far) = pair.connect();
    far.shutdown(Shutdown::Write).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    let writing = thread::spawn(move || near.write_all(&vec![1; PAUSED]).unwrap());
    thread::sleep(short().silence * 2);
    assert!(!writing.is_finished(), "everything fits into buffers");
    far.read_exact(&mut vec![0; PAUSED]).unwrap();
    writing.join().unwrap();
}

const ROLE: &str = "FAILURES_TEST_RELAY";
const KILLED: &str = "a_relay_that_is_killed_resets_the_programs_of_both_sides_in_mid_stream";

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |place| u8::from_str_radix(&text[place..place + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// In the process that is killed: the worker's relay. Tells its key, is told certificates and its peer.
fn relay_of_a_process() {
    let key = NetworkKey::generate().unwrap();
    println!("key {}", hex(&key.spki_der().unwrap()));
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    let (trust_root, leaf) = (unhex(&lines.next().unwrap()), unhex(&lines.next().unwrap()));
    let peer: SocketAddr = lines.next().unwrap().parse().unwrap();
    let relay = Relay::start(RelayConfig {
        policy: policy("worker", 0),
        identity: Identity {
            key,
            chain: vec![leaf],
        },
        trust_root,
        tunnel: TunnelListener::bind("127.0.0.1:0".parse().unwrap()).unwrap(),
        inner: Arc::new(support::Program::default()),
        denials: Arc::new(support::Denials::default()),
        limits: Limits::default(),
    })
    .unwrap();
    relay.set_endpoints(vec![("ps".into(), 0, peer)]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("entry {}", listener.local_addr().unwrap());
    while let Ok((stream, source)) = listener.accept() {
        relay.outbound(Outbound {
            stream,
            destination: "100.64.0.100:2222".parse().unwrap(),
            source,
            caller: Caller::new(|| "7 test".to_owned()),
        });
    }
}

/// Starts [`relay_of_a_process`] as a worker of `ca` that knows `ps`; where programs connect.
fn start_process(ca: &Ca, ps: &Node) -> (Child, SocketAddr) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", KILLED, "--nocapture"])
        .env(ROLE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut told = |word: &str| {
        let line = lines.find(|line| line.contains(word)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let spki = unhex(&told("key "));
    let leaf = ca.issue(&spki, &Leaf::right("worker", 0));
    let mut input = process.stdin.take().unwrap();
    let peer = ps.relay.tunnel_address();
    writeln!(input, "{}\n{}\n{peer}", hex(&ca.der), hex(&leaf)).unwrap();
    let entry = told("entry ").parse().unwrap();
    (process, entry)
}

/// Writes for as long as it goes.
fn flood(mut program: TcpStream) -> thread::JoinHandle<()> {
    thread::spawn(move || while program.write_all(&[7; 8192]).is_ok() {})
}

#[test]
fn a_relay_that_is_killed_resets_the_programs_of_both_sides_in_mid_stream() {
    if std::env::var_os(ROLE).is_some() {
        return relay_of_a_process();
    }
    for upward in [true, false] {
        let ca = Ca::new("session");
        let ps = node(
            &ca,
            &Leaf::right("ps", 0),
            policy("ps", 0),
            Limits::default(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        *ps.program.address.lock().unwrap() = Some(listener.local_addr().unwrap());
        let (mut process, entry) = start_process(&ca, &ps);
        let near = TcpStream::connect(entry).unwrap();
        near.set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let far = support::accept(&listener);
        // The writer reads nothing, so that the reset is the reader's alone.
        let (writer, mut reader) = if upward { (near, far) } else { (far, near) };
        let writing = flood(writer);
        reader.read_exact(&mut vec![0; 3_000_000]).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "upward: {upward}");
        writing.join().unwrap();
        nobody_was_silent(&ps);
    }
}
