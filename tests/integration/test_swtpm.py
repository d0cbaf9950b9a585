"""A real software TPM (swtpm): enrolment, quotes verified end to end, PCR changes, counters, faults."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from securetf.attester.tpm2 import CertifiedTpm2Attester, Tpm2Attester
from securetf.attester.tpm_client import ENDORSEMENT, OWNER, PASSWORD, TpmClient
from securetf.attester.tpm_counter import TpmCounter, read_all
from securetf.attester.tpm_transport import DeviceTransport, SocketTransport
from securetf.claims import Evidence, VerifiedClaims
from securetf.cli import call
from securetf.endorsements.tpm import KnownAk
from securetf.endorsements.trust import spki_digest
from securetf.errors import (
    AttesterError,
    BindingError,
    ConfigurationError,
    SignatureError,
    TpmResponseError,
)
from securetf.evidence import tpm2, tpm2_public
from securetf.evidence.tpm2_quote import RSASSA, SHA256
from securetf.evidence.tpm2_wire import number, sized
from securetf.verifier import tpm2_activation
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins
from support.authority import NOW, issue
from support.swtpm import SoftwareTpm, make_tpm
from support.tpm2 import TPM_KEY

REPORT_DATA = bytes(range(64))
SECRET = bytes(range(32))
pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> SoftwareTpm:
    return make_tpm(tmp_path_factory.mktemp("tpm"))


@pytest.fixture
def client(tpm: SoftwareTpm) -> Iterator[TpmClient]:
    with tpm.client() as client:
        yield client


def enrol(tpm: SoftwareTpm, attester: Tpm2Attester) -> KnownAk:
    """Do what a CAS does once for each machine."""
    certificate = attester.ek_certificate()
    assert certificate is not None
    chain = [certificate, *tpm.authorities]
    ek = tpm2_activation.check_ek(attester.ek_public, chain, anchors=tpm.anchors, now=datetime.now(UTC))
    challenge = tpm2_activation.challenge(
        ek, attester.ak_public, secret=SECRET, seed=os.urandom(32), ephemeral=None
    )
    answer = attester.answer(challenge.credential, challenge.encrypted_seed)
    return tpm2_activation.enrol(ek, attester.ak_public, secret=SECRET, answer=answer)


def verify(known: KnownAk, evidence: Evidence, report_data: bytes = REPORT_DATA) -> VerifiedClaims:
    nobody = issue("nobody").anchors
    verifier = Tpm2Verifier(KeyOrigins(nobody, {known.name: known}.get), event_log_required=False)
    return verifier.verify(evidence, expected_report_data=report_data, now=datetime.now(UTC))


@pytest.mark.parametrize("kind", [tpm2_public.RSA, tpm2_public.ECC], ids=["rsa", "ecc"])
def test_machine_when_enrolled_then_its_quotes_verify_end_to_end(
    tpm: SoftwareTpm, client: TpmClient, kind: int
) -> None:
    attester = Tpm2Attester(client, ak_kind=kind)
    known = enrol(tpm, attester)
    assert KnownAk.from_json(known.to_json()) == known
    claims = verify(known, attester.attest(REPORT_DATA))
    assert claims.registers == {
        f"pcr{index}": value for index, value in client.read_pcrs(SHA256, range(24)).items()
    }
    assert claims.platform_id == known.ek_sha256
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        verify(known, attester.attest(REPORT_DATA), report_data=bytes(64))
    with pytest.raises(SignatureError, match="neither certified nor enrolled"):
        verify(replace(known, name=bytes(34)), attester.attest(REPORT_DATA))


def test_pcr_when_extended_then_quoted_anew_and_old_values_are_refused(
    tpm: SoftwareTpm, client: TpmClient
) -> None:
    attester = Tpm2Attester(client)
    known = enrol(tpm, attester)
    before = verify(known, attester.attest(REPORT_DATA)).registers
    client.extend_pcr(9, SHA256, bytes(31) + b"\1")
    evidence = attester.attest(REPORT_DATA)
    after = verify(known, evidence).registers
    assert {name for name in before if before[name] != after[name]} == {"pcr9"}
    lie = tpm2.parse(evidence.raw)
    old = {index: before[f"pcr{index}"] for index in lie.pcrs}
    with pytest.raises(SignatureError, match="not the ones that the TPM quoted"):
        verify(known, Evidence(evidence.platform, tpm2.encode(replace(lie, pcrs=old))))


def test_stored_key_when_loaded_after_a_reset_then_still_enrolled_and_the_reset_shows(
    tpm: SoftwareTpm,
) -> None:
    with tpm.client() as client:
        attester = Tpm2Attester(client)
        known, stored = enrol(tpm, attester), attester.stored
        first = verify(known, attester.attest(REPORT_DATA)).properties["reset_count"]
    with tpm.client() as client:
        again = Tpm2Attester(client, stored=stored)
        claims = verify(known, again.attest(REPORT_DATA))
        assert claims.properties["reset_count"] != first
    with tpm.client() as client, pytest.raises(AttesterError, match="stored attestation key ends inside"):
        Tpm2Attester(client, stored=stored[:-1])


def test_challenge_when_for_another_tpm_or_another_ak_then_not_answered(
    tpm: SoftwareTpm, client: TpmClient, tmp_path: Path
) -> None:
    attester = Tpm2Attester(client)
    with make_tpm(tmp_path / "other").client() as second:
        stranger = Tpm2Attester(second)
    certificate = attester.ek_certificate()
    assert certificate is not None
    ek = tpm2_activation.check_ek(
        attester.ek_public, [certificate, *tpm.authorities], anchors=tpm.anchors, now=datetime.now(UTC)
    )
    with pytest.raises(SignatureError, match="another key than the endorsement key"):
        tpm2_activation.check_ek(
            stranger.ek_public, [certificate, *tpm.authorities], anchors=tpm.anchors, now=datetime.now(UTC)
        )
    challenge = tpm2_activation.challenge(
        ek, stranger.ak_public, secret=SECRET, seed=os.urandom(32), ephemeral=None
    )
    with pytest.raises(
        TpmResponseError, match=r"refused ActivateCredential with response code 0x[0-9a-f]+df"
    ):
        attester.answer(challenge.credential, challenge.encrypted_seed)
    with pytest.raises(BindingError, match="did not open the challenge"):
        tpm2_activation.enrol(ek, stranger.ak_public, secret=SECRET, answer=bytes(32))


def test_endorsement_key_on_p256_when_certified_then_enrols_too(client: TpmClient) -> None:
    """swtpm certifies P-384 alone; the certificate of the default P-256 template is made here."""
    attester = Tpm2Attester(client, ek_kind=tpm2_public.ECC)
    point = (int.from_bytes(part, "big") for part in attester.ek_public.unique)
    root = issue("manufacturer")
    leaf = root.issue(
        "EK",
        public_key=ec.EllipticCurvePublicNumbers(*point, ec.SECP256R1()).public_key(),
        ca=False,
        usage=("key_agreement",),
    )
    ek = tpm2_activation.check_ek(attester.ek_public, [leaf.der, root.der], anchors=root.anchors, now=NOW)
    with pytest.raises(ConfigurationError, match="needs an ephemeral key on its curve"):
        tpm2_activation.challenge(ek, attester.ak_public, secret=SECRET, seed=b"", ephemeral=None)
    challenge = tpm2_activation.challenge(
        ek, attester.ak_public, secret=SECRET, seed=b"", ephemeral=ec.generate_private_key(ec.SECP256R1())
    )
    answer = attester.answer(challenge.credential, challenge.encrypted_seed)
    assert tpm2_activation.enrol(ek, attester.ak_public, secret=SECRET, answer=answer).ek_sha256


def test_attestation_key_when_offered_as_endorsement_key_then_refused(client: TpmClient) -> None:
    ak = Tpm2Attester(client).ak_public
    point = (int.from_bytes(part, "big") for part in ak.unique)
    root = issue("manufacturer")
    leaf = root.issue(
        "AK",
        public_key=ec.EllipticCurvePublicNumbers(*point, ec.SECP256R1()).public_key(),
        ca=False,
        usage=(),
    )
    with pytest.raises(ConfigurationError, match="is not an endorsement key"):
        tpm2_activation.check_ek(ak, [leaf.der, root.der], anchors=root.anchors, now=NOW)


def test_counter_when_counted_reset_and_defined_again_then_never_goes_back(tpm: SoftwareTpm) -> None:
    with tpm.client() as client:
        counter = TpmCounter(client)
        counter.define()
        start = counter.read()
        assert [counter.increment() for _ in range(3)] == [start + 1, start + 2, start + 3]
    with tpm.client() as client:
        counter = TpmCounter(client)
        counter.define()
        assert counter.read() == start + 3
        counter.remove()
        with pytest.raises(TpmResponseError, match="refused NV_Read"):
            counter.read()
        counter.define()
        assert counter.read() > start + 3


def test_counter_when_the_index_is_something_else_then_refused(client: TpmClient) -> None:
    with pytest.raises(AttesterError, match="is in use, and is not our counter"):
        TpmCounter(client, 0x01C00002).define()  # the EK certificate
    assert read_all(client, 0x01C0FFFF) is None


def test_pcrs_when_the_bank_is_not_active_then_says_so(client: TpmClient) -> None:
    with pytest.raises(AttesterError, match=r"no PCR bank 0x0027|refused PCR_Read"):
        client.read_pcrs(0x0027, [0])


def test_tpm_when_on_tcp_then_quotes_too(tpm: SoftwareTpm) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tpm.tcp_client(port) as client:
        attester = Tpm2Attester(client)
        assert verify(enrol(tpm, attester), attester.attest(REPORT_DATA)).report_data == REPORT_DATA


def write_nv(client: TpmClient, index: int, content: bytes) -> None:
    """Define an NV index that the owner may write and read, and fill it."""
    public = (
        number(index, 4) + number(SHA256, 2) + number(0x00020002, 4) + sized(b"") + number(len(content), 2)
    )
    client.command("NV_DefineSpace", 0x12A, number(OWNER, 4), sized(b"") + sized(public), [PASSWORD])
    for start in range(0, len(content), 512):
        parameters = sized(content[start : start + 512]) + number(start, 2)
        client.command("NV_Write", 0x137, number(OWNER, 4) + number(index, 4), parameters, [PASSWORD])


def test_machine_when_its_operator_certified_a_key_then_quotes_verify_under_the_root(tmp_path: Path) -> None:
    """As Google Cloud's machines have it: template and certificate in NV memory."""
    with make_tpm(tmp_path / "cloud").client() as client:
        with pytest.raises(AttesterError, match="no certified key at NV 0x1c10001"):
            CertifiedTpm2Attester(client)
        template = tpm2_public.encode(
            tpm2_public.Public(
                kind=tpm2_public.RSA,
                name_hash=SHA256,
                attributes=0x50072,
                auth_policy=b"",
                aes_bits=0,
                scheme=RSASSA,
                scheme_hash=SHA256,
                bits=2048,
                unique=(bytes(256),),
            )
        )
        handle, public = client.create_primary(ENDORSEMENT, template)
        client.flush(handle)
        root = issue("operator")
        modulus = int.from_bytes(public.unique[0], "big")
        leaf = root.issue(
            "AK",
            public_key=rsa.RSAPublicNumbers(65537, modulus).public_key(),
            ca=False,
            usage=("digital_signature",),
            extensions=(TPM_KEY,),
        )
        write_nv(client, 0x01C10001, template)
        write_nv(client, 0x01C10000, leaf.der)
        evidence = CertifiedTpm2Attester(client, authorities=[root.der]).attest(REPORT_DATA)
    verifier = Tpm2Verifier(KeyOrigins(root.anchors, lambda _: None), event_log_required=False)
    claims = verifier.verify(evidence, expected_report_data=REPORT_DATA, now=NOW)
    assert claims.platform_id == spki_digest(leaf.certificate)


def test_transport_when_the_answer_is_no_response_then_refused(tmp_path: Path) -> None:
    for answer, reason in (
        (b"", "closed the connection"),
        (bytes.fromhex("80010000000900000000"), "sent a response of 9 bytes"),
        (bytes.fromhex("8001ffffffff00000000"), "sent a response of 4294967295 bytes"),
        (bytes.fromhex("80010000000c0000"), "closed the connection"),
    ):
        path = tmp_path / "odd"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            transport = SocketTransport(path)
            peer, _ = server.accept()
            peer.sendall(answer)
            peer.close()
            with pytest.raises(AttesterError, match=rf"{reason}|did not answer"):
                transport.exchange(b"\x80\1")
            transport.close()
        path.unlink()


def test_transport_when_nobody_is_there_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(AttesterError, match="cannot be opened: No such file"):
        DeviceTransport(tmp_path / "tpmrm0")
    with pytest.raises(AttesterError, match="no TPM at"):
        SocketTransport(tmp_path / "socket")
    with pytest.raises(AttesterError, match="no TPM at"):
        SocketTransport(("127.0.0.1", 1))


def test_collect_when_the_key_is_enrolled_then_the_file_verifies_and_gives_reference_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tpm = make_tpm(tmp_path / "tpm")
    with tpm.client() as client:
        attester = Tpm2Attester(client)
        (tmp_path / "ak.key").write_bytes(attester.stored)
        (tmp_path / "enrolment.json").write_text(enrol(tpm, attester).to_json())
    out, nonce = tmp_path / "evidence.bin", os.urandom(32).hex()
    with tpm.running() as address:
        device = ["--attester", "tpm2", "--tpm", address, "--tpm-key", str(tmp_path / "ak.key")]
        assert call(["evidence", "collect", "--nonce", nonce, "--out", str(out), *device, "--json"]) == 0
    report_data = json.loads(capsys.readouterr().out)["report_data"]
    given = [str(out), "--report-data", report_data, "--endorsements", str(tmp_path / "enrolment.json")]
    assert call(["reference-values", "from", *given]) == 0
    (tmp_path / "policy.toml").write_text(capsys.readouterr().out)
    assert call(["evidence", "verify", *given, "--policy", str(tmp_path / "policy.toml")]) == 0
    stale = [one if one != report_data else "00" * 63 + "01" for one in given]
    assert call(["reference-values", "from", *stale]) == 10
