"""Each check of a statement by itself: returns what was found and a value, or raises the mismatch. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from securetf.appraisal import ear
from securetf.appraisal.ear import EarClaims
from securetf.appraisal.policy import compare
from securetf.appraisal.relying import ResultClaims, result_claims
from securetf.client.certificate import Leaf, check_chain
from securetf.client.observation import Observation, read_statement
from securetf.client.policy import ClientPolicy
from securetf.errors import (
    AppraisalError,
    CasIdentityError,
    MeasurementError,
    NonceError,
    PlatformNotAllowedError,
    SimulationRefusedError,
    TokenError,
)
from securetf.identity import SpiffeId
from securetf.keys.workload import thumbprint
from securetf.service_errors import ClientPolicyError, StatementError
from securetf.wire.statement import Binding, Statement, check_token_key, read_binding

CLOCK_SKEW = timedelta(seconds=60)  # between the service's clock and the client's
_FIX = "do not use the service"
_SIMULATION = "insecure_simulation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What all checks look at."""

    observation: Observation
    statement: Statement
    policy: ClientPolicy
    now: datetime

    @property
    def issuer(self) -> str:
        return f"securetf-cas:{self.policy.cas.spki_sha256}"


def tls(observation: Observation) -> tuple[str, bool]:
    """The protocol of the connection."""
    if observation.tls_version != "TLSv1.3":
        raise StatementError(f"the connection is {observation.tls_version}, expected TLSv1.3", _FIX)
    return f"TLS 1.3, key sha256 {hashlib.sha256(observation.tls_spki).hexdigest()}", True


def in_force(policy: ClientPolicy, now: datetime) -> tuple[str, bool]:
    """The policy itself."""
    if policy.expires is not None and now >= policy.expires:
        raise ClientPolicyError(f"the policy expired at {policy.expires:%F %T} UTC", "review it")
    return f"until {policy.expires:%F %T} UTC" if policy.expires else "without end", True


def statement(observation: Observation) -> tuple[str, Statement]:
    """The form."""
    return "version 1", read_statement(observation.statement)


def cas(seen: Seen) -> tuple[str, bool]:
    """Which CAS the service stands under."""
    pinned, shown = seen.policy.cas, seen.statement.cas.evidence
    found = hashlib.sha256(shown.tls_spki).hexdigest()
    wrong = []
    if found != pinned.spki_sha256:
        wrong.append(f"TLS key {found}, pinned is {pinned.spki_sha256}")
    if shown.audit_public_key != pinned.audit_public_key:
        wrong.append(f"audit key {shown.audit_public_key.hex()}, pinned is {pinned.audit_public_key.hex()}")
    if wrong:
        raise CasIdentityError(f"the service stands under another CAS: {'; '.join(wrong)}", _FIX)
    return f"{seen.statement.cas.url}, key {found}", True


def token_key(seen: Seen) -> tuple[str, EllipticCurvePublicKey]:
    """The key that signs the CAS's tokens."""
    pinned = seen.policy.cas
    key = check_token_key(
        seen.statement.cas.token_key, cas=pinned.spki_sha256, audit_public_key=pinned.audit_public_key
    )
    return f"kid {ear.key_id(key)}", key


def token(seen: Seen, key: EllipticCurvePublicKey | None) -> tuple[str, EarClaims]:
    """The signature of the attestation result."""
    claims = ear.authenticate(seen.statement.ear, keys={} if key is None else {ear.key_id(key): key})
    return f"jti {claims.token_id}, profile {ear.PROFILE}", claims


def issuer(seen: Seen, token: EarClaims) -> tuple[str, bool]:
    """Who issued it, for whom."""
    audience = f"securetf-session:{seen.policy.service.session}"
    wrong = [
        f"{what} is {found!r}, expected {expected!r}"
        for what, found, expected in (
            ("the issuer", token.issuer, seen.issuer),
            ("the audience", token.audience, audience),
        )
        if found != expected
    ]
    if wrong:
        raise TokenError("; ".join(wrong), _FIX)
    return f"issuer {token.issuer}, audience {token.audience}", True


def subject(seen: Seen, token: EarClaims) -> tuple[str, bool]:
    """Whom it is about."""
    found = SpiffeId.parse(token.subject)
    service = seen.policy.service
    expected = SpiffeId(seen.policy.cas.spki_sha256, service.session, service.workload, found.instance)
    if found != expected:
        raise TokenError(f"it is about {found}, expected {expected}", _FIX)
    return token.subject, True


def time(seen: Seen, token: EarClaims) -> tuple[str, bool]:
    """Whether it is in force, and its age."""
    now, age = seen.now, seen.now - token.issued_at
    if token.issued_at > now + ear.CLOCK_SKEW:
        raise TokenError(f"it is issued in the future, at {token.issued_at:%F %T} UTC", "check the clocks")
    if token.expires_at - token.issued_at > ear.LIFETIME:
        raise TokenError("it claims to live longer than 5 minutes", _FIX)
    if now >= token.expires_at:
        raise TokenError(f"it expired at {token.expires_at:%F %T} UTC", _FIX)
    maximum = seen.policy.service.maximum_age_s
    if age > timedelta(seconds=maximum):
        raise TokenError(f"it is {age.total_seconds():.0f} s old, accepted are {maximum} s", _FIX)
    return f"issued {age.total_seconds():.0f} s ago, until {token.expires_at:%F %T} UTC", True


def simulation(seen: Seen, token: EarClaims) -> tuple[str, bool]:
    """Whether anything of it is a simulation."""
    cas = seen.policy.cas.simulated is True or seen.statement.cas.evidence.platform == _SIMULATION
    what = [name for name, simulated in (("the workload", token.simulated), ("the CAS", cas)) if simulated]
    if what and not seen.policy.simulation_accepted:
        raise SimulationRefusedError(
            f"{' and '.join(what)} run in an INSECURE SIMULATION, and the policy is for hardware", _FIX
        )
    if what:
        return (
            f"INSECURE SIMULATION of {' and '.join(what)}, as the policy accepts: nothing is protected",
            True,
        )
    return "hardware", True


def status(seen: Seen, token: EarClaims) -> tuple[str, bool]:
    """A simulation is always `contraindicated`; the check before this one has decided over it."""
    accepted = {"affirming", "warning", *(["contraindicated"] if seen.policy.simulation_accepted else [])}
    if token.status not in accepted:
        raise AppraisalError(f"{token.status!r}, accepted: {', '.join(sorted(accepted))}", _FIX)
    return f"{token.status}, appraisal policy {token.policy_id}", True


def measurement(policy: ClientPolicy, token: EarClaims) -> tuple[str, ResultClaims]:
    """Software, TCB and machine; and those of a TPM beside it, if the policy names its platform."""
    found, *beside = result_claims(token)
    if found.platform.value not in policy.platforms:
        named = ", ".join(policy.platforms)
        raise PlatformNotAllowedError(
            f"the platform is {found.platform.value}, the policy names {named}", _FIX
        )
    mismatches = [
        text
        for one in (found, *beside)
        if (accepted := policy.platforms.get(one.platform.value)) is not None
        for _, text in compare(one, accepted, rtmr3=None)
    ]
    if mismatches:
        raise MeasurementError("; ".join(mismatches), _FIX)
    shown = found.measurement.hex() or "as listed in the policy"
    return f"{found.platform.value}, measurement {shown}, TCB {found.tcb_status}", found


def binding(seen: Seen, token: EarClaims | None) -> tuple[str, tuple[Binding, str]]:
    """What the attested key signed; with it, the thumbprint of that key."""
    if token is None:
        raise AssertionError("checked by the caller")
    key = attested_key(token)
    return f"key {thumbprint(key)}", (read_binding(seen.statement.binding, key), thumbprint(key))


def attested_key(token: EarClaims) -> EllipticCurvePublicKey:
    """Return the key in `cnf` of a token. Raises TokenError."""
    try:
        key = ECKey.import_key({**token.confirmation_jwk}).public_key
    except (JoseError, ValueError, TypeError) as error:
        raise TokenError(f"the token confirms no P-256 key: {error}", _FIX) from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise TokenError("the token confirms no P-256 key", _FIX)
    return key


def nonce(seen: Seen, binding: Binding) -> tuple[str, bool]:
    """Whether it answers our nonce."""
    if binding.nonce != seen.observation.nonce:
        raise NonceError(
            f"it answers the nonce {binding.nonce.hex()}, ours is {seen.observation.nonce.hex()}: replayed",
            _FIX,
        )
    if abs(seen.now.timestamp() - binding.iat) > CLOCK_SKEW.total_seconds():
        raise NonceError(
            f"it is made at {binding.iat}, it is {int(seen.now.timestamp())}", "check the clocks"
        )
    return binding.nonce.hex(), True


def network(seen: Seen, binding: Binding) -> tuple[str, bool]:
    """Whether it names the key of this connection."""
    found = hashlib.sha256(seen.observation.tls_spki).hexdigest()
    if found != binding.network_spki_sha256:
        raise StatementError(
            f"the connection's key is {found}, attested is {binding.network_spki_sha256}: "
            "someone stands between",
            _FIX,
        )
    return found, True


def same(seen: Seen, token: EarClaims | None, binding: Binding) -> tuple[str, bool]:
    """Whether it is by the workload of the attestation result."""
    domain = seen.policy.cas.spki_sha256
    found = str(SpiffeId(domain, binding.session, binding.workload, binding.instance))
    subject = "" if token is None else token.subject
    if found != subject:
        raise StatementError(f"it is by {found}, the attestation result is about {subject}", _FIX)
    return found, True


def manifest(seen: Seen, binding: Binding) -> tuple[str, bool]:
    """The Manifest."""
    accepted = seen.policy.service.manifest_hashes
    if accepted and binding.manifest_hash not in accepted:
        raise MeasurementError(f"{binding.manifest_hash}, accepted: {', '.join(accepted)}", _FIX)
    return binding.manifest_hash + ("" if accepted else " (the policy accepts any of this session)"), True


def volumes(seen: Seen, binding: Binding) -> tuple[str, bool]:
    """The volumes."""
    wrong, right = [], []
    for name, pins in sorted(seen.policy.service.volumes.items()):
        volume = binding.volumes.get(name)
        if volume is None:
            wrong.append(f"it has no volume {name}")
            continue
        if pins.roots and volume.root not in pins.roots:
            wrong.append(f"{name} has the root {volume.root}, accepted: {', '.join(pins.roots)}")
        if pins.roots and volume.writable:
            wrong.append(f"{name} is writable by the service, so its root does not stay")
        if volume.epoch < pins.minimum_epoch:
            wrong.append(f"{name} is in epoch {volume.epoch}, accepted from {pins.minimum_epoch} on")
        right.append(f"{name} root {volume.root} epoch {volume.epoch}")
    if wrong:
        raise MeasurementError("; ".join(wrong), _FIX)
    return "; ".join(right) or "the policy names none", True


def certificate(seen: Seen, token: EarClaims | None, binding: Binding | None) -> tuple[str, Leaf]:
    """The certificate of the connection."""
    statement, domain = seen.statement, seen.policy.cas.spki_sha256
    leaf = check_chain(statement.certificate, statement.trust_root, trust_domain=domain, now=seen.now)
    wrong = []
    if leaf.spki != seen.observation.tls_spki:
        wrong.append("it is for another key than that of the connection")
    if token is None or leaf.spiffe_id != token.subject:
        wrong.append(f"it is for {leaf.spiffe_id}")
    if binding is None or f"sha256:{leaf.manifest_hash.hex()}" != binding.manifest_hash:
        wrong.append(f"it is for the Manifest sha256:{leaf.manifest_hash.hex()}")
    if wrong:
        raise StatementError("; ".join(wrong), _FIX)
    return f"until {leaf.not_after:%F %T} UTC, generation {leaf.generation}", leaf
