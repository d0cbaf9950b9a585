"""Azure's attester on a real software TPM with Azure's NV index and key, and a fake metadata service."""

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester import Devices, detect
from securetf.attester.azure import ATTESTATION_KEY, HCL_REPORT, AzureVtpmAttester, Imds
from securetf.attester.hardware import make
from securetf.attester.tpm_client import OWNER, PASSWORD, TpmClient
from securetf.attester.tpm_transport import TpmAddress
from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import AttesterError, BindingError, SignatureError
from securetf.evidence import azure_vtpm, tpm2_public
from securetf.evidence.tpm2_quote import RSASSA, SHA256
from securetf.evidence.tpm2_wire import number, sized
from securetf.verifier import sev_snp
from securetf.verifier.azure_vtpm import AzureVtpmVerifier, snp_evidence, tdx_evidence
from support.azure import Hardware, Machine, text
from support.snp_platform import NOW
from support.snp_platform import Platform as Chip
from support.swtpm import SoftwareTpm, make_tpm

REPORT_DATA = bytes(range(64))
CHIP = Chip()
VCEK = CHIP.vcek().certificate()
pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)


class Service(ThreadingHTTPServer):
    """Azure's metadata service on loopback: what it answers, and what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, bytes]] = []
        pem = VCEK.public_bytes(Encoding.PEM).decode()
        self.answers: dict[str, tuple[int, bytes]] = {
            "GET /metadata/THIM/amd/certification": (
                200,
                json.dumps({"vcekCert": pem, "tcbm": "0"}).encode(),
            ),
            "POST /acc/tdquote": (200, json.dumps({"quote": text(b"the TD quote")}).encode()),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        service = self.server
        assert isinstance(service, Service)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        service.asked.append((self.path, str(self.headers["Metadata"]), body))
        status, content = service.answers[f"{self.command} {self.path}"]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ARG002
        return


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def template(key: int = RSASSA) -> bytes:
    """Return the attestation key's template: as Azure's, restricted to signing."""
    public = tpm2_public.Public(
        kind=tpm2_public.RSA, name_hash=SHA256, attributes=0x50072, auth_policy=b"", aes_bits=0,
        scheme=key, scheme_hash=SHA256, bits=2048, unique=(b"",),
    )  # fmt: skip
    return tpm2_public.encode(public)


def make_key(client: TpmClient) -> rsa.RSAPublicKey:
    """Make the vTPM's key, persistent (Part 3, 28.5), and return it."""
    handle, public = client.create_primary(OWNER, template())
    handles = number(OWNER, 4) + number(handle, 4)
    client.command("EvictControl", 0x120, handles, number(ATTESTATION_KEY, 4), [PASSWORD])
    return rsa.RSAPublicNumbers(65537, int.from_bytes(public.unique[0], "big")).public_key()


def write_nv(client: TpmClient, index: int, content: bytes) -> None:
    """Define an NV index anew that the owner may write and read, and fill it."""
    attributes = number(0x00020002, 4)
    public = number(index, 4) + number(SHA256, 2) + attributes + sized(b"") + number(len(content), 2)
    client.command("NV_DefineSpace", 0x12A, number(OWNER, 4), sized(b"") + sized(public), [PASSWORD])
    for start in range(0, len(content), 512):
        parameters = sized(content[start : start + 512]) + number(start, 2)
        client.command("NV_Write", 0x137, number(OWNER, 4) + number(index, 4), parameters, [PASSWORD])


@dataclass
class _Key:
    """As much of a private key as `support.azure.Machine` needs for runtime data."""

    key: rsa.RSAPublicKey

    def public_key(self) -> rsa.RSAPublicKey:
        return self.key


@contextmanager
def machine(
    tmp_path: Path, kind: int, change: Callable[[bytes], bytes] = bytes
) -> Iterator[tuple[TpmClient, bytes]]:
    """Give a vTPM as Azure leaves it, and the runtime data. change: what is written instead of the report."""
    with make_tpm(tmp_path / "tpm").client() as client:
        one = Machine(_Key(make_key(client)))  # type: ignore[arg-type]
        runtime = json.dumps(one.runtime(**{"user-data": "00" * 64})).encode()
        raw = one.hcl(runtime, kind=kind)
        if kind == azure_vtpm.SNP:
            report = CHIP.signed(report_data=hashlib.sha256(runtime).digest().ljust(64, b"\0"))
            raw = raw[:32] + report + raw[32 + len(report) :]
        write_nv(client, HCL_REPORT, change(raw))
        yield client, runtime


class Snp:
    """The verifier of SEV-SNP under the synthetic roots."""

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: Any) -> VerifiedClaims:
        known = replace(CHIP.endorsements(), vek=None)  # it comes with the Evidence
        return sev_snp.authenticate(
            evidence.raw,
            anchors=CHIP.anchors,
            endorsements_for=lambda _: known,
            expected_report_data=expected_report_data,
            now=now,
        )


def verifier(runtime: bytes) -> AzureVtpmVerifier:
    expected = hashlib.sha256(runtime).digest().ljust(64, b"\0")
    return AzureVtpmVerifier(
        {azure_vtpm.SNP: (snp_evidence, Snp()), azure_vtpm.TDX: (tdx_evidence, Hardware(expected))}
    )


def test_snp_machine_when_it_attests_then_verified_from_the_chip_to_the_challenge(
    tmp_path: Path, service: Service
) -> None:
    with machine(tmp_path, azure_vtpm.SNP) as (client, runtime):
        evidence = AzureVtpmAttester(client, Imds(service.url)).attest(REPORT_DATA)
        values = client.read_pcrs(SHA256, range(24))
    claims = verifier(runtime).verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
    assert claims.platform_id == CHIP.hw_id
    assert {f"pcr{index}": value for index, value in values.items()}.items() <= claims.registers.items()
    assert service.asked == [("/metadata/THIM/amd/certification", "true", b"")]
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        verifier(runtime).verify(evidence, expected_report_data=bytes(64), now=NOW)


def test_tdx_machine_when_it_attests_then_its_report_was_sent_to_be_quoted(
    tmp_path: Path, service: Service
) -> None:
    with machine(tmp_path, azure_vtpm.TDX) as (client, runtime):
        evidence = AzureVtpmAttester(client, Imds(service.url)).attest(REPORT_DATA)
    claims = verifier(runtime).verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
    assert claims.properties["hardware"] == "tdx"
    ((path, metadata, body),) = service.asked
    assert (path, metadata) == ("/acc/tdquote", "true")
    sent = base64.urlsafe_b64decode(json.loads(body)["report"])
    assert sent == azure_vtpm.parse(evidence.raw).hcl.hardware_report[:1024]


def test_chip_when_the_service_certifies_another_then_the_evidence_is_refused(
    tmp_path: Path, service: Service
) -> None:
    pem = CHIP.vlek().certificate().public_bytes(Encoding.PEM).decode()
    service.answers["GET /metadata/THIM/amd/certification"] = (200, json.dumps({"vcekCert": pem}).encode())
    with machine(tmp_path, azure_vtpm.SNP) as (client, runtime):
        evidence = AzureVtpmAttester(client, Imds(service.url)).attest(REPORT_DATA)
    with pytest.raises(SignatureError, match="in the place of the VCEK"):
        verifier(runtime).verify(evidence, expected_report_data=REPORT_DATA, now=NOW)


def test_attester_when_named_by_option_then_made_with_tpm_and_service(
    tmp_path: Path, service: Service
) -> None:
    with machine(tmp_path, azure_vtpm.TDX):
        pass
    with SoftwareTpm(tmp_path / "tpm").running() as address:
        devices = Devices(tpm=TpmAddress.parse(address), imds=service.url)
        evidence = make(["azure_vtpm"], devices, {}).attest(REPORT_DATA)
    assert azure_vtpm.parse(evidence.raw).form == 1


def test_machine_when_its_tpm_holds_a_report_of_its_tee_then_found_as_azures(tmp_path: Path) -> None:
    with machine(tmp_path, azure_vtpm.SNP):
        pass
    make_tpm(tmp_path / "bare")
    nothing = dict.fromkeys(("tsm", "gramine", "nsm"), tmp_path / "none")
    for name, platform in (("tpm", Platform.AZURE_VTPM), ("bare", Platform.TPM2)):
        with SoftwareTpm(tmp_path / name).running() as address:
            assert detect(Devices(tpm=TpmAddress.parse(address), **nothing)) is platform


def test_machine_when_not_as_azure_leaves_it_then_says_what_is_missing(
    tmp_path: Path, service: Service
) -> None:
    with make_tpm(tmp_path / "bare").client() as client:
        attester = AzureVtpmAttester(client, Imds(service.url))
        with pytest.raises(AttesterError, match="no report at NV 0x1400001"):
            attester.attest(REPORT_DATA)
        with pytest.raises(AttesterError, match="report data has 3 bytes"):
            attester.attest(b"abc")
    stranger = Machine(rsa.generate_private_key(65537, 2048)).hcl()
    for name, change, reason in (
        ("cut", lambda raw: raw[:-200], "NV 0x1400001: the HCL report's declared lengths"),
        ("other", lambda _: stranger, "key at 0x81000003 is not the report's"),
    ):
        with machine(tmp_path / name, azure_vtpm.TDX, change) as (client, _):
            attester = AzureVtpmAttester(client, Imds(service.url))
            with pytest.raises(AttesterError, match=reason):
                attester.attest(REPORT_DATA)
    assert not service.asked


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (404, b"", "with status 404"),
        (200, bytes(64 * 1024 + 1), "and 65537 bytes"),
        (200, b"[]", "has no quote"),
        (200, b"{}", "has no quote"),
        (200, b'{"quote": 1}', "has no quote"),
        (200, b"[" * 9000, "has no quote"),
        (200, b"\xff", "has no quote"),
        (200, b'{"quote": "?"}', "quote is not base64"),
    ],
)
def test_service_when_it_answers_something_else_then_says_what(
    service: Service, status: int, content: bytes, reason: str
) -> None:
    service.answers["POST /acc/tdquote"] = (status, content)
    with pytest.raises(AttesterError, match=reason):
        Imds(service.url).td_quote(b"report")


def test_service_when_nobody_or_no_address_then_says_so(service: Service) -> None:
    for url, reason in (
        ("http://127.0.0.1:1", "does not answer /metadata/THIM"),
        ("ftp://127.0.0.1", "is no metadata service"),
        ("metadata", "is no metadata service"),
    ):
        with pytest.raises(AttesterError, match=reason):
            Imds(url).vcek()
    service.answers["GET /metadata/THIM/amd/certification"] = (200, b'{"vcekCert": "no PEM"}')
    with pytest.raises(AttesterError, match="vcekCert is not base64"):
        Imds(service.url).vcek()
