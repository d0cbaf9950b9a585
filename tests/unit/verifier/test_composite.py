"""A TEE and its TPM in one Evidence (EVIDENCE.md): parts of different machines or runs are refused."""

import hashlib
from typing import Any

import pytest

from securetf.claims import Evidence, Platform, VerifiedClaims
from securetf.errors import BindingError
from securetf.evidence import tpm2
from securetf.evidence.binding import composite_report_data
from securetf.verifier import verify_composite
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins
from support.authority import NOW
from support.tpm2 import REPORT_DATA, Tpm, make_tpm, sign

OTHER_CHALLENGE = hashlib.sha512(b"an earlier nonce").digest()


class Machine:
    """A verifier of the simulated TD, over the verification kit."""

    def __init__(self, kit: Any) -> None:
        self._kit = kit

    def verify(self, evidence: Evidence, *, expected_report_data: bytes, now: Any) -> VerifiedClaims:
        claims: VerifiedClaims = self._kit.verify(evidence.raw, report_data=expected_report_data, now=now)
        return claims


@pytest.fixture(scope="module")
def tpm() -> Tpm:
    return make_tpm()


def quoted(tpm: Tpm, challenge: bytes = REPORT_DATA) -> bytes:
    quote = tpm.quote(extra_data=tpm2.qualifying_data(challenge))
    return tpm.evidence(quote, signature=sign(tpm.key, quote))


def check(kit: Any, tpm: Tpm, *, covered: bytes, sent: bytes) -> tuple[VerifiedClaims, ...]:
    """Verify a TD whose quote covers one TPM's Evidence, and that came with another."""
    td = kit.quote(report_data=composite_report_data(REPORT_DATA, {"tpm2": covered}))
    evidence = Evidence(Platform.INSECURE_SIMULATION, td, (Evidence(Platform.TPM2, sent),))
    origins = KeyOrigins(tpm.root.anchors, lambda _: None)
    verifiers = {
        Platform.INSECURE_SIMULATION: Machine(kit),
        Platform.TPM2: Tpm2Verifier(origins, event_log_required=True),
    }
    return verify_composite(evidence, verifiers=verifiers, expected_report_data=REPORT_DATA, now=NOW)


def test_parts_when_of_one_machine_and_run_then_both_are_claims(kit: Any, tpm: Tpm) -> None:
    raw = quoted(tpm)
    machine, beside = check(kit, tpm, covered=raw, sent=raw)
    assert (machine.platform, beside.platform) == (Platform.INSECURE_SIMULATION, Platform.TPM2)


def test_quote_when_of_another_machine_or_run_than_the_report_then_refused(kit: Any, tpm: Tpm) -> None:
    """All of these quotes are genuine, and all answer the challenge."""
    other = make_tpm()
    for sent in (quoted(other), quoted(tpm), tpm.evidence(event_log=b"")):
        with pytest.raises(BindingError, match="not the digest of this nonce"):
            check(kit, tpm, covered=tpm.evidence(tpm.quote(clock=9)), sent=sent)


def test_quote_when_it_answers_an_earlier_challenge_then_refused_although_the_report_covers_it(
    kit: Any, tpm: Tpm
) -> None:
    old = quoted(tpm, OTHER_CHALLENGE)
    with pytest.raises(BindingError, match="extra data is not the one expected"):
        check(kit, tpm, covered=old, sent=old)


def test_report_when_it_covers_no_quote_then_a_quote_beside_it_is_refused(kit: Any, tpm: Tpm) -> None:
    evidence = Evidence(
        Platform.INSECURE_SIMULATION,
        kit.quote(report_data=REPORT_DATA),
        (Evidence(Platform.TPM2, quoted(tpm)),),
    )
    with pytest.raises(BindingError, match="not the digest of this nonce"):
        verify_composite(
            evidence,
            verifiers={Platform.INSECURE_SIMULATION: Machine(kit)},
            expected_report_data=REPORT_DATA,
            now=NOW,
        )
