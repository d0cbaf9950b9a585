"""Azure's two steps, and each refusal of envelope, HCL report and quote by its reason; a synthetic
machine.
"""

import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EvidenceError,
    MalformedEvidenceError,
    SignatureError,
    UnsupportedPlatformError,
)
from securetf.evidence import azure_vtpm, sev_snp, sev_snp_certificates, tpm2_quote
from securetf.verifier.azure_vtpm import AzureVtpmVerifier, snp_evidence, tdx_evidence
from support.authority import NOW
from support.azure import Hardware, Machine, text
from support.snp_platform import Platform as Chip
from support.tpm2 import REPORT_DATA

CHIP = Chip()
REPORT = CHIP.signed()


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(rsa.generate_private_key(65537, 2048))


def verify(machine: Machine, envelope: dict[str, Any] | None = None) -> VerifiedClaims:
    return verify_raw(machine, json.dumps(machine.envelope() if envelope is None else envelope).encode())


def verify_raw(machine: Machine, raw: bytes) -> VerifiedClaims:
    runtime = hashlib.sha256(json.dumps(machine.runtime()).encode()).digest().ljust(64, b"\0")
    verifier = AzureVtpmVerifier({azure_vtpm.TDX: (tdx_evidence, Hardware(runtime))})
    evidence = Evidence(Platform.AZURE_VTPM, raw)
    return verifier.verify(evidence, expected_report_data=REPORT_DATA, now=NOW)


def test_evidence_when_all_holds_then_claims_are_of_hardware_and_pcrs(machine: Machine) -> None:
    claims = verify(machine)
    assert claims.platform is Platform.AZURE_VTPM
    assert claims.registers["mr_td"] == b"\7" * 48
    assert claims.registers["pcr3"] == b"\3" * 32
    assert (claims.tcb_status, claims.advisories, claims.platform_id) == (
        "UpToDate",
        ("INTEL-SA-1",),
        b"ppid",
    )
    assert (claims.properties["hardware"], claims.report_data) == ("tdx", REPORT_DATA)


def test_runtime_data_when_not_what_the_hardware_reports_then_refused_at_step_2(machine: Machine) -> None:
    other = machine.hcl(json.dumps(machine.runtime(extra=1)).encode())
    with pytest.raises(BindingError, match="not the hash of the runtime data") as refused:
        verify(machine, machine.envelope(other))
    assert refused.value.step == 2


def test_quote_when_of_another_machine_or_changed_then_refused(machine: Machine) -> None:
    other = Machine(rsa.generate_private_key(65537, 2048))
    envelope = machine.envelope(tpm_quote=other.envelope()["tpm_quote"])
    with pytest.raises(SignatureError, match="TPM quote's signature does not hold"):
        verify(machine, envelope)
    for quote, error, reason in (
        (machine.quote(extra_data=bytes(32)), BindingError, "extra data is not the one expected"),
        (machine.quote(pcr_digest=bytes(32)), SignatureError, "not the ones that the TPM quoted"),
        (machine.quote(selection=(1, 2)), SignatureError, "not of the indices and the bank"),
        (machine.quote(bank=tpm2_quote.SHA1), ConfigurationError, "sha1 PCR bank"),
    ):
        with pytest.raises(error, match=reason):
            verify(machine, machine.envelope(quote=quote))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"version": 3}, "another magic, version or request type"),
        ({"request": 1}, "another magic, version or request type"),
        ({"status": 1}, "another magic, version or request type"),
        ({"reserved": 1}, "reserved bytes of the HCL report"),
        ({"data_version": 2}, "runtime data version 2"),
        ({"kind": 3}, "report type 3"),
        ({"digest": 4}, "hash 4"),
        ({"size": 1}, "declared lengths do not fit"),
        ({"data_size": 1}, "declared lengths do not fit"),
        ({"variable": 1}, "declared lengths do not fit"),
        ({"kind": azure_vtpm.SNP}, "are of different TEEs"),
    ],
)
def test_hcl_report_when_one_field_is_wrong_then_refused(
    machine: Machine, header: dict[str, int], reason: str
) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        verify(machine, machine.envelope(machine.hcl(**header)))


def test_hcl_report_when_cut_padded_or_followed_then_refused(machine: Machine) -> None:
    report = machine.hcl()
    for raw, reason in (
        (report[:1236], "has 1236 bytes, expected 1237"),
        (report + bytes(16 * 1024), "expected 1237 to 16384"),
        (report + b"\1", "something follows its end"),
        (report[:-200], "declared lengths do not fit"),
        (b"HCLB" + report[4:], "another magic"),
    ):
        with pytest.raises(MalformedEvidenceError, match=reason):
            verify(machine, machine.envelope(raw))


def test_runtime_data_when_it_has_not_one_signing_key_then_refused(machine: Machine) -> None:
    (ak,) = machine.runtime()["keys"]
    for runtime, reason in (
        (machine.runtime(keys=[]), "not exactly one RSA signing key"),
        (machine.runtime(keys=[ak, ak]), "not exactly one RSA signing key"),
        (machine.runtime(keys=[ak | {"kty": "EC"}]), "not exactly one RSA signing key"),
        (machine.runtime(keys=[ak | {"key_ops": ["sign", "encrypt"]}]), "not exactly one RSA signing key"),
        (machine.runtime(keys=1), "has no keys"),
        ([], "has no keys"),
        (machine.runtime(keys=[ak | {"n": "="}]), "modulus is not"),
        (machine.runtime(keys=[ak | {"e": 3}]), "exponent is not base64url"),
        (machine.runtime(keys=[ak | {"e": "Aw"}]), "the TPM key cannot be used"),
        (machine.runtime(keys=[ak | {"n": text(bytes(128))}]), "the TPM key cannot be used"),
        (machine.runtime(**{"vm-configuration": 1}), "vm-configuration is not an object"),
    ):
        with pytest.raises(MalformedEvidenceError, match=reason):
            verify(machine, machine.envelope(machine.hcl(json.dumps(runtime).encode())))
    with pytest.raises(MalformedEvidenceError, match="stands twice"):
        verify(machine, machine.envelope(machine.hcl(b'{"keys": [], "keys": []}')))


@pytest.mark.usefixtures("uncollected")
def test_envelope_when_not_of_its_form_then_refused(machine: Machine) -> None:
    good = machine.envelope()
    signed = good["tpm_quote"]
    for envelope, reason in (
        (good | {"version": 3}, "has version 3, expected 1, 2 or none"),
        (good | {"version": 2.0}, r"has version 2\.0"),
        (good | {"version": True}, "has version True"),
        (good | {"extra": 1}, "has not exactly the names"),
        (good | {"tpm_quote": []}, "has not exactly the names"),
        (good | {"tpm_quote": signed | {"pcrs": "x"}}, "pcrs are not a list"),
        (good | {"tpm_quote": signed | {"pcrs": signed["pcrs"][:23]}}, "not 24 values of 32 bytes"),
        (good | {"tpm_quote": signed | {"pcrs": ["00"] * 24}}, "not 24 values of 32 bytes"),
        (good | {"tpm_quote": signed | {"message": "zz"}}, "message is not hexadecimal"),
        (good | {"tpm_quote": signed | {"message": "AB"}}, "lower-case hexadecimal"),
        (good | {"hcl_report": "A"}, "hcl_report is not"),
        ({"quote": {}, "report": [], "vcek": ""}, "has not exactly the names"),
        (
            {"quote": {"signature": [], "message": [], "pcrs": []}, "report": [256], "vcek": ""},
            "list of bytes",
        ),
        ([], "is not an object"),
    ):
        with pytest.raises(MalformedEvidenceError, match=reason):
            azure_vtpm.parse(json.dumps(envelope).encode())
    for raw, reason in (
        (b'{"version": 1, "version": 1}', "stands twice"),
        (b'{"version": NaN}', "not a JSON number"),
        (b"\xff", "not strict JSON"),
        (b"[" * 100_000, "not strict JSON"),
        (bytes(128 * 1024 + 1), "at most 131072 are read"),
    ):
        with pytest.raises(MalformedEvidenceError, match=reason):
            azure_vtpm.parse(raw)


def test_hardware_when_no_verifier_for_it_then_unsupported(machine: Machine) -> None:
    raw = json.dumps(machine.envelope()).encode()
    with pytest.raises(UnsupportedPlatformError, match="hardware report of type 4"):
        AzureVtpmVerifier({}).verify(
            Evidence(Platform.AZURE_VTPM, raw), expected_report_data=REPORT_DATA, now=NOW
        )
    with pytest.raises(UnsupportedPlatformError, match="given to the verifier of azure_vtpm"):
        AzureVtpmVerifier({}).verify(Evidence(Platform.TPM2, raw), expected_report_data=REPORT_DATA, now=NOW)


# --- the forms that genuine attesters wrote -----------------------------------------------------------------


def octets(signed: dict[str, Any]) -> dict[str, Any]:
    """Return a quote as form 0 has it: lists of numbers."""
    raw = {name: list(bytes.fromhex(signed[name])) for name in ("signature", "message")}
    return raw | {"pcrs": [list(bytes.fromhex(value)) for value in signed["pcrs"]]}


def snp_envelope(machine: Machine, form: int, vcek: bytes) -> dict[str, Any]:
    """Return an envelope of an SNP machine. vcek: PEM in form 0, DER in later ones."""
    hcl = hcl_of(machine, REPORT, kind=azure_vtpm.SNP)
    signed = machine.envelope()["tpm_quote"]
    if form == 0:
        return {"quote": octets(signed), "report": list(hcl), "vcek": vcek.decode()}
    return {"version": form, "tpm_quote": signed, "hcl_report": text(hcl), "vcek": text(vcek)}


def hcl_of(machine: Machine, hardware: bytes, **changes: Any) -> bytes:
    """Return an HCL report around this hardware report."""
    raw = machine.hcl(**changes)
    return raw[:32] + hardware + raw[32 + len(hardware) :]


@pytest.mark.parametrize("form", [0, 1, 2])
def test_snp_evidence_when_of_any_form_then_it_carries_the_report_and_the_vcek(
    machine: Machine, form: int
) -> None:
    vcek = CHIP.vcek().certificate()
    raw = snp_envelope(machine, form, vcek.public_bytes(Encoding.DER if form else Encoding.PEM))
    found = azure_vtpm.parse(json.dumps(raw).encode())
    assert found.form == form
    part = sev_snp_certificates.parse(snp_evidence(found).raw)
    assert part.report == sev_snp.parse(REPORT)
    assert part.certificates == {"vcek": vcek.public_bytes(Encoding.DER)}


@pytest.mark.parametrize("form", [0, 1, 2])
def test_snp_evidence_when_the_vcek_is_unreadable_then_refused(machine: Machine, form: int) -> None:
    found = azure_vtpm.parse(json.dumps(snp_envelope(machine, form, b"no certificate")).encode())
    with pytest.raises(MalformedEvidenceError, match="the VCEK in Azure Evidence cannot be read"):
        snp_evidence(found)


def test_vcek_when_of_the_other_form_then_refused(machine: Machine) -> None:
    der = CHIP.vcek().certificate().public_bytes(Encoding.DER)
    pem = CHIP.vcek().certificate().public_bytes(Encoding.PEM)
    later = snp_envelope(machine, 1, der) | {"vcek": pem.decode()}
    with pytest.raises(MalformedEvidenceError, match="vcek is not base64url"):
        azure_vtpm.parse(json.dumps(later).encode())
    first = snp_envelope(machine, 0, pem) | {"vcek": text(der)}
    with pytest.raises(MalformedEvidenceError, match="the VCEK in Azure Evidence cannot be read"):
        snp_evidence(azure_vtpm.parse(json.dumps(first).encode()))


def test_tdx_evidence_when_of_form_0_then_verified_as_form_1(machine: Machine) -> None:
    first = {
        "tpm_quote": octets(machine.envelope()["tpm_quote"]),
        "hcl_report": list(machine.hcl()),
        "td_quote": list(b"the TD quote"),
    }
    assert verify(machine, first) == verify(machine)


def test_form_2_when_the_runtime_data_has_the_challenge_then_verified_else_refused(machine: Machine) -> None:
    challenge = machine.quote().extra_data
    for user_data, accepted in (
        (challenge.ljust(64, b"\0").hex(), True),
        (challenge.ljust(64, b"\0").hex().upper(), True),  # on SNP machines
        (bytes(64).hex(), False),
        (challenge.ljust(64, b"\1").hex(), False),
        (None, False),
    ):
        named = {} if user_data is None else {"user-data": user_data}
        runtime = json.dumps(machine.runtime(**named)).encode()
        envelope = machine.envelope(machine.hcl(runtime), version=2)
        expected = hashlib.sha256(runtime).digest().ljust(64, b"\0")
        verifier = AzureVtpmVerifier({azure_vtpm.TDX: (tdx_evidence, Hardware(expected))})
        evidence = Evidence(Platform.AZURE_VTPM, json.dumps(envelope).encode())
        if accepted:
            verifier.verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
            continue
        with pytest.raises(BindingError, match="form 2 has other user data") as refused:
            verifier.verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
        assert refused.value.step == 5


def test_user_data_when_not_64_bytes_in_hexadecimal_then_refused(machine: Machine) -> None:
    for value, reason in ((1, "not hexadecimal"), ("zz", "not hexadecimal"), ("00" * 63, "has 63 bytes")):
        runtime = json.dumps(machine.runtime(**{"user-data": value})).encode()
        with pytest.raises(MalformedEvidenceError, match=f"user-data .*{reason}|user-data is {reason}"):
            verify(machine, machine.envelope(machine.hcl(runtime)))


def test_envelope_when_a_bit_is_flipped_then_refused_unless_in_the_unused_copy_of_the_td_report(
    machine: Machine,
) -> None:
    """Every seventh byte. What counts on TDX is the quote; the HCL report's TDREPORT is not read."""
    raw = json.dumps(machine.envelope()).encode()
    start = raw.index(b'"hcl_report": "') + len(b'"hcl_report": "')
    copy = range(start + 32 * 4 // 3, start + (32 + azure_vtpm.HARDWARE_REPORT_SIZE) * 4 // 3 + 1)
    td_quote = range(
        raw.index(b'"td_quote"'), len(raw)
    )  # the stand-in for the hardware's verifier asserts it
    for offset in range(0, len(raw), 7):
        if offset in copy or offset in td_quote:
            continue
        changed = bytearray(raw)
        changed[offset] ^= 1 << offset % 8
        with pytest.raises(EvidenceError):
            verify_raw(machine, bytes(changed))
