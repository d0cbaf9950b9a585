//! Outgoing connections.

use crate::support::Raised;

/// Non-blocking connect as gRPC does it; prints the greeting.
const NONBLOCKING: &str = "
def nonblocking(family, address):
    s = tcp(family); s.setblocking(False)
    poll = select.epoll(); poll.register(s, select.EPOLLOUT | select.EPOLLIN | select.EPOLLET)
    code = s.connect_ex(address)
    assert code in (0, errno.EINPROGRESS), errno.errorcode[code]
    assert any(mask & select.EPOLLOUT for _, mask in poll.poll(5))
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert s.connect_ex(address) in (0, errno.EISCONN)
    assert s.connect_ex(address) == errno.EISCONN
    assert not s.getblocking()
    time.sleep(0.1)
    print(s.recv(100).decode().strip().split()[-1])
";

#[test]
fn the_self_test_passes_here() {
    let raised = Raised::new();
    raised.supervisor.self_test().unwrap();
    raised.supervisor.self_test().unwrap();
    assert_eq!(raised.denied(), [], "its own refusals are no news");
}

#[test]
fn a_blocking_connect_reaches_the_relay_with_its_destination() {
    let raised = Raised::new();
    let text = raised.python(
        "s = tcp(); s.connect(PEER); print(greeting(s)); s.sendall(b'hello'); print(s.recv(9))
print(s.getsockname()[0])",
    );
    assert!(
        text.contains("-> 100.64.0.9:2222\nb'hello'\n127.0.0.1"),
        "{text}"
    );
    assert_eq!(raised.denied(), []);
}

#[test]
fn the_relay_is_told_which_process_connects() {
    let (callers, told) = std::sync::mpsc::channel();
    let callers = std::sync::Mutex::new(callers);
    let raised = Raised::with(move |outbound| {
        let _ = callers.lock().unwrap().send(outbound.caller.describe());
    });
    let running = raised.python_started("tcp().connect(PEER)");
    let pid = running.pid.as_raw_nonzero();
    running.finish(0);
    assert_eq!(told.recv().unwrap(), format!("{pid} python3"));
}

#[test]
fn nonblocking_connects_complete_through_epoll_in_all_address_forms() {
    let raised = Raised::new();
    let text = raised.python(&format!(
        "{NONBLOCKING}
nonblocking(socket.AF_INET, PEER)
nonblocking(socket.AF_INET6, ('::ffff:100.64.0.9', 2222))
nonblocking(socket.AF_INET6, ('fd00::9', 2222))"
    ));
    assert_eq!(text, "100.64.0.9:2222\n100.64.0.9:2222\n[fd00::9]:2222");
}

#[test]
fn the_programs_own_socket_is_connected_so_its_options_survive() {
    let raised = Raised::new();
    let text = raised.python(
        "s = tcp(); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20000)
before = os.fstat(s.fileno()).st_ino; twin = s.dup(); s.connect(PEER)
print(os.fstat(s.fileno()).st_ino == before, s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
      s.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), greeting(twin)[-4:])",
    );
    assert_eq!(text, "True 1 20000 2222");
}

#[test]
fn an_unlisted_destination_is_refused_at_once_and_noted_with_process_and_reason() {
    let raised = Raised::new();
    let running = raised.python_started(
        "start = time.monotonic()
print(refused(tcp().connect, ('100.64.0.9', 2223)), refused(tcp().connect, ('8.8.8.8', 443)),
      refused(tcp(socket.AF_INET6).connect, ('2001:db8::1', 1)), tcp().connect_ex(('10.0.0.1', 22)) == 111)
assert time.monotonic() - start < 1",
    );
    let pid = running.pid.as_raw_nonzero();
    assert_eq!(
        running.finish(0),
        "ECONNREFUSED ECONNREFUSED ECONNREFUSED True"
    );
    let denied = raised.denied();
    assert_eq!(denied.len(), 4);
    assert_eq!(denied[0].process, format!("{pid} python3"));
    assert_eq!(denied[0].destination, "100.64.0.9:2223");
    assert_eq!(denied[0].direction, "outbound");
    assert!(denied[0].reason.contains("policy"), "{:?}", denied[0]);
    assert_eq!(denied[2].destination, "[2001:db8::1]:1");
}

#[test]
fn names_of_the_policy_are_answered_and_others_reported_with_the_process_that_asked() {
    let raised = Raised::new();
    let running = raised.python_started(
        "def ask(name, kind=1):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    query = b'\\x07\\x07\\x01\\0\\0\\x01' + bytes(6) + labels + b'\\0\\0' + bytes([kind]) + b'\\0\\x01'
    with tcp() as s:
        s.settimeout(5); s.connect(('127.0.0.1', 53)); s.sendall(len(query).to_bytes(2, 'big') + query)
        length = int.from_bytes(s.recv(2, socket.MSG_WAITALL), 'big')
        answer = s.recv(length, socket.MSG_WAITALL)
    return f'{answer[3] & 15} {socket.inet_ntoa(answer[-4:]) if answer[7] else None}'
print(ask('ps-0'), ask('PS-0'), ask('localhost'), ask('evil.example'))
own = tcp(); own.bind(('127.0.0.1', 53)); own.listen()
s = tcp(); s.connect(('127.0.0.1', 53)); own.accept(); print('its own')",
    );
    let pid = running.pid.as_raw_nonzero();
    assert_eq!(
        running.finish(0),
        "0 100.64.0.9 0 100.64.0.9 0 127.0.0.1 3 None\nits own"
    );
    let denied = raised.denied();
    assert_eq!(denied.len(), 1, "{denied:?}");
    assert_eq!(denied[0].destination, "evil.example (name)");
    assert_eq!(denied[0].reason, "no rule of the Manifest has this name");
    assert_eq!(denied[0].process, format!("{pid} python3"));
}

#[test]
fn a_socket_can_be_disconnected_and_connected_again() {
    let raised = Raised::new();
    let text = raised.python(
        "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for family, address in ((socket.AF_INET, PEER), (socket.AF_INET6, ('fd00::9', 2222))):
    s = tcp(family); s.connect(address); greeting(s)
    assert libc.connect(s.fileno(), bytes(16), 16) == 0
    assert refused(s.send, b'x') == 'ECONNRESET'
    s.connect(address); print(greeting(s).split()[-1])",
    );
    assert_eq!(text, "100.64.0.9:2222\n[fd00::9]:2222");
}

#[test]
fn wrong_calls_get_the_errno_of_the_kernel() {
    let raised = Raised::new();
    let text = raised.python(
        "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def raw(fd, address, length):
    libc.connect(fd, address, length); return errno.errorcode[ctypes.get_errno()]
s = tcp(); inet = (2).to_bytes(2, 'little') + bytes(14); six = (10).to_bytes(2, 'little') + bytes(26)
pipe = os.pipe()[0]; s6 = tcp(socket.AF_INET6); unix = socket.socket(socket.AF_UNIX)
print(raw(s.fileno(), ctypes.c_void_p(8), 16), raw(s.fileno(), inet, 15), raw(s.fileno(), inet, 1),
      raw(s.fileno(), inet, 129), raw(s.fileno(), six, 28), raw(s6.fileno(), inet + bytes(12), 28),
      raw(99, inet, 16), raw(pipe, inet, 16), raw(unix.fileno(), inet, 16),
      raw(s.fileno(), (40).to_bytes(2, 'little') + bytes(14), 16))",
    );
    assert_eq!(
        text,
        "EFAULT EINVAL EINVAL EINVAL EAFNOSUPPORT EAFNOSUPPORT EBADF ENOTSOCK EINVAL EAFNOSUPPORT"
    );
}

#[test]
fn threads_children_and_executed_programs_are_supervised() {
    let raised = Raised::new();
    let text = raised.python(
        "import subprocess
def work(found):
    for _ in range(20):
        with tcp() as s:
            s.connect(PEER); found.append(greeting(s).split()[-1])
        found.append(refused(tcp().connect, ('100.64.0.8', 1)))
found = []; threads = [threading.Thread(target=work, args=(found,)) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(found), sorted(set(found)))
sys.stdout.flush()
if os.fork() == 0:
    print('forked', refused(tcp().connect, ('100.64.0.8', 1))); sys.stdout.flush(); os._exit(0)
os.wait()
child = 'import socket; s = socket.socket(); print(s.connect_ex((\"100.64.0.8\", 1))); s = socket.socket(); s.connect((\"100.64.0.9\", 2222)); print(s.recv(100).split()[-1])'
print(subprocess.run(['python3', '-c', child], capture_output=True, text=True).stdout)",
    );
    assert_eq!(
        text,
        "320 ['100.64.0.9:2222', 'ECONNREFUSED']\nforked ECONNREFUSED\n111\nb'100.64.0.9:2222'"
    );
}

#[test]
fn a_program_with_its_own_user_is_supervised() {
    let raised = Raised::new();
    let text =
        "import socket; s = socket.socket(); s.connect(('100.64.0.9', 2222)); assert s.recv(9)
try: socket.socket().connect(('100.64.0.8', 1))
except ConnectionRefusedError: exit(7)";
    let argv = ["python3", "-c", text];
    let child = raised.start_as(Some(65_534), &argv, &[("PATH", "/usr/bin:/bin")]);
    assert_eq!(crate::support::exit_code(child), 7);
}

#[test]
fn other_families_work_and_other_protocols_do_not() {
    let raised = Raised::new();
    let text = raised.python(
        "import tempfile
path = tempfile.mktemp(); listener = socket.socket(socket.AF_UNIX); listener.bind(path); listener.listen()
s = socket.socket(socket.AF_UNIX); s.connect(path); listener.accept()[0].send(b'unix'); print(s.recv(9))
os.unlink(path)
listener = socket.socket(socket.AF_UNIX); listener.bind('\\0own-abstract'); listener.listen()
s = socket.socket(socket.AF_UNIX); s.connect('\\0own-abstract'); print('own abstract')
route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); route.bind((0, 0)); print('netlink')
print(socket.if_nameindex()[0][1])
s = tcp()
print(refused(s.setsockopt, 0, 4, b'\\x83\\x07\\x04\\x08\\x08\\x08\\x08\\0'),
      refused(socket.socket, socket.AF_INET, socket.SOCK_DGRAM),
      refused(s.sendto, b'x', 0x20000000, PEER), refused(socket.socket, socket.AF_INET, 1, 262))",
    );
    assert_eq!(
        text,
        "b'unix'\nown abstract\nnetlink\nlo\nEPERM EACCES ENOTSUP EPROTONOSUPPORT"
    );
}

#[test]
fn a_relay_that_hangs_up_looks_like_a_reset() {
    let raised = Raised::with(|outbound| {
        let now = Some(std::time::Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&outbound.stream, now).unwrap();
    });
    let text = raised.python("s = tcp(); s.connect(PEER); print(refused(s.recv, 1))");
    assert_eq!(text, "ECONNRESET");
}
