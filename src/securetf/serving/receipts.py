"""Receipts: a signed statement of which model gave which answer to which request
(docs/formats/receipt-v1.md).
"""

import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securetf.serving.errors import Kind, ReceiptUnavailableError, Refusal
from securetf.serving.identity import Identity
from securetf.serving.models import Version

HEADER = "securetf-receipt"
_TYPE = "securetf-receipt+jwt"
_BOUND = ("session", "workload", "instance", "manifest_hash")


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
        from joserfc.jwk import ECKey  # noqa: PLC0415  (a service without an identity starts without it)

        self._identity = identity
        try:
            self._key = ECKey.import_key(identity.read("receipt-key.pem"))
        except ValueError:
            raise ReceiptUnavailableError(
                "receipt-key.pem is not an EC key", "start the service anew"
            ) from None
        self._lock = threading.Lock()
        self._standing = self._read()

    def sign(self, version: Version, request: bytes, response: bytes) -> str:
        """Return the compact JWS (ES256) for one answer. request, response: bodies as docs/formats says.

        Raises:
            ReceiptUnavailableError: the identity directory has become incomplete.
        """
        from joserfc import jws  # noqa: PLC0415

        origin = version.origin
        model = {
            "name": version.model,
            "version": version.number,
            "sha256": origin.sha256,
            "volume": origin.volume,
            "volume_root": origin.root,
            "volume_epoch": origin.epoch,
        }
        claims = {
            "v": 1,
            **self._current().claims,
            "model": model,
            "request_sha256": hashlib.sha256(request).hexdigest(),
            "response_sha256": hashlib.sha256(response).hexdigest(),
            "iat": int(time.time()),
        }
        payload = json.dumps(claims, separators=(",", ":"), sort_keys=True)
        return jws.serialize_compact({"alg": "ES256", "typ": _TYPE}, payload, self._key)

    def _current(self) -> _Standing:
        with self._lock:
            if self._standing.stamp != self._stamp():
                self._standing = self._read()
            return self._standing

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        try:
            facts = [
                Path(self._identity.directory, name).stat()
                for name in ("attestation.json", "receipt-delegation.jws")
            ]
        except OSError as error:
            raise ReceiptUnavailableError(
                f"the identity directory has gone: {error.strerror}", "start the service anew"
            ) from None
        return tuple((one.st_ino, one.st_mtime_ns) for one in facts)

    def _read(self) -> _Standing:
        stamp = self._stamp()
        ear = self._identity.document("attestation.json").get("ear")
        delegation = self._identity.read("receipt-delegation.jws").decode("ascii", "replace").strip()
        if not isinstance(ear, str):
            raise ReceiptUnavailableError("attestation.json names no EAR", "start the service anew")
        bound, token = _payload(delegation, "receipt-delegation.jws"), _payload(ear, "the EAR")
        if any(name not in bound for name in _BOUND) or "jti" not in token:
            raise ReceiptUnavailableError(
                "the delegation or the EAR lacks a claim", "start the service with this release's launcher"
            )
        claims = {name: bound[name] for name in _BOUND}
        claims |= {"ear_jti": token["jti"], "ear_sha256": hashlib.sha256(ear.encode()).hexdigest()}
        return _Standing(stamp, {**claims, "delegation": delegation})


def _payload(compact: str, what: str) -> dict[str, Any]:
    """Return the claims of a JWS that the launcher wrote; who relies on the receipt checks its signature."""
    try:
        part = compact.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ReceiptUnavailableError(f"{what} is not a compact JWS", "start the service anew")
    return found
