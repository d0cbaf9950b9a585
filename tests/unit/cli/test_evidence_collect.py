"""`securetf evidence collect` with fake devices, and `reference-values from` what it collected."""

import json
import os
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from securetf.appraisal import appraise
from securetf.appraisal.reference_values import reference_values
from securetf.attester import configfs_tsm
from securetf.attester.insecure_simulation import create_platform, load_endorsements
from securetf.claims import Platform, VerifiedClaims
from securetf.cli import call
from securetf.evidence import sev_snp_certificates
from securetf.manifest.convert import struct
from securetf.manifest.types import POLICIES
from support import shared_vectors, snp_platform, tpm2
from support.nitro import make_module
from support.sgx_platform import SgxPlatform

NONCE = "ab" * 32


@pytest.fixture
def snp_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that behaves as configfs-tsm of an SNP guest does."""
    root = tmp_path / "tsm"
    root.mkdir()

    def mkdir(directory: Path) -> None:
        directory.mkdir()
        (directory / "provider").write_text("sev_guest\n")
        (directory / "generation").write_text("0\n")

    def write(path: Path, content: bytes) -> None:
        (path.parent / "outblob").write_bytes(snp_platform.Platform().signed(report_data=content))
        (path.parent / "generation").write_text("1\n")

    def remove(directory: Path) -> None:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()

    monkeypatch.setattr(configfs_tsm, "_mkdir", mkdir)
    monkeypatch.setattr(configfs_tsm, "_write", write)
    monkeypatch.setattr(configfs_tsm, "_remove", remove)
    return root


def elsewhere(tmp_path: Path) -> list[str]:
    """Options that keep `detect` off this machine's own devices."""
    missing = str(tmp_path / "missing")
    return ["--gramine-path", missing, "--nsm-device", missing, "--tpm", f"unix:{missing}"]


@pytest.mark.parametrize("named", [[], ["--attester", "sev_snp"]])
def test_collect_when_on_an_snp_machine_then_the_file_answers_to_the_nonce(
    snp_machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], named: list[str]
) -> None:
    out = tmp_path / "report.bin"
    devices = ["--tsm-path", str(snp_machine), *elsewhere(tmp_path)]
    assert call(["evidence", "collect", "--nonce", NONCE, "--out", str(out), *devices, *named, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    report = sev_snp_certificates.parse(out.read_bytes()).report
    assert report.report_data.hex() == facts["report_data"] == NONCE.ljust(128, "0")
    assert facts["platform"] == "sev_snp"
    assert not list(snp_machine.iterdir())


def test_collect_when_no_platform_is_there_then_says_what_it_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = ["--tsm-path", str(tmp_path / "none"), *elsewhere(tmp_path)]
    assert call(["evidence", "collect", "--nonce", NONCE, "--out", str(tmp_path / "x"), *devices]) == 10
    assert "platform is not clear" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--nonce", ""], "expected 1 to 64"),
        (["--nonce", "00" * 32], "not all zero"),
        (["--nonce", "00" * 65], "expected 1 to 64"),
        (["--nonce", "zz"], "not hexadecimal"),
        (["--nonce", NONCE, "--attester", "tdx", "--attester", "tpm2"], "one attester at a time"),
    ],
)
def test_collect_when_its_arguments_do_not_fit_then_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert call(["evidence", "collect", "--out", str(tmp_path / "x"), *arguments]) == 2
    assert reason in capsys.readouterr().err


@pytest.fixture
def collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Arguments that verify Evidence of a simulated machine, collected."""
    platform, out, collateral = tmp_path / "platform", tmp_path / "quote.bin", tmp_path / "collateral.json"
    create_platform(platform, datetime.now(UTC))
    collateral.write_text(load_endorsements(platform, datetime.now(UTC)).to_json())
    simulation = ["--insecure-simulation", str(platform)]
    assert call(["evidence", "collect", "--nonce", NONCE, "--out", str(out), *simulation]) == 0
    assert "proves nothing" in capsys.readouterr().err
    root = ["--insecure-simulation-root", str(platform / "root.pem")]
    return [str(out), "--nonce", NONCE, "--endorsements", str(collateral), *root]


def test_reference_values_when_printed_then_a_policy_that_verify_accepts(
    collected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["reference-values", "from", *collected]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# INSECURE SIMULATION")
    (tmp_path / "policy.toml").write_text(printed)
    assert call(["evidence", "verify", *collected, "--policy", str(tmp_path / "policy.toml")]) == 0
    assert call(["reference-values", "from", *collected, "--any-machine", "--json"]) == 0
    table = json.loads(capsys.readouterr().out.splitlines()[-1])["appraisal"]["insecure_simulation"]
    assert "platform_ids" not in table
    assert tomllib.loads(printed)["appraisal"]["insecure_simulation"]["mr_td"] == table["mr_td"]


def test_reference_values_when_the_evidence_does_not_hold_then_nothing_is_printed(
    collected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = [one if one != NONCE else "cd" * 32 for one in collected]
    assert call(["reference-values", "from", *other]) == 10
    told = capsys.readouterr()
    assert "report data is not the digest" in told.err
    assert told.out == ""
    hardware = collected[: collected.index("--insecure-simulation-root")]
    assert call(["reference-values", "from", *hardware]) == 10
    assert "not a trust anchor" in capsys.readouterr().err
    assert call(["reference-values", "from", *collected, "--insecure-no-revocation"]) == 2


def test_collect_when_the_file_exists_then_it_is_kept(
    collected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(collected[0]).read_bytes()
    simulation = ["--insecure-simulation", str(tmp_path / "platform")]
    assert call(["evidence", "collect", "--nonce", NONCE, "--out", collected[0], *simulation]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert Path(collected[0]).read_bytes() == before


def azure() -> VerifiedClaims:
    found = snp_platform.Platform().verify()
    pcrs = {f"pcr{index}": bytes([index]) * 32 for index in range(24)}
    return claims_as(
        found,
        platform=Platform.AZURE_VTPM,
        registers={**found.registers, **pcrs},
        properties={**found.properties, "hardware": "sev_snp"},
    )


def claims_as(claims: VerifiedClaims, **changes: Any) -> VerifiedClaims:
    return snp_platform.replace(claims, simulated=False, **changes)


MADE: dict[str, Callable[[], VerifiedClaims]] = {
    "sev_snp": lambda: claims_as(snp_platform.Platform().verify()),
    "sgx": lambda: claims_as(SgxPlatform.make().verify(), advisories=("INTEL-SA-1",), tcb_status="OutOfDate"),
    "nitro": lambda: make_module().verify(),
    "tpm2": lambda: tpm2.make_tpm().verify(),
    "azure_vtpm": azure,
}


@pytest.mark.parametrize("platform", MADE)
def test_reference_values_when_of_any_platform_then_accept_that_machine_and_no_other(platform: str) -> None:
    claims = MADE[platform]()
    table = reference_values(claims, any_machine=False)
    policy: Any = struct(json.loads(json.dumps(table)), POLICIES[platform], ("appraisal", platform))
    now = claims.valid_until
    appraise(claims, policy=policy, rtmr3=b"", now=now)
    other = snp_platform.replace(claims, platform_id=os.urandom(8))
    with pytest.raises(Exception, match="is not among platform_ids"):
        appraise(other, policy=policy, rtmr3=b"", now=now)
    assert ("pcr10" in table.get("pcrs", {}), "pcr23" in table.get("pcrs", {})) == (False, False)


@shared_vectors.NEEDED
def test_reference_values_when_of_a_genuine_quote_then_each_advisory_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    quote = shared_vectors.VECTORS / "sgx/dcapqvl_sgx_v3.bin"
    nonce = quote.read_bytes()[368:432].hex()
    collateral = shared_vectors.VECTORS / "collateral/sgx-00A067110000-2025-06.json"
    given = ["--nonce", nonce, "--endorsements", str(collateral), "--at", "2025-07-01T00:00:00Z"]
    assert call(["reference-values", "from", str(quote), *given]) == 0
    table = tomllib.loads(capsys.readouterr().out)["appraisal"]["sgx"]
    assert any(one.startswith("INTEL-SA-") for one in table["tolerate"])
    assert len(table["mr_enclave"][0]) == 64
