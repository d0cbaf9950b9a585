"""EAR tokens: what they say, and which ones are refused."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey, OctKey

from securetf.appraisal import AttestationResult, appraise, ear
from securetf.claims import Platform, VerifiedClaims
from securetf.errors import SimulationRefusedError, TokenError
from securetf.manifest import PcrPolicy

NONCE = bytes(range(32))
KEY = ec.generate_private_key(ec.SECP256R1())
HOLDER = ec.generate_private_key(ec.SECP256R1())
KEYS = {ear.key_id(KEY.public_key()): KEY.public_key()}

Issue = Callable[..., str]
Check = Callable[..., ear.EarClaims]


@pytest.fixture
def result(claims: VerifiedClaims, policy: Any, now: datetime) -> AttestationResult:
    return appraise(claims, policy=policy, rtmr3=b"\3" * 48, now=now)


@pytest.fixture
def issue(result: AttestationResult, now: datetime) -> Issue:
    def make(result: AttestationResult = result, **changes: Any) -> str:
        arguments: dict[str, Any] = {
            "key": ear.SigningKey.of(KEY),
            "issuer": "cas",
            "audience": "spiffe://example/cas",
            "subject": "spiffe://example/acme/mnist/trainer/0",
            "nonce": NONCE,
            "confirmation_jwk": ear.confirmation_jwk(HOLDER.public_key()),
            "binding": ear.Binding.KEY,
            "token_id": "0123456789abcdef",
            "now": now,
        }
        return ear.issue(result, **arguments | changes)

    return make


@pytest.fixture
def check(now: datetime) -> Check:
    def run(token: str, **changes: Any) -> ear.EarClaims:
        arguments: dict[str, Any] = {
            "keys": KEYS,
            "issuer": "cas",
            "audience": "spiffe://example/cas",
            "nonce": NONCE,
            "now": now,
        }
        return ear.check(token, **arguments | changes)

    return run


def sign(header: dict[str, Any], payload: object, key: Any = KEY) -> str:
    jwk = ECKey.import_key(key) if isinstance(key, ec.EllipticCurvePrivateKey) else key
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return jws.serialize_compact(header, text, jwk, algorithms=[header["alg"]])


def header(**changes: Any) -> dict[str, Any]:
    return {"alg": "ES256", "typ": "eat+jwt", "kid": ear.key_id(KEY.public_key()), **changes}


def payload_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    payload: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return payload


def test_token_when_checked_then_says_what_was_issued(issue: Issue, check: Check, now: datetime) -> None:
    token = issue()
    claims = check(token)
    assert claims.subject == "spiffe://example/acme/mnist/trainer/0"
    assert claims.nonce == NONCE
    assert claims.confirmation_jwk == ear.confirmation_jwk(HOLDER.public_key())
    assert (claims.binding, claims.simulated, claims.status) == (ear.Binding.KEY, False, "affirming")
    assert (claims.issued_at, claims.expires_at) == (now, now + timedelta(minutes=5))
    assert claims.policy_id.startswith("sha256:")
    assert claims.raw["securetf"]["registers"]["rtmr3"] == "03" * 48
    assert check(token, nonce=None) == claims
    assert len(token) < 3000


def test_token_when_issued_then_has_the_documented_claims(issue: Issue) -> None:
    payload = payload_of(issue(binding=ear.Binding.SESSION))
    assert sorted(payload) == sorted(
        [
            "eat_profile",
            "iss",
            "aud",
            "sub",
            "jti",
            "iat",
            "exp",
            "eat_nonce",
            "cnf",
            "ear.verifier-id",
            "submods",
            "securetf",
        ]
    )
    assert payload["securetf"]["binding"] == "session"
    assert set(payload["submods"]["cpu"]) == {
        "ear.status",
        "ear.trustworthiness-vector",
        "ear.appraisal-policy-id",
    }


def test_token_when_about_a_simulation_then_refused_unless_asked_for(
    claims: VerifiedClaims, policy: Any, now: datetime, issue: Issue, check: Check
) -> None:
    simulated = replace(claims, platform=Platform.INSECURE_SIMULATION, simulated=True)
    token = issue(appraise(simulated, policy=policy, rtmr3=b"\3" * 48, now=now))
    with pytest.raises(SimulationRefusedError, match="INSECURE SIMULATION"):
        check(token)
    shown = ear.check_insecure_simulation(
        token, keys=KEYS, issuer="cas", audience="spiffe://example/cas", nonce=NONCE, now=now
    )
    assert (shown.simulated, shown.status) == (True, "contraindicated")
    assert "INSECURE SIMULATION" in shown.raw["securetf"]["notice"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"audience": "another"}, "audience is 'spiffe://example/cas', expected 'another'"),
        ({"issuer": "another"}, "issuer is 'cas', expected 'another'"),
        ({"nonce": bytes(32)}, "nonce is"),
        ({"keys": {}}, "unknown key, kid"),
    ],
)
def test_token_when_for_someone_else_then_refused(
    issue: Issue, check: Check, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(TokenError, match=reason):
        check(issue(), **change)


def test_token_when_expired_or_from_the_future_then_refused(
    issue: Issue, check: Check, now: datetime
) -> None:
    assert check(issue(), now=now + timedelta(seconds=299))
    with pytest.raises(TokenError, match="expired at"):
        check(issue(), now=now + timedelta(minutes=5))
    assert check(issue(), now=now - timedelta(seconds=30))
    with pytest.raises(TokenError, match="issued in the future"):
        check(issue(), now=now - timedelta(seconds=31))


def test_token_when_it_claims_a_longer_life_then_refused(issue: Issue, check: Check) -> None:
    payload = payload_of(issue())
    with pytest.raises(TokenError, match="longer than 5 minutes"):
        check(sign(header(), payload | {"exp": payload["exp"] + 1}))


def test_token_when_alg_is_none_or_confused_then_refused(issue: Issue, check: Check) -> None:
    payload = issue().split(".")[1]
    unsigned = base64.urlsafe_b64encode(json.dumps(header(alg="none")).encode()).decode().rstrip("=")
    with pytest.raises(TokenError, match="alg 'none'"):
        check(f"{unsigned}.{payload}.")
    public = KEY.public_key().public_numbers().x.to_bytes(32, "big")
    confused = sign(header(alg="HS256"), payload_of(issue()), OctKey.import_key(public))
    with pytest.raises(TokenError, match="alg 'HS256'"):
        check(confused)
    with pytest.raises(TokenError, match="typ 'JWT'"):
        check(sign(header(typ="JWT"), payload_of(issue())))


def test_token_when_any_part_is_changed_or_signed_by_another_key_then_refused(
    issue: Issue, check: Check
) -> None:
    head, payload, signature = issue().split(".")
    other = issue(subject="spiffe://example/acme/mnist/other/0").split(".")
    stranger = ec.generate_private_key(ec.SECP256R1())
    for token in (
        f"{head}.{other[1]}.{signature}",
        f"{head}.{payload}.{other[2]}",
        f"{head}.{payload}.",
        f"{head}.{payload}.{'A' * 86}",
        sign(header(), payload_of(issue()), stranger),
    ):
        with pytest.raises(TokenError, match="signature or form does not hold"):
            check(token)


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "....", "\N{SNOWMAN}.a.b", "e30.e30.e30", "A" * 20_000]
)
def test_token_when_not_a_token_then_refused(check: Check, token: str) -> None:
    with pytest.raises(TokenError):
        check(token)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    "payload",
    ["", "[]", "5", "{}", "nonsense", '{"eat_profile":"tag:securetf,2026:ear:v1"}', "[" * 5000],
)
def test_token_when_payload_is_of_another_form_then_refused(check: Check, payload: str) -> None:
    with pytest.raises(TokenError, match="not of profile"):
        check(sign(header(), payload))


def test_token_when_a_claim_has_another_form_then_refused(issue: Issue, check: Check) -> None:
    good = payload_of(issue())
    for change in (
        {"eat_profile": "another"},
        {"eat_nonce": "*"},
        {"cnf": {"jwk": 5}},
        {"iat": 10**20},
        {"submods": []},
        {"securetf": good["securetf"] | {"simulated": "false"}},
        {"securetf": good["securetf"] | {"binding": "none"}},
    ):
        with pytest.raises(TokenError, match="not of profile"):
            check(sign(header(), good | change))


def test_issue_when_nonce_or_key_is_wrong_then_refused(issue: Issue) -> None:
    with pytest.raises(TokenError, match="nonce has 31 bytes"):
        issue(nonce=bytes(31))
    other_curve = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(TokenError, match="secp384r1, expected P-256"):
        ear.SigningKey.of(other_curve)
    with pytest.raises(TokenError, match="secp384r1, expected P-256"):
        ear.confirmation_jwk(other_curve.public_key())


def test_token_when_of_composite_evidence_then_has_a_submodule_for_each_part(
    issue: Issue, check: Check, claims: VerifiedClaims, now: datetime
) -> None:
    registers = {"pcr4": b"\4" * 32}
    tpm = replace(
        claims, platform=Platform.TPM2, registers=registers, tcb_status="NotReported", platform_id=b"ek"
    )
    policy = PcrPolicy(pcrs={"pcr4": ((b"\4" * 32).hex(),)})
    raw = check(issue(others=(appraise(tpm, policy=policy, rtmr3=bytes(48), now=now),))).raw
    assert set(raw["submods"]) == {"cpu", "tpm2"}
    assert raw["submods"]["cpu"]["ear.status"] == "affirming"
    beside = raw["submods"]["tpm2"]
    assert (beside["ear.status"], beside["securetf"]["platform"]) == ("contraindicated", "tpm2")
    assert beside["securetf"]["platform_id"] == b"ek".hex()
    assert beside["securetf"]["registers"] == {"pcr4": (b"\4" * 32).hex()}
    assert raw["securetf"]["platform"] == "tdx"


def test_token_when_its_attestation_was_not_bound_to_a_session_then_refused_where_that_is_demanded(
    issue: Issue, check: Check
) -> None:
    check(issue(binding=ear.Binding.SESSION), session_binding=True)
    with pytest.raises(TokenError, match="bound to keys alone"):
        check(issue(), session_binding=True)
