"""Sealed values open with the key and the transcript they were sealed to, and with nothing else."""

import pytest

from securetf.errors import UnsealError
from securetf.provisioning import (
    HpkeKeyPair,
    Provision,
    VolumeGrant,
    grant_transcript,
    open_grant,
    open_sealed,
    open_secret,
    public_key_of,
    seal,
    seal_grant,
    seal_secret,
    secret_transcript,
)

GRANT = VolumeGrant(
    name="data",
    volume_id=b"i" * 16,
    key=b"KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKE",
    key_version=1,
    epoch=2,
    seq=3,
    root=b"r" * 32,
    writable=True,
    freshness="group",
    mount_path="/data",
    chunk_size=65536,
)
PROVISION = Provision(
    session="a/b",
    workload="w",
    instance=0,
    manifest_hash=b"m" * 32,
    volumes=[GRANT],
    secrets={"token": b"SECRETSECRET"},
)


@pytest.fixture(scope="module")
def key() -> HpkeKeyPair:
    return HpkeKeyPair.generate()


def test_what_was_sealed_opens(key: HpkeKeyPair) -> None:
    assert open_sealed(seal(PROVISION, public_key_of(key.public), b"t"), key, b"t") == PROVISION
    assert open_grant(seal_grant(GRANT, public_key_of(key.public), b"t"), key, b"t") == GRANT
    assert open_secret(seal_secret(b"v", key.public, b"t"), key, b"t") == b"v"


def test_a_private_key_survives_its_bytes(key: HpkeKeyPair) -> None:
    again = HpkeKeyPair.from_private_bytes(key.private_bytes())
    assert again.public == key.public
    assert open_secret(seal_secret(b"v", key.public, b"t"), again, b"t") == b"v"


def test_another_transcript_or_key_does_not_open(key: HpkeKeyPair) -> None:
    sealed = seal(PROVISION, public_key_of(key.public), b"t")
    with pytest.raises(UnsealError, match="does not open with this key and transcript"):
        open_sealed(sealed, key, b"other")
    with pytest.raises(UnsealError, match="does not open with this key and transcript"):
        open_sealed(sealed, HpkeKeyPair.generate(), b"t")


def test_each_flipped_byte_and_truncation_is_refused(key: HpkeKeyPair) -> None:
    sealed = seal_secret(b"value", key.public, b"t")
    for position in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(UnsealError):
            open_secret(bytes(changed), key, b"t")
        with pytest.raises(UnsealError):
            open_secret(sealed[:position], key, b"t")


def test_one_kind_does_not_open_as_another(key: HpkeKeyPair) -> None:
    with pytest.raises(UnsealError, match="Provision: "):
        open_sealed(seal_grant(GRANT, public_key_of(key.public), b"t"), key, b"t")


@pytest.mark.parametrize("public", [b"", b"x" * 1215, b"\xff" * 1216])
def test_a_public_key_that_is_none_is_refused(public: bytes) -> None:
    with pytest.raises(UnsealError, match="HPKE public key"):
        seal_secret(b"v", public, b"t")


def test_a_private_key_of_another_size_is_refused() -> None:
    with pytest.raises(UnsealError, match="has 3 bytes, expected 96"):
        HpkeKeyPair.from_private_bytes(b"abc")


def test_no_repr_shows_a_secret(key: HpkeKeyPair) -> None:
    for shown in (repr(PROVISION), repr(GRANT), repr(key), str(PROVISION)):
        assert "KEYKEY" not in shown
        assert "SECRETSECRET" not in shown
    assert "<12 bytes>" in repr(PROVISION)


def test_transcripts_of_different_things_differ() -> None:
    base = {"session": "a/b", "volume": "v", "key_id": "k", "cas_spki": b"c", "public": b"p"}
    packing = grant_transcript(kind="packing", **base)  # type: ignore[arg-type]
    others = [grant_transcript(kind="export", **base)]  # type: ignore[arg-type]
    others += [
        grant_transcript(kind="packing", **{**base, name: value + value})  # type: ignore[arg-type, operator]
        for name, value in base.items()
    ]
    others.append(secret_transcript(session="a/b", secret="v", key_id="k", cas_spki=b"c"))  # noqa: S106
    assert packing not in others
    assert len(set(others)) == len(others)
