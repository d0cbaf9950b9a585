//! A raised interceptor with an echo behind it, and programs under it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use confine::Spawn;
use rustix::process::{Pid, WaitOptions, waitpid};
use securetf_netshield::event::{Denial, DenialLog, Outbound};
use securetf_netshield::policy::Policy;
use securetf_netshield::supervise::Supervisor;

const POLICY: &str = r#"{
    "trust_domain": "cas.example", "session": "t/s",
    "me": {"workload": "worker", "instance": 0, "addresses": ["100.64.0.1", "fd00::1"], "names": ["worker-0"]},
    "manifest_hash": "00", "listen": [{"name": "grpc", "port": 2222, "from": ["worker"]}],
    "peers": [], "connect": [{"member": {"workload": "ps", "instance": 0, "addresses": ["100.64.0.9", "fd00::9"],
                            "names": ["ps-0"]}, "ports": [2222]}],
    "outside": [], "external": []
}"#;

/// What the program sees of the test.
const PRELUDE: &str = "
import errno, os, select, socket, sys, threading, time
PEER = ('100.64.0.9', 2222)
def tcp(family=socket.AF_INET):
    return socket.socket(family, socket.SOCK_STREAM)
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return 'done'
def greeting(s):
    text = b''
    while not text.endswith(b'\\n'):
        text += s.recv(100)
    return text.decode().strip()
";

#[derive(Default)]
pub struct Log(Mutex<Vec<Denial>>);

impl DenialLog for Log {
    fn deny(&self, denial: Denial) {
        self.0.lock().unwrap().push(denial);
    }
}

pub struct Raised {
    pub supervisor: Supervisor,
    pub denials: Arc<Log>,
}

impl Raised {
    /// Connections are greeted with `<source> -> <destination>` and then echoed.
    pub fn new() -> Self {
        Self::with(|outbound| {
            thread::spawn(move || echo(outbound));
        })
    }

    pub fn with(sink: impl Fn(Outbound) + Send + Sync + 'static) -> Self {
        Self::under(&serde_json::from_str(POLICY).unwrap(), sink)
    }

    pub fn under(policy: &Policy, sink: impl Fn(Outbound) + Send + Sync + 'static) -> Self {
        let denials = Arc::new(Log::default());
        let log: Arc<dyn DenialLog> = denials.clone();
        let supervisor = Supervisor::raise(policy, log).unwrap();
        supervisor.start(Arc::new(sink)).unwrap();
        Self {
            supervisor,
            denials,
        }
    }

    pub fn denied(&self) -> Vec<Denial> {
        self.denials.0.lock().unwrap().clone()
    }

    pub fn start(&self, argv: &[&str], env: &[(&str, &str)]) -> Pid {
        self.start_as(None, argv, env)
    }

    pub fn start_as(&self, uid: Option<u32>, argv: &[&str], env: &[(&str, &str)]) -> Pid {
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let env: Vec<(OsString, OsString)> = env
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let spawn = Spawn {
            argv: &argv,
            env: &env,
            cwd: OsStr::new("/"),
            uid,
            gid: None,
            netns: None,
            extra: None,
        };
        self.supervisor.spawn(&spawn).unwrap()
    }

    /// Runs Python under supervision; returns what it printed. Fails the test when it fails.
    pub fn python(&self, text: &str) -> String {
        let running = self.python_started(text);
        running.finish(0)
    }

    pub fn python_started(&self, text: &str) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let whole =
            format!("{PRELUDE}sys.stdout = sys.stderr = open(os.environ['OUT'], 'w', 1)\n{text}");
        let env = [("PATH", "/usr/bin:/bin"), ("OUT", out.to_str().unwrap())];
        let pid = self.start(&["python3", "-c", &whole], &env);
        Running {
            pid,
            out,
            _directory: directory,
        }
    }
}

pub struct Running {
    pub pid: Pid,
    pub out: PathBuf,
    _directory: tempfile::TempDir,
}

impl Running {
    pub fn finish(self, expected: i32) -> String {
        let code = exit_code(self.pid);
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        assert_eq!(code, expected, "{text}");
        text.trim_end().to_owned()
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }
}

pub fn exit_code(child: Pid) -> i32 {
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

fn echo(outbound: Outbound) {
    let mut stream = outbound.stream;
    let greeting = format!("{} -> {}\n", outbound.source, outbound.destination);
    let _ = stream.write_all(greeting.as_bytes());
    copy(stream);
}

fn copy(mut stream: TcpStream) {
    let mut buffer = [0_u8; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
