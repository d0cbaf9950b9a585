"""Trust files: read strictly, written whole."""

from pathlib import Path

import msgspec
import pytest

from securetf.cas_client import CasTrust, load_trust, save_trust
from securetf.errors import CasIdentityError

TRUST = CasTrust(
    version=1,
    url="https://127.0.0.1:8443",
    spki_sha256="ab" * 32,
    audit_public_key="cd" * 32,
    hpke_public_key=b"h" * 1216,
    platform="insecure_simulation",
    simulated=True,
    measurement="ef" * 48,
    verified=["1. something"],
    verified_at="2026-11-22T20:00:00Z",
)


def test_what_was_saved_can_be_loaded(tmp_path: Path) -> None:
    save_trust(TRUST, tmp_path / "cas.json")
    assert load_trust(tmp_path / "cas.json") == TRUST
    assert [path.name for path in tmp_path.iterdir()] == ["cas.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"url": "http://127.0.0.1:8443"},
        {"url": "https://user@127.0.0.1:8443"},
        {"spki_sha256": "AB" * 32},
        {"spki_sha256": "ab"},
        {"simulated": "true"},
        {"more": 1},
    ],
)
def test_another_form_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    fields = msgspec.json.decode(msgspec.json.encode(TRUST)) | change
    (tmp_path / "cas.json").write_bytes(msgspec.json.encode(fields))
    with pytest.raises(CasIdentityError, match="is not a trust file") as got:
        load_trust(tmp_path / "cas.json")
    assert "securetf cas attest" in got.value.fix


def test_missing_truncated_and_large_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CasIdentityError, match="cannot be read: No such file"):
        load_trust(tmp_path / "none")
    raw = msgspec.json.encode(TRUST)
    (tmp_path / "cut").write_bytes(raw[:-5])
    with pytest.raises(CasIdentityError, match="is not a trust file"):
        load_trust(tmp_path / "cut")
    (tmp_path / "large").write_bytes(raw + b" " * 70000)
    with pytest.raises(CasIdentityError, match="is larger than 65536 bytes"):
        load_trust(tmp_path / "large")
