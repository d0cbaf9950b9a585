"""`securetf.connect`: every library reaches a proved service, and none sends a byte to any other."""

import asyncio
import hashlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import httpx
import pytest

import securetf
from securetf.client import Connection, Verdict
from securetf.errors import UsageError
from securetf.service_errors import (
    ClientPolicyError,
    ServiceNotProvedError,
    ServiceUnreachableError,
    StatementError,
)
from support.outside_backends import METHOD, STREAM
from support.outside_proof import Cas, Member, Says
from support.outside_service import OutsideService

Start, WritePolicy = Callable[..., OutsideService], Callable[..., Path]
BODY = b"a customer's document" * 50_000  # 1 MB
DIGEST = hashlib.sha256(BODY).hexdigest()


def by_httpx(connection: Connection) -> str:
    return connection.http_client.post("/echo", content=BODY).json()["sha256"]


def by_requests(connection: Connection) -> str:
    return connection.session.post(f"{connection.url}/echo", data=BODY, timeout=20).json()["sha256"]


def by_grpc(connection: Connection) -> str:
    return hashlib.sha256(connection.channel.unary_unary(METHOD)(BODY, timeout=20)).hexdigest()


def by_context(connection: Connection) -> str:
    found = http.client.HTTPSConnection(
        connection.url.removeprefix("https://"), context=connection.ssl_context, timeout=20
    )
    found.request("POST", "/echo", BODY)
    answer = found.getresponse().read()
    found.close()
    return answer.decode().split('"')[3]


def by_asyncio(connection: Connection) -> str:
    async def post() -> str:
        async with httpx.AsyncClient(
            base_url=connection.url, verify=connection.ssl_context, trust_env=False
        ) as one:
            return (await one.post("/echo", content=BODY)).json()["sha256"]

    return asyncio.run(post())


LIBRARIES = {
    "httpx": by_httpx, "requests": by_requests, "grpc": by_grpc, "http.client": by_context,
    "asyncio": by_asyncio,
}  # fmt: skip


@pytest.fixture(params=LIBRARIES.values(), ids=LIBRARIES)
def send(request: pytest.FixtureRequest) -> Callable[[Connection], str]:
    return request.param


def test_library_when_the_service_proves_itself_gets_its_answer(
    send: Callable[[Connection], str], start: Start, policy: WritePolicy
) -> None:
    service = start()
    with securetf.connect(service.url, policy=policy()) as connection:
        assert send(connection) == DIGEST
    assert service.received > len(BODY)
    assert service.statements == 1


@pytest.mark.parametrize(
    ("says", "service", "check"),
    [
        (Says(measurement="02" * 48), "", "measurement"),
        (Says(root="bb" * 32), f'[service.volumes.models]\nroots = ["{"aa" * 32}"]', "volumes"),
        (Says(simulated=True), "", "simulation"),
        (Says(age_s=400), "", "ear-time"),
        (Says(workload="trainer"), "", "ear-subject"),
    ],
)
def test_connect_when_the_policy_is_not_met_raises_with_all_checks_and_sends_nothing(
    says: Says, service: str, check: str, start: Start, policy: WritePolicy
) -> None:
    found, verdicts = start(says), []
    with pytest.raises(ServiceNotProvedError, match="nothing was sent") as raised:
        securetf.connect(found.url, policy=policy(service=service), on_attestation=verdicts.append)
    verdict = raised.value.verdict
    assert isinstance(verdict, Verdict)
    assert check in [one.name for one in verdict.checks if one.status.value == "fail"]
    assert verdicts == [verdict]
    assert (found.connections, found.received) == (0, 0)


def test_connect_when_another_cas_stands_behind_sends_nothing(start: Start, policy: WritePolicy) -> None:
    found = start(member=Member(Cas()))
    with pytest.raises(ServiceNotProvedError, match="under another CAS"):
        securetf.connect(found.url, policy=policy())
    assert (found.connections, found.received) == (0, 0)


def refused(send: Callable[[Connection], str], connection: Connection) -> str:
    """Return why a library refused; those that wrap errors keep ours as the cause."""
    try:
        send(connection)
    except (ServiceNotProvedError, httpx.ConnectError, grpc.RpcError) as error:
        return f"{error} {error.__cause__} {error.details() if isinstance(error, grpc.RpcError) else ''}"
    pytest.fail("it was sent")


@pytest.mark.parametrize("issuer", ["its own authority", "the session's authority"])
def test_library_when_another_key_answers_after_the_attestation_sends_nothing(
    issuer: str, send: Callable[[Connection], str], start: Start, policy: WritePolicy, cas: Cas
) -> None:
    """Who takes over the address later, even another member of the same session, gets no byte."""
    service = start()
    with securetf.connect(service.url, policy=policy()) as connection:
        authority = service.member.authority if issuer.startswith("the session") else None
        service.imposter = Member(cas, Says(workload="trainer"), authority)
        reason = refused(send, connection)
    assert "nothing was sent" in reason or "certificate verify failed" in reason, reason
    assert service.received == 0
    assert service.connections >= 1


def test_library_when_the_attestation_ended_and_is_not_renewed_sends_nothing(
    send: Callable[[Connection], str], start: Start, policy: WritePolicy
) -> None:
    service = start(Says(age_s=298.2))
    with securetf.connect(service.url, policy=policy()) as connection:
        service.member.says = Says(age_s=400)
        time.sleep(max(0.0, connection._service.left_s) + 0.05)
        assert "expired" in refused(send, connection)
    assert service.received == 0


def test_library_when_the_certificate_is_renewed_goes_on(
    send: Callable[[Connection], str], start: Start, policy: WritePolicy
) -> None:
    service = start()
    with securetf.connect(service.url, policy=policy()) as connection:
        service.member.rotate()
        assert send(connection) == DIGEST
        assert service.statements == 2  # the new key was asked for, and proved


def test_library_when_the_attestation_ends_has_the_service_prove_itself_again(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with securetf.connect(service.url, policy=policy(service="maximum_age_s = 2")) as connection:
        for _ in range(3):
            before = service.statements
            for send in (by_httpx, by_requests):  # over connections that are kept alive
                assert send(connection) == DIGEST
            time.sleep(connection._service.left_s + 0.05)
            assert by_httpx(connection) == DIGEST
            assert service.statements > before
        assert service.connections == 2


def test_channel_when_it_is_open_has_the_service_prove_itself_in_time(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with securetf.connect(service.url, policy=policy(service="maximum_age_s = 2")) as connection:
        assert by_grpc(connection) == DIGEST
        deadline = time.monotonic() + 20
        while service.statements < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert service.statements >= 3
        assert by_grpc(connection) == DIGEST
        assert service.connections == 1
        service.member.says = Says(measurement="02" * 48)

        def until_refused() -> None:
            while time.monotonic() < deadline:
                with suppress(grpc.RpcError):  # the call that was under way when the connection was cut
                    by_grpc(connection)
                time.sleep(0.1)

        with pytest.raises(ServiceNotProvedError, match="measurement"):
            until_refused()


def test_kept_connection_when_the_service_was_started_anew_is_not_used_again(
    start: Start, policy: WritePolicy, cas: Cas
) -> None:
    service = start()
    with securetf.connect(service.url, policy=policy(service="maximum_age_s = 2")) as connection:
        assert by_httpx(connection) == DIGEST
        service.member = Member(cas, authority=service.member.authority)  # same workload, other attested key
        time.sleep(1.1)
        assert by_httpx(connection) == DIGEST
    assert service.connections == 2


def test_stream_of_grpc_when_it_is_long_arrives_in_order(start: Start, policy: WritePolicy) -> None:
    with securetf.connect(start().url, policy=policy()) as connection:
        call = connection.channel.stream_stream(STREAM)
        sent = [bytes([n]) * 100_000 for n in range(50)]
        assert list(call(iter(sent), timeout=30)) == sent


def test_context_when_used_before_a_handshake_proves_the_peer_before_it_writes(
    start: Start, policy: WritePolicy, cas: Cas
) -> None:
    service = start()
    with securetf.connect(service.url, policy=policy()) as connection:
        service.imposter = Member(cas, Says(workload="trainer"), service.member.authority)
        plain = socket.create_connection(("127.0.0.1", service.port), timeout=10)
        secured = connection.ssl_context.wrap_socket(plain, do_handshake_on_connect=False)
        with pytest.raises(ServiceNotProvedError, match="nothing was sent"):
            secured.sendall(BODY)  # OpenSSL alone would do the handshake here, and send
    assert service.received == 0


def test_context_when_a_library_turns_verification_off_still_compares_the_key(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with securetf.connect(service.url, policy=policy()) as connection:
        service.imposter = Member(Cas())
        connection.ssl_context.verify_mode = ssl.CERT_NONE
        with pytest.raises(ServiceNotProvedError, match="has not proved to be its own"):
            by_context(connection)
    assert service.received == 0


def test_library_when_given_a_plain_url_sends_nothing(start: Start, policy: WritePolicy) -> None:
    with securetf.connect(start().url, policy=policy()) as connection:
        for call in (connection.session.get, connection.http_client.get):
            with pytest.raises(UsageError, match="would leave this machine unprotected"):
                call("http://127.0.0.1:9/")


@contextmanager
def listener(answer: bytes) -> Iterator[int]:
    """A port that is no securetf service."""
    import threading  # noqa: PLC0415

    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                one, _ = server.accept()
                one.recv(4096)
                one.sendall(answer)
                one.close()
        except OSError:
            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def test_connect_when_nothing_of_ours_answers_says_what_did(policy: WritePolicy, start: Start) -> None:
    with (
        listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port,
        pytest.raises(StatementError, match="no statement"),
    ):
        securetf.connect(f"https://127.0.0.1:{port}", policy=policy())
    with pytest.raises(ServiceUnreachableError, match="refused"):
        securetf.connect(f"https://127.0.0.1:{port}", policy=policy())
    service = start()
    service.silent = True
    with pytest.raises((StatementError, ServiceUnreachableError), match=r"its statement|the statement"):
        securetf.connect(service.url, policy=policy())
    for url in ("http://127.0.0.1", "https://", "https://host/path", "https://user@host", "https://[::"):
        with pytest.raises(UsageError, match="is not https://host:port"):
            securetf.connect(url, policy=policy())
    with pytest.raises(ClientPolicyError, match="cannot be read"):
        securetf.connect(service.url, policy="/nonexistent.toml")


def test_package_when_imported_loads_neither_libraries_nor_the_client() -> None:
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    code = (
        "import sys, securetf, securetf.appraisal; assert 'securetf.client' not in sys.modules\n"
        "securetf.connect; assert not {'grpc', 'httpx', 'requests'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
