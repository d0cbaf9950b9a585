"""`securetf verify`: numbered checks, exit code as verdict, saved statements, a policy to begin with."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from securetf.cli import call
from securetf.client.explain import MEANING
from support.outside_proof import Cas, Member, Says
from support.outside_service import OutsideService

Start, WritePolicy = Callable[..., OutsideService], Callable[..., Path]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = call([str(one) for one in arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_verify_when_all_holds_lists_each_check_and_ends_with_0(
    start: Start, policy: WritePolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start()
    code, out, err = run(capsys, "verify", service.url, "--policy", policy())
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in lines[1:-1]] == [[f"{n}.", "ok"] for n in range(1, 20)]
    assert lines[-1] == "verdict: every check holds"
    assert service.received == 0


def test_verify_when_something_differs_names_it_and_ends_with_17(
    start: Start, policy: WritePolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start(Says(measurement="02" * 48, age_s=290))
    code, out, err = run(
        capsys, "verify", service.url, "--policy", policy(service="maximum_age_s = 60"), "--json"
    )
    verdict = json.loads(out)
    assert code == 17
    assert (verdict["verdict"], verdict["attestation"]) == ("fail", None)
    assert {one["name"] for one in verdict["checks"] if one["status"] == "fail"} == {
        "ear-time",
        "measurement",
    }
    assert "error [STF-1500]" in err


def test_verify_when_asked_to_explain_says_what_is_and_is_not_proved(
    start: Start, policy: WritePolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "verify", start().url, "--policy", policy(), "--explain")
    assert code == 0
    assert all(meaning in out for meaning in MEANING.values())
    assert "What it does not prove" in out


def test_verify_when_a_statement_was_saved_judges_it_offline_for_its_moment(
    start: Start, policy: WritePolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service, saved, written = start(), tmp_path / "saved.json", policy()
    assert run(capsys, "verify", service.url, "--policy", written, "--save", saved)[0] == 0
    service.close()
    moment = datetime.now(UTC)
    offline = ("verify", "--statement", saved, "--policy", written, "--json")
    for later, code, failed in (
        (timedelta(0), 0, set()),
        (timedelta(hours=1), 17, {"ear-time", "nonce"}),
        (timedelta(days=400), 17, {"ear-time", "nonce", "certificate"}),
    ):
        found, out, _ = run(capsys, *offline, "--at", f"{moment + later:%Y-%m-%dT%H:%M:%SZ}")
        names = {one["name"] for one in json.loads(out)["checks"] if one["status"] == "fail"}
        assert (found, names) == (code, failed)
    text = json.loads(saved.read_text())
    saved.write_text(json.dumps(text | {"nonce": "A" * 43 + "="}))
    assert run(capsys, *offline, "--at", f"{moment:%Y-%m-%dT%H:%M:%SZ}")[0] == 17
    saved.write_text("{}")
    code, _, err = run(capsys, *offline)
    assert (code, "is not a saved statement" in err) == (17, True)


@pytest.mark.parametrize("simulated", [False, True])
def test_printed_policy_when_used_accepts_the_service_as_it_was_and_no_other(
    simulated: bool, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cas = Cas(simulated=simulated)
    service = start(member=Member(cas, Says(simulated=simulated)))
    code, out, err = run(capsys, "verify", service.url, "--print-policy", cas.trust(tmp_path / "cas.json"))
    assert (code, err) == (0, "")
    assert ("[insecure_simulation]" in out) is simulated
    written = tmp_path / "policy.toml"
    written.write_text(out)
    code, out, _ = run(capsys, "verify", service.url, "--policy", written)
    assert (code, "SIMULATION: the policy accepts" in out) == (0, simulated)
    as_it_was = Says(simulated=simulated)
    for change in ({"root": "bb" * 32}, {"manifest": b"\2" * 32}, {"measurement": "03" * 48}):
        other = start(member=Member(cas, replace(as_it_was, **change)))
        assert run(capsys, "verify", other.url, "--policy", written)[0] == 17


def test_printed_policy_when_the_service_stands_under_another_cas_is_not_printed(
    start: Start, cas: Cas, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start(member=Member(Cas()))
    code, out, err = run(capsys, "verify", service.url, "--print-policy", cas.trust(tmp_path / "cas.json"))
    assert (code, out) == (11, "")
    assert "not signed by this CAS's audit key" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "either a URL or --statement"),
        (("https://x", "--statement", "y"), "either a URL or --statement"),
        (("--statement", "/nonexistent", "--at", "now"), "cannot be read"),
    ],
)
def test_verify_when_its_arguments_do_not_fit_says_so(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "verify", *arguments)
    assert code in {2, 17}
    assert reason in err
