//! What holds when the launcher dies, has no privileges, or shares the machine with others.

use std::fs;
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::attack::{assert_untouched, forbidden};
use crate::support::Raised;

/// A launcher in a process of its own: not a test by itself.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn launcher() {
    let raised = Raised::new();
    raised.supervisor.self_test().unwrap();
    let text = std::env::var("PROGRAM").unwrap();
    let running = raised.python_started(&text);
    println!("program {}", running.pid.as_raw_nonzero());
    running.finish(0);
}

fn launcher_command(prefix: &[&str], text: &str) -> Command {
    let this = std::env::current_exe().unwrap();
    let rest = [
        this.to_str().unwrap(),
        "--exact",
        "launcher::launcher",
        "--ignored",
        "--nocapture",
    ];
    let words: Vec<&str> = prefix.iter().copied().chain(rest).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("PROGRAM", text);
    command
}

#[test]
fn a_killed_supervisor_leaves_no_way_out() {
    let forbidden = forbidden();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let port = forbidden.local_addr().unwrap().port();
    // The grandchild outlives its parent, which dies with the launcher, and goes on connecting.
    let text = format!(
        "if os.fork() == 0:
    log = open('{}', 'w', 1)
    for _ in range(300):
        found = [refused(tcp().connect, ('127.0.0.1', {port})), refused(tcp().connect, PEER),
                 refused(tcp().bind, ('', 0)), refused(tcp().listen)]
        log.write(' '.join(found) + '\\n'); time.sleep(0.01)
    os._exit(0)
os.wait()",
        log.display()
    );
    let mut launcher = launcher_command(&[], &text)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let enough = |part: &str| {
        (0..500).any(|_| {
            thread::sleep(Duration::from_millis(10));
            said().contains(part)
        })
    };
    assert!(enough("ECONNREFUSED done done done"), "{}", said());
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    assert!(enough("ENOSYS ENOSYS ENOSYS ENOSYS"), "{}", said());
    assert!((0..1000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        said().lines().count() == 300
    }));
    let after = said();
    let after = after.split_once("ENOSYS").unwrap().1;
    assert!(
        !after.contains("done") && !after.contains("ECONN"),
        "{after}"
    );
    assert_untouched(&forbidden);
}

#[test]
fn a_launcher_without_any_privilege_can_supervise() {
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ];
    let text = "s = tcp(); s.connect(PEER); assert greeting(s).endswith('100.64.0.9:2222'); assert os.getuid() == 65534
assert refused(tcp().connect, ('100.64.0.8', 1)) == 'ECONNREFUSED'";
    let output = launcher_command(&nobody, text)
        .env("TMPDIR", "/tmp")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn signals_and_abstract_sockets_stay_among_the_program_and_its_children() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let name = format!("outside-{}", std::process::id());
    let outside = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    outside.set_nonblocking(true).unwrap();
    let raised = Raised::new();
    let running = raised.python_started(&format!(
        "import signal, subprocess
print(refused(socket.socket(socket.AF_UNIX).connect, '\\0{name}'), refused(os.kill, os.getppid(), 0))
child = subprocess.Popen(['sleep', '60']); child.terminate(); print(child.wait())
threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGUSR1)).start() if signal.signal(signal.SIGUSR1, lambda *_: print('own')) is not None else None
time.sleep(0.2)
signal.signal(signal.SIGTERM, lambda *_: (print('from the launcher'), os._exit(0)))
print('ready'); time.sleep(60)"
    ));
    for _ in 0..500 {
        if running.said().contains("ready") {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    rustix::process::kill_process(running.pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(
        running.finish(0),
        "EPERM EPERM\n-15\nown\nready\nfrom the launcher"
    );
    assert_eq!(outside.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
