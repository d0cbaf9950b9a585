"""What the service that holds a bucket may answer: nothing hangs, fills memory or gives a signature away."""

import http.server
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.authority import issue
from support.object_store import KEY, SECRET

PLACE = "s3://volumes/team/data"
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DEADLINE_S = 2


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the function of its server."""

    def do_GET(self) -> None:
        with suppress(ConnectionError):
            self.server.answer(self)  # type: ignore[attr-defined]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def say(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        """Answer with this body, and with another length than it has."""
        self.send_response(status)
        self.send_header("content-length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def listing(self, inside: str = "") -> None:
        """Answer with a list."""
        self.say(f'<ListBucketResult xmlns="{NAMESPACE}">{inside}</ListBucketResult>'.encode())

    @property
    def is_list(self) -> bool:
        """Whether a list is asked for."""
        return "list-type" in self.path

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


Answer = Callable[[Handler], None]


@contextmanager
def service(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answer = answer  # type: ignore[attr-defined]
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trust file of a volume that was written."""
    base = tmp_path_factory.mktemp("volume")
    arguments = [base / "v", "--trust-file", base / "trust"]
    command = [sys.executable, "-m", "securetf", "volume", "create", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return base / "trust"


# The command, then its peak memory. What wait4(2) tells has the peak of the process that started it, too.
MEASURED = """
import sys
from securetf.cli import call
code = call(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")), flush=True)
sys.exit(code)
"""


def run(endpoint: str, *argv: str | Path, **more: str) -> tuple[int, str, float, int]:
    """Exit code, output, seconds and most bytes of memory of a command on the bucket."""
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "SECURETF_BUCKET_DEADLINE_S": str(DEADLINE_S),
        **more,
    }
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "volume", *map(str, argv)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **variables}, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    output, _, peak = done.stdout.decode().rpartition("VmHWM:")
    assert SECRET not in output
    assert "Signature" not in output
    return done.returncode, output, seconds, int(peak.split()[0]) << 10


def drip(handler: Handler) -> None:
    handler.say(b"", length=1 << 20)
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.1)


def drip_headers(handler: Handler) -> None:
    handler.send_response(200)
    for number in range(10_000):
        handler.send_header(f"x-{number}", "x")
        handler.flush_headers()
        time.sleep(0.1)


def silent(handler: Handler) -> None:
    handler.rfile.read()


@pytest.mark.parametrize("answer", [drip, drip_headers, silent])
def test_service_that_is_slow_for_ever_ends_the_command_at_the_deadline(trust: Path, answer: Answer) -> None:
    with service(answer) as endpoint:
        code, output, seconds, _ = run(endpoint, "ls", PLACE, "--trust-file", trust)
    assert code == 21
    assert "read s3://volumes/team/data/superblock-0: no answer in time; 1 try in" in output
    assert seconds < DEADLINE_S + 8


def endless_pages(handler: Handler) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    handler.listing(more) if handler.is_list else handler.say(b"", 404)


def nested(handler: Handler) -> None:
    handler.listing("<a>" * 1_000_000) if handler.is_list else handler.say(b"", 404)


def not_text(handler: Handler) -> None:
    handler.say(b"\xff" * 100) if handler.is_list else handler.say(b"", 404)


def many_names(handler: Handler) -> None:
    one = "<Contents><Key>team/data/metadata/{}</Key></Contents>"
    names = "".join(one.format(number) for number in range(40_000))
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    handler.listing(names + more) if handler.is_list else handler.say(b"", 404)


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        (endless_pages, ("the list did not end in time", "more than 4096 pages")),
        (many_names, ("the list did not end in time", "more than 1048576 names")),
        (nested, ("the answer is not a list",)),
        (not_text, ("the answer is not a list",)),
    ],
)
def test_list_that_is_endless_deep_or_none_is_refused_in_bounded_time_and_memory(
    trust: Path, answer: Answer, reasons: tuple[str, ...]
) -> None:
    with service(answer) as endpoint:
        code, output, seconds, memory = run(endpoint, "ls", PLACE, "--trust-file", trust)
    assert code == 21, output
    assert any(f"list s3://volumes/team/data/metadata: {reason}" in output for reason in reasons)
    assert seconds < 10 * DEADLINE_S + 15
    assert memory < 500 << 20


def test_object_that_is_said_to_be_huge_and_never_ends_is_read_in_bounded_memory_and_refused(
    trust: Path,
) -> None:
    def answer(handler: Handler) -> None:
        if handler.is_list:
            handler.listing(
                "<Contents><Key>team/data/metadata/journal-00000001-00000000</Key></Contents>"
                if "metadata" in handler.path
                else ""
            )
        elif handler.command == "HEAD":
            handler.say(b"", length=(1 << 63) - 1)
        else:
            handler.say(b"", 206, length=(1 << 63) - 1)
            while True:
                handler.wfile.write(bytes(1 << 20))

    with service(answer) as endpoint:
        code, output, _, memory = run(endpoint, "ls", PLACE, "--trust-file", trust)
    assert (code, "error [STF-2011]" in output) == (20, True), output
    assert memory < 500 << 20


def test_redirection_is_not_followed_and_the_other_address_is_sent_nothing(trust: Path) -> None:
    asked: list[str] = []

    def other(handler: Handler) -> None:
        asked.append(handler.path)
        handler.say(b"")

    with (
        service(other) as elsewhere,
        service(lambda handler: handler.say(b"", 307, location=elsewhere + handler.path)) as endpoint,
    ):
        code, output, _, _ = run(endpoint, "ls", PLACE, "--trust-file", trust)
    assert code == 21
    assert "the service names another address (307 ), which is not followed" in output
    assert asked == []


def test_service_that_is_overloaded_is_asked_five_times_and_then_given_up(trust: Path) -> None:
    asked: list[str] = []

    def busy(handler: Handler) -> None:
        asked.append(handler.path)
        handler.say(b"<Error><Code>SlowDown</Code></Error>", 503)

    with service(busy) as endpoint:
        code, output, _, _ = run(endpoint, "ls", PLACE, "--trust-file", trust)
    assert (code, len(asked)) == (21, 5)
    assert "status 503; 5 tries in" in output


def test_upload_that_a_service_does_not_hold_as_it_was_sent_fails_the_commit(tmp_path: Path) -> None:
    sizes: dict[str, int] = {}

    def forgetful(handler: Handler) -> None:
        """Takes every upload, and holds other bytes of the same size afterwards."""
        path = handler.path.partition("?")[0]
        if handler.command == "PUT":
            sizes[path] = int(handler.headers["content-length"])
            handler.rfile.read(sizes[path])
            handler.say(b"")
        elif handler.is_list:
            handler.listing()
        elif path in sizes:
            handler.say(bytes(sizes[path]))
        else:
            handler.say(b"<Error><Code>NoSuchKey</Code></Error>", 404)

    with service(forgetful) as endpoint:
        code, output, _, _ = run(endpoint, "create", PLACE, "--trust-file", tmp_path / "trust")
    assert code == 21
    assert "the service holds other bytes than those that were sent" in output


def test_https_is_spoken_only_with_a_service_whose_certificate_leads_to_the_authorities_that_are_named(
    trust: Path, tmp_path: Path
) -> None:
    day, asked = timedelta(days=1), []
    times = {"start": datetime.now(UTC) - day, "end": datetime.now(UTC) + day}
    authority = issue("authority", **times)
    name = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    usage = ("digital_signature",)
    leaf = authority.issue("service", ca=False, usage=usage, extensions=((name, False),), **times)
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "service.pem").write_bytes(key + leaf.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "authority.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "other.pem").write_bytes(issue("other", **times).certificate.public_bytes(Encoding.PEM))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "service.pem")

    def empty(handler: Handler) -> None:
        asked.append(handler.path)
        handler.listing() if handler.is_list else handler.say(b"", 404)

    with service(empty, tls) as endpoint:
        arguments = ["ls", PLACE, "--trust-file", trust]
        for bundle in ("other.pem", None):
            more = {"AWS_CA_BUNDLE": str(tmp_path / bundle)} if bundle else {}
            code, output, _, _ = run(endpoint, *arguments, **more)
            assert (code, asked) == (21, []), output
            assert (
                "read s3://volumes/team/data/superblock-0: invalid peer certificate: UnknownIssuer" in output
            )
        code, output, _, _ = run(endpoint, *arguments, AWS_CA_BUNDLE=str(tmp_path / "authority.pem"))
    assert (code, "error [STF-2011]" in output) == (20, True), output  # it answered: it holds nothing
    assert asked
    (tmp_path / "no.pem").write_text("-----BEGIN CERTIFICATE-----\nnone")
    code, output, _, _ = run("https://127.0.0.1:9", *arguments, AWS_CA_BUNDLE=str(tmp_path / "no.pem"))
    assert code == 21
    assert "the file of certificate authorities is not PEM" in output
