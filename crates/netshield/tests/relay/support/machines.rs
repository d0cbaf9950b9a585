//! Members on machines of their own: network namespaces with a cable between them.

use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use securetf_netshield::relay::Limits;

use super::pki::{Ca, Leaf};
use super::{Pair, node, node_at, policy};

/// Runs a command, which must succeed; what it printed.
pub fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let mut process = Command::new(words.next().unwrap());
    let done = process.args(words).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// Enters a network namespace of its own, with this thread only.
fn leave() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    run("ip link set lo up");
}

/// A worker and a parameter server on two machines with a cable between them. `prepare` runs on both when it is there, and is
/// told its name; the function that is returned runs `end` on the worker's machine, with what `prepare` gave there.
pub fn two_machines<B: 'static, E: Send + 'static>(
    limits: Limits,
    prepare: fn(&str) -> B,
    end: impl FnOnce(B) -> E + Send + 'static,
) -> (Pair, impl FnOnce() -> E) {
    let ca = Arc::new(Ca::new("session"));
    let (ready, wait_for_ready) = mpsc::channel();
    let (plug, wait_for_cable) = mpsc::channel();
    let (cut, wait_for_cut) = mpsc::channel();
    let (built, worker) = mpsc::channel();
    let process = std::process::id();
    let (near_ca, far_ca) = (Arc::clone(&ca), ca);
    let far = thread::spawn(move || {
        leave();
        ready.send(rustix::thread::gettid()).unwrap();
        let () = wait_for_cable.recv().unwrap();
        run("ip address add 10.77.0.2/24 dev far");
        run("ip link set far up");
        prepare("far");
        let leaf = Leaf::right("ps", 0);
        let node = node_at(&far_ca, &leaf, policy("ps", 0), limits, "10.77.0.2:0");
        (node, TcpListener::bind("127.0.0.1:0").unwrap())
    });
    let near = thread::spawn(move || {
        leave();
        let thread = wait_for_ready.recv().unwrap().as_raw_nonzero();
        let other = format!("/proc/{process}/task/{thread}/ns/net");
        run(&format!(
            "ip link add near type veth peer name far netns {other}"
        ));
        run("ip address add 10.77.0.1/24 dev near");
        run("ip link set near up");
        plug.send(()).unwrap();
        let here = prepare("near");
        let leaf = Leaf::right("worker", 0);
        built
            .send(node(&near_ca, &leaf, policy("worker", 0), limits))
            .unwrap();
        let () = wait_for_cut.recv().unwrap();
        end(here)
    });
    let (ps, listener) = far.join().unwrap();
    let pair = Pair::of(Ca::new("unused"), worker.recv().unwrap(), ps);
    *pair.ps.program.address.lock().unwrap() = Some(listener.local_addr().unwrap());
    let pair = Pair { listener, ..pair };
    let cut = move || {
        cut.send(()).unwrap();
        near.join().unwrap()
    };
    (pair, cut)
}
