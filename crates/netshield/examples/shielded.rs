//! Runs one command under an interceptor alone, without Manifest, CAS or relay: it reaches its own loopback and
//! nothing else. For other people's test suites; `docs/how-to/run-other-suites.md`.
//!
//! `shielded namespace|seccomp COMMAND [ARGUMENT…]`

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use confine::Spawn;
use rustix::process::{Pid, WaitOptions, waitpid};
use securetf_netshield::event::{Denial, DenialLog};
use securetf_netshield::namespace::Namespace;
use securetf_netshield::policy::Policy;
use securetf_netshield::supervise::Supervisor;

const POLICY: &str = r#"{
    "trust_domain": "none", "session": "none/none", "manifest_hash": "",
    "me": {"workload": "alone", "instance": 0, "addresses": ["100.64.0.1", "fd00::1"], "names": ["alone-0"]},
    "listen": [], "peers": [], "connect": [], "outside": [], "external": []
}"#;

struct Print;

impl DenialLog for Print {
    fn deny(&self, denial: Denial) {
        let Denial {
            process,
            destination,
            reason,
            ..
        } = denial;
        eprintln!("shielded: refused {destination} to {process}: {reason}");
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let interceptor = arguments.next().unwrap_or_default();
    let argv: Vec<OsString> = arguments.collect();
    let result = match interceptor.to_str() {
        Some("namespace") if !argv.is_empty() => in_namespace(&argv),
        Some("seccomp") if !argv.is_empty() => supervised(&argv),
        _ => Err("usage: shielded namespace|seccomp COMMAND [ARGUMENT…]".into()),
    };
    result.unwrap_or_else(|problem| {
        eprintln!("shielded: {problem}");
        ExitCode::from(70)
    })
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn supervised(argv: &[OsString]) -> Result<ExitCode> {
    let policy: Policy = serde_json::from_str(POLICY)?;
    let supervisor = Supervisor::raise(&policy, Arc::new(Print))?;
    supervisor.start(Arc::new(drop))?;
    with_spawn(argv, |what| wait(supervisor.spawn(what)?))
}

fn in_namespace(argv: &[OsString]) -> Result<ExitCode> {
    let policy: Policy = serde_json::from_str(POLICY)?;
    let mut namespace = Namespace::raise(&policy, Arc::new(Print))?;
    namespace.start(Arc::new(drop))?;
    with_spawn(argv, |what| {
        let netns = Some(namespace.netns());
        wait(confine::spawn(&Spawn { netns, ..*what })?)
    })
}

fn with_spawn(
    argv: &[OsString],
    run: impl FnOnce(&Spawn<'_>) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let cwd = std::env::current_dir()?;
    run(&Spawn {
        argv,
        env: &env,
        cwd: cwd.as_os_str(),
        uid: None,
        gid: None,
        netns: None,
        extra: None,
    })
}

fn wait(child: Pid) -> Result<ExitCode> {
    let (_, status) = waitpid(Some(child), WaitOptions::empty())?.ok_or("nothing to wait for")?;
    let code = status.exit_status().unwrap_or(128);
    Ok(ExitCode::from(u8::try_from(code)?))
}
