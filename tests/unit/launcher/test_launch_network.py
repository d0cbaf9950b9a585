"""A launch with network rules on the real kernel, with a fake CAS and a fake shield: order, waiting, revocation."""

# ruff: noqa: E501  (shell programs and expected messages)

import json
import os
import re
import time

import pytest

from support.launching import Launch, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
RULES = {
    "listen": '{ grpc = { port = 2222, from = ["trainer"] } }',
    "connect": '["trainer:grpc"]',
    "instances": "{ minimum = 2, maximum = 2 }",
}


def networked(launch: Launch, script: str, **keys: str) -> Launch:
    return launch.shell(script, **{**RULES, **keys})


def test_run_when_the_workload_has_rules_attests_the_relays_key_and_raises_the_shield_before_the_program(
    launch: Launch,
) -> None:
    networked(launch, "cat /etc/hosts /etc/resolv.conf; grep ^hosts: /etc/nsswitch.conf; echo $TF_CONFIG")
    launch.config["tf_config"] = '{"cluster": {}}'
    result = launch.run()
    assert result.stdout.splitlines() == [
        "127.0.0.1 localhost of-the-shield", "nameserver 127.0.0.1", "hosts: files dns", '{"cluster": {}}',
    ], result.stderr  # fmt: skip
    first = [
        "measure",
        "provision key1 127.0.0.1:1",
        "mount /run/securetf",
        "raise trainer-0 cas.test",
        "members",
    ]
    assert launch.events[:5] == first
    assert launch.events[-3:] == ["lower", "unmount /run/securetf", "close"]
    assert launch.report["network"] == {"interceptor": "none", "renewals": 0, "refused": 0}
    assert "of-the-shield" not in open("/etc/hosts").read()  # noqa: SIM115


def test_run_when_members_are_missing_names_them_waits_and_starts_once_they_are_there(launch: Launch) -> None:
    launch.config["not_ready"] = 2
    result = networked(launch, "echo started").run()
    assert (result.returncode, result.stdout) == (0, "started\n"), result.stderr
    assert "securetf: waiting for worker-1 to attest (600 s more at most)" in result.stderr
    assert re.search(r"securetf: all members are there after \d s", result.stderr)


def test_run_when_members_do_not_come_in_time_ends_naming_them_and_never_starts(launch: Launch) -> None:
    launch.config |= {"not_ready": 99, "deadline_s": 1}
    result = networked(launch, f"touch {launch.directory}/started").run()
    assert result.returncode == 30
    assert "[STF-3101] after 1 s these members have not attested: worker-1" in result.stderr
    assert not (launch.directory / "started").exists()
    assert launch.events[-3:] == ["lower", "unmount /run/securetf", "close"]


def test_run_when_a_signal_comes_while_it_waits_stops_at_once(launch: Launch) -> None:
    launch.config["not_ready"] = 999
    process = networked(launch, "exit 0").start()
    until(lambda: "members" in launch.events)
    process.terminate()
    assert process.wait(10) == 143


def test_run_when_the_manifest_is_replaced_cuts_the_network_ends_the_program_and_says_why(
    launch: Launch,
) -> None:
    launch.config["revoked_after"] = 1
    begin = time.monotonic()
    result = networked(
        launch, f"trap 'touch {launch.directory}/asked; exit 0' TERM; while :; do sleep 0.05; done"
    ).run()
    assert result.returncode == 12
    assert "[STF-1104] the Manifest was replaced" in result.stderr
    assert (
        "securetf: this member is revoked: [STF-1104] the Manifest was replaced; ending the program"
        in result.stderr
    )
    assert "revoke the Manifest was replaced" in launch.events
    assert (launch.directory / "asked").exists()
    assert time.monotonic() - begin < 15


def test_run_when_half_of_the_lifetime_is_over_renews_with_a_fresh_key(launch: Launch) -> None:
    result = networked(launch, "sleep 4.5").run()  # the fake grants 4 s
    assert result.returncode == 0, result.stderr
    assert [one for one in launch.events if one.startswith(("renew", "install"))][:4] == [
        "renew key2", "install", "renew key3", "install",
    ]  # fmt: skip
    assert launch.report["network"]["renewals"] >= 2


def test_run_when_connections_are_refused_tells_them_and_the_cas(launch: Launch) -> None:
    denied = {
        "direction": "outbound",
        "process": "7 python",
        "destination": "8.8.8.8:53",
        "reason": "no rule names it",
    }
    launch.config["denials"] = [denied, denied]
    result = networked(launch, "exit 3").run()
    assert result.returncode == 3
    assert (
        result.stderr.count("securetf: network: refused outbound 8.8.8.8:53 by 7 python: no rule names it")
        == 1
    )
    assert "refused outbound 8.8.8.8:53 1 times more: no rule names it" in result.stderr
    assert launch.events.count("denied 8.8.8.8:53") == 2
    assert launch.report["network"]["refused"] == 2


def test_run_when_the_shield_cannot_be_raised_starts_nothing(launch: Launch) -> None:
    launch.config["unraisable"] = "the self-test reached 192.0.2.1"
    result = launch.shell(f"touch {launch.directory}/started").run()
    assert (result.returncode, "[STF-3100] the self-test reached" in result.stderr) == (30, True)
    assert not (launch.directory / "started").exists()
    assert launch.events[-3:] == ["lower", "unmount /run/securetf", "close"]


def test_run_when_the_manifest_names_a_user_gives_it_what_it_may_write(launch: Launch) -> None:
    base = launch.base
    (launch.directory / "v").mkdir()
    launch.directory.chmod(0o755)
    launch.config |= {"volumes": {"v": str(launch.directory / "v")}, "secrets": {"token": "74"}}
    launch.shell(
        f"id -u; id -g; touch $HOME/a $TMPDIR/b {base}/v/c {base}/m/d; cat {base}/s/token",
        '[volumes.v]\nwriter = "trainer"\n[secrets.token]\nkind = "value"\n',
        user_id="4242",
        volumes=f'{{ v = "{base}/v:rw" }}',
        memory=f'{{ "{base}/m" = 65536 }}',
        secrets=f'{{ token = "file:{base}/s/token" }}',
    )
    result = launch.run()
    assert (result.returncode, result.stdout) == (0, "4242\n4242\nt"), result.stderr


def test_progress_when_a_descriptor_is_given_has_the_states_as_json(launch: Launch) -> None:
    launch.config |= {"not_ready": 1, "progress": str(launch.directory / "progress")}
    networked(launch, "exit 0").run()
    lines = [json.loads(line) for line in (launch.directory / "progress").read_text().splitlines()]
    assert lines == [
        {"state": "attesting", "detail": ""},
        {"state": "waiting", "detail": "worker-1"},
        {"state": "running", "detail": ""},
    ]
