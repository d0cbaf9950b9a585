//! What a started program finds, seen from inside. As root, as in a confidential VM.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};
use securetf_confine::{ConfineError, Extra, Spawn, spawn};

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn environment() -> Vec<(OsString, OsString)> {
    vec![("PATH".into(), "/usr/bin:/bin".into())]
}

fn plain<'a>(argv: &'a [OsString], env: &'a [(OsString, OsString)]) -> Spawn<'a> {
    Spawn {
        argv,
        env,
        cwd: OsStr::new("/"),
        uid: None,
        gid: None,
        netns: None,
        extra: None,
    }
}

fn exit_code(child: Pid) -> i32 {
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

/// Runs a shell script with `$OUT` naming a file; returns its text and the exit code.
fn script(text: &str, change: impl FnOnce(&mut Spawn<'_>)) -> (String, i32) {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(directory.path(), mode).unwrap();
    let argv = words(&["sh", "-c", text]);
    let env = [environment(), vec![("OUT".into(), out.clone().into())]].concat();
    let mut what = plain(&argv, &env);
    change(&mut what);
    let code = exit_code(spawn(&what).unwrap());
    (fs::read_to_string(out).unwrap_or_default(), code)
}

fn refused(argv: &[&str], change: impl FnOnce(&mut Spawn<'_>)) -> ConfineError {
    let (argv, env) = (words(argv), environment());
    let mut what = plain(&argv, &env);
    change(&mut what);
    spawn(&what).unwrap_err()
}

#[test]
fn the_program_has_no_privileges_and_a_filter() {
    let (status, code) = script("cat /proc/self/status > $OUT", |_| {});
    assert_eq!(code, 0);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            status.contains(&format!("{set}:\t0000000000000000")),
            "{set} in {status}"
        );
    }
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "SigBlk:\t0000000000000000"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let ignored = status
        .split("SigIgn:\t")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(
        ignored >> (libc::SIGPIPE - 1) & 1,
        0,
        "Rust ignores SIGPIPE"
    );
}

#[test]
fn environment_directory_and_session_are_those_given() {
    let text = "/usr/bin/env > $OUT; pwd >> $OUT; echo $$ $(cut -d' ' -f6 /proc/$$/stat) >> $OUT";
    let (found, code) = script(text, |what| what.cwd = OsStr::new("/usr/share"));
    assert_eq!(code, 0);
    let lines: Vec<&str> = found.lines().collect();
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    for name in &names {
        assert!(
            ["PATH", "OUT", "PWD", "SHLVL", "_", "OLDPWD"].contains(name),
            "{name}"
        );
    }
    assert!(lines.contains(&"/usr/share"));
    let (pid, session) = lines.last().unwrap().split_once(' ').unwrap();
    assert_eq!(pid, session);
}

#[test]
fn the_user_is_changed_without_groups() {
    let change = |what: &mut Spawn<'_>| (what.uid, what.gid) = (Some(65534), Some(65533));
    let (found, code) = script(
        "grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status > $OUT",
        change,
    );
    assert_eq!(code, 0);
    assert!(
        found.contains("Uid:\t65534\t65534\t65534\t65534"),
        "{found}"
    );
    assert!(
        found.contains("Gid:\t65533\t65533\t65533\t65533"),
        "{found}"
    );
    assert!(found.contains("Groups:\t \n"), "{found}");
}

#[test]
fn descriptors_are_not_inherited() {
    let secret = File::open("/etc/hostname").unwrap();
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let number = secret.as_raw_fd();
    let (_, code) = script(&format!("test ! -e /proc/self/fd/{number}"), |_| {});
    assert_eq!(code, 0);
}

#[test]
fn what_cannot_be_started_is_refused_by_name() {
    let problem = |argv: &[&str]| refused(argv, |_| {}).problem().to_owned();
    assert!(problem(&["no-such-program"]).contains("in no directory of PATH (/usr/bin:/bin)"));
    assert!(problem(&["/no/such/program"]).contains("/no/such/program does not exist"));
    assert!(problem(&["/etc/hostname"]).contains("is not executable"));
    assert!(problem(&["/etc"]).contains("is not executable"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    fs::write(&path, "#!/no/such/interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&path, mode).unwrap();
    assert!(problem(&[path.to_str().unwrap()]).contains("interpreter or loader"));
    let nowhere = refused(&["true"], |what| what.cwd = OsStr::new("/no/such"));
    assert!(
        nowhere
            .problem()
            .contains("the working directory /no/such cannot be entered")
    );
    assert!(matches!(nowhere, ConfineError::Launch { .. }));
    assert!(problem(&[]).contains("empty"));
}

#[test]
fn the_program_dies_with_the_thread_that_started_it() {
    let child = thread::spawn(|| {
        let (argv, env) = (words(&["sleep", "60"]), environment());
        spawn(&plain(&argv, &env)).unwrap()
    });
    let (child, before) = (child.join().unwrap(), Instant::now());
    assert_eq!(exit_code(child), 128 + 9);
    assert!(before.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_network_is_the_one_given() {
    let made = thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let network = made.join().unwrap();
    let inside = fs::read_link(format!("/proc/self/fd/{}", network.as_raw_fd())).unwrap();
    let here = fs::read_link("/proc/self/ns/net").unwrap();
    let change = |what: &mut Spawn<'_>| {
        what.netns = Some(std::os::fd::AsFd::as_fd(Box::leak(Box::new(network))));
    };
    let (found, _) = script("readlink /proc/self/ns/net > $OUT", change);
    assert_eq!(Path::new(found.trim()), inside);
    assert_ne!(inside, here);
}

struct Both {
    answer: Result<i32, i32>,
    accept: bool,
    seen: Cell<Option<i32>>,
}

impl Extra for Both {
    fn in_child(&self) -> Result<i32, i32> {
        self.answer
    }

    fn in_parent(&self, child: Pid, number: i32) -> io::Result<()> {
        let state = fs::read_to_string(format!("/proc/{}/comm", child.as_raw_nonzero()))?;
        assert_ne!(state.trim(), "true", "the child still waits");
        self.seen.set(Some(number));
        if self.accept {
            Ok(())
        } else {
            Err(io::Error::other("no"))
        }
    }
}

#[test]
fn an_interceptors_steps_run_on_both_sides_or_nothing_starts() {
    let both = |answer, accept| Both {
        answer,
        accept,
        seen: Cell::new(None),
    };
    let good = both(Ok(42), true);
    let failing = both(Err(libc::ENOSYS), true);
    let refusing = both(Ok(1), false);
    let (_, code) = script("exit 3", |what| {
        what.extra = Some(&*Box::leak(Box::new(both(Ok(1), true))));
    });
    assert_eq!(code, 3);
    let (argv, env) = (words(&["true"]), environment());
    let with = |extra| Spawn {
        extra: Some(extra),
        ..plain(&argv, &env)
    };
    assert_eq!(exit_code(spawn(&with(&good)).unwrap()), 0);
    assert_eq!(good.seen.get(), Some(42));
    let error = spawn(&with(&failing)).unwrap_err();
    assert!(
        error.problem().contains("interceptor's part failed"),
        "{error}"
    );
    let error = spawn(&with(&refusing)).unwrap_err();
    assert!(error.problem().contains("could not take over"), "{error}");
}

#[test]
fn a_network_socket_as_standard_input_is_refused() {
    // In a process of its own: descriptors are the whole process's.
    if std::env::var_os("CONFINE_TEST_STDIN").is_some() {
        let error = refused(&["true"], |_| {});
        assert!(
            error.problem().contains("descriptor 0 is a network socket"),
            "{error}"
        );
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_network_socket_as_standard_input_is_refused"])
        .env("CONFINE_TEST_STDIN", "1")
        .stdin(std::os::fd::OwnedFd::from(client))
        .status()
        .unwrap();
    assert!(status.success());
}
