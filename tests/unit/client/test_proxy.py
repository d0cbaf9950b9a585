"""`securetf proxy` and the relay in it: bytes go both ways unchanged, and nowhere before the proof."""

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
import requests

from securetf.client import load_policy
from securetf.client.proxy import local_address
from securetf.client.relay import Relay
from securetf.client.service import AttestedService
from securetf.errors import SecuretfError, UsageError
from support.outside_backends import METHOD, STREAM
from support.outside_proof import Cas, Member, Says
from support.outside_service import OutsideService

Start, WritePolicy = Callable[..., OutsideService], Callable[..., Path]
CALL = [sys.executable, "-c", "from securetf.cli import main; main()"]
BODY = os.urandom(3_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


class Proxy:
    """A relay behind a TCP port, in a thread."""

    def __init__(self, url: str, policy: Path) -> None:
        self.told: list[SecuretfError] = []
        self.service = AttestedService(url, load_policy(policy))
        self.relay = Relay(self.service, told=self.told.append)
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def main() -> None:
            self.ended = asyncio.Event()
            server = await asyncio.start_server(self.relay.serve, "127.0.0.1", 0, backlog=512)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self.ended.wait()
            server.close()
            self.cut = await self.relay.stop(self.grace_s)

        self.grace_s, self.cut = 0.0, 0
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(main(),))
        self.thread.start()
        assert ready.wait(10)
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(20)
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@contextmanager
def proxying(url: str, policy: Path) -> Iterator[Proxy]:
    proxy = Proxy(url, policy)
    try:
        yield proxy
    finally:
        if not proxy.loop.is_closed():
            proxy.stop()


def post(url: str, body: bytes = BODY) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(f"{url}/echo", data=body, timeout=30)


def to_the_end(plain: socket.socket) -> bytes:
    found = b""
    while part := plain.recv(65536):
        found += part
    return found


def answer(plain: socket.socket) -> bytes:
    """Return the answer to a GET, whose body is `ok`."""
    found = b""
    while not found.endswith(b"\r\n\r\nok"):
        part = plain.recv(65536)
        assert part, found
        found += part
    return found


def test_proxy_when_the_service_proves_itself_carries_http_and_grpc(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with proxying(service.url, policy()) as proxy:
        assert post(proxy.url).json() == {"sha256": DIGEST, "size": len(BODY)}
        with grpc.insecure_channel(
            f"127.0.0.1:{proxy.port}", [("grpc.max_receive_message_length", -1)]
        ) as channel:
            assert channel.unary_unary(METHOD)(BODY, timeout=30) == BODY
            sent = [bytes([n]) * 10_000 for n in range(100)]
            assert list(channel.stream_stream(STREAM)(iter(sent), timeout=30)) == sent
        assert service.statements == 1


def test_proxy_when_many_clients_come_at_once_serves_all(start: Start, policy: WritePolicy) -> None:
    with proxying(start().url, policy()) as proxy, ThreadPoolExecutor(64) as pool:
        bodies = [os.urandom(1000 + n) for n in range(200)]
        answers = list(pool.map(lambda body: post(proxy.url, body).json()["sha256"], bodies))
        assert answers == [hashlib.sha256(body).hexdigest() for body in bodies]
        assert proxy.told == []


@pytest.mark.parametrize(
    ("says", "check"),
    [
        (Says(measurement="02" * 48), "measurement"),
        (Says(simulated=True), "simulation"),
        (Says(age_s=400), "ear-time"),
        (Says(root="bb" * 32), "volumes"),
    ],
)
def test_proxy_when_the_policy_is_not_met_answers_itself_and_sends_nothing(
    says: Says, check: str, start: Start, policy: WritePolicy
) -> None:
    service = start(says)
    written = policy(service=f'[service.volumes.models]\nroots = ["{"aa" * 32}"]')
    with proxying(service.url, written) as proxy:
        answer = post(proxy.url, b"secret" * 1000)
        assert answer.status_code == 502
        assert answer.json()["code"] == answer.headers["securetf-error"] == "STF-1500"
        assert check in answer.json()["error"]
        with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(METHOD)(b"secret", timeout=10)
            assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "STF-1500" in raised.value.details()
    assert (service.connections, service.received) == (0, 0)


def test_proxy_when_another_cas_or_key_answers_sends_nothing(
    start: Start, policy: WritePolicy, cas: Cas
) -> None:
    with proxying(start(member=Member(Cas())).url, policy()) as proxy:
        assert "under another CAS" in post(proxy.url, b"secret").json()["error"]
    service = start()
    service.imposter = Member(cas, Says(workload="trainer"), service.member.authority)
    with proxying(service.url, policy()) as proxy:
        assert "has not proved to be its own" in post(proxy.url, b"secret").json()["error"]
    assert service.received == 0


def test_proxy_when_the_service_is_away_says_so(start: Start, policy: WritePolicy) -> None:
    service = start()
    service.close()
    with proxying(service.url, policy()) as proxy:
        answer = post(proxy.url, b"secret")
        assert (answer.status_code, answer.json()["code"]) == (504, "STF-1510")
        assert [one.code for one in proxy.told] == ["STF-1510"]


def test_proxy_when_the_client_ends_its_side_still_brings_the_answer(
    start: Start, policy: WritePolicy
) -> None:
    with (
        proxying(start().url, policy()) as proxy,
        closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=20)) as plain,
    ):
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        plain.shutdown(socket.SHUT_WR)
        found = to_the_end(plain)
        assert found.startswith(b"HTTP/1.1 200")
        assert found.endswith(b"ok")


def test_proxy_when_the_service_is_cut_resets_the_client_and_never_ends_it_properly(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with (
        proxying(service.url, policy()) as proxy,
        closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=20)) as plain,
    ):
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer(plain)
        service.cut()
        with pytest.raises(ConnectionResetError):
            to_the_end(plain)


def test_proxy_when_the_service_no_longer_meets_the_policy_cuts_what_is_open(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with (
        proxying(service.url, policy(service="maximum_age_s = 2")) as proxy,
        closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=20)) as plain,
    ):
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer(plain)
        service.member.says = Says(measurement="02" * 48)
        with pytest.raises(ConnectionResetError):
            to_the_end(plain)
        assert any("measurement" in one.problem for one in proxy.told)


def test_proxy_when_the_certificate_is_renewed_keeps_open_connections_and_makes_new_ones(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with (
        proxying(service.url, policy(service="maximum_age_s = 2")) as proxy,
        closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=20)) as plain,
    ):
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        plain.sendall(request)
        assert answer(plain).startswith(b"HTTP/1.1 200")
        service.member.rotate()
        assert post(proxy.url, b"new").status_code == 200
        deadline = time.monotonic() + 20
        while service.statements < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        plain.sendall(request)
        assert answer(plain).startswith(b"HTTP/1.1 200")
        assert proxy.told == []


def test_proxy_when_the_service_gives_no_statement_for_a_while_keeps_open_connections_to_the_end_of_its_proof(
    start: Start, policy: WritePolicy
) -> None:
    service = start()
    with (
        proxying(service.url, policy(service="maximum_age_s = 12")) as proxy,
        closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=20)) as plain,
    ):
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        plain.sendall(request)
        assert answer(plain)
        before = service.statements
        service.port_closed = True
        wait_until(lambda: service.refused > 0)
        service.port_closed = False
        wait_until(lambda: service.statements > before)
        plain.sendall(request)
        assert answer(plain).startswith(b"HTTP/1.1 200")
        assert proxy.told == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_proxy_when_stopped_lets_open_connections_end(start: Start, policy: WritePolicy) -> None:
    with proxying(start().url, policy()) as proxy:
        proxy.grace_s = 10.0
        plain = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
        plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        deadline = time.monotonic() + 10
        while proxy.relay.live == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        stopper = threading.Thread(target=proxy.stop)
        stopper.start()
        plain.sendall(b"connection: close\r\n\r\n")
        assert plain.recv(65536).startswith(b"HTTP/1.1 200")
        while plain.recv(65536):
            pass
        plain.close()
        stopper.join(20)
        assert proxy.cut == 0


def test_listen_when_not_of_this_machine_alone_is_refused() -> None:
    assert local_address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert local_address("[::1]:80") == ("::1", 80)
    for listen in ("0.0.0.0:1", "192.0.2.1:80", "[::]:1"):
        with pytest.raises(UsageError, match="is not encrypted"):
            local_address(listen)
    for listen in ("127.0.0.1", "127.0.0.1:x", "name:80", ":80", "127.0.0.1:65536"):
        with pytest.raises(UsageError, match="expected such as"):
            local_address(listen)


def test_command_when_run_proves_serves_and_stops(start: Start, policy: WritePolicy) -> None:
    service = start()
    command = [*CALL, "proxy", "--to", service.url, "--policy", str(policy())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        line = proxy.stdout.readline()
        assert f"for {service.url} (server/0 of acme/digits, tdx)" in line
        url = line.split()[2].rstrip(",")
        assert post(url, b"x").status_code == 200
        if Path("/usr/bin/curl").exists():
            curl = ["curl", "-sS", "--noproxy", "*", "--data-binary", "abc", f"{url}/echo"]
            found = subprocess.run(curl, capture_output=True, text=True, check=True)
            assert hashlib.sha256(b"abc").hexdigest() in found.stdout
        proxy.send_signal(signal.SIGTERM)
        _, errors = proxy.communicate(timeout=30)
        assert proxy.returncode == 0
        assert "the service is attested until" in errors


def test_command_when_the_policy_is_not_met_ends_with_the_verdict(start: Start, policy: WritePolicy) -> None:
    service = start(Says(simulated=True))
    command = [*CALL, "proxy", "--to", service.url, "--policy", str(policy())]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 17
    assert "error [STF-1500]" in found.stderr
    assert "securetf: not proved: simulation, ear-status, measurement." in found.stderr
    assert service.received == 0
