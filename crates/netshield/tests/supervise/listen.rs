//! Incoming connections, the program's own loopback, and two launchers on one machine.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use securetf_netshield::event::Inner;

use crate::support::{Raised, Running};

const PEER: &str = "100.64.0.2:40000";

fn dial(raised: &Raised, port: u16) -> Result<TcpStream, ErrorKind> {
    raised
        .supervisor
        .dial(port, PEER.parse().unwrap())
        .map_err(|error| error.kind())
}

/// Waits until the program has said `lines` lines.
fn wait_for(running: &Running, lines: usize) -> Vec<String> {
    for _ in 0..500 {
        let said = running.said();
        if said.lines().count() >= lines {
            return said.lines().map(str::to_owned).collect();
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("the program only said {:?}", running.said());
}

const SERVE: &str = "
def serve(listener):
    print(listener.getsockname()[1])
    s, _ = listener.accept(); s.sendall(b'from program'); s.close()
";

#[test]
fn a_peer_reaches_the_port_that_the_program_bound_on_all_addresses() {
    for (family, host) in [
        ("AF_INET6", "::"),
        ("AF_INET", ""),
        ("AF_INET6", "fd00::1"),
        ("AF_INET", "100.64.0.1"),
    ] {
        let raised = Raised::new();
        let running = raised.python_started(&format!(
            "{SERVE}
l = tcp(socket.{family}); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(('{host}', 2222)); l.listen(64); serve(l)"
        ));
        assert_eq!(wait_for(&running, 1), ["2222"]);
        let mut text = String::new();
        dial(&raised, 2222)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "from program");
        running.finish(0);
        assert_eq!(
            dial(&raised, 2222).unwrap_err(),
            ErrorKind::ConnectionRefused
        );
    }
}

#[test]
fn a_socket_for_ipv6_alone_and_one_for_ipv4_share_a_port() {
    let raised = Raised::new();
    let text = raised.python(
        "import asyncio
async def hello(reader, writer):
    writer.write(b'asyncio'); writer.close()
async def main():
    server = await asyncio.start_server(hello, host=['0.0.0.0', '::', '::1', '127.0.0.1'][:2], port=8080)
    local = await asyncio.start_server(hello, host='localhost', port=8081)
    for host, port in (('127.0.0.1', 8080), ('::1', 8080), ('100.64.0.1', 8080), ('fd00::1', 8080),
                       ('127.0.0.1', 8081)):
        reader, writer = await asyncio.open_connection(host, port)
        print(host, await reader.read()); writer.close()
asyncio.run(main())",
    );
    assert_eq!(text.matches("b'asyncio'").count(), 5, "{text}");
}

#[test]
fn what_the_program_bound_to_its_loopback_is_not_for_peers() {
    let raised = Raised::new();
    let running = raised.python_started(&format!(
        "{SERVE}
l = tcp(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(('127.0.0.1', 2222)); l.listen(); threading.Thread(target=serve, args=(l,)).start()
time.sleep(1); s = tcp(); s.connect(('localhost', 2222)); print(s.recv(99))"
    ));
    wait_for(&running, 1);
    assert_eq!(
        dial(&raised, 2222).unwrap_err(),
        ErrorKind::ConnectionRefused
    );
    assert_eq!(running.finish(0), "2222\nb'from program'");
}

#[test]
fn the_program_reaches_itself_under_each_of_its_addresses_blocking_or_not() {
    let raised = Raised::new();
    let text = raised.python(
        "l = tcp(socket.AF_INET6); l.bind(('::', 0)); l.listen(); port = l.getsockname()[1]
def check(family, host, blocking):
    s = tcp(family); s.setblocking(blocking); code = s.connect_ex((host, port))
    assert code in (0, errno.EINPROGRESS), (host, code)
    peer, address = l.accept(); peer.send(b'!'); select.select([s], [], [], 5)
    return s.recv(1) == b'!' and address[0]
for blocking in (True, False):
    for family, host in ((2, '127.0.0.1'), (2, '127.9.9.9'), (2, '0.0.0.0'), (2, '100.64.0.1'), (10, '::1'),
                         (10, 'fd00::1'), (10, '::ffff:127.0.0.1'), (10, '::ffff:100.64.0.1')):
        print(check(family, host, blocking))
print(refused(tcp().connect, ('127.0.0.1', 1)), refused(tcp().connect, ('100.64.0.1', 1)))",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..16], ["::ffff:127.0.0.1"; 16]);
    assert_eq!(lines[16], "ECONNREFUSED ECONNREFUSED");
}

#[test]
fn ports_are_chosen_shared_and_refused_as_ever() {
    let raised = Raised::new();
    let text = raised.python(
        "a = tcp(); a.bind(('', 0)); print(a.getsockname()[1] > 1024)
b = tcp(); print(refused(b.bind, ('', a.getsockname()[1])), refused(b.bind, ('10.0.0.1', 0)),
                 refused(b.bind, ('100.64.0.9', 0)), refused(a.bind, ('', 0)))
one, two = tcp(), tcp()
for s in (one, two):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('', 2300)); s.listen()
print('shared', two.getsockname()[1])
c = tcp(); c.bind(('', 0)); c.connect(PEER); print(greeting(c).split()[0] == '%s:%d' % c.getsockname())",
    );
    assert_eq!(
        text,
        "True\nEADDRINUSE EADDRNOTAVAIL EADDRNOTAVAIL EINVAL\nshared 2300\nTrue"
    );
}

#[test]
fn listening_without_bind_gives_a_private_port() {
    let raised = Raised::new();
    let text = raised.python(
        "for family in (socket.AF_INET, socket.AF_INET6):
    l = tcp(family); l.listen(); host, port = l.getsockname()[:2]
    assert '127.77.' in host and port, host
    s = tcp(); s.connect(('127.0.0.1', port)); l.accept()
print('private')",
    );
    assert_eq!(text, "private");
}

#[test]
fn two_launchers_use_the_same_port_without_meeting() {
    let (one, two) = (Raised::new(), Raised::new());
    let program = |name: &str| {
        format!(
            "l = tcp(socket.AF_INET6); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(('::', 2222)); l.listen(); print('bound')
s, _ = l.accept(); s.sendall(b'{name}'); s.close()"
        )
    };
    let running = [
        one.python_started(&program("one")),
        two.python_started(&program("two")),
    ];
    for each in &running {
        assert_eq!(wait_for(each, 1), ["bound"]);
    }
    for (raised, name) in [(&two, "two"), (&one, "one")] {
        let mut text = String::new();
        dial(raised, 2222)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, name);
    }
    for each in running {
        each.finish(0);
    }
}

#[test]
fn services_of_the_host_are_no_destination_and_no_substitute_for_the_program() {
    let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let local = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let raised = Raised::new();
    for service in [&everywhere, &local] {
        service.set_nonblocking(true).unwrap();
        let port = service.local_addr().unwrap().port();
        let text = raised.python(&format!(
            "for host in ('127.0.0.1', '127.77.0.1', '0.0.0.0', '100.64.0.1', '127.0.0.2'):
    assert refused(tcp().connect, (host, {port})) == 'ECONNREFUSED'
    s = tcp(); s.setblocking(False)
    assert refused(s.connect, (host, {port})) == 'ECONNREFUSED'
print('closed')"
        ));
        assert_eq!(text, "closed");
        assert_eq!(
            dial(&raised, port).unwrap_err(),
            ErrorKind::ConnectionRefused
        );
        assert_eq!(service.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn a_stranger_at_the_inner_listener_is_reset_and_noted() {
    let raised = Raised::new();
    let running = raised.python_started(
        "s = tcp(); s.connect(PEER); greeting(s); print('%s:%d' % s.getpeername()); s.recv(1)
s2 = tcp(); s2.connect(PEER); print(greeting(s2).split()[-1])",
    );
    let inner: SocketAddr = wait_for(&running, 1)[0].parse().unwrap();
    let mut stranger = TcpStream::connect(inner).unwrap();
    let _ = stranger.write_all(b"let me in");
    let mut text = String::new();
    assert_eq!(
        stranger.read_to_string(&mut text).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let denied = raised.denied();
    assert_eq!(denied.len(), 1);
    let source = stranger.local_addr().unwrap();
    assert_eq!(
        denied[0].reason,
        format!("{source} is no connection of the program")
    );
    rustix::process::kill_process(running.pid, rustix::process::Signal::KILL).unwrap();
    running.finish(128 + 9);
}

#[test]
fn a_full_backlog_stops_only_the_thread_that_waits() {
    let raised = Raised::new();
    let text = raised.python(
        "l = tcp(); l.bind(('', 0)); l.listen(0); port = l.getsockname()[1]
def fill():
    s = tcp(); s.connect(('127.0.0.1', port)); kept.append(s)
kept = []; threads = [threading.Thread(target=fill, daemon=True) for _ in range(6)]
[t.start() for t in threads]; time.sleep(0.5); waiting = sum(t.is_alive() for t in threads)
start = time.monotonic(); s = tcp(); s.connect(PEER); greeting(s)
print(waiting > 0, time.monotonic() - start < 1); sys.stdout.flush(); os._exit(0)",
    );
    assert_eq!(text, "True True");
}
