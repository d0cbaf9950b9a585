"""The cache keeps an artefact as long as the artefact says, whole, in its directory, and never too many."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from securetf.attester import development_pki as pki
from securetf.endorsements import Endorsements
from securetf.endorsements.cache import CONTENT_LIMIT, Artefact, Cache
from securetf.endorsements.refusals import EndorsementExpiredError, EndorsementMissingError
from securetf.errors import EndorsementError

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def crl() -> bytes:
    return pki.crl(pki.create(NOW, platform_id=bytes(16)).root, (), NOW)


def test_artefact_when_kept_then_the_same_with_its_window(cache: Cache, crl: bytes) -> None:
    cache.put("crl-milan-vcek", crl, source="https://kds", now=NOW)
    found = cache.get("crl-milan-vcek", now=NOW)
    assert (found.content, found.source, found.fetched_at) == (crl, "https://kds", NOW)
    assert found.window.end == NOW + pki.COLLATERAL_LIFETIME
    assert [one.name for one in cache if isinstance(one, Artefact)] == ["crl-milan-vcek"]


@pytest.mark.parametrize(
    ("days", "reason"),
    [(-400, "is issued in the future"), (400, r"expired at .* \(its revocation list\)")],
)
def test_artefact_when_out_of_its_window_then_refused_and_not_kept(
    cache: Cache, crl: bytes, days: int, reason: str
) -> None:
    cache.put("crl-milan-vcek", crl, source="s", now=NOW)
    with pytest.raises(EndorsementExpiredError, match=reason):
        cache.get("crl-milan-vcek", now=NOW + timedelta(days=days))
    with pytest.raises(EndorsementExpiredError, match=reason):
        cache.put("crl-genoa-vcek", crl, source="s", now=NOW + timedelta(days=days))


@pytest.mark.parametrize(
    "name",
    [
        "../crl-x",
        "crl-../x",
        "crl-a/b",
        "/etc/passwd",
        "crl-x\n",
        "crl-",
        "crl-A",
        "other-x",
        "",
        "crl-x\0",
        "crl",
    ],
)
def test_name_when_not_one_of_an_artefact_then_refused(cache: Cache, crl: bytes, name: str) -> None:
    with pytest.raises(EndorsementError, match="is not the name of an artefact"):
        cache.put(name, crl, source="s", now=NOW)
    with pytest.raises(EndorsementError, match="is not the name of an artefact"):
        cache.get(name, now=NOW)


@pytest.mark.parametrize("content", [b"", b"\0" * (CONTENT_LIMIT + 1), b"no list"])
def test_content_when_not_of_its_kind_then_refused(cache: Cache, content: bytes) -> None:
    with pytest.raises(EndorsementError, match=r"expected 1 to|not a revocation list"):
        cache.put("crl-x", content, source="s", now=NOW)


def test_file_when_damaged_or_renamed_then_refused(cache: Cache, crl: bytes) -> None:
    cache.put("crl-x", crl, source="s", now=NOW)
    path = cache.directory / "crl-x.json"
    entry = json.loads(path.read_text())
    for change in ({"version": 2}, {"name": "crl-y"}, {"content": "*"}, {"extra": 1}, {"fetched_at": "now"}):
        path.write_text(json.dumps(entry | change))
        with pytest.raises(EndorsementError, match="is damaged"):
            cache.get("crl-x", now=NOW)
    path.write_text("{")
    assert [type(one) for one in cache] == [EndorsementError]


def test_writer_when_killed_in_between_then_nothing_half_is_read(cache: Cache, crl: bytes) -> None:
    cache.put("crl-x", crl, source="s", now=NOW)
    (cache.directory / ".0123.tmp").write_bytes(b"half")
    assert [one.name for one in cache if isinstance(one, Artefact)] == ["crl-x"]
    with pytest.raises(EndorsementMissingError, match="no crl-y"):
        cache.get("crl-y", now=NOW)


def test_cache_when_full_then_the_expired_and_the_oldest_make_room(
    tmp_path: Path, crl: bytes, collateral: Endorsements
) -> None:
    cache = Cache(tmp_path / "cache", entry_limit=8)
    for index in range(20):
        cache.put(f"crl-{index}", crl, source="s", now=NOW)
        assert len(list(cache)) <= 8
    assert cache.get("crl-19", now=NOW).content == crl
    cache.put("dcap-x", collateral.to_json().encode(), source="s", now=NOW)
    assert cache.get("dcap-x", now=NOW).window.ends_with in {
        "TCB info",
        "QE identity",
        "PCK CRL",
        "root CA CRL",
    }


def test_generation_when_something_changes_then_another_and_when_nothing_does_the_same(
    cache: Cache, crl: bytes
) -> None:
    assert cache.generation() == 0
    seen = set()
    for index in range(20):
        cache.put(f"crl-{index}", crl, source="s", now=NOW)
        seen.add(cache.generation())
    assert len(seen) == 20
    os.utime(cache.directory, (1, 1))
    assert cache.generation() == cache.generation() == 10**9
