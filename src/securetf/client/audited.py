"""What an export of the audit log says about attested keys and about roots of volumes. Pure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securetf.errors import AuditError
from securetf.service_errors import ReceiptError
from securetf.wire.audit import check_export

_FIX = "take an export of the session's whole log, made after the receipt: `securetf audit export`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """An attestation as the CAS recorded it. time_s: Unix seconds by the CAS's clock. actor: "p256:…"."""

    seq: int
    time_s: float
    actor: str
    session: str
    workload: str
    instance: int
    platform: str
    measurement: str
    manifest_hash: str
    simulated: bool
    ear_jti: str
    ear_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A root as somebody committed it."""

    seq: int
    actor: str
    session: str
    volume: str
    epoch: str
    root: str


class AuditExport:
    """A checked export: chain and signed head hold."""

    def __init__(self, lines: Sequence[str], *, cas: str, public_key: bytes) -> None:
        """cas: SHA-256 of the CAS's TLS key in hex. public_key: its audit key, 32 bytes.

        Raises:
            AuditError: changed, cut, or of another CAS.
        """
        self.summary = check_export(lines, public_key=public_key)
        if json.loads(lines[-1]).get("cas") != cas:
            raise AuditError("the export is of another CAS than the pinned one", _FIX)
        self._entries = [json.loads(text) for text in _texts(lines)]

    def attestation(self, actor: str, *, before: int | None = None, jti: str | None = None) -> Attested:
        """Return the (last) attestation of a key.

        actor: "p256:" and thumbprint. before: only entries with a lower `seq`. jti: of that very token.

        Raises:
            ReceiptError: the log has none.
        """
        for entry in reversed(self._entries):
            if entry.get("actor") != actor or entry["action"] not in ("attest", "token", "renew"):
                continue
            if before is not None and entry["seq"] >= before:
                continue
            details = entry.get("details", {})
            if jti is not None and details.get("ear_jti") != jti:
                continue
            return _attested(entry, details)
        what = f" with the token {jti}" if jti else ""
        raise ReceiptError(f"the audit log has no attestation of the key {actor}{what}", _FIX)

    def commit(self, session: str, volume: str, root: str) -> Committed:
        """Return who committed a root of a volume, the last time.

        Raises:
            ReceiptError: the log has no such commit.
        """
        for entry in reversed(self._entries):
            details = entry.get("details", {})
            if (
                entry["action"] == "volume.advance"
                and entry.get("session") == session
                and (details.get("volume"), details.get("root")) == (volume, root)
            ):
                return Committed(
                    seq=entry["seq"],
                    actor=entry.get("actor", ""),
                    session=session,
                    volume=volume,
                    epoch=details.get("epoch", ""),
                    root=root,
                )
        raise ReceiptError(f"the audit log does not say who committed root {root} of volume {volume}", _FIX)


def _texts(lines: Sequence[str]) -> Iterator[str]:
    """Yield the texts of granted decisions that the export shows."""
    for line in lines[:-1]:
        text = json.loads(line).get("entry")
        if text is not None and json.loads(text).get("verdict") == "granted":
            yield text


def _attested(entry: dict[str, Any], details: dict[str, str]) -> Attested:
    return Attested(
        seq=entry["seq"],
        time_s=datetime.fromisoformat(entry["time"]).timestamp(),
        actor=entry["actor"],
        session=entry.get("session", ""),
        workload=entry.get("workload", ""),
        instance=entry.get("instance", 0),
        platform=entry.get("platform", ""),
        measurement=entry.get("measurement", ""),
        manifest_hash=entry.get("manifest_hash", ""),
        simulated=entry["simulated"] or entry.get("platform") == "insecure_simulation",
        ear_jti=details.get("ear_jti", ""),
        ear_sha256=details.get("ear_sha256", ""),
    )
