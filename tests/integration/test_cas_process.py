"""The real process over TLS: what the client pins, how the CAS meets bad requests, how it starts and ends."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from securetf.attester.insecure_simulation import SimulatedTdx, create_platform, load_anchor
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, CasTrust, load_trust
from securetf.cas_client.attest_cas import attest_cas
from securetf.claims import Platform
from securetf.errors import (
    CasIdentityError,
    CasProtocolError,
    CasUnreachableError,
    FencedError,
    MeasurementError,
    NonceError,
    NotFoundError,
    SignatureError,
    UsageError,
)
from securetf.keys import OwnerKey, create_owner_key
from securetf.manifest import PlatformPolicy, parse
from securetf.verifier.insecure_simulation import verifier
from securetf.wire import decode

MAIN = [sys.executable, "-c", "import securetf.cli; securetf.cli.main()"]
SESSION = "acme/digits"


class Process:
    """One `securetf cas start` with its own directories."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.platform = directory, directory / "platform"
        create_platform(self.platform, datetime.now(UTC))
        self.process: subprocess.Popen[str] | None = None

    def command(self, listen: str = "127.0.0.1:0") -> list[str]:
        return [
            *MAIN, "cas", "start", "--data", str(self.directory / "data"), "--listen", listen,
            "--insecure-simulation", str(self.platform),
            "--insecure-anchor", str(self.directory / "INSECURE-anchor"),
        ]  # fmt: skip

    def start(self) -> "Process":
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.port = int(self.ready["url"].rpartition(":")[2])
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return status

    def trust(self, measurement: str | None = None) -> CasTrust:
        anchors = load_anchor(self.platform)
        return attest_cas(
            self.ready["url"],
            verifiers_for=lambda found: {Platform.INSECURE_SIMULATION: verifier(anchors, found)},
            policy=PlatformPolicy(mr_td=(measurement or software_measurement().hex(),)),
            now=datetime.now(UTC),
        )

    def raw(self, request: bytes) -> bytes:
        """Send bytes over TLS, return the whole answer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.sendall(request)
            answer = b""
            while part := secured.recv(65536):
                answer += part
        return answer

    def post(self, path: str, body: bytes, headers: str = "") -> tuple[int, dict[str, Any]]:
        answer = self.raw(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head, _, text = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(text)


def manifest(measurement: str) -> str:
    return f"""
[session]
name = "{SESSION}"
[appraisal.insecure_simulation]
mr_td = ["{measurement}"]
[secrets.token]
kind = "value"
[volumes.data]
[volumes.model]
writer = "trainer"
[workloads.trainer]
command = ["true"]
volumes = {{ data = "/data:ro", model = "/model:rw" }}
secrets = {{ token = "env:TOKEN" }}
"""


@pytest.fixture(scope="module")
def cas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    running = Process(tmp_path_factory.mktemp("cas")).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    if made.process is not None:
        made.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def trust(cas: Process) -> CasTrust:
    return cas.trust()


class TestWholePath:
    def test_from_a_session_to_a_provision_and_an_advance(self, own: Process) -> None:
        own.start()
        text, key = manifest(software_measurement().hex()), OwnerKey.generate()
        with CasClient(own.trust()) as client:
            client.create_session(text, key)
            client.import_secret(SESSION, "token", b"the value", key)
            grant = client.packing_grant(SESSION, "data", key)
            state = {"epoch": grant.epoch, "seq": 0, "root": bytes(32)}
            client.advance(grant.volume_id, **state, new_seq=1, new_root=b"r" * 32)
            attester = SimulatedTdx(own.platform, {})
            token, provision = client.provision(SESSION, "trainer", parse(text), attester)
            assert token.count(".") == 2
            assert provision.secrets == {"token": b"the value"}
            data, model = sorted(provision.volumes, key=lambda grant: grant.name)
            assert (data.root, data.writable, model.writable) == (b"r" * 32, False, True)
            step = {"epoch": model.epoch, "seq": 0, "root": bytes(32), "new_seq": 1, "new_root": b"m" * 32}
            client.advance(model.volume_id, **step)
            client.provision(SESSION, "trainer", parse(text), attester)
            with pytest.raises(FencedError, match="is in epoch 2, this writer has 1"):
                client.advance(model.volume_id, **step)
            with pytest.raises(FencedError, match=r"is in epoch 2|does not hold the lease"):
                client.advance(model.volume_id, **{**step, "seq": 1, "root": b"m" * 32, "new_seq": 2})
            assert client.export_grant(SESSION, "data", key).root == b"r" * 32
            assert client.read_session(SESSION, key).volumes[1].root == b"m" * 32
            assert len(client.history(SESSION, key).versions) == 1
            page = client.audit(SESSION, key)
            assert page.head.length == len(page.entries)
            assert client.status().simulated
        assert b"the value" not in (own.directory / "log").read_bytes()
        assert "insecure_simulation" in (own.directory / "log").read_text()

    def test_advances_of_many_threads_are_all_kept(self, trust: CasTrust) -> None:
        key = OwnerKey.generate()
        names = [f"v{number}" for number in range(8)]
        text = '[session]\nname = "acme/threads"\n' + "".join(f"[volumes.{name}]\n" for name in names)
        with CasClient(trust) as client:
            client.create_session(text, key)
            grants = {name: client.packing_grant("acme/threads", name, key) for name in names}
            failures: list[BaseException] = []

            def work(name: str) -> None:
                try:
                    root = bytes(32)
                    for seq in range(20):
                        new = hashlib.sha256(root).digest()
                        grant = grants[name]
                        client.advance(
                            grant.volume_id, epoch=1, seq=seq, root=root, new_seq=seq + 1, new_root=new
                        )
                        root = new
                except BaseException as error:  # noqa: BLE001 - shown by the test's thread
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(name,)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failures == []
            assert {state.seq for state in client.read_session("acme/threads", key).volumes} == {20}


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
            idle.sock.shutdown(socket.SHUT_RDWR)
            assert client.status().status == "ready"


class TestBadRequests:
    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (b'{"nonce":"' + b"A" * 42, "truncated"),
            (b"", "truncated"),
            (b'{"nonce":"AAAA"}', "CasEvidenceRequest"),
            (b'{"nonce":"' + b"A" * 43 + b'=","x":1}', "unknown field `x`"),
            (b"[" * 100 + b"]" * 100, "nested deeper"),
        ],
    )
    def test_a_bad_body_is_refused_with_its_reason(self, cas: Process, body: bytes, problem: str) -> None:
        status, document = cas.post("/v1/evidence", body)
        assert status in (400, 429)
        assert problem in document["problem"]
        assert document["code"] in ("STF-1001", "STF-1405")
        assert document["fix"]

    def test_a_body_that_stops_early_harms_nobody(self, cas: Process, trust: CasTrust) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", cas.port), 10) as plain:
            secured = context.wrap_socket(plain)
            secured.sendall(b'POST /v1/evidence HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"nonce"')
            secured.close()
        with CasClient(trust) as client:
            assert client.status().status == "ready"

    def test_a_body_that_is_too_large_is_refused_before_it_is_read(self, cas: Process) -> None:
        answer = cas.raw(
            b"POST /v1/evidence HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1048577\r\n\r\n{"
        )
        assert b"429" in answer.splitlines()[0]
        assert b"larger than 1048576 bytes" in answer

    def test_an_unsigned_request_is_refused(self, cas: Process) -> None:
        status, document = cas.post("/v1/sessions", b'{"manifest":"x"}')
        assert (status, document["code"]) == (403, "STF-1401")
        assert "not signed: content-digest, securetf-cas, signature-input, signature" in document["problem"]

    @pytest.mark.parametrize("path", ["/", "/v1/nonsuch", "/v1/../etc/passwd", "/v1/attest/"])
    def test_an_unknown_path_is_refused_with_an_error_document(self, cas: Process, path: str) -> None:
        status, document = cas.post(path, b"")
        assert status in (404, 405)
        assert document["code"] == "STF-1001"

    def test_a_wrong_method_is_refused(self, cas: Process) -> None:
        status, document = cas.post("/v1/status", b"")
        assert (status, document["code"]) == (405, "STF-1001")

    def test_a_stray_query_is_refused(self, cas: Process) -> None:
        status, document = cas.post("/v1/challenge?debug=1", b'{"session":"a/b","workload":"w"}')
        assert (status, document["problem"]) == (400, "unknown query parameter 'debug'")

    def test_garbage_is_no_defect(self, cas: Process) -> None:
        cas.raw(os.urandom(200) + b"\r\n\r\n")
        assert "defect" not in (cas.directory / "log").read_text()

    def test_errors_arrive_as_their_class(self, trust: CasTrust) -> None:
        key = OwnerKey.generate()
        with CasClient(trust) as client:
            with pytest.raises(NotFoundError, match="there is no session acme/nonsuch"):
                client.read_session("acme/nonsuch", key)
            with pytest.raises(UsageError, match="is not tenant/session"):
                client.read_session("nonsuch", key)
            with pytest.raises(UsageError, match="cannot be a name"):
                client.read_session("acme/..", key)
            with pytest.raises(UsageError, match="holds no writing grant"):
                client.advance(b"i" * 16, epoch=1, seq=0, root=bytes(32), new_seq=1, new_root=bytes(32))

    def test_a_challenge_of_an_unknown_session_says_nothing_about_it(self, cas: Process) -> None:
        status, _ = cas.post("/v1/challenge", b'{"session":"no/such","workload":"w"}')
        assert status == 200

    def test_the_api_document_is_served(self, cas: Process) -> None:
        answer = cas.raw(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert document["openapi"] == "3.1.0"
        assert "/v1/attest" in document["paths"]


class TestStart:
    def run(self, command: list[str]) -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    def test_a_port_in_use_is_named(self, cas: Process, own: Process) -> None:
        status, text = self.run(own.command(f"127.0.0.1:{cas.port}"))
        assert status == 30
        assert f"[STF-1004]: 127.0.0.1:{cas.port} cannot be listened on: Address already in use" in text

    def test_without_the_simulation_flag_nothing_starts(self, tmp_path: Path) -> None:
        status, text = self.run([*MAIN, "cas", "start", "--data", str(tmp_path / "data")])
        assert (status, "[STF-1002]" in text) == (30, True)
        assert not (tmp_path / "data").exists()

    def test_it_ends_cleanly_on_sigterm_and_starts_again_as_the_same(self, own: Process) -> None:
        first = own.start().ready["spki_sha256"]
        trust = own.trust()
        with CasClient(trust) as client:
            client.status()  # an open connection must not hold it up
            assert own.stop() == 0
        assert own.start().ready["spki_sha256"] == first

    def test_older_state_is_refused_with_both_counters(self, own: Process) -> None:
        own.start()
        own.stop()
        shutil.copytree(own.directory / "data", own.directory / "backup")
        own.start()
        with CasClient(own.trust()) as client:
            client.create_session('[session]\nname = "a/b"\n', OwnerKey.generate())
        own.stop()
        shutil.rmtree(own.directory / "data")
        (own.directory / "backup").rename(own.directory / "data")
        status, text = self.run(own.command())
        assert status == 15
        assert re.search(r"\[STF-1421\]: the database is at commit 1, the anchor at 2", text)
        assert "securetf: fix: restore the copy of the database that is at commit 2" in text

    def test_a_removed_database_is_refused(self, own: Process) -> None:
        own.start()
        own.stop()
        shutil.rmtree(own.directory / "data")
        status, text = self.run(own.command())
        assert (status, "[STF-1421]" in text) == (15, True)
        assert "holds no database, and the anchor" in text

    def test_a_missing_anchor_is_refused(self, own: Process) -> None:
        own.start()
        own.stop()
        (own.directory / "INSECURE-anchor").unlink()
        status, text = self.run(own.command())
        assert (status, "[STF-1420]" in text) == (15, True)
        assert "cannot be opened: No such file" in text

    def test_a_root_key_that_others_can_read_is_refused(self, own: Process) -> None:
        own.start()
        own.stop()
        (own.platform / "INSECURE-SIMULATION-cas-root-key").chmod(0o644)
        status, text = self.run(own.command())
        assert (status, "has mode 0644" in text) == (15, True)

    def test_a_second_process_on_the_same_data_is_refused(self, own: Process) -> None:
        own.start()
        status, text = self.run(own.command())
        assert (status, "another CAS runs on" in text) == (15, True)

    def test_the_platform_inside_the_data_directory_is_refused(self, own: Process) -> None:
        own.platform.rename(own.directory / "x")
        (own.directory / "data").mkdir()
        own.platform = own.directory / "data" / "platform"
        (own.directory / "x").rename(own.platform)
        status, text = self.run(own.command())
        assert (status, "lies inside the CAS's data directory" in text) == (2, True)


class TestCommands:
    def run(self, *arguments: object, status: int = 0) -> str:
        done = subprocess.run(
            [*MAIN, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    def test_an_owner_needs_only_the_command_line(self, cas: Process, tmp_path: Path) -> None:
        trust_file, key = tmp_path / "cas.json", tmp_path / "owner.pem"
        measurement, root = software_measurement().hex(), cas.platform / "root.pem"
        attest = ("cas", "attest", cas.ready["url"], "--insecure-simulation-root", root)
        out = self.run(*attest, "--measurement", measurement, "--out", trust_file)
        assert "SIMULATION" in out
        assert load_trust(trust_file).spki_sha256 == cas.ready["spki_sha256"]
        assert json.loads(self.run("cas", "status", "--cas", trust_file, "--json"))["status"] == "ready"
        key_id = self.run("key", "new", key).strip()
        assert self.run("key", "show", key).strip() == key_id
        owner = ("--cas", trust_file, "--key", key)
        name = f"acme/cli-{os.getpid()}"
        (tmp_path / "m.toml").write_text(manifest(measurement).replace(SESSION, name))
        created = json.loads(self.run("session", "create", tmp_path / "m.toml", *owner, "--json"))
        assert (created["creator"], created["version"], created["simulated"]) == (key_id, 1, True)
        (tmp_path / "value").write_bytes(b"v")
        source = ("--from-file", tmp_path / "value")
        self.run("secret", "import", "--session", name, "--secret", "token", *owner, *source)
        text = (tmp_path / "m.toml").read_text()
        (tmp_path / "m2.toml").write_text(
            text.replace("[appraisal", f'predecessor = "{created["manifest_hash"]}"\n[appraisal', 1)
        )
        self.run("session", "update", tmp_path / "m2.toml", *owner)
        assert self.run("session", "show", name, *owner, "--manifest") == (tmp_path / "m2.toml").read_text()
        assert "never written" in self.run("session", "show", name, *owner)
        assert len(json.loads(self.run("session", "history", name, *owner, "--json"))["versions"]) == 2
        assert "granted session.update" in self.run("audit", "show", name, *owner)
        self.run("audit", "export", name, tmp_path / "log.jsonl", *owner)
        verify = ("audit", "verify", tmp_path / "log.jsonl", "--cas", trust_file, "--json")
        summary = json.loads(self.run(*verify))
        assert summary["visible"] >= 5
        lines = (tmp_path / "log.jsonl").read_text().replace("granted", "refused")
        (tmp_path / "forged.jsonl").write_text(lines)
        error = self.run("audit", "verify", tmp_path / "forged.jsonl", "--cas", trust_file, status=15)
        assert "[STF-1422]" in error

    def test_bad_files_are_named(self, cas: Process, tmp_path: Path) -> None:
        create_owner_key(tmp_path / "owner.pem")
        (tmp_path / "owner.pem").chmod(0o644)
        (tmp_path / "cas.json").write_text("{}")
        (tmp_path / "m.toml").write_text('[session]\nname = "a/b"\n')
        owner = ("--cas", tmp_path / "cas.json", "--key", tmp_path / "owner.pem")
        assert "is not a trust file" in self.run("session", "create", tmp_path / "m.toml", *owner, status=14)
        cas_json = self.run(
            "cas", "attest", cas.ready["url"], "--insecure-simulation-root", cas.platform / "root.pem",
            "--measurement", software_measurement().hex(), "--out", tmp_path / "cas.json", "--json",
        )  # fmt: skip
        assert json.loads(cas_json)["simulated"] is True
        assert "has mode 0644" in self.run("session", "create", tmp_path / "m.toml", *owner, status=16)
        error = self.run(
            "cas", "attest", cas.ready["url"], "--insecure-simulation-root", tmp_path / "none",
            "--measurement", "00", status=11,
        )  # fmt: skip
        assert "is not 96 lower-case hex digits" in error


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


def test_a_nonce_is_refused_by_the_process_too(cas: Process, trust: CasTrust) -> None:
    class Replaying:
        """Answers each challenge with Evidence for another nonce's binding."""

        platform = Platform.INSECURE_SIMULATION

        def attest(self, report_data: bytes) -> Any:
            return SimulatedTdx(cas.platform, {}).attest(report_data)

    text, key = manifest(software_measurement().hex()).replace(SESSION, "acme/replay"), OwnerKey.generate()
    with CasClient(trust) as client:
        client.create_session(text, key)
        sent: list[bytes] = []
        send = client._transport.send

        def keep(method: str, target: str, body: bytes, *rest: Any, **named: Any) -> Any:
            sent.append(body)
            return send(method, target, body, *rest, **named)

        client._transport.send = keep  # type: ignore[method-assign]
        with pytest.raises(Exception, match="was never written"):
            client.provision("acme/replay", "trainer", parse(text), Replaying())
        status, document = cas.post("/v1/attest", sent[-1])
        assert (status, document["code"]) == (403, NonceError.code)
        assert "was used before" in document["problem"]
