"""Verifies what a service proves, in the order of docs/formats/service-statement-v1.md. Pure.

Nothing raises: every check that can be done is done, so that all mismatches are known at once.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from securetf.appraisal.ear import EarClaims
from securetf.appraisal.relying import ResultClaims
from securetf.client import legs
from securetf.client.certificate import Leaf
from securetf.client.legs import Seen
from securetf.client.observation import Observation
from securetf.client.policy import ClientPolicy
from securetf.client.verdict import Attestation, Checklist, Verdict
from securetf.wire.statement import Binding


def verify(observation: Observation, policy: ClientPolicy, *, now: datetime) -> Verdict:
    """Check everything; `attestation` of the verdict is there only if every check holds. now: UTC."""
    checks = Checklist()
    checks.run("tls", "TLS 1.3, and the key of the connection", lambda: legs.tls(observation))
    checks.run("policy", "the policy is in force", lambda: legs.in_force(policy, now))
    statement = checks.run(
        "statement", "the statement has the form of its version", lambda: legs.statement(observation)
    )
    proved = None
    if statement is not None:
        seen = Seen(observation=observation, statement=statement, policy=policy, now=now)
        proved = _chain(checks, seen)
    return Verdict(
        url=observation.url,
        checks=tuple(checks.checks),
        attestation=proved if checks.ok else None,
        simulated=policy.simulation_accepted,
        policy=policy.digest,
        at=now,
    )


def _chain(checks: Checklist, seen: Seen) -> Attestation | None:
    """From the CAS to the TLS key."""
    run = checks.run
    cas = run("cas", "the CAS is the pinned one", lambda: legs.cas(seen))
    token_key = run(
        "token-key",
        "the CAS's audit key vouches for the token key",
        lambda: legs.token_key(seen),
        cas is not None,
    )
    token = run(
        "ear-signature",
        "the attestation result is signed by that key (ES256)",
        lambda: legs.token(seen, token_key),
        token_key is not None,
    )
    claims = _result(checks, seen, token)
    key = run(
        "binding-signature",
        "the statement is signed by the attested key",
        lambda: legs.binding(seen, token),
        token is not None,
    )
    binding = None if key is None else key[0]
    _bound(checks, seen, token, binding)
    leaf = run(
        "certificate",
        "the session's authority issued the certificate of this connection",
        lambda: legs.certificate(seen, token, binding),
        binding is not None,
    )
    if token is None or claims is None or key is None or leaf is None:
        return None
    return _attestation(seen, token, claims, key, leaf)


def _result(checks: Checklist, seen: Seen, token: EarClaims | None) -> ResultClaims | None:
    """What the attestation result says, and for whom and how long it says it."""
    here = token is not None
    run = checks.run
    run(
        "ear-issuer",
        "the pinned CAS issued it for this session",
        _on(token, lambda one: legs.issuer(seen, one)),
        here,
    )
    run(
        "ear-subject",
        "it is about the workload that the policy names",
        _on(token, lambda one: legs.subject(seen, one)),
        here,
    )
    run("ear-time", "it is in force and fresh", _on(token, lambda one: legs.time(seen, one)), here)
    run(
        "simulation",
        "no simulation passes for hardware",
        _on(token, lambda one: legs.simulation(seen, one)),
        here,
    )
    run("ear-status", "the CAS's verdict", _on(token, lambda one: legs.status(seen, one)), here)
    return run(
        "measurement",
        "software, TCB and machine are accepted",
        _on(token, lambda one: legs.measurement(seen.policy, one)),
        here,
    )


def _bound(checks: Checklist, seen: Seen, token: EarClaims | None, binding: Binding | None) -> None:
    """What the attested key has signed."""
    here = binding is not None
    run = checks.run
    run("nonce", "it answers our nonce", _on(binding, lambda one: legs.nonce(seen, one)), here)
    run(
        "network-key",
        "the attested key names the key of this connection",
        _on(binding, lambda one: legs.network(seen, one)),
        here,
    )
    run(
        "binding-subject",
        "it is by the workload of the attestation result",
        _on(binding, lambda one: legs.same(seen, token, one)),
        here,
    )
    run("manifest", "the Manifest is accepted", _on(binding, lambda one: legs.manifest(seen, one)), here)
    run(
        "volumes",
        "roots and epochs of volumes are accepted",
        _on(binding, lambda one: legs.volumes(seen, one)),
        here,
    )


def _on(value: Any, body: Callable[[Any], tuple[str, Any]]) -> Callable[[], tuple[str, Any]]:
    return lambda: body(value)


def _attestation(
    seen: Seen, token: EarClaims, claims: ResultClaims, bound: tuple[Binding, str], leaf: Leaf
) -> Attestation:
    binding, attested = bound
    ends = [token.expires_at, leaf.not_after]
    ends.append(token.issued_at + timedelta(seconds=seen.policy.service.maximum_age_s))
    if seen.policy.expires is not None:
        ends.append(seen.policy.expires)
    return Attestation(
        session=binding.session,
        workload=binding.workload,
        instance=binding.instance,
        manifest_hash=binding.manifest_hash,
        platform=claims.platform.value,
        simulated=token.simulated,
        measurement=claims.measurement.hex(),
        tcb_status=claims.tcb_status,
        volumes=binding.volumes,
        network_spki_sha256=binding.network_spki_sha256,
        attested_key=attested,
        receipt_key=binding.receipt_key,
        ear=seen.statement.ear,
        trust_root=seen.statement.trust_root,
        issued_at=token.issued_at,
        valid_until=min(ends),
    )
