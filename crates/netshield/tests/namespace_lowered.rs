//! What remains of a lowered namespace. Alone in its process, as it counts the process's threads and descriptors.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use securetf_netshield::namespace::Namespace;
use support::{Denials, policy};

#[test]
fn lowering_leaves_neither_threads_nor_descriptors() {
    let before = (entries("task"), entries("fd"));
    for _ in 0..3 {
        let mut namespace = Namespace::raise(&policy(), Arc::new(Denials::default())).unwrap();
        namespace.start(Arc::new(drop)).unwrap();
        assert!(entries("task") > before.0);
        namespace.lower();
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    while (entries("task"), entries("fd")) != before {
        let now = (entries("task"), entries("fd"));
        assert!(
            Instant::now() < deadline,
            "threads, descriptors: {before:?}, now {now:?}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn entries(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}"))
        .unwrap()
        .count()
}
