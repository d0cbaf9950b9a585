"""What verifiers of certificate paths keep changes no answer: not for time, revocation, anchors or bytes."""

from datetime import timedelta
from typing import Any

import pytest

from securetf.endorsements import TrustAnchors
from securetf.errors import EndorsementError, SignatureError
from securetf.evidence.sev_snp import SnpProduct
from securetf.verifier.certificate_path import KnownPaths, check
from securetf.verifier.sev_snp_chain import KnownSnp
from support import snp_platform
from support.authority import NOW, Authority, issue


@pytest.fixture(scope="module")
def path() -> list[Authority]:
    root = issue("root", end=NOW + timedelta(days=9))
    middle = root.issue("middle", end=NOW + timedelta(days=5))
    return [
        middle.issue("leaf", ca=False, usage=("digital_signature",), end=NOW + timedelta(days=2)),
        middle,
        root,
    ]


def checked(path: list[Authority], known: KnownPaths, **changes: Any) -> Any:
    certificates = [known.load("it", one.der) for one in path]
    values = {"anchors": path[-1].anchors, "now": NOW, **changes}
    return check("the path", certificates, known=known, **values)


def test_path_when_known_then_verified_once_and_held_against_time_each_time(path: list[Authority]) -> None:
    known = KnownPaths()
    assert checked(path, known) == checked(path, known) == NOW + timedelta(days=2)
    assert known.check_issued.cache_info()[:2] == (3, 3)  # type: ignore[attr-defined]
    for when, reason in ((NOW + timedelta(days=3), "expired at"), (NOW - timedelta(days=3), "is valid from")):
        with pytest.raises(SignatureError, match=reason):
            checked(path, known, now=when)


def test_path_when_known_then_still_refused_once_revoked_or_under_other_anchors(
    path: list[Authority],
) -> None:
    known = KnownPaths()
    checked(path, known)
    with pytest.raises(SignatureError, match="is revoked"):
        checked(path, known, revoked=frozenset({known.digest(path[1].certificate)}))
    nobody = TrustAnchors(spki_sha256=frozenset(), development=False)
    with pytest.raises(SignatureError, match="not a trust anchor"):
        checked(path, known, anchors=nobody)


def test_link_when_known_for_one_issuer_then_not_for_another_of_its_name(path: list[Authority]) -> None:
    known = KnownPaths()
    checked(path, known)
    impostor = path[2].issue("middle")
    with pytest.raises(SignatureError, match="is not signed by"):
        checked([path[0], impostor, path[2]], known)
    with pytest.raises(SignatureError, match="stands where the leaf should be"):
        checked(path[1:], known)


def test_paths_when_many_come_then_memory_is_bounded(path: list[Authority]) -> None:
    known = KnownPaths()
    for number in range(600):
        known.load(f"number {number}", path[0].der)
    assert known.load.cache_info().currsize == 512  # type: ignore[attr-defined]


def test_snp_chain_when_known_then_the_same_claims_and_held_against_time_each_time() -> None:
    platform, known = snp_platform.Platform(SnpProduct.GENOA), KnownSnp()
    assert platform.verify(known=known) == platform.verify(known=known) == platform.verify()
    assert known.check_issued.cache_info()[:2] == (3, 3)  # type: ignore[attr-defined]
    with pytest.raises(SignatureError, match="is good from"):
        platform.verify(known=known, now=snp_platform.NOW + timedelta(days=2000))
    with pytest.raises(EndorsementError, match="revocation list expired"):
        platform.verify(known=known, now=snp_platform.NOW + timedelta(days=60))


def test_snp_chain_when_known_then_a_new_revocation_list_counts() -> None:
    platform, known = snp_platform.Platform(), KnownSnp()
    platform.verify(known=known)
    with pytest.raises(SignatureError, match="revoked by AMD"):
        platform.verify(known=known, endorsements=platform.endorsements(crl=platform.crl([6])))


def test_snp_chain_when_known_then_another_chip_and_another_line_are_refused() -> None:
    platform, known = snp_platform.Platform(), KnownSnp()
    platform.verify(known=known)
    other = snp_platform.Platform(SnpProduct.TURIN)
    with pytest.raises(SignatureError, match="certificates are of Milan"):
        other.verify(known=known, endorsements=platform.endorsements())
    with pytest.raises(SignatureError, match="the VCEK is for chip"):
        platform.verify(platform.signed(chip_id=bytes(63) + b"\1"), known=known)
