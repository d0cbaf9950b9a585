"""Attestation is not authorisation: a proved service may refuse this client, and the error says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import securetf
from securetf.client.client_key import certificate_of
from securetf.errors import KeyFileError
from securetf.service_errors import ClientNotAuthorisedError
from support.outside_backends import METHOD
from support.outside_service import OutsideService

Start, WritePolicy = Callable[..., OutsideService], Callable[..., Path]


def key_file(path: Path, curve: Any = None) -> Path:
    key = generate_private_key(curve or SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path


class Admitting:
    """A service that admits one key. Certificates are made once: the test's server compares them."""

    def __init__(self, service: OutsideService, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.service, self.known = service, key_file(directory / "known.pem")
        self.unknown = key_file(directory / "unknown.pem")
        made = {path: certificate_of(path) for path in (self.known, self.unknown)}
        monkeypatch.setattr("securetf.client.tls.certificate_of", made.__getitem__)
        accepted = directory / "accepted.pem"
        accepted.write_bytes(made[self.known])
        service.clients = [accepted]


@pytest.fixture
def admitting(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admitting:
    return Admitting(start(), tmp_path, monkeypatch)


def test_client_when_its_key_is_known_is_admitted_by_every_library(
    admitting: Admitting, policy: WritePolicy
) -> None:
    url = admitting.service.url
    with securetf.connect(url, policy=policy(), client_key=admitting.known) as connection:
        assert connection.http_client.get("/").text == "ok"
        assert connection.session.get(f"{url}/", timeout=20).text == "ok"
        assert connection.channel.unary_unary(METHOD)(b"x", timeout=20) == b"x"


@pytest.mark.parametrize("which", ["unknown", None])
def test_client_when_its_key_is_unknown_or_missing_gets_another_error_than_of_attestation(
    which: str | None, admitting: Admitting, policy: WritePolicy
) -> None:
    url, key = admitting.service.url, getattr(admitting, which) if which else None
    with securetf.connect(url, policy=policy(), client_key=key) as connection:
        assert connection.attestation.workload == "server"
        for call in (
            lambda: connection.http_client.post("/", content=b"x" * 3_000_000),
            lambda: connection.http_client.get("/"),
            lambda: connection.session.get(f"{url}/", timeout=20),
        ):
            with pytest.raises(ClientNotAuthorisedError, match="does not admit this client"):
                call()
        with pytest.raises(grpc.RpcError) as raised:
            connection.channel.unary_unary(METHOD)(b"x", timeout=20)
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "STF-1520" in raised.value.details()
    assert admitting.service.received == 0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path, "cannot be opened"),
        (lambda path: key_file(path, SECP384R1()), "holds no unencrypted P-256 key"),
        (lambda path: (path.write_text("x"), path.chmod(0o600), path)[2], "holds no unencrypted P-256 key"),
        (lambda path: (key_file(path).chmod(0o640), path)[1], "has mode 0640"),
        (lambda path: (path.mkdir(mode=0o700), path)[1], "holds no unencrypted"),
    ],
)
def test_client_key_when_it_cannot_be_used_is_told_before_anything_is_sent(
    make: Callable[[Path], Path], reason: str, tmp_path: Path, start: Start, policy: WritePolicy
) -> None:
    service = start()
    with pytest.raises(KeyFileError, match=reason):
        securetf.connect(service.url, policy=policy(), client_key=make(tmp_path / "key.pem"))
    assert service.statements == 0
