//! Two relays over loopback with programs on both sides.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]
#![allow(
    clippy::cast_possible_wrap,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

pub mod attacker;
pub mod der;
pub mod machines;
pub mod pki;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pki::{Ca, Leaf};
use securetf_netshield::event::{Caller, Denial, DenialLog, Inner, Outbound};
use securetf_netshield::policy::{ConnectRule, ExternalRule, ListenRule, Member, Policy};
use securetf_netshield::relay::{Identity, Limits, NetworkKey, Relay, RelayConfig, TunnelListener};

pub const PORT: u16 = 2222;

/// Connects to whatever the test set as the program.
#[derive(Default)]
pub struct Program {
    pub address: Mutex<Option<SocketAddr>>,
    pub peers: Mutex<Vec<SocketAddr>>,
    /// It listens on 0.0.0.0, not on `::`.
    pub refuses_v6: AtomicBool,
}

impl Inner for Program {
    fn dial(&self, _port: u16, peer: SocketAddr) -> io::Result<TcpStream> {
        if peer.is_ipv6() && self.refuses_v6.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.peers.lock().unwrap().push(peer);
        match *self.address.lock().unwrap() {
            Some(address) => TcpStream::connect(address),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    fn dial_loopback(&self, port: u16) -> io::Result<TcpStream> {
        self.dial(port, SocketAddr::from(([127, 0, 0, 1], 0)))
    }
}

#[derive(Default)]
pub struct Denials(pub Mutex<Vec<Denial>>);

impl DenialLog for Denials {
    fn deny(&self, denial: Denial) {
        self.0.lock().unwrap().push(denial);
    }
}

impl Denials {
    /// Waits for a refusal whose reason contains `part`.
    pub fn expect(&self, part: &str) -> Denial {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let found = self
                .0
                .lock()
                .unwrap()
                .iter()
                .find(|one| one.reason.contains(part))
                .cloned();
            match found {
                Some(one) => return one,
                None if Instant::now() > deadline => {
                    panic!("no denial for {part:?}, only {:?}", self.0.lock().unwrap())
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

pub fn member(workload: &str, instance: u16) -> Member {
    let host = u8::try_from(instance).unwrap() + if workload == "ps" { 100 } else { 1 };
    let addresses = vec![
        IpAddr::from([100, 64, 0, host]),
        format!("fd00::{host}").parse().unwrap(),
    ];
    Member {
        workload: workload.into(),
        instance,
        addresses,
        names: vec![format!("{workload}-{instance}")],
    }
}

/// `worker` may reach `ps` on [`PORT`]; nobody else may reach anybody.
pub fn policy(workload: &str, instance: u16) -> Policy {
    let is_server = workload == "ps";
    Policy {
        trust_domain: "cas.example".into(),
        session: "acme/train".into(),
        me: member(workload, instance),
        manifest_hash: "07".repeat(32),
        listen: if is_server {
            vec![ListenRule {
                name: "grpc".into(),
                port: PORT,
                from: vec!["worker".into()],
            }]
        } else {
            vec![]
        },
        connect: if is_server {
            vec![]
        } else {
            vec![ConnectRule {
                member: member("ps", 0),
                ports: vec![PORT],
            }]
        },
        peers: if is_server {
            (0..4).map(|number| member("worker", number)).collect()
        } else {
            vec![]
        },
        external: vec![],
        outside: vec![],
    }
}

/// One member: relay, its program's address, its denials.
pub struct Node {
    pub relay: Relay,
    pub program: Arc<Program>,
    pub denials: Arc<Denials>,
    pub key: NetworkKey,
}

pub fn node(ca: &Ca, leaf: &Leaf, policy: Policy, limits: Limits) -> Node {
    node_at(ca, leaf, policy, limits, "127.0.0.1:0")
}

/// A member whose peers arrive at `address`.
pub fn node_at(ca: &Ca, leaf: &Leaf, policy: Policy, limits: Limits, address: &str) -> Node {
    let key = NetworkKey::generate().unwrap();
    let chain = vec![ca.issue(&key.spki_der().unwrap(), leaf)];
    let (program, denials) = (Arc::new(Program::default()), Arc::new(Denials::default()));
    let relay = Relay::start(RelayConfig {
        policy,
        identity: Identity {
            key: key.clone(),
            chain,
        },
        trust_root: ca.der.clone(),
        tunnel: TunnelListener::bind(address.parse().unwrap()).unwrap(),
        inner: program.clone(),
        denials: denials.clone(),
        limits,
    })
    .unwrap();
    Node {
        relay,
        program,
        denials,
        key,
    }
}

/// A worker and a parameter server with a listening program.
pub struct Pair {
    pub ca: Ca,
    pub worker: Node,
    pub ps: Node,
    pub listener: TcpListener,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(
            Limits::default(),
            &Leaf::right("worker", 0),
            &Leaf::right("ps", 0),
        )
    }

    pub fn with(limits: Limits, worker: &Leaf, ps: &Leaf) -> Self {
        let ca = Ca::new("session");
        let worker = node(&ca, worker, policy("worker", 0), limits);
        let ps = node(&ca, ps, policy("ps", 0), limits);
        Self::of(ca, worker, ps)
    }

    /// Two members that know where each other is.
    pub fn of(ca: Ca, worker: Node, ps: Node) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        *ps.program.address.lock().unwrap() = Some(listener.local_addr().unwrap());
        worker
            .relay
            .set_endpoints(vec![("ps".into(), 0, ps.relay.tunnel_address())]);
        Self {
            ca,
            worker,
            ps,
            listener,
        }
    }

    /// The program of the worker dials; the program of the parameter server accepts.
    pub fn connect(&self) -> (TcpStream, TcpStream) {
        let near = dial(&self.worker.relay, "100.64.0.100:2222");
        let far = accept(&self.listener);
        (near, far)
    }

    pub fn renew(&self, node: &Node, leaf: &Leaf) {
        let chain = vec![self.ca.issue(&node.key.spki_der().unwrap(), leaf)];
        node.relay.install(chain, None).unwrap();
    }
}

/// A connection of the program as the interceptor would hand it over.
pub fn dial(relay: &Relay, destination: &str) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, source) = listener.accept().unwrap();
    near.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    near.set_nodelay(true).unwrap();
    relay.outbound(Outbound {
        stream,
        destination: destination.parse().unwrap(),
        source,
        caller: Caller::new(|| "7 test".to_owned()),
    });
    near
}

/// Accepts within half a minute.
pub fn accept(listener: &TcpListener) -> TcpStream {
    accept_within(listener, Duration::from_secs(30))
}

/// Accepts, or panics after `patience`.
pub fn accept_within(listener: &TcpListener, patience: Duration) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + patience;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_nodelay(true).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(30)))
                    .unwrap();
                return stream;
            }
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("nothing to accept: {error}"),
        }
    }
}

/// Waits until `check` holds.
pub fn eventually(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn external(host: &str, port: u16) -> ExternalRule {
    ExternalRule {
        host: host.into(),
        port,
        addresses: vec!["100.127.0.1".parse().unwrap()],
    }
}
