"""What a verifier keeps between quotes changes no answer."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from securetf.claims import VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.errors import EndorsementError, MalformedEvidenceError, SignatureError
from securetf.verifier import pck
from securetf.verifier.known import Known
from securetf.verifier.tdx import authenticate

REPORT_DATA = bytes(range(64))


def verify(kit: Any, known: Known, now: datetime, **changes: Any) -> VerifiedClaims:
    arguments = {"anchors": kit.anchors, "raw": kit.quote(), "endorsements": kit.endorsements, **changes}
    endorsements = arguments.pop("endorsements")
    return authenticate(
        arguments.pop("raw"),
        endorsements_for=lambda _: endorsements,
        expected_report_data=REPORT_DATA,
        minimum_tcb_evaluation=0,
        now=now,
        known=known,
        **arguments,
    )


def test_second_quote_of_a_platform_when_verified_gives_the_same_claims_and_reads_nothing_again(
    kit: Any, now: datetime
) -> None:
    known = Known()
    assert verify(kit, known, now) == verify(kit, known, now) == kit.verify()
    assert known.parse_chain.cache_info()[:2] == (1, 1)  # type: ignore[attr-defined]
    assert known.check_signer_chain.cache_info()[:2] == (1, 1)  # type: ignore[attr-defined]


def test_collateral_when_it_has_expired_since_is_refused_by_a_verifier_that_took_it_before(
    kit: Any, now: datetime
) -> None:
    known = Known()
    verify(kit, known, now)
    with pytest.raises(EndorsementError, match="expired"):
        verify(kit, known, now + timedelta(days=400))


def test_platform_under_another_root_when_its_chain_is_known_to_one_set_of_anchors_is_refused_by_another(
    make_kit: Callable[[], Any], kit: Any, now: datetime
) -> None:
    known, other = Known(), make_kit()
    verify(other, known, now)
    with pytest.raises(SignatureError, match="not a trust anchor"):
        verify(kit, known, now, raw=other.quote(), endorsements=other.endorsements)


def test_refused_chain_when_it_comes_again_is_refused_again(kit: Any) -> None:
    known, nobody = Known(), TrustAnchors(spki_sha256=frozenset(), development=True)
    chain = kit.quote()[-4000:]
    for _ in range(2):
        with pytest.raises(
            (MalformedEvidenceError, SignatureError), match=r"three PEM certificates|not a trust anchor"
        ):
            known.parse_chain(chain, nobody)
    assert known.parse_chain.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_memory_when_many_chains_come_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pck, "parse_chain", lambda pem, _anchors: pem)
    known, anchors = Known(), TrustAnchors(spki_sha256=frozenset(), development=True)
    for number in range(300):
        known.parse_chain(str(number).encode(), anchors)
    assert known.parse_chain.cache_info().currsize == 256  # type: ignore[attr-defined]
