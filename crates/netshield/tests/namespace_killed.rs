//! The process with the relay is killed with SIGKILL while programs are connected and go on connecting.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use securetf_netshield::namespace::Namespace;
use support::{Canary, Denials, FORBIDDEN, confined, policy, unfiltered};

const ROLE: &str = "NAMESPACE_TEST_RELAY";

/// In the process that is killed: a relay that takes connections and never answers.
fn relay() {
    let mut namespace = Namespace::raise(&policy(), Arc::new(Denials::default())).unwrap();
    let taken = Mutex::new(Vec::new());
    let hold = move |outbound| {
        taken.lock().unwrap().push(outbound);
        println!("taken");
    };
    namespace.start(Arc::new(hold)).unwrap();
    println!("raised {}", namespace.netns().as_raw_fd());
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn a_killed_relay_gives_errors_at_once_and_lets_nothing_out() {
    if std::env::var_os(ROLE).is_some() {
        return relay();
    }
    let machine = Canary::machine();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_killed_relay_gives_errors_at_once_and_lets_nothing_out",
            "--nocapture",
        ])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let raised = lines.find(|line| line.contains("raised ")).unwrap();
    let number = raised.rsplit(' ').next().unwrap();
    let network = File::open(format!("/proc/{}/fd/{number}", process.id())).unwrap();
    let connected = confined(network.as_fd(), &["dialogue", "100.64.0.2:2222"]);
    assert!(lines.any(|line| line == "taken"));

    process.kill().unwrap();
    process.wait().unwrap();
    let before = Instant::now();
    let (text, _) = connected.finish();
    assert!(text.ends_with("answered false"), "{text}");
    for address in [
        "100.64.0.2:2222",
        "[fd00::2]:2222",
        "100.64.9.9:443",
        FORBIDDEN,
    ] {
        let (text, _) = confined(network.as_fd(), &["self-connect", address]).finish();
        assert_eq!(text, "refused ECONNREFUSED", "{address}");
        let (text, _) = unfiltered(Some(network.as_fd()), &["self-connect", address]);
        // without capabilities and in a namespace where low ports need none
        assert_eq!(text, "refused ECONNREFUSED", "{address} without the filter");
    }
    assert!(
        before.elapsed() < Duration::from_secs(30),
        "{:?}",
        before.elapsed()
    );
    assert!(!machine.arrived());
}
