"""A listener for clients outside, made by the tests: TLS 1.3, a statement of `outside_proof`, data piped on.

Data goes to a plain local port, as a relay does it; its bytes are counted.
"""

import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securetf.wire.statement import ALPN
from support.outside_proof import Member


class OutsideService:
    """A listener on 127.0.0.1. backends: ALPN to the plain local port that gets the data.

    received: bytes of data (not of statements) that arrived decrypted. connections: those that offered data.
    clients: accepted client certificates (PEM files); None = any client.
    """

    def __init__(self, member: Member, backends: dict[str, int], directory: Path) -> None:
        self.member, self.backends, self.directory = member, backends, directory
        self.received, self.connections, self.statements = 0, 0, 0
        self.silent, self.cutting, self.port_closed, self.refused = False, False, False, 0
        self.imposter: Member | None = None  # answers for data in place of the member
        self.clients: list[Path] | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def close(self) -> None:
        with self._lock:
            found, self._open = [*self._open, self._listener], set()
        for one in found:
            with_shutdown(one)
        for thread in self._threads:
            thread.join(10)

    def cut(self) -> None:
        """Cut all connections that are open now, without an end of TLS."""
        self.cutting = True
        with self._lock:
            found = [*self._open]
        for one in found:
            with_shutdown(one)

    def _spawn(self, body: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=body, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(plain)
            self._spawn(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        try:
            plain.settimeout(20)
            hello = plain.recv(4096, socket.MSG_PEEK)
            statement = ALPN.encode() in hello
            if statement and self.port_closed:
                self.refused += 1
                raise ConnectionAbortedError
            if not statement:
                with self._lock:
                    self.connections += 1
            secured = self._context(statement).wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            )
            try:
                secured.do_handshake()
            except OSError:
                drain(secured)
                raise
            with self._lock:
                self._open.discard(plain)
                self._open.add(secured)
            if statement:
                try:
                    self._prove(secured)
                finally:
                    with_shutdown(secured)
            else:
                self._pipe(secured)
        except (OSError, ValueError):
            pass
        finally:
            with_shutdown(plain)

    def _prove(self, secured: ssl.SSLSocket) -> None:
        nonce = b""
        while len(nonce) < 32:
            part = secured.recv(32 - len(nonce))
            if not part:
                return
            nonce += part
        with self._lock:
            self.statements += 1
        if self.silent:
            return
        answer = self.member.statement(nonce)
        secured.sendall(len(answer).to_bytes(4, "big") + answer)
        secured.unwrap()

    def _pipe(self, secured: ssl.SSLSocket) -> None:
        backend = socket.create_connection(
            ("127.0.0.1", self.backends[secured.selected_alpn_protocol() or "http/1.1"]), timeout=20
        )
        with self._lock:
            self._open.add(backend)

        turn = threading.Lock()  # OpenSSL takes no two calls at once for one connection

        def take() -> bytes:
            if not secured.pending():
                select.select([secured], [], [], 20)
            with turn:
                return secured.recv(65536)

        def back() -> None:
            try:
                while part := backend.recv(65536):
                    with turn:
                        secured.sendall(part)
                with turn:
                    if not self.cutting:
                        secured.unwrap()
            except (OSError, ValueError):
                pass
            finally:
                with_shutdown(secured)

        self._spawn(back)
        try:
            while part := take():
                with self._lock:
                    self.received += len(part)
                backend.sendall(part)
            backend.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            with_shutdown(backend)

    def _context(self, statement: bool) -> ssl.SSLContext:
        member = self.member if statement or self.imposter is None else self.imposter
        key, leaf = member.network, member.leaf
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols([ALPN] if statement else ["h2", "http/1.1"])
        path = self.directory / f"server-{threading.get_ident()}.pem"
        path.write_bytes(
            key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)
        )
        context.load_cert_chain(path)
        if self.clients is not None and not statement:
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= 0x80000  # X509_V_FLAG_PARTIAL_CHAIN: exactly these certificates
            for client in self.clients:
                context.load_verify_locations(client)
        return context


def drain(refused: socket.socket) -> None:
    """Close a refused connection so that the alert arrives: unread bytes would reset it."""
    with suppress(OSError):
        socket.socket.shutdown(refused, socket.SHUT_WR)
        while os.read(refused.fileno(), 65536):
            pass
    refused.close()


def with_shutdown(one: socket.socket) -> None:
    """Close a socket so that whoever reads from it wakes up."""
    with suppress(OSError):
        socket.socket.shutdown(one, socket.SHUT_RDWR)
    one.close()


@contextmanager
def running(member: Member, backends: dict[str, int], directory: Path) -> Iterator[OutsideService]:
    """Run a service; everything of it is closed at the end."""
    service = OutsideService(member, backends, directory)
    try:
        yield service
    finally:
        service.close()
