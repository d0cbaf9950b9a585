"""The vendors' services: strict about what they answer, patient where they ask for it, and not for ever."""

import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester import development_pki as pki
from securetf.endorsements import Endorsements
from securetf.endorsements.download import Downloader
from securetf.endorsements.needs import DcapNeed
from securetf.endorsements.refusals import EndorsementSourceError
from securetf.endorsements.sources import Sources
from support.vendor import Reply, Vendor, signed

TCB = f"/tdx/certification/v4/tcb?fmspc={pki.FMSPC}&update=standard"
QE = "/tdx/certification/v4/qe/identity?update=standard"
CRL = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"


@pytest.fixture
def served(vendor: Vendor, collateral: Endorsements, need: DcapNeed) -> Vendor:
    vendor.serve_dcap(collateral, tee="tdx", fmspc=need.fmspc)
    return vendor


def changed(vendor: Vendor, target: str, body: bytes | None = None, **headers: str) -> None:
    found = vendor.routes[target]
    assert isinstance(found, Reply)
    vendor.routes[target] = Reply(found.body if body is None else body, headers={**found.headers, **headers})


def refused(vendor: Vendor, need: DcapNeed, reason: str, **changes: Any) -> None:
    with pytest.raises(EndorsementSourceError, match=reason):
        vendor.sources(**changes).dcap(need)


def test_pccs_when_its_root_list_is_in_hex_then_as_from_intel(
    served: Vendor, need: DcapNeed, collateral: Endorsements
) -> None:
    served.routes[CRL] = Reply(
        collateral.pck_crl.hex().encode(),
        headers=served.routes[CRL].headers,  # type: ignore[union-attr]
    )
    found = served.sources(intel_root_crl=None).dcap(need)
    assert Endorsements.from_json(found.content) == collateral
    pem = x509.load_der_x509_crl(collateral.root_ca_crl).public_bytes(Encoding.PEM)
    served.routes["/root.der"] = Reply(pem)
    assert Endorsements.from_json(served.sources().dcap(need).content) == collateral


def test_document_when_written_with_spaces_then_its_exact_text_is_kept(
    served: Vendor, need: DcapNeed, collateral: Endorsements
) -> None:
    spaced = (
        b' { "tcbInfo" : ' + collateral.tcb_info.encode() + b' , "signature" : "' + b"ab" * 64 + b'" } \n'
    )
    changed(served, TCB, spaced)
    found = Endorsements.from_json(served.sources().dcap(need).content)
    assert (found.tcb_info, found.tcb_info_signature) == (collateral.tcb_info, b"\xab" * 64)


def test_documents_when_not_of_the_form_of_the_api_then_refused(
    served: Vendor, need: DcapNeed, collateral: Endorsements
) -> None:
    good = signed("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature)
    for body in (
        b"",
        b"{}",
        b"\xff",
        good[:-1],
        good + b"x",
        good.replace(b"tcbInfo", b"tcbinfo"),
        good.replace(b'"signature"', b'"extra":1,"signature"'),
        signed("tcbInfo", collateral.tcb_info, b"\1" * 63),
        signed("tcbInfo", '{"a":1,"a":2}', b"\1" * 64),
    ):
        changed(served, TCB, body)
        refused(served, need, "gives no tcbInfo with its signature")
    changed(served, TCB, signed("tcbInfo", "[]", b"\1" * 64))
    refused(served, need, "documents of another form")


def test_documents_when_of_another_platform_or_recovery_then_refused(
    served: Vendor, need: DcapNeed, collateral: Endorsements
) -> None:
    def info(old: str, new: str) -> bytes:
        return signed("tcbInfo", collateral.tcb_info.replace(old, new), b"\1" * 64)

    changed(served, TCB, info('"id":"TDX"', '"id":"SGX"'))
    refused(served, need, r"gives SGX .*, expected TDX")
    changed(served, TCB, info(pki.FMSPC, "00AA00AA00AA"))
    refused(served, need, "gives TDX 00AA00AA00AA")
    number = f'"tcbEvaluationDataNumber":{pki.TCB_EVALUATION}'
    changed(served, TCB, info(number, number + "1"))
    refused(served, need, "two TCB recoveries")


@pytest.mark.parametrize("chain", ["", "hello", "%00", "-----BEGIN CERTIFICATE-----"])
def test_issuer_chain_when_missing_or_something_else_then_refused(
    served: Vendor, need: DcapNeed, chain: str
) -> None:
    changed(served, TCB, **{"TCB-Info-Issuer-Chain": chain})
    refused(served, need, "no issuer chain of two certificates in tcb-info-issuer-chain")


@pytest.mark.parametrize("body", [b"", b"no list", b"30", b"\x30\x82\x00"])
def test_revocation_list_when_it_is_none_then_refused(served: Vendor, need: DcapNeed, body: bytes) -> None:
    changed(served, CRL, body)
    refused(served, need, "gives no revocation list")


def test_service_when_busy_then_asked_again_after_the_time_it_names(vendor: Vendor) -> None:
    waited: list[float] = []
    vendor.routes["/x"] = [Reply(status=503, headers={"Retry-After": "3"}), Reply(status=500), Reply(b"it")]
    downloader = Downloader(deadline_s=60, ca_file=str(vendor.ca_file), sleep=waited.append)
    assert downloader.get(f"{vendor.url}/x", limit=10).body == b"it"
    assert waited[0] == 3
    assert len(vendor.asked) == 3


def test_service_when_it_asks_for_more_time_than_there_is_then_refused_at_once(vendor: Vendor) -> None:
    vendor.routes["/x"] = Reply(status=429, headers={"Retry-After": "3600"})
    started = time.monotonic()
    with pytest.raises(EndorsementSourceError, match="HTTP 429"):
        Downloader(deadline_s=30, ca_file=str(vendor.ca_file)).get(f"{vendor.url}/x", limit=10)
    assert (len(vendor.asked), time.monotonic() - started < 25) == (1, True)


@pytest.mark.parametrize(
    ("reply", "reason", "times"),
    [
        (Reply(status=404), "HTTP 404", 1),
        (Reply(status=302, headers={"Location": "/y"}), "HTTP 302", 1),
        (Reply(status=500), "HTTP 500", 3),
        (Reply(b"12345678901"), "more than 10 bytes", 1),
        (Reply(b"1", length=2), "IncompleteRead", 3),
    ],
)
def test_answer_when_not_the_whole_thing_then_refused(
    vendor: Vendor, reply: Reply, reason: str, times: int
) -> None:
    vendor.routes["/x"] = reply
    downloader = Downloader(deadline_s=60, ca_file=str(vendor.ca_file), sleep=lambda _: None)
    with pytest.raises(EndorsementSourceError, match=reason):
        downloader.get(f"{vendor.url}/x", limit=10)
    assert len(vendor.asked) == times


def test_service_when_its_tls_certificate_is_nobodys_then_refused_for_that(vendor: Vendor) -> None:
    vendor.routes["/x"] = Reply(b"1")
    with pytest.raises(EndorsementSourceError, match="TLS certificate is not accepted"):
        Downloader(deadline_s=30).get(f"{vendor.url}/x", limit=10)
    assert not vendor.asked


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "file:///etc/passwd", "https://", "https://x/a b", "https://x/\n"]
)
def test_address_when_it_is_none_then_refused(url: str) -> None:
    with pytest.raises(EndorsementSourceError, match="is not an address"):
        Downloader(deadline_s=1).get(url, limit=10)


def test_authorities_when_unreadable_then_refused(tmp_path: Path) -> None:
    with pytest.raises(EndorsementSourceError, match="no usable authorities"):
        Downloader(deadline_s=1, ca_file=str(tmp_path / "none"))


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "http://evil.example/pki.infineon.com", "http://xpki.infineon.com/a"],
)
def test_certificate_when_it_names_a_host_that_is_not_a_manufacturers_then_not_asked(url: str) -> None:
    for fetch in (Sources().tpm_certificate, Sources().tpm_crl):
        with pytest.raises(EndorsementSourceError, match="host is not one that is asked"):
            fetch(url)
