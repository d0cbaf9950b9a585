"""Ways to a TPM 2.0: one command in, one response out (TPM 2.0 Library, Part 3, section 5)."""

import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from securetf.errors import AttesterError, UsageError

DEVICE = Path("/dev/tpmrm0")  # the kernel's resource manager
RESPONSE_SIZE_LIMIT = 4096  # bytes; TPM_PT_MAX_RESPONSE_SIZE of TPMs in use
TIMEOUT_S = 30.0  # a TPM may take seconds to make an RSA key
_HEADER_SIZE = 10
_FIX = "check that this machine has a TPM 2.0 and that this user may open it"


class Transport(Protocol):
    """Carries commands to a TPM."""

    def exchange(self, command: bytes) -> bytes:
        """Send one command and return its response.

        Raises:
            AttesterError: the TPM cannot be reached, or answered with something that is no response.
        """
        ...

    def close(self) -> None:
        """Let go of the TPM."""
        ...


@dataclass(frozen=True, slots=True)
class TpmAddress:
    """Where a TPM is. path: a character device or, with `unix`, a socket; host and port: a TCP socket."""

    path: Path | None = None
    unix: bool = False
    host: str = ""
    port: int = 0

    @staticmethod
    def parse(text: str) -> "TpmAddress":
        """Read `/dev/tpmrm0`, `unix:/path/of/socket` or `tcp:HOST:PORT` (both: a software TPM).

        Raises:
            UsageError: none of these.
        """
        kind, colon, rest = text.partition(":")
        if text.startswith("/"):
            return TpmAddress(path=Path(text))
        if colon and kind == "unix" and rest.startswith("/"):
            return TpmAddress(path=Path(rest), unix=True)
        host, colon, port = rest.rpartition(":")
        if kind == "tcp" and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return TpmAddress(host=host.removeprefix("[").removesuffix("]"), port=int(port))
        raise UsageError(
            f"{text[:200]!r} is not the address of a TPM",
            "write /dev/tpmrm0, or for a software TPM unix:/path/of/socket or tcp:HOST:PORT",
        )

    def exists(self) -> bool:
        """Say whether something is there; whoever names a TCP socket says so himself."""
        return self.path is None or self.path.exists()

    def open(self) -> Transport:
        """Return a new connection.

        Raises:
            AttesterError: nothing answers there.
        """
        if self.path is None:
            return SocketTransport((self.host, self.port))
        return SocketTransport(self.path) if self.unix else DeviceTransport(self.path)

    def __str__(self) -> str:
        if self.path is None:
            return f"tcp:{self.host}:{self.port}"
        return f"unix:{self.path}" if self.unix else str(self.path)


class SharedTransport:
    """One connection for several threads: commands go one after the other."""

    def __init__(self, transport: Transport) -> None:
        self._transport, self._lock = transport, threading.Lock()

    def exchange(self, command: bytes) -> bytes:
        """As `Transport.exchange`."""
        with self._lock:
            return self._transport.exchange(command)

    def close(self) -> None:
        """As `Transport.close`."""
        self._transport.close()


class DeviceTransport:
    """A TPM behind a character device; its objects and sessions end when it is closed."""

    def __init__(self, path: Path = DEVICE) -> None:
        """Open the device.

        Raises:
            AttesterError: it cannot be opened.
        """
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise AttesterError(f"{path} cannot be opened: {error.strerror}", _FIX) from None

    def exchange(self, command: bytes) -> bytes:
        """As `Transport.exchange`."""
        try:
            os.write(self._descriptor, command)
            return os.read(self._descriptor, RESPONSE_SIZE_LIMIT)
        except OSError as error:
            raise AttesterError(f"{self._path} did not answer: {error.strerror}", _FIX) from None

    def close(self) -> None:
        """As `Transport.close`."""
        os.close(self._descriptor)


class SocketTransport:
    """A software TPM behind a stream socket (`swtpm socket --server type=unixio` or `type=tcp`)."""

    def __init__(self, address: Path | tuple[str, int]) -> None:
        """Connect to a path (Unix) or to host and port (TCP).

        Raises:
            AttesterError: nobody listens there.
        """
        self._address = address
        try:
            if isinstance(address, Path):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(TIMEOUT_S)
                self._socket.connect(str(address))
            else:
                self._socket = socket.create_connection(address, timeout=TIMEOUT_S)
        except OSError as error:
            raise AttesterError(f"no TPM at {address}: {error.strerror or error}", _FIX) from None

    def exchange(self, command: bytes) -> bytes:
        """As `Transport.exchange`."""
        try:
            self._socket.sendall(command)
            head = self._receive(_HEADER_SIZE)
            size = int.from_bytes(head[2:6], "big")
            if not _HEADER_SIZE <= size <= RESPONSE_SIZE_LIMIT:
                raise AttesterError(f"the TPM at {self._address} sent a response of {size} bytes", _FIX)
            return head + self._receive(size - _HEADER_SIZE)
        except OSError as error:
            raise AttesterError(f"the TPM at {self._address} did not answer: {error}", _FIX) from None

    def close(self) -> None:
        """As `Transport.close`."""
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise AttesterError(f"the TPM at {self._address} closed the connection", _FIX)
            parts += part
        return parts
