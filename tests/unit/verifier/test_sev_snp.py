"""What the SEV-SNP verifier must refuse (EVIDENCE.md), and why, on synthetic chains of every product line."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from securetf import claims as claims_module
from securetf.claims import Evidence
from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.errors import (
    BindingError,
    ConfigurationError,
    EndorsementError,
    MalformedEvidenceError,
    SignatureError,
    SimulationRefusedError,
    UnsupportedPlatformError,
)
from securetf.evidence import sev_snp, sev_snp_certificates
from securetf.evidence.sev_snp import SnpProduct, SnpTcb
from securetf.verifier.sev_snp import SnpVerifier
from support.snp_platform import NOW, REPORT_DATA, Platform, ec_key, integer, rsa_key

P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
MILAN, GENOA, TURIN = (Platform(line) for line in (SnpProduct.MILAN, SnpProduct.GENOA, SnpProduct.TURIN))
LINES = pytest.mark.parametrize("platform", [MILAN, GENOA, TURIN], ids=lambda one: str(one.product))
VLEK_FLAGS = 1 << 2


@LINES
def test_verify_when_everything_holds_then_claims_say_what_was_verified(platform: Platform) -> None:
    claims = platform.verify()
    assert claims.platform is claims_module.Platform.SEV_SNP
    assert claims.simulated
    assert claims.measurement == b"\1" * 48
    assert claims.platform_id == platform.hw_id
    assert claims.tcb_status == "Committed"
    assert claims.valid_until == NOW + timedelta(days=30)
    assert (claims.properties["product"], claims.properties["signing_key"]) == (platform.product, "VCEK")
    assert claims.properties["reported_tcb_snp"] == 24
    assert ("reported_tcb_fmc" in claims.properties) == (platform is TURIN)


@LINES
def test_verify_when_signed_by_a_vlek_then_the_claim_is_its_provider(platform: Platform) -> None:
    raw = platform.signed(flags=VLEK_FLAGS, chip_id=bytes(64))
    claims = platform.verify(raw, endorsements=platform.endorsements(vlek=True))
    assert (claims.properties["signing_key"], claims.properties["csp_id"]) == ("VLEK", "CN=cc-test.example")
    assert claims.platform_id == b""


def test_verify_when_firmware_is_ahead_of_what_is_committed_then_provisional() -> None:
    newer = replace(MILAN.tcb, microcode=220)
    assert MILAN.verify(MILAN.signed(current_tcb=newer)).tcb_status == "Provisional"
    assert MILAN.verify(MILAN.signed(current_version=(1, 55, 66))).tcb_status == "Provisional"


@pytest.mark.parametrize("version", [2, 3])
def test_verify_when_report_is_of_an_older_version_then_accepted(version: int) -> None:
    cpuid = None if version == 2 else (0x19, 1, 1)
    raw = MILAN.signed(version=version, cpuid=cpuid, launch_mitigation=None, current_mitigation=None)
    assert MILAN.verify(raw).properties["report_version"] == version


# --- crypto: the report ---


@pytest.mark.parametrize(
    "offset", [0x04, 0x08, 0x10, 0x38, 0x50, 0x90, 0xC0, 0x160, 0x1A0, 0x1E0, 0x1F8, 0x2A0, 0x2E8]
)
def test_report_when_one_bit_is_flipped_then_the_signature_does_not_hold(offset: int) -> None:
    changed = bytearray(MILAN.signed())
    changed[offset] ^= 1
    with pytest.raises(SignatureError, match="not signed by this VCEK"):
        MILAN.verify(bytes(changed))


@pytest.mark.parametrize("value", [0, P384_ORDER, P384_ORDER + 1, 2**384 - 1])
@pytest.mark.parametrize("part", ["signature_r", "signature_s"])
def test_signature_when_r_or_s_is_zero_or_out_of_range_then_refused(part: str, value: int) -> None:
    report = replace(sev_snp.parse(MILAN.signed()), **{part: value})
    with pytest.raises(SignatureError, match="not signed by this VCEK"):
        MILAN.verify(sev_snp.encode(report))


def test_signature_when_longer_than_the_curve_then_malformed() -> None:
    raw = bytearray(MILAN.signed())
    raw[0x2A0 + 48] = 1
    with pytest.raises(MalformedEvidenceError, match="reserved byte 0x2d0"):
        MILAN.verify(bytes(raw))


def test_report_when_signed_by_another_chips_key_then_refused() -> None:
    with pytest.raises(SignatureError, match="not signed by this VCEK"):
        MILAN.verify(MILAN.signed(key=ec_key(1)))


def changed(what: str, **changes: Any) -> SnpEndorsements:
    names = {"ark": "root", "ask": "ask", "asvk": "asvk", "vcek": "vek"}
    recipe = getattr(MILAN, what)(**changes)
    return MILAN.endorsements(**{names[what]: recipe.der()})


# --- TCB, chip and extensions of the VCEK ---


@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode"])
def test_tcb_when_not_that_of_the_vcek_then_names_both(part: str) -> None:
    other = replace(MILAN.tcb, **{part: 1})
    with pytest.raises(
        EndorsementError, match=r"VCEK is for TCB \(bootloader 4, .*\), the report has reported TCB"
    ):
        MILAN.verify(MILAN.signed(reported_tcb=other))


def test_tcb_when_fmc_of_turin_differs_then_refused() -> None:
    with pytest.raises(EndorsementError, match=r"VCEK is for TCB \(fmc 1, .*reported TCB \(fmc 2,"):
        TURIN.verify(TURIN.signed(reported_tcb=replace(TURIN.tcb, fmc=2)))


def test_chip_when_another_or_masked_then_refused() -> None:
    with pytest.raises(SignatureError, match=r"VCEK is for chip 0102.*report is from 0909"):
        MILAN.verify(MILAN.signed(chip_id=b"\x09" * 64))
    with pytest.raises(ConfigurationError, match="chip id is masked"):
        MILAN.verify(MILAN.signed(chip_id=bytes(64)))
    with pytest.raises(SignatureError, match="VCEK is for chip 0102030405060708,"):
        TURIN.verify(TURIN.signed(chip_id=bytes(range(1, 65))))


@pytest.mark.parametrize(
    ("extension", "value", "reason"),
    [
        ("_1", None, "no number"),
        ("_1", integer(2), "structure version 2"),
        ("_1", integer(1), "structure version 1, which Milan does not use"),
        ("_2", None, "no text"),
        ("_2", b"\x16\x7fMilan", "no text"),
        ("_2", b"\x0c\x05Milan", "no text"),
        ("_3_1", None, "no number"),
        ("_3_8", b"\x02\x02\x01\x00", "no number of 0 to 255"),
        ("_3_8", b"\x02\x01\xff", "no number of 0 to 255"),
        ("_3_8", b"\x02\x02\x00\x01", "no number of 0 to 255"),
        ("_3_8", integer(219) + b"\0", "no number of 0 to 255"),
        ("_3_5", integer(1), "value in the reserved extension"),
        ("_3_9", integer(1), "which only Turin has"),
        ("_4", None, "chip id of 0 bytes, expected 64"),
        ("_4", b"\x04\x40" + bytes(range(1, 65)), "chip id of 66 bytes, expected 64"),
        ("_4", bytes(8), "chip id of 8 bytes, expected 64"),
    ],
)
def test_vcek_when_an_extension_is_missing_or_odd_then_names_it(
    extension: str, value: bytes | None, reason: str
) -> None:
    odd = changed("vcek", extensions=MILAN.extensions(**{extension: value}))
    with pytest.raises(EndorsementError, match=reason):
        MILAN.verify(endorsements=odd)


def test_vcek_of_turin_when_it_lacks_the_fmc_then_refused() -> None:
    without = TURIN.endorsements(vek=TURIN.vcek(extensions=TURIN.extensions(_3_9=None)).der())
    with pytest.raises(EndorsementError, match=r"extension 1.3.6.1.4.1.3704.1.3.9 of the VCEK is no number"):
        TURIN.verify(endorsements=without)


def test_vlek_when_it_names_no_provider_then_refused() -> None:
    raw = MILAN.signed(flags=VLEK_FLAGS, chip_id=bytes(64))
    nameless = MILAN.vlek(extensions=MILAN.extensions(_4=None)).der()
    with pytest.raises(EndorsementError, match=r"extension 1.3.6.1.4.1.3704.1.5 of the VLEK is no text"):
        MILAN.verify(raw, endorsements=MILAN.endorsements(vek=nameless))


# --- configuration, binding, registry ---


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy": 1 << 17 | 1 << 19}, "allows debug"),
        ({"policy": 1 << 17 | 1 << 18}, "migration agent"),
        ({"report_id_ma": bytes(32)}, "migration agent"),
        ({"vmpl": 0xFFFFFFFF}, "host asked for this report"),
        ({"flags": 2}, "chip's key is masked"),
        ({"platform_info": 0x100}, "platform info 0x100 has bits"),
    ],
)
def test_guest_when_its_configuration_protects_nothing_then_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        MILAN.verify(MILAN.signed(**changes))


@pytest.mark.parametrize("expected", [bytes(64), bytes(range(63)), b"", bytes(range(64)) + b"\0"])
def test_report_data_when_not_the_expected_digest_then_refused(expected: bytes) -> None:
    with pytest.raises(BindingError, match="not the digest of this nonce"):
        MILAN.verify(expected_report_data=expected)


def test_hardware_verifier_when_given_a_development_root_then_refused() -> None:
    with pytest.raises(SimulationRefusedError, match="development root"):
        SnpVerifier(MILAN.anchors, lambda _: MILAN.endorsements())


def test_hardware_verifier_when_given_simulated_bytes_or_another_platform_then_refused() -> None:
    verifier = SnpVerifier(SnpAnchors.amd(), lambda _: MILAN.endorsements())
    evidence = Evidence(claims_module.Platform.SEV_SNP, MILAN.signed())
    with pytest.raises(SignatureError, match="not a trust anchor"):
        verifier.verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
    with pytest.raises(UnsupportedPlatformError, match="verifier of sev_snp"):
        verifier.verify(
            Evidence(claims_module.Platform.TDX, evidence.raw), expected_report_data=REPORT_DATA, now=NOW
        )


# --- certificates that come with the Evidence ---


def with_table(**certificates: bytes) -> bytes:
    report = sev_snp.parse(MILAN.signed())
    return sev_snp_certificates.encode(
        sev_snp_certificates.SnpEvidence(report=report, certificates=certificates)
    )


def test_table_when_it_brings_what_the_caller_lacks_then_used_and_verified() -> None:
    known = MILAN.endorsements()
    lacking = replace(known, vek=None)
    assert MILAN.verify(with_table(vcek=known.vek or b""), endorsements=lacking).platform_id == MILAN.hw_id
    forged = MILAN.vcek(signer=rsa_key(0)).der()
    with pytest.raises(SignatureError, match="VCEK is not signed by its issuer"):
        MILAN.verify(with_table(vcek=forged), endorsements=lacking)


def test_table_when_it_brings_what_the_caller_has_then_the_callers_counts() -> None:
    assert MILAN.verify(with_table(vcek=b"junk", ask=b"junk", ark=b"junk")).platform_id == MILAN.hw_id


def test_table_when_it_brings_a_revocation_list_then_it_does_not_count() -> None:
    known = MILAN.endorsements()
    with pytest.raises(EndorsementError, match="revocation list of the ARK is missing"):
        MILAN.verify(with_table(crl=known.crl or b""), endorsements=replace(known, crl=None))


def test_tcb_when_compared_with_a_minimum_then_each_part_counts() -> None:
    tcb = SnpTcb(bootloader=1, tee=1, snp=1, microcode=1)
    assert tcb.reaches(tcb)
    for part in ("bootloader", "tee", "snp", "microcode", "fmc"):
        assert not tcb.reaches(replace(tcb, **{part: 2})), part
