"""Owner key files: made once, readable by their owner alone."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from securetf.errors import KeyFileError
from securetf.keys import create_owner_key, load_owner_key


def test_a_key_that_was_made_can_be_read_and_only_by_us(tmp_path: Path) -> None:
    made = create_owner_key(tmp_path / "owner.pem")
    assert load_owner_key(tmp_path / "owner.pem").key_id == made.key_id
    assert (tmp_path / "owner.pem").stat().st_mode & 0o777 == 0o600
    assert made.key_id.startswith("ed25519:")
    assert len(made.key_id) == 8 + 64


def test_it_is_made_with_the_strict_mode_under_a_lax_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_owner_key(tmp_path / "owner.pem")
    finally:
        os.umask(before)
    assert (tmp_path / "owner.pem").stat().st_mode & 0o777 == 0o600


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "owner.pem").write_text("precious")
    with pytest.raises(KeyFileError, match="exists already"):
        create_owner_key(tmp_path / "owner.pem")
    assert (tmp_path / "owner.pem").read_text() == "precious"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be created: No such file"):
        create_owner_key(tmp_path / "no" / "owner.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o700, 0o644])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    create_owner_key(tmp_path / "owner.pem")
    (tmp_path / "owner.pem").chmod(mode)
    with pytest.raises(KeyFileError, match=f"has mode {mode:04o}") as got:
        load_owner_key(tmp_path / "owner.pem")
    assert "chmod 600" in got.value.fix


def test_a_stricter_mode_is_fine(tmp_path: Path) -> None:
    create_owner_key(tmp_path / "owner.pem")
    (tmp_path / "owner.pem").chmod(0o400)
    load_owner_key(tmp_path / "owner.pem")


def test_a_link_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    create_owner_key(tmp_path / "owner.pem")
    (tmp_path / "link").symlink_to(tmp_path / "owner.pem")
    with pytest.raises(KeyFileError, match="cannot be opened"):
        load_owner_key(tmp_path / "link")
    with pytest.raises(KeyFileError, match="is not a regular file"):
        load_owner_key(tmp_path)
    with pytest.raises(KeyFileError, match="cannot be opened: No such file"):
        load_owner_key(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    create_owner_key(tmp_path / "owner.pem")
    os.chown(tmp_path / "owner.pem", 65534, 65534)
    with pytest.raises(KeyFileError, match="belongs to user 65534"):
        load_owner_key(tmp_path / "owner.pem")


def _other_kinds() -> list[bytes]:
    pkcs8 = (Encoding.PEM, PrivateFormat.PKCS8)
    p256, ed25519 = generate_private_key(SECP256R1()), Ed25519PrivateKey.generate()
    return [
        b"",
        b"-----BEGIN PRIVATE KEY-----\ntruncated",
        bytes(range(100)),
        b"x" * 5000,
        p256.private_bytes(*pkcs8, NoEncryption()),
        ed25519.private_bytes(*pkcs8, BestAvailableEncryption(b"password")),
    ]


@pytest.mark.parametrize(
    "content", _other_kinds(), ids=["empty", "cut", "bytes", "large", "p256", "encrypted"]
)
def test_what_is_no_ed25519_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "owner.pem").write_bytes(content)
    (tmp_path / "owner.pem").chmod(0o600)
    with pytest.raises(KeyFileError, match="holds no unencrypted Ed25519 key"):
        load_owner_key(tmp_path / "owner.pem")


def test_a_repr_shows_no_private_key(tmp_path: Path) -> None:
    key = create_owner_key(tmp_path / "owner.pem")
    assert repr(key) == f"OwnerKey({key.key_id})"
