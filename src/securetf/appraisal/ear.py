"""Attestation results as EAR tokens: docs/formats/ear.md (draft-ietf-rats-ear-04, RFC 9711, RFC 7800)."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from securetf import __version__
from securetf.appraisal.policy import AttestationResult
from securetf.claims import Platform, VerifiedClaims
from securetf.errors import SimulationRefusedError, TokenError

PROFILE = "tag:securetf,2026:ear:v1"
LIFETIME = timedelta(minutes=5)
CLOCK_SKEW = timedelta(seconds=30)  # how far the issuer's clock may be ahead of the checker's
SIZE_LIMIT = 16 * 1024  # characters
_TYPE = "eat+jwt"
_NONCE_SIZE = 32  # bytes
_COORDINATE_SIZE = 32  # bytes; P-256
_TDX_REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_REGISTERS = dict.fromkeys((Platform.TDX, Platform.INSECURE_SIMULATION), _TDX_REGISTERS)  # others: all
_PREFIX = "securetf"  # our own claims stand under this one name
_ATTEST_AGAIN = "attest again; a token is good for 5 minutes, for one audience and for the attested key"


class Binding(StrEnum):
    """SESSION: the TLS exporter was in the transcript. KEY: only the attested keys were."""

    KEY = "key"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The CAS's token key, made ready once for all tokens. kid: its RFC 7638 thumbprint."""

    kid: str
    jwk: ECKey = field(repr=False)

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> "SigningKey":
        """Take a P-256 key. Raises TokenError: another curve."""
        return cls(key_id(key.public_key()), ECKey.import_key(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class EarClaims:
    """What a checked token says.

    confirmation_jwk: the attested key; whoever shows the token proves that he holds it. nonce: 32 bytes.
    status: the machine's; a TPM's beside it is in `raw`, under `submods`. raw: all claims.
    """

    issuer: str
    audience: str
    subject: str
    token_id: str
    nonce: bytes
    confirmation_jwk: Mapping[str, str]
    binding: Binding
    simulated: bool
    status: str
    policy_id: str
    issued_at: datetime
    expires_at: datetime
    raw: Mapping[str, Any]


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return the `kid` of a signing key: its RFC 7638 thumbprint."""
    return _public_key(key).thumbprint()


def confirmation_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Return a P-256 public key as JWK (RFC 7517), for `cnf`.

    Raises:
        TokenError: not a P-256 key.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise TokenError(f"the key is on {key.curve.name}, expected P-256", "use a P-256 key")
    numbers = key.public_numbers()
    return {"kty": "EC", "crv": "P-256", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}


def issue(  # noqa: PLR0913 - one argument per claim
    result: AttestationResult,
    *,
    key: SigningKey,
    issuer: str,
    audience: str,
    subject: str,
    nonce: bytes,
    confirmation_jwk: Mapping[str, str],
    binding: Binding,
    token_id: str,
    now: datetime,
    others: Sequence[AttestationResult] = (),
) -> str:
    """Return a JWT signed with ES256 by the CAS's token key (P-256), good for 5 minutes from `now`.

    issuer: the CAS's name. subject: the workload's SPIFFE ID. nonce: 32 bytes, the challenge of the
    attestation. confirmation_jwk: the attested TLS key. token_id: `jti`, random, at least 16 characters.
    others: of the TPMs beside the machine; each is a submodule of its platform's name.

    Raises:
        TokenError: a nonce of the wrong size.
    """
    if len(nonce) != _NONCE_SIZE:
        raise TokenError(f"the nonce has {len(nonce)} bytes, expected {_NONCE_SIZE}", _ATTEST_AGAIN)
    claims = result.claims
    issued_at = int(now.timestamp())
    payload: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "jti": token_id,
        "iat": issued_at,
        "exp": issued_at + int(LIFETIME.total_seconds()),
        "eat_nonce": _base64(nonce),
        "cnf": {"jwk": dict(confirmation_jwk)},
        "ear.verifier-id": {"developer": "securetf", "build": __version__},
        "submods": {
            "cpu": _submodule(result),
            **{one.claims.platform.value: _submodule(one) | {_PREFIX: _facts(one.claims)} for one in others},
        },
        _PREFIX: {
            "simulated": claims.simulated,
            "binding": binding.value,
            **_facts(claims),
        },
    }
    if claims.simulated:
        payload[_PREFIX]["notice"] = "INSECURE SIMULATION: proves nothing about any machine"
    header = {"alg": "ES256", "typ": _TYPE, "kid": key.kid}
    text = json.dumps(payload, separators=(",", ":"))
    return jws.serialize_compact(header, text, key.jwk, algorithms=["ES256"])


def _submodule(result: AttestationResult) -> dict[str, Any]:
    return {
        "ear.status": result.status,
        "ear.trustworthiness-vector": dict(result.trustworthiness_vector),
        "ear.appraisal-policy-id": result.policy_id,
    }


def _facts(claims: VerifiedClaims) -> dict[str, Any]:
    return {
        "platform": claims.platform.value,
        "platform_id": claims.platform_id.hex(),
        "tcb": {
            "status": claims.tcb_status,
            "advisories": list(claims.advisories),
            "evaluation_number": claims.tcb_evaluation_number,
        },
        "registers": {
            name: claims.registers[name].hex()
            for name in _REGISTERS.get(claims.platform, sorted(claims.registers))
        },
        "endorsements_valid_until": int(claims.valid_until.timestamp()),
        **({"properties": dict(claims.properties)} if claims.properties else {}),
    }


def check(
    token: str,
    *,
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    issuer: str,
    audience: str,
    nonce: bytes | None,
    now: datetime,
    session_binding: bool = False,
) -> EarClaims:
    """Return what a token about hardware says. keys: `kid` to key of the CAS. nonce: None if any one counts.

    session_binding: refuse a token whose attestation was not bound to its TLS session by the exporter.

    Raises:
        TokenError: another algorithm or type, unknown kid, wrong signature, issuer, audience, nonce or
        binding, expired. SimulationRefusedError: the token is about a simulation.
    """
    claims = check_insecure_simulation(
        token, keys=keys, issuer=issuer, audience=audience, nonce=nonce, now=now
    )
    if session_binding and claims.binding is not Binding.SESSION:
        raise TokenError(
            "the token's attestation was bound to keys alone, and a bound TLS session is demanded",
            "attest over a connection whose exporter both sides have",
        )
    if claims.simulated:
        raise SimulationRefusedError(
            "the token is about an INSECURE SIMULATION, and only hardware counts here",
            "attest a workload that runs in a TEE",
        )
    return claims


def check_insecure_simulation(
    token: str,
    *,
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    issuer: str,
    audience: str,
    nonce: bytes | None,
    now: datetime,
) -> EarClaims:
    """As `check`, and accepts tokens about an INSECURE SIMULATION too.

    Raises:
        TokenError: as `check`.
    """
    claims = authenticate(token, keys=keys)
    for what, found, expected in (
        ("issuer", claims.issuer, issuer),
        ("audience", claims.audience, audience),
        ("nonce", claims.nonce, claims.nonce if nonce is None else nonce),
    ):
        if found != expected:
            raise TokenError(f"the token's {what} is {found!r}, expected {expected!r}", _ATTEST_AGAIN)
    if claims.issued_at > now + CLOCK_SKEW:
        raise TokenError(f"the token is issued in the future: {claims.issued_at:%F %T}", "check the clocks")
    if now >= claims.expires_at:
        raise TokenError(f"the token expired at {claims.expires_at:%F %T}", _ATTEST_AGAIN)
    if claims.expires_at - claims.issued_at > LIFETIME:
        raise TokenError("the token claims to live longer than 5 minutes", _ATTEST_AGAIN)
    return claims


def authenticate(token: str, *, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> EarClaims:
    """Return what a token says that one of `keys` signed; for whom, when and about what is not checked.

    Raises:
        TokenError: another algorithm, type or profile, unknown kid, wrong signature.
    """
    return _read(_verified_payload(token, keys))


def _public_key(key: ec.EllipticCurvePublicKey) -> ECKey:
    if not isinstance(key.curve, ec.SECP256R1):
        raise TokenError(f"the key is on {key.curve.name}, expected P-256", "use a P-256 key")
    return ECKey.import_key(key)


def _verified_payload(token: str, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> bytes:
    if len(token) > SIZE_LIMIT:
        raise TokenError(
            f"the token has {len(token)} characters, at most {SIZE_LIMIT} are read", _ATTEST_AGAIN
        )
    try:
        header = jws.extract_compact(token.encode()).headers()
        if header.get("alg") != "ES256" or header.get("typ") != _TYPE:
            raise TokenError(
                f"the token has alg {header.get('alg')!r} and typ {header.get('typ')!r}, "
                f"expected 'ES256' and {_TYPE!r}",
                _ATTEST_AGAIN,
            )
        kid = header.get("kid")
        key = keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise TokenError(f"the token is signed by an unknown key, kid {kid!r}", "attest the CAS again")
        signed = jws.deserialize_compact(token, _public_key(key), algorithms=["ES256"])
    except (JoseError, ValueError) as error:
        raise TokenError(f"the token's signature or form does not hold: {error}", _ATTEST_AGAIN) from None
    return bytes(signed.payload or b"")


def _read(payload: bytes) -> EarClaims:
    """Take the claims out of an authenticated payload: a surprise means another version."""
    try:
        claims = json.loads(payload)
        ours, cpu = claims[_PREFIX], claims["submods"]["cpu"]
        if claims["eat_profile"] != PROFILE or not isinstance(ours["simulated"], bool):
            raise ValueError(f"profile {claims['eat_profile']!r}")
        return EarClaims(
            issuer=str(claims["iss"]),
            audience=str(claims["aud"]),
            subject=str(claims["sub"]),
            token_id=str(claims["jti"]),
            nonce=base64.b64decode(claims["eat_nonce"] + "=", altchars=b"-_", validate=True),
            confirmation_jwk={str(name): str(value) for name, value in claims["cnf"]["jwk"].items()},
            binding=Binding(ours["binding"]),
            simulated=ours["simulated"],
            status=str(cpu["ear.status"]),
            policy_id=str(cpu["ear.appraisal-policy-id"]),
            issued_at=datetime.fromtimestamp(int(claims["iat"]), UTC),
            expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC),
            raw=claims,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise TokenError(
            f"the token is not of profile {PROFILE}: {error!r}", "use the release that the CAS runs"
        ) from None


def _coordinate(value: int) -> str:
    return _base64(value.to_bytes(_COORDINATE_SIZE, "big"))


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
