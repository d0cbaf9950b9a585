"""What a client saw when it asked a service to prove itself: kept whole, so that it can be verified again."""

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from securetf.errors import LimitError, UsageError
from securetf.service_errors import StatementError
from securetf.wire import decode
from securetf.wire.messages import Message
from securetf.wire.statement import MAX_STATEMENT_BYTES, Statement

_MAX_FILE_BYTES = 2 * MAX_STATEMENT_BYTES
_FIX = "save one with `securetf verify URL --policy FILE --save FILE`"


class Observation(Message, frozen=True, kw_only=True):
    """The file of `securetf verify --save`; it holds no secret.

    url: what was asked. observed_at: RFC 3339 UTC by the client's clock. tls_version: "TLSv1.3". tls_spki:
    SubjectPublicKeyInfo (DER) of the connection's key. nonce: the client's, 32 bytes. statement: the answer's
    bytes.
    """

    version: Literal[1] = 1
    kind: Literal["securetf-observation"] = "securetf-observation"
    url: Annotated[str, Meta(max_length=512)]
    observed_at: Annotated[str, Meta(max_length=40)]
    tls_version: Annotated[str, Meta(max_length=16)]
    tls_spki: Annotated[bytes, Meta(min_length=1, max_length=2048)]
    nonce: Annotated[bytes, Meta(min_length=32, max_length=32)]
    statement: Annotated[bytes, Meta(max_length=MAX_STATEMENT_BYTES)]


def read_statement(raw: bytes) -> Statement:
    """Read a statement strictly.

    Raises:
        StatementError: not one of this version.
    """
    try:
        return decode(raw, Statement)
    except (UsageError, LimitError) as error:
        raise StatementError(
            f"the service's statement is not one of this version: {error.problem}",
            "use the release of securetf that the service runs",
        ) from None


def save_observation(observation: Observation, path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(observation), indent=2) + b"\n")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "name another file") from None


def load_observation(path: Path) -> Observation:
    """Read a saved file.

    Raises:
        StatementError: not readable, or not such a file.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StatementError(f"{path} cannot be read: {error.strerror}", _FIX) from None
    try:
        if len(raw) > _MAX_FILE_BYTES:
            raise ValueError(f"more than {_MAX_FILE_BYTES} bytes")
        return msgspec.json.decode(raw, type=Observation, strict=True)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise StatementError(f"{path} is not a saved statement: {error}", _FIX) from None
