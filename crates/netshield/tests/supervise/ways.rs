//! The attack program of `tests/attack` under interceptor S: every way round a shield that we know.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::scene::{Canary, FORBIDDEN, attack, policy};
use crate::support::{Raised, exit_code};

/// What the program is told.
const WAYS: [(&str, &str); 30] = [
    ("connect", "refused ECONNREFUSED"),
    ("mapped", "refused ECONNREFUSED"),
    ("self-connect", "refused ECONNREFUSED"),
    ("fastopen-sendto", "refused EOPNOTSUPP"),
    ("fastopen-sendmsg", "refused EOPNOTSUPP"),
    ("fastopen-sendmmsg", "refused EOPNOTSUPP"),
    ("fastopen-connect", "refused ENOPROTOOPT"),
    ("udp", "refused EACCES"),
    ("int80", "killed"),
    ("x32", "killed"),
    ("mptcp", "refused EPROTONOSUPPORT"),
    ("io-uring", "refused ENOSYS"),
    ("flip-race", "refused ECONNREFUSED"),
    ("swap-race", "refused ECONNREFUSED"),
    ("foreign-source", "refused EADDRNOTAVAIL"),
    ("vsock", "refused EAFNOSUPPORT"),
    ("packet", "refused EAFNOSUPPORT"),
    ("raw", "refused EPERM"),
    ("xdp", "refused EAFNOSUPPORT"),
    ("smc", "refused EAFNOSUPPORT"),
    ("netlink-diag", "refused EPROTONOSUPPORT"),
    ("unshare-net", "refused EPERM"),
    ("unshare-user", "refused EPERM"),
    ("clone-net", "refused EPERM"),
    ("clone-user", "refused EPERM"),
    ("setns", "refused EPERM"),
    ("pidfd-getfd", "refused EPERM"),
    ("ptrace", "refused EPERM"),
    ("bpf", "refused EPERM"),
    ("ulp", "refused ENOPROTOOPT"),
];

fn arguments(way: &str) -> Vec<&str> {
    match way {
        "flip-race" => vec![way, FORBIDDEN, "100.64.0.2:2222", "1500"],
        "swap-race" => vec![way, FORBIDDEN, "4096"],
        "foreign-source" => vec![way, FORBIDDEN, "10.99.7.2:5555"],
        "self-connect" => vec![way, "10.99.7.2:21010"], // the port of a listener of the host is taken under S
        _ => vec![way, FORBIDDEN],
    }
}

/// The program's line, or `killed` when it was by SIGSYS.
fn run(raised: &Raised, way: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let program = attack();
    let script = "exec \"$0\" \"$@\" > \"$OUT\"";
    let mut argv = vec!["/bin/sh", "-c", script, program.to_str().unwrap()];
    argv.extend(arguments(way));
    let code = exit_code(raised.start(&argv, &[("OUT", out.to_str().unwrap())]));
    if code == 128 + 31 {
        return "killed".to_owned();
    }
    let text = fs::read_to_string(&out).unwrap();
    format!(
        "{}{}",
        text.trim_end(),
        if code == 0 { "" } else { ", exit code not 0" }
    )
}

#[test]
fn nothing_arrives_and_each_way_is_refused_by_its_errno() {
    let machine = Canary::machine();
    let unshielded = Command::new(attack())
        .args(["connect", FORBIDDEN])
        .status()
        .unwrap();
    assert!(
        machine.arrived() && unshielded.into_raw() >> 8 == 1,
        "the attack works without a shield"
    );
    let raised = Raised::under(&policy(), drop);
    for (way, expected) in WAYS {
        assert_eq!(run(&raised, way), expected, "{way}");
        assert!(!machine.arrived(), "{way} leaked");
    }
}
