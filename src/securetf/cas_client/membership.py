"""What a member's client sends: Evidence bound to its keys, and reports of denials."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from securetf.attester import Attester
from securetf.cas_client.spki import subject_public_key_info
from securetf.cas_client.trust import CasTrust
from securetf.errors import CasIdentityError, CasProtocolError, UsageError
from securetf.evidence import binding
from securetf.keys.workload import WorkloadKey
from securetf.provisioning import HpkeKeyPair, NetworkGrant, Provision
from securetf.wire import DenialItem, DenialReport
from securetf.wire.statement import CasProof, check_token_key

_REPORT = 64  # denials in one message
_FIX = "report it; this CAS does not follow the protocol"


@dataclass(frozen=True, slots=True)
class AttestedKeys:
    """The key pairs of one attested workload; they live as long as its process."""

    tls: WorkloadKey
    hpke: HpkeKeyPair = field(repr=False)


@dataclass(frozen=True, slots=True)
class Who:
    """Which instance of which workload attests, with which Manifest (32 bytes)."""

    session: str
    workload: str
    instance: int
    manifest_hash: bytes


class Denial(Protocol):
    """A refused connection as the network shield tells it."""

    @property
    def time_s(self) -> int: ...
    @property
    def direction(self) -> str: ...
    @property
    def process(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def reason(self) -> str: ...


def attest_fields(
    who: Who,
    keys: AttestedKeys,
    attester: Attester,
    *,
    nonce: bytes,
    cas_spki: bytes,
    exporter: bytes | None,
    network_spki: bytes | None,
    endpoint: str | None,
) -> tuple[dict[str, Any], bytes]:
    """Return the fields of an AttestRequest and the transcript that its Evidence is bound to.

    exporter: of the connection that brought the nonce and takes the request; None: bound to keys alone.
    """
    transcript = binding.transcript(
        role=binding.Role.WORKLOAD,
        nonce=nonce,
        tls_spki=keys.tls.spki,
        hpke_public_key=keys.hpke.public,
        cas_spki=cas_spki,
        exporter=exporter,
        manifest_hash=who.manifest_hash,
        network_spki=network_spki,
    )
    evidence = attester.attest(hashlib.sha512(transcript).digest())
    fields = {
        "session": who.session,
        "workload": who.workload,
        "instance": who.instance,
        "nonce": nonce,
        "manifest_hash": who.manifest_hash,
        "platform": evidence.platform.value,
        "evidence": evidence.raw,
        "tls_spki": keys.tls.spki,
        "hpke_public_key": keys.hpke.public,
        "network_spki": network_spki,
        "endpoint": endpoint,
        "submods": {one.platform.value: one.raw for one in evidence.others},
        "binding": "key" if exporter is None else "session",
    }
    return fields, transcript


def check_provision(provision: Provision, who: Who, network_spki: bytes | None) -> None:
    """Raise CasProtocolError unless the CAS provisioned what was asked for."""
    got = Who(provision.session, provision.workload, provision.instance, provision.manifest_hash)
    if who != got:
        raise CasProtocolError(
            f"the CAS provisioned {got.workload}/{got.instance} of {got.session}, asked was "
            f"{who.workload}/{who.instance} of {who.session}",
            _FIX,
        )
    if (provision.network is None) != (network_spki is None):
        raise CasProtocolError("the CAS sent a certificate unasked, or none", _FIX)
    if provision.network is not None and network_spki is not None:
        check_network(provision.network, network_spki)


def check_network(grant: NetworkGrant, network_spki: bytes) -> None:
    """Raise CasProtocolError unless the certificate is for our network key."""
    if not grant.chain or subject_public_key_info(grant.chain[0]) != network_spki:
        raise CasProtocolError("the CAS's certificate is for another network key", _FIX)


def check_proof(proof: CasProof, trust: CasTrust) -> None:
    """Raise CasIdentityError unless keys and token key are those of the CAS in the trust file.

    The Evidence itself is for others: they verify it.
    """
    found, audit = proof.evidence, bytes.fromhex(trust.audit_public_key)
    same = hashlib.sha256(found.tls_spki).hexdigest() == trust.spki_sha256
    if not same or found.audit_public_key != audit or found.hpke_public_key != trust.hpke_public_key:
        raise CasIdentityError(
            "the CAS's Evidence names other keys than the trust file",
            "attest the CAS again with `securetf cas attest`",
        )
    check_token_key(proof.token_key, cas=trust.spki_sha256, audit_public_key=audit)


def denial_reports(who: Who, denials: Sequence[Denial], dropped: int) -> Iterator[DenialReport]:
    """Yield the messages that tell of `denials`; equal ones that follow each other are one with a count."""
    items = [_item(*key, len(list(same))) for key, same in groupby(denials, key=_key)]
    for start in range(0, max(len(items), 1 if dropped else 0), _REPORT):
        yield DenialReport(
            workload=who.workload,
            instance=who.instance,
            denials=items[start : start + _REPORT],
            dropped=dropped if start == 0 else 0,
        )


def _key(denial: Denial) -> tuple[int, str, str, str, str]:
    return denial.time_s, denial.direction, denial.process, denial.destination, denial.reason


def _item(time_s: int, direction: str, process: str, destination: str, reason: str, count: int) -> DenialItem:
    return DenialItem(
        time_s=time_s,
        direction="inbound" if direction == "inbound" else "outbound",
        process=process[:64],
        destination=destination[:300],
        reason=reason[:300],
        count=count,
    )


def session_path(name: str) -> str:
    """Return the path of a session. Raises UsageError unless it is tenant/session."""
    tenant, slash, rest = name.partition("/")
    if not slash:
        raise UsageError(f"{name!r} is not tenant/session", "name a session as tenant/name")
    return f"/v1/sessions/{segment(tenant)}/{segment(rest)}"


def segment(name: str) -> str:
    """Return a name that may stand in a path as it is."""
    if not name or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name) or name in (".", ".."):
        raise UsageError(
            f"{name!r} cannot be a name",
            "use letters, digits, dots, dashes and underscores as in the Manifest",
        )
    return name
