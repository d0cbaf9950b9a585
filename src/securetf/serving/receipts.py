"""Receipts: a signed statement of which model gave which answer to which request
(docs/formats/receipt-v1.md).
"""

import base64
import hashlib
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securetf.errors import SecuretfError
from securetf.serving.errors import Kind, ReceiptUnavailableError, Refusal
from securetf.serving.identity import Identity
from securetf.serving.models import Version

HEADER = "securetf-receipt"
_FILES = ("attestation.json", "receipt-delegation.jws")  # what the launcher renews
_BOUND = ("session", "workload", "instance", "manifest_hash")
_ANEW = "start the service anew, with the launcher of this release"


def wanted(value: str | None) -> bool:
    """Whether a request asks for a receipt: its header or metadata is `request`.

    Raises:
        Refusal: it has another value.
    """
    if value is None or value == "request":
        return value is not None
    raise Refusal(
        Kind.INVALID, "the header securetf-receipt has an unknown value", "write `securetf-receipt: request`"
    )


@dataclass(frozen=True, slots=True)
class _Standing:
    """What all receipts until the next renewal have in common. stamp: of the files it was read from."""

    stamp: tuple[tuple[int, int], ...]
    claims: dict[str, Any]


class Signer:
    """Signs with the receipt key; follows the launcher's renewals of attestation and delegation.

    Raises:
        ReceiptUnavailableError: the identity directory is incomplete.
    """

    def __init__(self, identity: Identity) -> None:
        # A service without an identity starts without these.
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        from securetf.keys.workload import WorkloadKey  # noqa: PLC0415

        self._identity = identity
        key: object = None
        with suppress(ValueError):
            key = load_pem_private_key(identity.read("receipt-key.pem"), None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ReceiptUnavailableError("receipt-key.pem is not an EC key", _ANEW)
        self._key = WorkloadKey(key)
        self._lock = threading.Lock()
        self._standing = self._read()

    def sign(self, version: Version, request: bytes, response: bytes) -> str:
        """Return the receipt for one answer. request, response: bodies as docs/formats says.

        Raises:
            ReceiptUnavailableError: the identity directory has become incomplete.
        """
        from securetf.receipt import Receipt, ReceiptModel, sign_receipt  # noqa: PLC0415

        origin = version.origin
        receipt = Receipt(
            **self._current().claims,
            model=ReceiptModel(
                name=version.model,
                version=version.number,
                sha256=origin.sha256,
                volume=origin.volume,
                volume_root=origin.root,
                volume_epoch=origin.epoch,
            ),
            request_sha256=hashlib.sha256(request).hexdigest(),
            response_sha256=hashlib.sha256(response).hexdigest(),
            iat=int(time.time()),
        )
        return sign_receipt(receipt, self._key)

    def _current(self) -> _Standing:
        with self._lock:
            if self._standing.stamp != self._stamp():
                self._standing = self._read()
            return self._standing

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        try:
            facts = [Path(self._identity.directory, name).stat() for name in _FILES]
        except OSError as error:
            raise ReceiptUnavailableError(
                f"the identity directory has gone: {error.strerror}", _ANEW
            ) from None
        return tuple((one.st_ino, one.st_mtime_ns) for one in facts)

    def _read(self) -> _Standing:
        from securetf.receipt import attested_spki, ear_digest  # noqa: PLC0415

        stamp = self._stamp()
        ear = str(self._identity.document("attestation.json").get("ear"))
        delegation = self._identity.read("receipt-delegation.jws").decode("ascii", "replace").strip()
        claims = _bound(delegation)
        try:
            token_id, attested_key = attested_spki(ear)
        except SecuretfError:
            raise ReceiptUnavailableError(
                "attestation.json names no EAR with an attested key", _ANEW
            ) from None
        claims |= {"ear_jti": token_id, "ear_sha256": ear_digest(ear), "attested_key": attested_key}
        return _Standing(stamp, {**claims, "delegation": delegation})


def _bound(delegation: str) -> dict[str, Any]:
    """Return for whom the launcher delegated; who relies on the receipt checks the signature."""
    try:
        part = delegation.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return {name: found[name] for name in _BOUND}
    except (IndexError, ValueError, KeyError, TypeError):
        raise ReceiptUnavailableError("receipt-delegation.jws is not a delegation", _ANEW) from None
