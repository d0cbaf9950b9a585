//! Programs that race against the supervisor. Each attack is a part of this file, run under supervision as a
//! program of its own; `forbidden` is a listener of the host at 127.0.0.1 that must never see a connection.

#![allow(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{Raised, exit_code};

const PERMITTED: (Ipv4Addr, u16) = (Ipv4Addr::new(100, 64, 0, 9), 2222);

/// The entry of the attacks: not a test by itself.
#[test]
#[ignore = "run by the other tests, under supervision"]
fn program() {
    let port = std::env::var("FORBIDDEN").unwrap().parse().unwrap();
    let counts = match std::env::var("ATTACK").unwrap().as_str() {
        "flip the address" => flip_address(port, 1500),
        "swap the descriptor" => swap_descriptor(port, 4000),
        "swap before listen" => swap_before_listen(4000),
        other => panic!("no attack {other}"),
    };
    fs::write(std::env::var("COUNTS").unwrap(), counts).unwrap();
}

/// Runs one attack under supervision; returns what it counted.
fn attack(raised: &Raised, name: &str, forbidden: &TcpListener) -> String {
    let directory = tempfile::tempdir().unwrap();
    let counts = directory.path().join("counts");
    let port = forbidden.local_addr().unwrap().port().to_string();
    let this = std::env::current_exe().unwrap();
    let argv = [
        this.to_str().unwrap(),
        "--exact",
        "attack::program",
        "--ignored",
    ];
    let environment = [
        ("ATTACK", name),
        ("FORBIDDEN", port.as_str()),
        ("COUNTS", counts.to_str().unwrap()),
        ("TMPDIR", directory.path().to_str().unwrap()),
    ];
    assert_eq!(exit_code(raised.start(&argv, &environment)), 0);
    fs::read_to_string(counts).unwrap()
}

pub fn forbidden() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

pub fn assert_untouched(forbidden: &TcpListener) {
    assert_eq!(
        forbidden.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}

/// Attacks again and again until the race was met often enough, as `round` says: how often depends on the machine.
fn repeated(mut round: impl FnMut() -> bool) {
    assert!((0..20).any(|_| round()), "no race");
}

fn count(counts: &str, name: &str) -> u32 {
    let found = counts
        .split(' ')
        .find_map(|one| one.strip_prefix(&format!("{name}=")));
    found.map_or(0, |number| number.parse().unwrap())
}

#[test]
fn an_address_that_changes_during_connect_leads_to_no_other_destination() {
    let reached = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&reached);
    let raised = Raised::with(move |outbound| seen.lock().unwrap().push(outbound.destination));
    let forbidden = forbidden();
    let (mut permitted, mut refused) = (0, 0);
    repeated(|| {
        let counts = attack(&raised, "flip the address", &forbidden);
        println!("flip: {counts}");
        assert_untouched(&forbidden);
        let found = (count(&counts, "0"), count(&counts, "111"));
        assert_eq!(found.0 + found.1, 1500, "{counts}");
        (permitted, refused) = (permitted + found.0, refused + found.1);
        permitted > 100 && refused > 100
    });
    thread::sleep(Duration::from_millis(100));
    let reached = reached.lock().unwrap();
    assert!(
        reached.iter().all(|one| *one == PERMITTED.into()),
        "{reached:?}"
    );
}

#[test]
fn a_descriptor_that_changes_behind_continue_meets_landlock() {
    let raised = Raised::new();
    let forbidden = forbidden();
    // 13 is EACCES: Landlock was needed.
    repeated(|| {
        let counts = attack(&raised, "swap the descriptor", &forbidden);
        println!("swap: {counts}");
        assert_untouched(&forbidden);
        count(&counts, "13") > 0
    });
}

#[test]
fn a_descriptor_that_changes_before_listen_gets_no_port_on_all_addresses() {
    let raised = Raised::new();
    let forbidden = forbidden();
    let mut private = 0;
    repeated(|| {
        let counts = attack(&raised, "swap before listen", &forbidden);
        println!("listen: {counts}");
        assert_eq!(count(&counts, "public"), 0, "{counts}");
        private += count(&counts, "private");
        private > 100
    });
}

/// Connects while another thread writes a forbidden address over the permitted one and back.
fn flip_address(port: u16, times: u32) -> String {
    let address = Box::leak(Box::new(inet(PERMITTED.0, PERMITTED.1)));
    let (good, evil) = (*address, inet(Ipv4Addr::LOCALHOST, port));
    let pointer = Shared(address);
    let done = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&done);
    let flipper = thread::spawn(move || {
        let pointer = &pointer;
        while !end.load(Ordering::Relaxed) {
            for one in [good, evil] {
                // SAFETY: the memory lives for ever; that the other thread sees it half written is the attack.
                unsafe { std::ptr::write_volatile(pointer.0, one) };
                pause();
            }
        }
    });
    let mut counts = Counts::default();
    for _ in 0..times {
        // SAFETY: a socket of ours and a valid address.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            let done = libc::connect(socket, std::ptr::from_ref(address).cast(), 16);
            counts.add(if done == 0 {
                0
            } else {
                *libc::__errno_location()
            });
            libc::close(socket);
        }
    }
    done.store(true, Ordering::Relaxed);
    flipper.join().unwrap();
    counts.text()
}

/// Connects a UNIX socket, which the supervisor lets the kernel do, while another thread puts a TCP socket under its
/// number and a forbidden address into its place.
fn swap_descriptor(port: u16, times: u32) -> String {
    let path = std::env::temp_dir().join("listener");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let good = unix(path.to_str().unwrap());
    let mut evil = [0_u8; 110];
    let inet = inet(Ipv4Addr::LOCALHOST, port);
    evil[..2].copy_from_slice(&inet.sin_family.to_ne_bytes());
    evil[2..4].copy_from_slice(&port.to_be_bytes());
    evil[4..8].copy_from_slice(&[127, 0, 0, 1]);
    let address = Box::leak(Box::new(good));
    let pointer = Shared(address);
    let swap = Swap::begin(move |evil_now| {
        let pointer = &pointer;
        // SAFETY: as in `flip_address`.
        unsafe { std::ptr::write_volatile(pointer.0, if evil_now { evil } else { good }) };
    });
    let mut counts = Counts::default();
    for _ in 0..times {
        swap.fresh_sockets();
        // SAFETY: descriptors of ours and a valid address.
        unsafe {
            let done = libc::connect(swap.number, std::ptr::from_ref(address).cast(), 110);
            counts.add(if done == 0 {
                0
            } else {
                *libc::__errno_location()
            });
        }
    }
    swap.end();
    counts.text()
}

/// `listen` on a UNIX socket whose number becomes an unbound TCP socket.
fn swap_before_listen(times: u32) -> String {
    let swap = Swap::begin(|_| {});
    let (mut private, mut public) = (0, 0);
    for _ in 0..times {
        swap.fresh_sockets();
        // SAFETY: descriptors of ours; getsockname writes at most 16 bytes into `name`.
        unsafe {
            libc::listen(swap.number, 1);
            let mut name = inet(Ipv4Addr::UNSPECIFIED, 0);
            let mut size = 16;
            libc::getsockname(
                swap.tcp.load(Ordering::Relaxed),
                (&raw mut name).cast(),
                &raw mut size,
            );
            let bound = name.sin_port != 0;
            private += u32::from(bound && name.sin_addr.s_addr.to_ne_bytes()[0] == 127);
            public += u32::from(bound && name.sin_addr.s_addr.to_ne_bytes()[0] != 127);
        }
    }
    swap.end();
    format!("private={private} public={public}")
}

/// A thread that puts a UNIX and a TCP socket under one number by turns.
struct Swap {
    number: i32,
    unix: Arc<AtomicI32>,
    tcp: Arc<AtomicI32>,
    done: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Swap {
    fn begin(with: impl Fn(bool) + Send + 'static) -> Self {
        // SAFETY: makes sockets.
        let [number, unix, tcp] = unsafe {
            [libc::AF_UNIX, libc::AF_UNIX, libc::AF_INET]
                .map(|family| libc::socket(family, libc::SOCK_STREAM, 0))
        };
        let (unix, tcp) = (
            Arc::new(AtomicI32::new(unix)),
            Arc::new(AtomicI32::new(tcp)),
        );
        let done = Arc::new(AtomicBool::new(false));
        let (from, to, end) = (Arc::clone(&unix), Arc::clone(&tcp), Arc::clone(&done));
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                // SAFETY: duplicates descriptors of ours.
                unsafe { libc::dup2(from.load(Ordering::Relaxed), number) };
                with(false);
                pause();
                unsafe { libc::dup2(to.load(Ordering::Relaxed), number) };
                with(true);
                pause();
            }
        });
        Self {
            number,
            unix,
            tcp,
            done,
            thread,
        }
    }

    fn fresh_sockets(&self) {
        for (slot, family) in [(&self.unix, libc::AF_UNIX), (&self.tcp, libc::AF_INET)] {
            // SAFETY: the old ones may still be duplicated once more: then `dup2` fails, which is harmless.
            unsafe {
                let new = libc::socket(family, libc::SOCK_STREAM, 0);
                libc::close(slot.swap(new, Ordering::Relaxed));
            }
        }
    }

    fn end(self) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Waits for a time that varies, between nothing and some microseconds.
fn pause() {
    static TURN: AtomicU32 = AtomicU32::new(1);
    let turn = TURN
        .load(Ordering::Relaxed)
        .wrapping_mul(1_664_525)
        .wrapping_add(1_013_904_223);
    TURN.store(turn, Ordering::Relaxed);
    for _ in 0..(turn >> 16) % 2000 {
        std::hint::spin_loop();
    }
}

struct Shared<T>(*mut T);
// SAFETY: shared on purpose, see the attacks.
unsafe impl<T> Send for Shared<T> {}
unsafe impl<T> Sync for Shared<T> {}

#[derive(Default)]
struct Counts(std::collections::BTreeMap<i32, u32>);

impl Counts {
    fn add(&mut self, errno: i32) {
        *self.0.entry(errno).or_default() += 1;
    }

    fn text(&self) -> String {
        let all: Vec<String> = self
            .0
            .iter()
            .map(|(errno, count)| format!("{errno}={count}"))
            .collect();
        all.join(" ")
    }
}

fn inet(ip: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET).unwrap(),
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(ip.octets()),
        },
        sin_zero: [0; 8],
    }
}

fn unix(path: &str) -> [u8; 110] {
    let mut bytes = [0; 110];
    bytes[..2].copy_from_slice(&u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes());
    bytes[2..2 + path.len()].copy_from_slice(path.as_bytes());
    bytes
}
