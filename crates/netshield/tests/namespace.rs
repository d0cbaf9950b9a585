//! Promises of interceptor N, seen from a program inside. As root, with nftables and iproute2.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use securetf_netshield::event::Outbound;
use securetf_netshield::namespace::Namespace;
use support::{CANARY, Denials, confined, keep, policy};

/// A raised namespace whose "relay" answers each connection with what it read and notes its ends.
fn raised(denials: Arc<Denials>) -> (Namespace, Receiver<(SocketAddr, SocketAddr)>) {
    support::attack(); // built before anything is timed
    let mut namespace = Namespace::raise(&policy(), denials).unwrap();
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    namespace
        .start(Arc::new(move |mut outbound: Outbound| {
            let ends = (outbound.destination, outbound.source);
            let _ = sender.lock().unwrap().send(ends);
            thread::spawn(move || {
                let mut bytes = [0_u8; CANARY.len()];
                if outbound.stream.read_exact(&mut bytes).is_ok() {
                    let _ = outbound.stream.write_all(&bytes);
                }
            });
        }))
        .unwrap();
    (namespace, receiver)
}

fn within(receiver: &Receiver<(SocketAddr, SocketAddr)>) -> (SocketAddr, SocketAddr) {
    receiver.recv_timeout(Duration::from_secs(3)).unwrap()
}

#[test]
fn permitted_connections_reach_the_relay_with_their_destination() {
    let (namespace, arrived) = raised(Arc::default());
    for (address, source) in [
        ("100.64.0.2:2222", "100.64.0.1"),
        ("[fd00::2]:2222", "fd00::1"),
        ("100.64.9.9:443", "100.64.0.1"),
    ] {
        let program = confined(namespace.netns(), &["dialogue", address]);
        let (text, _) = program.finish();
        assert_eq!(text, format!("local {source} peer {address} answered true"));
        let (destination, from) = within(&arrived);
        assert_eq!(destination.to_string(), address);
        assert_eq!(from.ip().to_string(), source);
    }
    // what TensorFlow does: an IPv6 socket and an IPv4-mapped address
    let (text, code) = confined(namespace.netns(), &["mapped", "100.64.0.2:2222"]).finish();
    assert_eq!((text.as_str(), code), ("sent", 1));
    assert_eq!(within(&arrived).0.to_string(), "100.64.0.2:2222");
}

#[test]
fn unlisted_destinations_are_refused_at_once_and_logged() {
    let denials = Arc::new(Denials::default());
    let (namespace, arrived) = raised(denials.clone());
    for (address, text, reason) in [
        (
            "100.64.0.2:2223",
            "100.64.0.2:2223 (worker-1)",
            "no rule of the Manifest has this port",
        ),
        (
            "[fd00::2]:9",
            "[fd00::2]:9 (worker-1)",
            "no rule of the Manifest has this port",
        ),
        (
            "192.0.2.77:80",
            "192.0.2.77:80",
            "no rule of the Manifest has this address",
        ),
        (
            "[2001:db8::7]:80",
            "[2001:db8::7]:80",
            "no rule of the Manifest has this address",
        ),
    ] {
        let before = Instant::now();
        let (said, code) = confined(namespace.netns(), &["connect", address]).finish();
        assert!(
            before.elapsed() < Duration::from_secs(30),
            "{:?}",
            before.elapsed()
        );
        assert_eq!(
            (said.as_str(), code),
            ("refused ECONNREFUSED", 0),
            "{address}"
        );
        let denial = denials.find(|denial| denial.destination == text);
        assert_eq!(
            (denial.reason.as_str(), denial.direction),
            (reason, "outbound")
        );
        assert!(denial.time_s > 1_700_000_000);
    }
    assert!(arrived.try_recv().is_err());
}

#[test]
fn connections_of_the_namespace_are_not_paced_whatever_the_machine_is_set_to() {
    support::attack();
    let mut namespace = Namespace::raise(&policy(), Arc::new(Denials::default())).unwrap();
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    namespace
        .start(Arc::new(move |outbound: Outbound| {
            let control = rustix::net::sockopt::tcp_congestion(&outbound.stream);
            let _ = sender.lock().unwrap().send(control);
        }))
        .unwrap();
    confined(namespace.netns(), &["connect", "100.64.0.2:2222"]).finish();
    let control = receiver.recv_timeout(Duration::from_mins(1)).unwrap();
    assert_eq!(control.as_deref(), Ok("reno"));
}

#[test]
fn the_relay_is_told_which_process_connects() {
    support::attack();
    let mut namespace = Namespace::raise(&policy(), Arc::new(Denials::default())).unwrap();
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    namespace
        .start(Arc::new(move |outbound: Outbound| {
            let told = outbound.caller.describe(); // before the connection is reset, and the program ends
            let _ = sender.lock().unwrap().send(told);
        }))
        .unwrap();
    let program = confined(namespace.netns(), &["dialogue", "100.64.0.2:2222"]);
    let told: String = receiver.recv_timeout(Duration::from_secs(3)).unwrap();
    drop(program);
    let (pid, name) = told.split_once(' ').unwrap();
    assert!(pid.parse::<u32>().is_ok() && name == "attack", "{told}");
}

#[test]
fn a_denial_names_the_process_when_it_is_the_only_one() {
    let denials = Arc::new(Denials::default());
    let (namespace, _arrived) = raised(denials.clone());
    // The log is read beside the program: on a busy machine it may have ended before it is looked for.
    let races = ["flip-race", "192.0.2.9:80", "100.64.0.3:80", "300"];
    let deadline = Instant::now() + Duration::from_mins(1);
    let denial = loop {
        let (said, _) = confined(namespace.netns(), &races).finish();
        assert_eq!(said, "refused ECONNREFUSED");
        match denials.noted(|denial| denial.process.contains("attack")) {
            Some(denial) => break denial,
            None => assert!(Instant::now() < deadline, "no denial names the process"),
        }
    };
    assert!(
        denial
            .process
            .split(' ')
            .next()
            .unwrap()
            .parse::<u32>()
            .is_ok(),
        "{denial:?}"
    );
}

#[test]
fn the_relays_own_port_is_no_way_in() {
    let denials = Arc::new(Denials::default());
    let (namespace, arrived) = raised(denials.clone());
    let listening = thread::scope(|scope| {
        let netns = namespace.netns();
        let read = scope.spawn(move || {
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap()
        });
        read.join().unwrap()
    });
    let ports = listening.lines().filter_map(|line| {
        let port = line.split_whitespace().nth(1)?.strip_prefix("0100007F:")?;
        u16::from_str_radix(port, 16)
            .ok()
            .filter(|port| *port != 53)
    });
    let ports: Vec<u16> = ports.collect();
    assert_eq!(ports.len(), 1, "{listening}");
    let direct = format!("127.0.0.1:{}", ports[0]);
    let (said, _) = confined(namespace.netns(), &["connect", &direct]).finish();
    assert_eq!(said, "refused ECONNREFUSED");
    denials.find(|denial| denial.destination == direct);
    assert!(arrived.try_recv().is_err());
}

#[test]
fn the_program_cannot_speak_from_an_address_of_others() {
    let (namespace, arrived) = raised(Arc::default());
    for (to, source, expected) in [
        ("100.64.0.2:2222", "100.64.0.3:0", "refused ECONNREFUSED"),
        ("100.64.0.2:2222", "127.0.0.1:0", "refused ECONNREFUSED"),
        ("[fd00::2]:2222", "[fd00::3]:0", "refused EADDRNOTAVAIL"),
    ] {
        let program = confined(namespace.netns(), &["foreign-source", to, source]);
        assert_eq!(program.finish().0, expected, "{to} from {source}");
    }
    assert!(arrived.try_recv().is_err());
}

#[test]
fn own_addresses_are_connected_locally() {
    let (namespace, arrived) = raised(Arc::default());
    for address in ["100.64.0.1:2222", "[fd00::1]:2222", "127.0.0.1:2222"] {
        let mut server = confined(namespace.netns(), &["serve", "2222", "1"]);
        assert_eq!(server.line(), "listening");
        let (text, _) = confined(namespace.netns(), &["dialogue", address]).finish();
        assert!(
            text.ends_with(&format!("peer {address} answered true")),
            "{text}"
        );
        server.finish();
    }
    assert!(arrived.try_recv().is_err());
}

#[test]
fn a_dead_relay_means_refused_and_never_a_connection_to_oneself() {
    let (namespace, _arrived) = raised(Arc::default());
    let netns = keep(namespace.netns());
    namespace.lower();
    for address in [
        "100.64.0.2:2222",
        "[fd00::2]:2222",
        "100.64.9.9:443",
        "192.0.2.1:80",
    ] {
        for _ in 0..3 {
            let before = Instant::now();
            let (text, code) = confined(netns.as_fd(), &["self-connect", address]).finish();
            assert_eq!(
                (text.as_str(), code),
                ("refused ECONNREFUSED", 0),
                "{address}"
            );
            assert!(
                before.elapsed() < Duration::from_secs(30),
                "{:?}",
                before.elapsed()
            );
        }
    }
}

#[test]
fn peers_reach_the_program_from_their_own_address() {
    let (namespace, arrived) = raised(Arc::default());
    let inner = namespace.inner();
    let mut server = confined(namespace.netns(), &["serve", "2222", "4"]);
    assert_eq!(server.line(), "listening");
    for (peer, own) in [
        ("100.64.0.2:0", "100.64.0.1"),
        ("[fd00::2]:0", "fd00::1"),
        ("100.64.0.2:41000", "100.64.0.1"),
        ("100.64.0.2:2222", "100.64.0.1"), // a port that the program may connect to, too
    ] {
        let peer: SocketAddr = peer.parse().unwrap();
        let mut stream = inner.dial(2222, peer).unwrap();
        stream.write_all(CANARY).unwrap();
        let mut answer = [0_u8; CANARY.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, CANARY);
        assert_eq!(server.line(), format!("peer {} at {own}", peer.ip()));
    }
    server.finish();
    let refused = inner
        .dial(2222, "100.64.0.2:0".parse().unwrap())
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(arrived.try_recv().is_err());
}

#[test]
fn names_of_the_policy_are_answered_and_others_reported() {
    let denials = Arc::new(Denials::default());
    let (namespace, _arrived) = raised(denials.clone());
    let ask = |name| confined(namespace.netns(), &["dns", name]).finish().0;
    assert_eq!(ask("worker-1"), "100.64.0.2 fd00::2");
    assert_eq!(ask("Worker-1.s.t.internal"), "100.64.0.2 fd00::2");
    assert_eq!(ask("localhost"), "127.0.0.1 ::1");
    assert_eq!(ask("api.test"), "100.64.9.9 code 0 with 0");
    assert_eq!(ask("evil.example"), "code 3 with 0 code 3 with 0");
    let denial = denials.find(|denial| denial.destination == "evil.example (name)");
    assert_eq!(denial.reason, "no rule of the Manifest has this name");
}

#[test]
fn the_self_test_leaves_the_programs_port_free() {
    let (namespace, _arrived) = raised(Arc::default());
    let (text, _) = confined(namespace.netns(), &["listen", "2222"]).finish();
    assert_eq!(text, "sent", "a server that does not set SO_REUSEADDR");
}

#[test]
fn a_port_of_a_live_connection_can_be_listened_on() {
    let (namespace, arrived) = raised(Arc::default());
    // the relay's end of this connection has the local port 2222, on which the program listens only then
    let inner = namespace.inner();
    let run = confined(namespace.netns(), &["latency", "100.64.0.2:2222", "20"]);
    run.finish();
    within(&arrived);
    let mut server = confined(namespace.netns(), &["serve", "2222", "1"]);
    assert_eq!(server.line(), "listening");
    let mut stream = inner
        .dial(2222, "100.64.0.2:2222".parse().unwrap())
        .unwrap();
    stream.write_all(CANARY).unwrap();
    assert_eq!(server.line(), "peer 100.64.0.2 at 100.64.0.1");
    server.finish();
}

#[test]
fn a_workload_without_rules_has_only_itself() {
    let mut alone = policy();
    alone.connect.clear();
    alone.external.clear();
    alone.listen.clear();
    for addresses in [2, 1, 0] {
        alone.me.addresses.truncate(addresses);
        let namespace = Namespace::raise(&alone, Arc::new(Denials::default())).unwrap();
        let (text, _) = confined(namespace.netns(), &["connect", "127.0.0.1:9"]).finish();
        assert_eq!(text, "refused ECONNREFUSED");
        let (text, _) = confined(namespace.netns(), &["connect", "100.64.0.2:2222"]).finish();
        let nowhere = ["refused ECONNREFUSED", "refused ENETUNREACH"]; // without an address there is no route
        assert_eq!(text, nowhere[usize::from(addresses == 0)]);
    }
}

#[test]
fn the_c_librarys_resolver_finds_names_under_the_filter() {
    let (namespace, _arrived) = raised(Arc::default());
    let file = std::env::temp_dir().join(format!("securetf-resolv-{}", std::process::id()));
    std::fs::write(&file, securetf_netshield::names::RESOLV_CONF).unwrap();
    let found = thread::scope(|scope| {
        let work = scope.spawn(|| {
            // this thread's own mount namespace, as the launcher's
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let (resolv, bind) = ("/etc/resolv.conf", MsFlags::MS_BIND);
            mount(Some(&file), resolv, None::<&str>, bind, None::<&str>).unwrap();
            ["worker-1", "evil.example"].map(|name| {
                let argv = ["getent", "ahosts", name].map(Into::into);
                support::confined_program(namespace.netns(), &argv).finish()
            })
        });
        work.join().unwrap()
    });
    std::fs::remove_file(&file).unwrap();
    let [(known, code), (unknown, refused)] = found;
    assert_eq!((code, refused), (0, 2), "{known}; {unknown}");
    assert!(
        known.contains("100.64.0.2 ") && known.contains("fd00::2 "),
        "{known}"
    );
}

#[test]
fn many_connections_at_once_are_all_taken() {
    let (namespace, arrived) = raised(Arc::default());
    let run = || confined(namespace.netns(), &["latency", "100.64.0.2:2222", "250"]);
    let alone = run().finish();
    let mut server = confined(namespace.netns(), &["serve", "2222", "250"]);
    server.line();
    let raw = confined(namespace.netns(), &["latency", "100.64.0.1:2222", "250"]).finish();
    server.finish();
    eprintln!("through TPROXY: {}; to itself: {}", alone.0, raw.0);
    let four = [run(), run(), run(), run()];
    for one in four {
        let (text, code) = one.finish();
        assert_eq!(code, 0, "{text}");
        eprintln!("{text}");
    }
    for _ in 0..1250 {
        within(&arrived);
    }
}
