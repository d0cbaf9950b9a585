"""Genuine SEV-SNP reports and AMD certificates against the shared vectors' manifest.

The vectors are third-party data and not in this repository: SECURETF_SHARED or ../shared beside the checkout.
They come without AMD's revocation lists; that leg is tested on synthetic chains in tests/unit/verifier.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.claims import Platform, VerifiedClaims
from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.endorsements.trust import spki_digest
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EndorsementError,
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
)
from securetf.evidence import sev_snp, sev_snp_certificates
from securetf.verifier.sev_snp import authenticate, authenticate_without_revocation
from securetf.verifier.sev_snp_chain import KnownSnp, verify_leaf

SHARED = Path(os.environ.get("SECURETF_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "vectors"
pytestmark = [
    pytest.mark.skipif(
        not (VECTORS / "manifest.json").exists(),
        reason=f"no shared vectors at {VECTORS}: set SECURETF_SHARED to the folder that holds vectors/",
    ),
    pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive"),
]
LINES = {"Milan-B0": "milan", "Milan": "milan", "Genoa": "genoa", "Turin": "turin"}
TCB_NAMES = {"bootloader": "bl", "tee": "tee", "snp": "snp", "microcode": "ucode", "fmc": "fmc"}


def entries(prefix: str, kind: str) -> list[Any]:
    if not (VECTORS / "manifest.json").exists():
        return []
    found: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text())
    return [
        pytest.param(entry, id=entry["file"])
        for entry in found
        if entry["file"].startswith(prefix) and kind in entry["kind"]
    ]


def entry_of(name: str) -> dict[str, Any]:
    return next(case.values[0] for case in entries("snp/", "") if case.values[0]["file"] == name)


def certificate_of(report: dict[str, Any]) -> dict[str, Any]:
    stem = report["file"].removesuffix(".bin")
    return next(
        entry_of(name)
        for name in (f"{stem}.vcek.der", f"{stem}.vcek.pem", f"{stem}.vlek.der")
        if (VECTORS / name).exists()
    )


def roots(line: str) -> bytes:
    return (VECTORS / f"roots/amd_{line}_ask_ark_asvk.pem").read_bytes()


def endorsements(certificate: dict[str, Any], line: str | None = None) -> SnpEndorsements:
    chain = roots(line or LINES[certificate["parse"]["product"]])
    return SnpEndorsements.of([chain, (VECTORS / certificate["file"]).read_bytes()])


def moment(entry: dict[str, Any]) -> datetime:
    """Return the first day of the manifest's window, and a day."""
    return datetime.fromisoformat(entry["parse"]["nb"]) + timedelta(days=1)


def verify(report: dict[str, Any], certificate: dict[str, Any], **changes: Any) -> VerifiedClaims:
    raw = changes.pop("raw", (VECTORS / report["file"]).read_bytes())
    line = changes.pop("line", None)
    arguments: dict[str, Any] = {
        "anchors": SnpAnchors.amd(),
        "endorsements_for": lambda _: endorsements(certificate, line),
        "expected_report_data": bytes.fromhex(report["parse"]["report_data"]),
        "now": moment(certificate),
    }
    return authenticate_without_revocation(raw, **arguments | changes)


def test_vectors_when_present_then_there_are_seven_reports() -> None:
    assert len(entries("snp/", "report")) >= 7


def numbers(tcb: sev_snp.SnpTcb) -> dict[str, int]:
    return {name: value for name in TCB_NAMES if (value := getattr(tcb, name)) is not None}


@pytest.mark.parametrize("entry", entries("snp/", "report"))
def test_genuine_report_when_parsed_then_fields_are_those_of_the_manifest(entry: dict[str, Any]) -> None:
    raw, expected = (VECTORS / entry["file"]).read_bytes(), entry["parse"]
    report = sev_snp.parse(raw)
    assert sev_snp.encode(report) == raw
    for name in ("version", "guest_svn", "vmpl", "debug"):
        assert getattr(report, name) == expected[name], name
    assert hex(report.policy) == expected["policy"]
    assert hex(report.platform_info) == expected["plat_info"]
    assert report.migration_agent_allowed == expected["migrate_ma"]
    assert report.smt_allowed == expected["smt"]
    assert report.chip_key_masked == bool(expected["mask_chip_key"])
    assert report.signing_key == expected["signing_key"]
    for name in (
        *("report_data", "measurement", "host_data", "id_key_digest", "author_key_digest"),
        *("report_id", "chip_id"),
    ):
        assert getattr(report, name).hex() == expected[name], name
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        assert numbers(getattr(report, name)) == expected[name], name
    assert list(report.cpuid or (None, None, None)) == expected["cpuid"]
    assert ".".join(map(str, report.current_version)) == expected["fw_current"]


@pytest.mark.parametrize("entry", entries("snp/", "report"))
def test_genuine_report_when_verified_then_verdict_is_that_of_the_manifest(entry: dict[str, Any]) -> None:
    certificate = certificate_of(entry)
    (verdict,) = entry["verdicts"]
    if verdict["result"].startswith("REJECT (debug policy)"):
        with pytest.raises(ConfigurationError, match="allows debug"):
            verify(entry, certificate)
        return
    assert verdict["result"] == "VALID"
    claims = verify(entry, certificate)
    assert claims.platform is Platform.SEV_SNP
    assert not claims.simulated
    assert claims.measurement.hex() == entry["parse"]["measurement"]
    assert claims.registers["host_data"].hex() == entry["parse"]["host_data"]
    assert claims.properties["vmpl"] == entry["parse"]["vmpl"]
    assert f"chain SEV-{'VLEK-' if claims.properties['signing_key'] == 'VLEK' else ''}" + str(
        claims.properties["product"]
    ) in [f"{line}" for line in verdict["detail"]]
    assert claims.platform_id.hex() == certificate["parse"].get("hwid", "")
    assert claims.valid_until <= datetime.fromisoformat(certificate["parse"]["na"])
    same = entry["parse"]["current_tcb"] == entry["parse"]["committed_tcb"]
    assert claims.tcb_status == ("Committed" if same else "Provisional")


@pytest.mark.parametrize("entry", entries("snp/", "report"))
def test_genuine_report_when_outside_the_certificates_window_then_refused(entry: dict[str, Any]) -> None:
    certificate = certificate_of(entry)
    for name, step in (("nb", timedelta(seconds=-1)), ("na", timedelta(seconds=1))):
        now = datetime.fromisoformat(certificate["parse"][name]) + step
        with pytest.raises(SignatureError, match=r"V[CL]EK is good from"):
            verify(entry, certificate, now=now)


@pytest.mark.parametrize("entry", entries("snp/", "report"))
def test_genuine_report_when_altered_or_relayed_then_refused(entry: dict[str, Any]) -> None:
    raw, certificate = (VECTORS / entry["file"]).read_bytes(), certificate_of(entry)
    changed = bytearray(raw)
    changed[0x90] ^= 1
    with pytest.raises(SignatureError, match="is not signed by this V"):
        verify(entry, certificate, raw=bytes(changed))
    if not entry["parse"]["debug"]:
        with pytest.raises(BindingError, match="report data"):
            verify(entry, certificate, expected_report_data=bytes(range(64)))


@pytest.mark.slow
@pytest.mark.parametrize("entry", entries("snp/", "report"))
def test_genuine_report_when_truncated_anywhere_or_a_bit_of_any_byte_is_flipped_then_refused(
    entry: dict[str, Any],
) -> None:
    raw, certificate = (VECTORS / entry["file"]).read_bytes(), certificate_of(entry)
    known = endorsements(certificate)
    for size in range(len(raw)):
        with pytest.raises(MalformedEvidenceError):
            sev_snp_certificates.parse(raw[:size])
    for offset in range(len(raw)):
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceError):
            verify(entry, certificate, raw=bytes(changed), endorsements_for=lambda _: known)


@pytest.mark.parametrize("entry", entries("snp/", "report"))
def test_genuine_report_when_no_revocation_list_is_given_then_the_strict_verifier_refuses(
    entry: dict[str, Any],
) -> None:
    certificate = certificate_of(entry)
    with pytest.raises(EndorsementError, match="revocation list of the ARK is missing"):
        authenticate(
            (VECTORS / entry["file"]).read_bytes(),
            anchors=SnpAnchors.amd(),
            endorsements_for=lambda _: endorsements(certificate),
            expected_report_data=bytes(64),
            now=moment(certificate),
        )


@pytest.mark.parametrize("entry", entries("snp/", "report"))
def test_genuine_report_when_certificates_come_in_the_hosts_table_then_accepted(
    entry: dict[str, Any],
) -> None:
    certificate = certificate_of(entry)
    known = endorsements(certificate)
    vlek = entry["parse"]["signing_key"] == "VLEK"
    carried = {
        "ark": known.root,
        "ask": known.asvk if vlek else known.ask,
        "vlek" if vlek else "vcek": known.vek,
    }
    raw = sev_snp_certificates.encode(
        sev_snp_certificates.SnpEvidence(
            report=sev_snp.parse((VECTORS / entry["file"]).read_bytes()),
            certificates={name: der for name, der in carried.items() if der},
        )
    )
    if entry["parse"]["debug"]:
        with pytest.raises(ConfigurationError, match="allows debug"):
            verify(entry, certificate, raw=raw, endorsements_for=lambda _: None)
    else:
        assert verify(entry, certificate, raw=raw, endorsements_for=lambda _: None).platform_id is not None


@pytest.mark.parametrize("entry", entries("snp/", "VEK certificate"))
def test_genuine_certificate_when_read_then_extensions_are_those_of_the_manifest(
    entry: dict[str, Any],
) -> None:
    expected = entry["parse"]
    known = endorsements(entry)
    kind = sev_snp.SnpKey.VLEK if "csp" in expected else sev_snp.SnpKey.VCEK
    product = sev_snp.SnpProduct(LINES[expected["product"]].capitalize())
    issuer = x509.load_der_x509_certificate((known.asvk if "csp" in expected else known.ask) or b"")
    if "wrong" in entry["file"]:  # made upstream by changing a genuine one
        with pytest.raises(SignatureError, match="VCEK is not signed by its issuer"):
            verify_leaf(kind, known.vek, issuer, product, moment(entry), KnownSnp())
        return
    chain = verify_leaf(kind, known.vek, issuer, product, moment(entry), KnownSnp())
    assert numbers(chain.tcb) == {
        name: expected[short] for name, short in TCB_NAMES.items() if short in expected
    }
    assert chain.hw_id.hex() == expected.get("hwid", "")
    assert chain.csp_id == expected.get("csp", "")


@pytest.mark.parametrize("name", ["legacy", "new"])
def test_genuine_report_when_under_another_chips_vcek_then_refused(name: str) -> None:
    report, other = entry_of("snp/milan_v2.bin"), entry_of(f"snp/milan_v2.wrong-vcek-{name}.der")
    assert other["verdicts"][0]["result"] == "REJECT"
    with pytest.raises(SignatureError, match="VCEK is not signed by its issuer"):
        verify(report, other)
    genuine = entry_of("snp/virtee_milan_v2.vcek.der")
    with pytest.raises(SignatureError, match="report is not signed by this VCEK"):
        verify(report, genuine)


@pytest.mark.parametrize("entry", entries("snp/", "report"))
@pytest.mark.parametrize("line", ["milan", "genoa", "turin"])
def test_genuine_report_when_chain_is_of_another_product_line_then_refused(
    entry: dict[str, Any], line: str
) -> None:
    certificate = certificate_of(entry)
    if LINES[certificate["parse"]["product"]] == line:
        return
    with pytest.raises(SignatureError, match=r"certificates are of|is not signed by its issuer"):
        verify(
            entry, certificate, line=line, now=max(moment(certificate), datetime(2024, 12, 12, tzinfo=UTC))
        )


@pytest.mark.parametrize("entry", entries("roots/amd", "ASK, ARK and ASVK"))
def test_amd_chain_when_compared_with_the_pins_and_the_manifest_then_equal(entry: dict[str, Any]) -> None:
    line = entry["file"].split("_")[1].capitalize()
    by_name = {}
    for certificate in x509.load_pem_x509_certificates((VECTORS / entry["file"]).read_bytes()):
        name = certificate.subject.rfc4514_string().split(",")[0].removeprefix("CN=")
        by_name[name] = certificate
        first, last, digest = entry["parse"][name]
        assert f"{certificate.not_valid_before_utc:%F}" == first
        assert f"{certificate.not_valid_after_utc:%F}" == last
        assert len(digest) == 64
    assert set(by_name) == {f"ARK-{line}", f"SEV-{line}", f"SEV-VLEK-{line}"} == set(entry["parse"])
    assert SnpAnchors.amd().roots[spki_digest(by_name[f"ARK-{line}"])] == line
    known = SnpEndorsements.of([roots(line.lower())])
    assert known.root == by_name[f"ARK-{line}"].public_bytes(Encoding.DER)
    assert (known.vek, known.crl) == (None, None)


def test_certificate_with_serial_number_zero_when_loaded_then_cryptography_still_reads_it() -> None:
    """A canary: `cryptography` announces that it will refuse these; our bound on its version must keep it."""
    raw = (VECTORS / "snp/milan_v2.vcek.der").read_bytes()
    assert x509.load_der_x509_certificate(raw).serial_number == 0
