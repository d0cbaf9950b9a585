"""The trust file of a client, `cas.json`: which CAS was verified, how and when. It holds no secret."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from securetf.errors import CasIdentityError

_MAX_FILE_BYTES = 65536
_Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class CasTrust(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """url: https://host:port. spki_sha256, audit_public_key: hex. hpke_public_key: 1216 bytes.

    verified: the checks that were done, in order. verified_at: RFC 3339 UTC. measurement: hex of mr_td.
    """

    version: Annotated[int, Meta(ge=1, le=1)]
    url: Annotated[str, Meta(pattern=r"^https://[^/@?#\s]+:[0-9]{1,5}$")]
    spki_sha256: _Hex32
    audit_public_key: _Hex32
    hpke_public_key: bytes
    platform: str
    simulated: bool
    measurement: str
    verified: list[str]
    verified_at: str


def load_trust(path: Path) -> CasTrust:
    """Read a trust file.

    Raises:
        CasIdentityError: missing, too large, or not a trust file of a version that this release reads.
    """
    fix = "attest the CAS again with `securetf cas attest`"
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CasIdentityError(f"{path} cannot be read: {error.strerror}", fix) from None
    if len(raw) > _MAX_FILE_BYTES:
        raise CasIdentityError(f"{path} is larger than {_MAX_FILE_BYTES} bytes", fix)
    try:
        return msgspec.json.decode(raw, type=CasTrust, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CasIdentityError(f"{path} is not a trust file: {error}", fix) from None


def save_trust(trust: CasTrust, path: Path) -> None:
    """Write a trust file whole or not at all, mode 0644: it holds no secret, but whoever changes it decides
    whom to trust."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(trust), indent=2) + b"\n")
    temporary.replace(path)
