"""`securetf evidence verify|show`: the numbered checks, the verdict, the exit code of each failure."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester.insecure_simulation import SimulatedTdx, create_platform, load_endorsements
from securetf.attester.measurement import software_measurement
from securetf.cli import call, evidence
from securetf.errors import (
    MalformedEvidenceError,
    ManifestSyntaxError,
    ManifestValueError,
    PlatformNotAllowedError,
    UsageError,
)
from securetf.evidence import sev_snp
from support.sgx_platform import SgxPlatform
from support.snp_platform import NOW, REPORT_DATA, Platform

GOLDEN = Path(__file__).parent / "golden"
NONCE = REPORT_DATA.hex()


def run(*arguments: object) -> Any:
    return CliRunner().invoke(evidence.command, [str(one) for one in arguments], catch_exceptions=True)


def results(outcome: Any) -> list[str]:
    return [check["result"] for check in json.loads(outcome.output.splitlines()[0])["checks"]]


@pytest.fixture
def simulation(tmp_path: Path) -> list[object]:
    """Files of a simulated TDX machine, as arguments of `verify`."""
    directory, now = tmp_path / "platform", datetime.now(UTC)
    create_platform(directory, now)
    quote, collateral = tmp_path / "quote.bin", tmp_path / "collateral.json"
    quote.write_bytes(SimulatedTdx(directory, {}).attest(REPORT_DATA).raw)
    collateral.write_text(load_endorsements(directory, now).to_json())
    root = directory / "root.pem"
    return [quote, "--endorsements", collateral, "--insecure-simulation-root", root, "--nonce", NONCE]


def policy_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


def test_verify_when_everything_holds_then_each_check_is_named_and_the_exit_code_is_0(
    simulation: list[object], tmp_path: Path
) -> None:
    policy = policy_file(
        tmp_path, f'[appraisal.insecure_simulation]\nmr_td = ["{software_measurement().hex()}"]\n'
    )
    outcome = run("verify", *simulation, "--policy", policy)
    assert outcome.exit_code == 0
    lines = outcome.output.splitlines()
    assert lines[0].startswith("insecure_simulation Evidence, verified at ")
    assert lines[1] == "INSECURE SIMULATION: proves nothing about any machine"
    assert [line.split(".")[0].strip() for line in lines[2:10]] == [str(number) for number in range(1, 9)]
    assert all(line.endswith(" passed") for line in lines[2:10])
    assert f"mr_td:             {software_measurement().hex()}" in lines


def test_verify_when_the_policy_does_not_accept_then_the_last_check_is_refused_with_exit_code_11(
    simulation: list[object], tmp_path: Path
) -> None:
    policy = policy_file(tmp_path, f'[appraisal.insecure_simulation]\nmr_td = ["{"00" * 48}"]\n')
    outcome = run("verify", *simulation, "--policy", policy, "--json")
    assert results(outcome) == [*["passed"] * 7, "REFUSED"]
    verdict = json.loads(outcome.output.splitlines()[0])
    assert (verdict["authentic"], verdict["accepted"]) == (True, False)
    assert (verdict["error"]["code"], verdict["error"]["exit_code"]) == ("STF-1301", 11)


def test_verify_when_no_policy_is_given_then_authentic_but_not_accepted(simulation: list[object]) -> None:
    verdict = json.loads(run("verify", *simulation, "--json").output)
    assert (verdict["authentic"], verdict["accepted"], verdict["error"]) == (True, False, None)
    assert verdict["checks"][-1]["result"] == "not asked for"


def test_verify_when_the_nonce_differs_then_the_binding_is_refused_with_exit_code_10(
    simulation: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(one) for one in simulation]
    arguments[-1] = "01" * 32
    assert call(["evidence", "verify", *arguments]) == 10
    out, err = capfd.readouterr()
    assert "  7. binding: report data" in out
    assert "REFUSED" in out
    assert "securetf: error [STF-1207]" in err


def test_verify_when_an_event_log_is_given_then_it_must_replay(
    simulation: list[object], tmp_path: Path
) -> None:
    (tmp_path / "log.json").write_text("[]")
    outcome = run("verify", *simulation, "--event-log", tmp_path / "log.json", "--json")
    assert results(outcome) == [*["passed"] * 7, "REFUSED", "not reached"]
    assert "event log replays to rtmr3" in outcome.exception.problem


@pytest.mark.parametrize(
    ("change", "step", "code"),
    [
        (["--at", "2020-01-01T00:00:00Z"], 4, "STF-1203"),
        (["--at", (datetime.now(UTC) + timedelta(days=31)).isoformat()], 4, "STF-1204"),
    ],
)
def test_verify_when_at_another_time_then_the_step_that_refuses_is_named(
    simulation: list[object], change: list[str], step: int, code: str
) -> None:
    outcome = run("verify", *simulation, *change, "--json")
    expected = [*["passed"] * (step - 1), "REFUSED", *["not reached"] * (8 - step)]
    assert results(outcome) == expected
    assert outcome.exception.code == code


def test_verify_when_simulated_bytes_are_taken_for_hardware_then_the_root_is_refused(
    simulation: list[object],
) -> None:
    without_root = [*simulation[:3], *simulation[5:]]
    outcome = run("verify", *without_root, "--json")
    assert results(outcome)[:3] == ["passed", "REFUSED", "not reached"]
    assert "not a trust anchor" in outcome.exception.problem


def test_verify_when_sgx_or_snp_is_simulated_then_hardware_roots_refuse_it(tmp_path: Path) -> None:
    machine, chip = SgxPlatform.make(), Platform()
    (tmp_path / "sgx").write_bytes(machine.quote())
    (tmp_path / "collateral").write_text(machine.endorse().to_json())
    outcome = run(
        "verify", tmp_path / "sgx", "--endorsements", tmp_path / "collateral", "--nonce", NONCE, "--json"
    )
    assert results(outcome)[:2] == ["passed", "REFUSED"]
    known = chip.endorsements()
    (tmp_path / "snp").write_bytes(chip.signed())
    arguments: list[object] = [tmp_path / "snp", "--nonce", NONCE, "--at", NOW.isoformat(), "--json"]
    for name in ("root", "ask", "vek", "crl"):
        (tmp_path / name).write_bytes(getattr(known, name))
        arguments += ["--endorsements", tmp_path / name]
    outcome = run("verify", *arguments)
    assert results(outcome)[:4] == ["passed", "passed", "REFUSED", "not reached"]
    assert "ARK-Milan" in outcome.exception.problem


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (["--nonce", ""], UsageError, "has 0 bytes, expected 1 to 64"),
        (["--nonce", "00" * 65], UsageError, "has 65 bytes"),
        (["--nonce", "no"], UsageError, "not hexadecimal"),
        (["--nonce", "00", "--rtmr3", "00"], UsageError, "--rtmr3 has 1 bytes, expected 48"),
        (["--nonce", "00", "--at", "noon"], UsageError, "is no time"),
        (["--nonce", "00", "--at", "2026-01-01T00:00:00"], UsageError, "no time zone"),
        (["--nonce", "00", "--policy", "absent"], UsageError, "cannot read absent"),
    ],
)
def test_verify_when_an_argument_is_wrong_then_refused(
    tmp_path: Path, arguments: list[str], error: type[Exception], reason: str
) -> None:
    (tmp_path / "snp").write_bytes(Platform().signed())
    outcome = run("verify", tmp_path / "snp", *arguments)
    assert isinstance(outcome.exception, error)
    assert reason in str(outcome.exception)


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("[appraisal", ManifestSyntaxError, "not TOML"),
        ("x = 1", PlatformNotAllowedError, r"no `[appraisal.sev_snp]`"),
        (
            "[appraisal.sev_snp]\nmr_td = []",
            ManifestValueError,
            "`appraisal.sev_snp.mr_td` is not a known key",
        ),
        ("[appraisal.sev_snp]\nmeasurement = []", ManifestValueError, "empty list, which allows nothing"),
    ],
)
def test_verify_when_the_policy_is_wrong_then_names_the_key(
    tmp_path: Path, text: str, error: type[Exception], reason: str
) -> None:
    (tmp_path / "snp").write_bytes(Platform().signed())
    outcome = run("verify", tmp_path / "snp", "--nonce", "00", "--policy", policy_file(tmp_path, text))
    assert isinstance(outcome.exception, error)
    assert reason in str(outcome.exception)


@pytest.mark.parametrize("content", [b"", b"1234567", b"no quote at all", bytes(1184), b"\4\0\2\0\0\0\0\0"])
def test_show_when_the_file_begins_no_known_kind_then_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for arguments in (["show"], ["verify", "--nonce", "00"]):
        outcome = run(arguments[0], tmp_path / "file", *arguments[1:])
        assert isinstance(outcome.exception, MalformedEvidenceError)


def test_show_when_snp_report_then_the_json_is_the_released_one(tmp_path: Path) -> None:
    (tmp_path / "snp").write_bytes(sev_snp.encode(Platform().report()))
    outcome = run("show", tmp_path / "snp", "--json")
    assert json.loads(outcome.output) == json.loads((GOLDEN / "evidence-show-sev_snp.json").read_text())
    human = run("show", tmp_path / "snp").output
    assert human.startswith("not authenticated")
    assert "reported_tcb:      bootloader 4, tee 0, snp 24, microcode 219\n" in human


def test_show_when_sgx_quote_then_fields_have_the_released_names(tmp_path: Path) -> None:
    (tmp_path / "sgx").write_bytes(SgxPlatform.make().quote())
    outcome = run("show", tmp_path / "sgx", "--json")
    found, golden = json.loads(outcome.output), json.loads((GOLDEN / "evidence-show-sgx.json").read_text())
    assert list(found) == list(golden)
    differing = {"size_bytes"}  # lengths of random numbers in DER
    assert {name: found[name] for name in found if name not in differing} == {
        name: golden[name] for name in golden if name not in differing
    }


def test_show_when_certificates_are_not_one_of_ra_tls_then_refused(tmp_path: Path) -> None:
    (tmp_path / "two").write_text("text\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 2)
    assert "has 2 certificates" in str(run("show", tmp_path / "two").exception)
    machine = SgxPlatform.make()
    pem = machine.keys.root.certificate.public_bytes(Encoding.PEM)
    (tmp_path / "other").write_bytes(pem)
    assert "has 0 extensions 2.23.133.5.4.9" in str(run("show", tmp_path / "other").exception)
