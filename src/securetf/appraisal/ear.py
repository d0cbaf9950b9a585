"""Attestation results as EAR tokens: docs/formats/ear.md (draft-ietf-rats-ear, RFC 9711, RFC 7800)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from securetf.appraisal import AttestationResult


class Binding(StrEnum):
    """SESSION: the TLS exporter was in the transcript. KEY: only the attested keys were."""

    KEY = "key"
    SESSION = "session"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarClaims:
    """What a checked token says."""

    issuer: str
    audience: str
    subject: str
    nonce: bytes
    confirmation_jwk: Mapping[str, str]
    binding: Binding
    simulated: bool
    status: str
    policy_id: str
    issued_at: datetime
    expires_at: datetime
    raw: Mapping[str, Any]


def key_id(key: EllipticCurvePublicKey) -> str:
    """Return the `kid` of a signing key: its RFC 7638 thumbprint."""
    raise NotImplementedError


def confirmation_jwk(key: EllipticCurvePublicKey) -> dict[str, str]:
    """Return a P-256 public key as JWK for `cnf`."""
    raise NotImplementedError


def issue(
    result: AttestationResult,
    *,
    key: EllipticCurvePrivateKey,
    issuer: str,
    audience: str,
    subject: str,
    nonce: bytes,
    confirmation_jwk: Mapping[str, str],
    binding: Binding,
    token_id: str,
    now: datetime,
) -> str:
    """Return a JWT signed with ES256 by the CAS's token key (P-256), valid for 5 minutes from `now`.

    subject: the workload's SPIFFE ID. nonce: 32 bytes, the challenge. token_id: `jti`, random.
    """
    raise NotImplementedError


def check(
    token: str,
    *,
    keys: Mapping[str, EllipticCurvePublicKey],
    issuer: str,
    audience: str,
    nonce: bytes | None,
    now: datetime,
) -> EarClaims:
    """Return the claims of a hardware token, or raise TokenError; SimulationRefusedError for a simulated one."""
    raise NotImplementedError


def check_insecure_simulation(
    token: str,
    *,
    keys: Mapping[str, EllipticCurvePublicKey],
    issuer: str,
    audience: str,
    nonce: bytes | None,
    now: datetime,
) -> EarClaims:
    """As `check`, and takes tokens of an INSECURE SIMULATION too."""
    raise NotImplementedError
