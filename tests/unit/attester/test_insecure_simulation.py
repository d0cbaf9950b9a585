"""The simulated platform on disk."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from securetf.attester import development_pki
from securetf.attester.insecure_simulation import (
    SimulatedTdx,
    create_platform,
    load_anchor,
    load_endorsements,
)
from securetf.attester.measurement import software_measurement
from securetf.claims import Evidence, Platform, VerifiedClaims, code_register
from securetf.errors import AttesterError, EndorsementError, KeyFileError, SignatureError
from securetf.evidence import tdx
from securetf.verifier import insecure_simulation

NOW = datetime(2026, 11, 22, tzinfo=UTC)
REPORT_DATA = bytes(range(64))


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    create_platform(tmp_path / "platform", NOW)
    return tmp_path / "platform"


def verify(platform: Path, evidence: Evidence, now: datetime) -> VerifiedClaims:
    verifier = insecure_simulation.verifier(load_anchor(platform), load_endorsements(platform, now))
    return verifier.verify(evidence, expected_report_data=REPORT_DATA, now=now)


def test_platform_when_made_then_everything_is_private_and_says_what_it_is(platform: Path) -> None:
    assert stat.S_IMODE(platform.stat().st_mode) == 0o700
    names = sorted(path.name for path in platform.iterdir())
    assert {"README.txt", "root.pem", "pck-key.pem", "collateral.json"} <= set(names)
    assert not [name for name in names if name.startswith(".")]
    for path in platform.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert "INSECURE SIMULATION" in path.read_text(), path


def test_attest_when_verified_then_carries_measurement_code_and_report_data(platform: Path) -> None:
    roots = {"code": bytes(range(32))}
    evidence = SimulatedTdx(platform, roots).attest(REPORT_DATA)
    assert evidence.platform is Platform.INSECURE_SIMULATION
    claims = verify(platform, evidence, NOW)
    assert claims.simulated
    assert claims.registers["mr_td"] == software_measurement()
    assert claims.registers["rtmr3"] == code_register(roots)
    assert claims.report_data == REPORT_DATA


def test_attest_when_code_roots_differ_then_another_rtmr3(platform: Path) -> None:
    registers = {
        tdx.parse(SimulatedTdx(platform, roots).attest(REPORT_DATA).raw).body.rtmr3
        for roots in ({}, {"code": bytes(32)}, {"cod": bytes(32)}, {"code": b"\1" * 32})
    }
    assert len(registers) == 4


def test_attest_when_report_data_has_another_size_then_refused(platform: Path) -> None:
    for size in (0, 32, 63, 65):
        with pytest.raises(AttesterError, match=f"report data has {size} bytes, expected 64"):
            SimulatedTdx(platform, {}).attest(bytes(size))


def test_collateral_when_near_expiry_then_issued_again_under_the_same_root_and_pck(platform: Path) -> None:
    evidence = SimulatedTdx(platform, {}).attest(REPORT_DATA)
    first = load_endorsements(platform, NOW + timedelta(days=27))
    assert first == load_endorsements(platform, NOW)
    anchor, machine = load_anchor(platform), verify(platform, evidence, NOW).platform_id
    late = NOW + timedelta(days=400)
    renewed = load_endorsements(platform, late)
    assert renewed != first
    assert load_endorsements(platform, late) == renewed
    assert load_anchor(platform) == anchor
    claims = verify(platform, evidence, late)
    assert claims.platform_id == machine
    assert claims.valid_until == late + development_pki.COLLATERAL_LIFETIME


def test_collateral_when_the_clock_was_set_back_then_issued_again(platform: Path) -> None:
    first = load_endorsements(platform, NOW)
    before = NOW - timedelta(minutes=90)
    assert load_endorsements(platform, before) != first
    with pytest.raises(SignatureError, match="is good from"):  # the certificates are younger than this clock
        verify(platform, SimulatedTdx(platform, {}).attest(REPORT_DATA), before)


def test_platforms_when_two_then_machines_and_roots_differ(platform: Path, tmp_path: Path) -> None:
    create_platform(tmp_path / "other", NOW)
    assert load_anchor(platform) != load_anchor(tmp_path / "other")
    machines = {
        verify(one, SimulatedTdx(one, {}).attest(REPORT_DATA), NOW).platform_id
        for one in (platform, tmp_path / "other")
    }
    assert len(machines) == 2


def test_create_when_directory_is_not_empty_or_not_writable_then_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AttesterError, match="is not empty"):
        create_platform(tmp_path, NOW)
    with pytest.raises(AttesterError, match=r"cannot write .*file"):
        create_platform(tmp_path / "file" / "below", NOW)


def test_load_when_keys_are_readable_by_others_then_refused_with_the_fix(platform: Path) -> None:
    key = platform / "pck-key.pem"
    key.chmod(0o640)
    with pytest.raises(KeyFileError, match="mode 0640, expected 0600; run `chmod 600"):
        SimulatedTdx(platform, {})


def test_load_when_files_are_missing_or_damaged_then_refused(platform: Path, tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match=r"cannot read .*root.pem"):
        load_anchor(tmp_path / "absent")
    with pytest.raises(AttesterError, match=r"cannot read .*pck.pem"):
        SimulatedTdx(tmp_path / "absent", {})
    (platform / "pck-key.pem").rename(platform / "kept")
    with pytest.raises(AttesterError, match=r"cannot open .*pck-key.pem"):
        SimulatedTdx(platform, {})
    (platform / "kept").rename(platform / "pck-key.pem")
    (platform / "pck.pem").write_text("nonsense")
    with pytest.raises(AttesterError, match=r"pck.pem is damaged: it is not one PEM"):
        SimulatedTdx(platform, {})
    (platform / "pck.pem").write_bytes((platform / "root.pem").read_bytes())
    with pytest.raises(AttesterError, match="not the key of its certificate"):
        SimulatedTdx(platform, {})
    (platform / "root.pem").write_text("nonsense")
    with pytest.raises(EndorsementError, match="not one self-signed"):
        load_anchor(platform)


def test_load_when_collateral_is_damaged_then_refused(platform: Path) -> None:
    path = platform / "collateral.json"
    stored = json.loads(path.read_text())
    for text, reason in (
        ("{", "not strict JSON"),
        ("[]", "not of the form"),
        (json.dumps({"collateral": "{}"}), "not of the form"),
        (json.dumps(stored | {"collateral": "{}"}), "exactly the names"),
    ):
        path.write_text(text)
        with pytest.raises(EndorsementError, match=reason):
            load_endorsements(platform, NOW)
    inner = json.loads(stored["collateral"]) | {"pck_crl": "00"}
    path.write_text(json.dumps(stored | {"collateral": json.dumps(inner)}))
    with pytest.raises(EndorsementError, match=r"CRL in collateral.json is damaged"):
        load_endorsements(platform, NOW)
    path.write_text(" " * (1024 * 1024 + 1))
    with pytest.raises(AttesterError, match="more than 1048576 bytes"):
        load_endorsements(platform, NOW)
