"""The outcome of a verification: numbered checks, and what they have shown when all of them hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from securetf.errors import SecuretfError
from securetf.service_errors import ServiceNotProvedError
from securetf.wire.statement import VolumeProof

_T = TypeVar("_T")


class Status(StrEnum):
    """SKIPPED: not done, because a check that it stands on failed."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. name: stable word. says: what it checks. found: what was found, or why it failed."""

    number: int
    name: str
    says: str
    status: Status
    found: str

    def line(self) -> str:
        """Return the check as a line for people."""
        mark = {Status.PASS: "ok  ", Status.FAIL: "FAIL", Status.SKIPPED: "--  "}[self.status]
        return f"{self.number:>2}. {mark} {self.says}: {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """What a service has proved: every check held.

    network_spki_sha256: of the one TLS key that data may be sent to, hex. attested_key: RFC 7638 thumbprint
    of the key that the Evidence binds; the same for the whole life of the service's process. valid_until:
    when it has to prove itself again. trust_root: DER, the session's authority. ear: the token. receipt_key:
    DER or None.
    """

    session: str
    workload: str
    instance: int
    manifest_hash: str
    platform: str
    simulated: bool
    measurement: str
    tcb_status: str
    volumes: Mapping[str, VolumeProof]
    network_spki_sha256: str
    attested_key: str
    receipt_key: bytes | None = field(repr=False)
    ear: str = field(repr=False)
    trust_root: bytes = field(repr=False)
    issued_at: datetime
    valid_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """checks: all, in order. attestation: None unless every one holds. policy: digest of the policy file."""

    url: str
    checks: tuple[Check, ...]
    attestation: Attestation | None
    simulated: bool
    policy: str
    at: datetime

    @property
    def ok(self) -> bool:
        """True if every check holds."""
        return self.attestation is not None

    def require(self) -> Attestation:
        """Return what was proved.

        Raises:
            ServiceNotProvedError: with all failed checks; `verdict` of the error is this one.
        """
        if self.attestation is None:
            failed = [one for one in self.checks if one.status is Status.FAIL]
            error = ServiceNotProvedError(
                f"{self.url} did not prove what the policy asks for; nothing was sent: "
                + "; ".join(f"{one.number} {one.name}: {one.found}" for one in failed),
                "do not use the service; `securetf verify` lists all checks, and `--explain` what they mean",
            )
            error.verdict = self
            raise error
        return self.attestation

    def to_json(self) -> dict[str, Any]:
        """Return the verdict for programs; docs/how-to/verify-a-service.md shows it."""
        return {
            "url": self.url,
            "verdict": "pass" if self.ok else "fail",
            "simulated": self.simulated,
            "at": self.at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "policy_sha256": self.policy,
            "checks": [
                {
                    "number": c.number,
                    "name": c.name,
                    "says": c.says,
                    "status": c.status.value,
                    "found": c.found,
                }
                for c in self.checks
            ],
            "attestation": None if self.attestation is None else _facts(self.attestation),
        }


class Checklist:
    """Collects checks in order; one whose need failed is skipped, so that each failure is named once."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def run(self, name: str, says: str, body: Callable[[], tuple[str, _T]], *needs: bool) -> _T | None:
        """Run `body`, which returns (what was found, value) or raises a SecuretfError; return the value."""
        if not all(needs):
            self._add(name, says, Status.SKIPPED, "not checked, since a check before it failed")
            return None
        try:
            found, value = body()
        except SecuretfError as error:
            self._add(name, says, Status.FAIL, error.problem)
            return None
        self._add(name, says, Status.PASS, found)
        return value

    def _add(self, name: str, says: str, status: Status, found: str) -> None:
        number = len(self.checks) + 1
        self.checks.append(Check(number=number, name=name, says=says, status=status, found=found))

    @property
    def ok(self) -> bool:
        """True if there are checks and all of them hold."""
        return bool(self.checks) and all(one.status is Status.PASS for one in self.checks)


def _facts(proved: Attestation) -> dict[str, Any]:
    return {
        "session": proved.session,
        "workload": proved.workload,
        "instance": proved.instance,
        "manifest_hash": proved.manifest_hash,
        "platform": proved.platform,
        "simulated": proved.simulated,
        "measurement": proved.measurement,
        "tcb_status": proved.tcb_status,
        "volumes": {
            name: {"epoch": one.epoch, "seq": one.seq, "root": one.root, "writable": one.writable}
            for name, one in sorted(proved.volumes.items())
        },
        "network_spki_sha256": proved.network_spki_sha256,
        "attested_key": proved.attested_key,
        "receipts": proved.receipt_key is not None,
        "issued_at": int(proved.issued_at.timestamp()),
        "valid_until": int(proved.valid_until.timestamp()),
    }
