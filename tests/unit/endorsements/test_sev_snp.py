"""AMD's certificates as files: sorted by name, nothing else is taken."""

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.endorsements.sev_snp import SnpAnchors, SnpEndorsements
from securetf.errors import EndorsementError
from securetf.evidence import sev_snp, sev_snp_certificates
from securetf.evidence.sev_snp import SnpProduct
from securetf.evidence.sev_snp_certificates import SnpEvidence
from support.snp_platform import Platform

MILAN = Platform()
KNOWN = MILAN.endorsements()


def pem(der: bytes | None) -> bytes:
    return x509.load_der_x509_certificate(der or b"").public_bytes(Encoding.PEM)


def test_files_when_in_pem_or_der_then_each_finds_its_place() -> None:
    crl = x509.load_der_x509_crl(KNOWN.crl or b"").public_bytes(Encoding.PEM)
    chain = pem(KNOWN.ask) + pem(KNOWN.root) + pem(KNOWN.asvk)
    assert SnpEndorsements.of([chain, pem(KNOWN.vek), crl]) == KNOWN
    assert SnpEndorsements.of([chain, KNOWN.vek or b"", KNOWN.crl or b""]) == KNOWN
    assert SnpEndorsements.of([chain, chain]) == replace(KNOWN, vek=None, crl=None)
    assert SnpEndorsements.of([]) == SnpEndorsements()


def test_table_of_a_host_when_given_as_a_file_then_its_certificates_without_its_list() -> None:
    carried = {"vcek": KNOWN.vek or b"", "ask": KNOWN.ask or b"", "ark": KNOWN.root or b""}
    report = sev_snp.parse(MILAN.signed())

    def auxblob(**certificates: bytes) -> bytes:
        evidence = SnpEvidence(report=report, certificates=certificates)
        return sev_snp_certificates.encode(evidence)[sev_snp.REPORT_SIZE :]

    expected = replace(KNOWN, asvk=None, crl=None)
    assert SnpEndorsements.of([auxblob(**carried, crl=KNOWN.crl or b"")]) == expected
    assert SnpEndorsements.of([auxblob(**carried) + bytes(4096)]) == expected
    with pytest.raises(EndorsementError, match="ends without its closing entry"):
        SnpEndorsements.of([auxblob(**carried)[:24]])
    nested = auxblob(vcek=auxblob(**carried))
    with pytest.raises(EndorsementError, match="no certificate or revocation list"):
        SnpEndorsements.of([nested])


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([b"text"], "no certificate or revocation list"),
        ([b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"], "no certificate or revocation"),
        ([bytes(64 * 1024 + 1)], "at most 65536 are read"),
        ([KNOWN.ask, MILAN.ask().der()], "two certificates were given for the place of ask"),
        ([MILAN.ask(name="Other").der()], "'Other' is none of the names in AMD's"),
    ],
)
def test_files_when_something_else_or_twice_then_refused(files: list[bytes], reason: str) -> None:
    if "two certificates" in reason:
        files = [files[0], MILAN.ask(serial=99).der()]
    with pytest.raises(EndorsementError, match=reason):
        SnpEndorsements.of(files)


def test_anchors_of_amd_when_read_then_one_for_each_product_line() -> None:
    anchors = SnpAnchors.amd()
    assert sorted(anchors.roots.values()) == sorted(SnpProduct)
    assert not anchors.development
    assert all(len(pin) == 32 for pin in anchors.roots)
