"""What a client pins, and whom it refuses before a byte is sent."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from securetf.attester.insecure_simulation import create_platform, load_anchor
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, CasTrust
from securetf.cas_client.attest_cas import attest_cas
from securetf.claims import Platform
from securetf.errors import (
    CasIdentityError,
    CasProtocolError,
    CasUnreachableError,
    MeasurementError,
    SignatureError,
)
from securetf.keys import OwnerKey
from securetf.manifest import PlatformPolicy
from securetf.verifier.insecure_simulation import verifier
from securetf.wire import decode

from .conftest import Process, manifest


class _impostor:  # noqa: N801 - used like a function
    """A TLS server with a certificate of its own that keeps what it is sent."""

    def __init__(self, directory: Path, received: list[bytes]) -> None:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        (directory / "impostor.pem").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(pem)
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(directory / "impostor.pem")
        self.received = received
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self) -> int:
        self.thread.start()
        port: int = self.listening.getsockname()[1]
        return port

    def _serve(self) -> None:
        connection, _ = self.listening.accept()
        with self.context.wrap_socket(connection, server_side=True) as secured:
            try:
                self.received.append(secured.recv(1000))
            except OSError:
                self.received.append(b"")

    def __exit__(self, *_: object) -> None:
        self.thread.join(10)
        self.listening.close()


class TestIdentity:
    def test_the_trust_file_says_what_was_checked(self, cas: Process, trust: CasTrust) -> None:
        assert (trust.simulated, trust.spki_sha256) == (True, cas.ready["spki_sha256"])
        assert trust.measurement == software_measurement().hex()
        assert len(trust.verified) == 6

    def test_another_measurement_is_refused(self, cas: Process) -> None:
        with pytest.raises(MeasurementError, match="mr_td"):
            cas.trust("0" * 96)

    def test_a_cas_under_another_root_is_refused(self, cas: Process, tmp_path: Path) -> None:
        create_platform(tmp_path / "other", datetime.now(UTC))
        anchors = load_anchor(tmp_path / "other")
        with pytest.raises(SignatureError):
            attest_cas(
                cas.ready["url"],
                verifiers_for=lambda found: {Platform.INSECURE_SIMULATION: verifier(anchors, found)},
                policy=PlatformPolicy(mr_td=(software_measurement().hex(),)),
                now=datetime.now(UTC),
            )

    def test_evidence_for_another_tls_key_is_refused(
        self, cas: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def relayed(raw: bytes, kind: Any) -> Any:
            return replace(decode(raw, kind), tls_spki=b"k" * 91)

        monkeypatch.setattr("securetf.cas_client.attest_cas.decode_answer", relayed)
        with pytest.raises(CasIdentityError, match="for another TLS key than that of the connection"):
            cas.trust()

    def test_another_key_is_refused_and_nothing_is_sent(self, trust: CasTrust) -> None:
        with (
            CasClient(replace(trust, spki_sha256="ab" * 32)) as client,
            pytest.raises(CasIdentityError, match=f"has the key {trust.spki_sha256}, pinned is abab"),
        ):
            client.status()

    def test_an_impostor_with_another_certificate_gets_no_byte(self, trust: CasTrust, tmp_path: Path) -> None:
        received: list[bytes] = []
        with (
            _impostor(tmp_path, received) as port,
            CasClient(replace(trust, url=f"https://127.0.0.1:{port}")) as client,
            pytest.raises(CasIdentityError, match="nothing was sent"),
        ):
            client.create_session(manifest("0" * 96), OwnerKey.generate())
        assert received == [b""]

    def test_a_cas_that_is_not_there_is_named(self, trust: CasTrust) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        with (
            CasClient(replace(trust, url=f"https://127.0.0.1:{port}")) as client,
            pytest.raises(CasUnreachableError, match=f"{port} cannot be reached: Connection refused"),
        ):
            client.status()

    def test_a_cas_that_never_answers_is_given_up(self, trust: CasTrust) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"https://127.0.0.1:{silent.getsockname()[1]}"
            with (
                CasClient(replace(trust, url=url), deadline_s=0.3) as client,
                pytest.raises(CasUnreachableError, match="handshake was cut or timed out"),
            ):
                client.status()

    def test_what_does_not_speak_tls_is_named(self, trust: CasTrust) -> None:
        with socket.socket() as plain:
            plain.bind(("127.0.0.1", 0))
            plain.listen()

            def answer() -> None:
                connection, _ = plain.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                connection.close()

            threading.Thread(target=answer, daemon=True).start()
            with (
                CasClient(replace(trust, url=f"https://127.0.0.1:{plain.getsockname()[1]}")) as client,
                pytest.raises(CasProtocolError, match=r"does not speak TLS 1\.3"),
            ):
                client.status()

    def test_tls_1_2_is_refused(self, cas: Process) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(("127.0.0.1", cas.port)) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain)

    def test_the_client_survives_a_connection_that_the_cas_closed(self, own: Process) -> None:
        own.start()
        with CasClient(own.trust()) as client:
            client.status()
            idle = client._transport._idle[0]
            idle.secured._plain.shutdown(socket.SHUT_RDWR)
            assert client.status().status == "ready"
