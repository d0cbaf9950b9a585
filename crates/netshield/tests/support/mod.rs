//! Scene for tests of the namespace: the attack program, a "machine" with a forbidden listener, a log of denials.

#![allow(dead_code)] // each test file uses a part
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use confine::{Extra, Spawn, spawn};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, WaitOptions, waitpid};
use securetf_netshield::event::{Denial, DenialLog};
use securetf_netshield::policy::Policy;

pub const CANARY: &[u8] = b"SECURETF-CANARY";
/// Where the machine (not the namespace) has a plaintext listener that no rule names.
pub const FORBIDDEN: &str = "10.99.7.2:21009";

/// Builds the attack program, when its sources have changed.
pub fn attack() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> PathBuf {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/attack"));
    let changed = |path: PathBuf| {
        std::fs::metadata(path)
            .and_then(|file| file.modified())
            .ok()
    };
    let sources = ["attack.rs", "ways.rs"].map(|name| changed(folder.join(name)));
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("attack");
    if changed(target.clone()).is_some_and(|built| sources.iter().flatten().all(|one| *one < built))
    {
        return target;
    }
    let unfinished = target.with_extension(std::process::id().to_string());
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let options = [
        "--edition",
        "2024",
        "-O",
        "-C",
        "target-feature=+crt-static",
        "-o",
    ];
    let mut command = Command::new(rustc);
    command
        .args(options)
        .arg(&unfinished)
        .arg(folder.join("attack.rs"));
    assert!(
        command.status().unwrap().success(),
        "the attack program does not compile"
    );
    std::fs::rename(unfinished, &target).unwrap();
    target
}

/// A policy: we are worker-0 and listen on 2222; worker-1 has 2222; `api.test` stands for something outside.
pub fn policy() -> Policy {
    let text = r#"{"trust_domain": "cas.test", "session": "t/s", "manifest_hash": "00",
      "me": {"workload": "worker", "instance": 0, "addresses": ["100.64.0.1", "fd00::1"], "names": ["worker-0"]},
      "listen": [{"name": "grpc", "port": 2222, "from": ["worker"]}],
      "peers": [], "connect": [
        {"member": {"workload": "worker", "instance": 0, "addresses": ["100.64.0.1", "fd00::1"], "names": ["worker-0"]}, "ports": [2222]},
        {"member": {"workload": "worker", "instance": 1, "addresses": ["100.64.0.2", "fd00::2"], "names": ["worker-1", "worker-1.s.t.internal"]}, "ports": [2222]}],
      "outside": [], "external": [{"host": "api.test", "port": 443, "addresses": ["100.64.9.9"]}]}"#;
    serde_json::from_str(text).unwrap()
}

#[derive(Default)]
pub struct Denials(Mutex<Vec<Denial>>);

impl DenialLog for Denials {
    fn deny(&self, denial: Denial) {
        self.0.lock().unwrap().push(denial);
    }
}

impl Denials {
    /// The first such denial so far.
    pub fn noted(&self, wanted: impl Fn(&Denial) -> bool) -> Option<Denial> {
        let noted = self.0.lock().unwrap();
        noted.iter().find(|one| wanted(one)).cloned()
    }

    /// The first denial for which `wanted` holds, waited for a short while.
    pub fn find(&self, wanted: impl Fn(&Denial) -> bool) -> Denial {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            if let Some(found) = self.noted(&wanted) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "not among {:?}",
                self.0.lock().unwrap()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A started attack program; its output is read until its end.
pub struct Running {
    child: Pid,
    output: UnixStream,
}

impl Running {
    /// Text and exit code (128 + signal).
    pub fn finish(mut self) -> (String, i32) {
        let mut text = String::new();
        let _ = self.output.read_to_string(&mut text);
        let (_, status) = waitpid(Some(self.child), WaitOptions::empty())
            .unwrap()
            .unwrap();
        let code = status.exit_status();
        let code = code.unwrap_or_else(|| 128 + status.terminating_signal().unwrap());
        (text.trim_end().to_owned(), code)
    }

    /// Waits for one line.
    pub fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0_u8]);
        while self.output.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }
}

struct Output<'a>(BorrowedFd<'a>);

impl Extra for Output<'_> {
    fn in_child(&self) -> Result<i32, i32> {
        match rustix::stdio::dup2_stdout(self.0) {
            Ok(()) => Ok(0),
            Err(errno) => Err(errno.raw_os_error()),
        }
    }

    fn in_parent(&self, _: Pid, _: i32) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts the attack program as the launcher starts programs, in `netns`.
pub fn confined(netns: BorrowedFd<'_>, arguments: &[&str]) -> Running {
    let words = arguments.iter().map(OsString::from);
    let argv: Vec<OsString> = std::iter::once(attack().into()).chain(words).collect();
    confined_program(netns, &argv)
}

/// Starts any program so.
pub fn confined_program(netns: BorrowedFd<'_>, argv: &[OsString]) -> Running {
    let (output, theirs) = UnixStream::pair().unwrap();
    let what = Spawn {
        argv,
        env: &[("PATH".into(), "/usr/bin:/bin".into())],
        cwd: OsStr::new("/"),
        uid: None,
        gid: None,
        netns: Some(netns),
        extra: Some(&Output(theirs.as_fd())),
    };
    let child = spawn(&what).unwrap();
    drop(theirs);
    Running { child, output }
}

/// Runs the attack program without the filter, as nobody: in `netns` (topology alone) or on the bare machine.
pub fn unfiltered(netns: Option<BorrowedFd<'_>>, arguments: &[&str]) -> (String, i32) {
    use std::os::unix::process::ExitStatusExt;
    let (arguments, program) = (arguments.to_vec(), attack());
    thread::scope(|scope| {
        let work = scope.spawn(move || {
            if let Some(netns) = netns {
                nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).unwrap(); // this thread's own end is near
            }
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--no-new-privs",
                "--",
            ]);
            command.arg(program).args(arguments);
            let output = command.output().unwrap();
            let code = output.status.code();
            let code = code.unwrap_or_else(|| 128 + output.status.signal().unwrap());
            (
                String::from_utf8(output.stdout)
                    .unwrap()
                    .trim_end()
                    .to_owned(),
                code,
            )
        });
        work.join().unwrap()
    })
}

/// Everything that reached the machine's forbidden listener.
pub struct Canary(Arc<Mutex<Vec<u8>>>);

impl Canary {
    /// Gives the calling thread a network of its own that stands for the machine's, with plaintext listeners for TCP
    /// and UDP on [`FORBIDDEN`]. Children and namespaces of this thread come from here.
    pub fn machine() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let commands = "link set lo up\naddress add 10.99.7.2/32 dev lo\n";
        let mut ip = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        ip.stdin
            .take()
            .unwrap()
            .write_all(commands.as_bytes())
            .unwrap();
        assert!(ip.wait().unwrap().success());
        let forbidden: SocketAddr = FORBIDDEN.parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, forbidden.port())).unwrap();
        let bytes = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, bytes) = (stream.unwrap(), bytes.clone());
                thread::spawn(move || {
                    let mut read = Vec::new();
                    let _ = stream.read_to_end(&mut read);
                    bytes.lock().unwrap().extend(read);
                });
            }
        });
        let datagrams = UdpSocket::bind(forbidden).unwrap();
        let bytes = seen.clone();
        thread::spawn(move || {
            let mut buffer = [0_u8; 2048];
            while let Ok((length, _)) = datagrams.recv_from(&mut buffer) {
                bytes.lock().unwrap().extend(&buffer[..length]);
            }
        });
        Self(seen)
    }

    /// Whether something came since the last question; waits a moment for what is on its way.
    pub fn arrived(&self) -> bool {
        thread::sleep(Duration::from_millis(30));
        !std::mem::take(&mut *self.0.lock().unwrap()).is_empty()
    }
}

/// Keeps a namespace open after it was lowered.
pub fn keep(netns: BorrowedFd<'_>) -> OwnedFd {
    netns.try_clone_to_owned().unwrap()
}
