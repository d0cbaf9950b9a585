//! Outgoing connections.

use crate::support::Raised;

#[test]
fn the_self_test_passes_here() {
    let raised = Raised::new();
    raised.supervisor.self_test().unwrap();
    raised.supervisor.self_test().unwrap();
    assert_eq!(
        raised.denied().len(),
        2 * 2,
        "both refusals of each run are noted"
    );
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
