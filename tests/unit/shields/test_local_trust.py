"""The local trust file: private, strict, and a compare-and-swap anchor."""

import json
import stat
from pathlib import Path

import pytest

from securetf.errors import ConflictError, FencedError, KeyFileError, UsageError
from securetf.shields.local_trust import WARNING, LocalTrust

ROOT_1, ROOT_2 = b"\x01" * 32, b"\x02" * 32


def test_new_file_is_private_and_says_that_it_is_no_cas(tmp_path: Path) -> None:
    LocalTrust.create(tmp_path / "trust")
    assert stat.S_IMODE((tmp_path / "trust").stat().st_mode) == 0o600
    content = json.loads((tmp_path / "trust").read_text())
    assert content["warning"] == WARNING
    assert "NOT A CAS" in WARNING
    assert (content["epoch"], content["seq"], content["root"]) == (0, 0, "00" * 32)


def test_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "trust").write_text("precious")
    with pytest.raises(KeyFileError, match="exists already"):
        LocalTrust.create(tmp_path / "trust")
    assert (tmp_path / "trust").read_text() == "precious"


@pytest.mark.parametrize("size", [0, 4095, 5000, 1 << 21])
def test_chunk_size_that_is_no_power_of_two_in_range_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError, match="is not a power of two from 4096 to 1048576"):
        LocalTrust.create(tmp_path / "trust", chunk_size=size)


def test_each_grant_for_writing_raises_the_epoch_and_reading_does_not(tmp_path: Path) -> None:
    trust = LocalTrust.create(tmp_path / "trust", chunk_size=4096)
    first, second = trust.grant(writable=True), trust.grant(writable=True)
    reading = trust.grant(writable=False)
    assert (first.epoch, second.epoch, reading.epoch) == (1, 2, 2)
    assert (len(first.key), len(first.volume_id), first.chunk_size) == (32, 16, 4096)
    assert first.key == reading.key
    assert first.key.hex() not in repr(first)


def test_advance_is_durable_and_only_from_the_current_state(tmp_path: Path) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    grant = trust.grant(writable=True)
    trust.advance(grant.epoch, 0, bytes(32), 1, ROOT_1)
    assert (trust.grant(writable=False).seq, trust.grant(writable=False).root) == (1, ROOT_1)
    with pytest.raises(ConflictError, match="is at sequence 1, this writer builds on 0"):
        trust.advance(grant.epoch, 0, bytes(32), 1, ROOT_2)
    with pytest.raises(ConflictError, match="is at sequence 1"):
        trust.advance(grant.epoch, 1, ROOT_2, 2, ROOT_2)
    assert trust.grant(writable=False).root == ROOT_1


def test_file_that_a_state_is_anchored_in_is_not_removed_as_unused(tmp_path: Path) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    epoch = trust.grant(writable=True).epoch
    trust.advance(epoch, 0, bytes(32), 1, ROOT_1)
    trust.remove_unused()
    assert trust.grant(writable=False).root == ROOT_1
    other = LocalTrust.create(tmp_path / "other")
    other.grant(writable=True)
    other.remove_unused()
    assert not other.path.exists()


def test_older_writer_is_fenced_by_a_newer_one(tmp_path: Path) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    old = trust.grant(writable=True)
    new = trust.grant(writable=True)
    with pytest.raises(FencedError, match="opened for writing again: epoch 2, here 1"):
        trust.advance(old.epoch, 0, bytes(32), 1, ROOT_1)
    trust.advance(new.epoch, 0, bytes(32), 1, ROOT_1)


def test_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    (tmp_path / "trust").chmod(0o640)
    with pytest.raises(KeyFileError, match="is accessible to others"):
        trust.grant(writable=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "securetf-local-trust-2"}, "Invalid enum value 'securetf-local-trust-2'"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"epoch": -1}, "`int` >= 0"),
        ({"root": "ab"}, "matching regex"),
        ({"key": "x" * 44}, "has 33 bytes, expected 32"),
        ({"key": "!" * 44}, "is not base64"),
    ],
)
def test_file_of_another_form_is_refused_with_the_reason(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    content = json.loads((tmp_path / "trust").read_text())
    (tmp_path / "trust").write_text(json.dumps(content | change))
    with pytest.raises(KeyFileError) as caught:
        trust.grant(writable=False)
    assert reason in caught.value.problem


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    (tmp_path / "trust").write_bytes((tmp_path / "trust").read_bytes()[:100])
    with pytest.raises(KeyFileError, match="is not a local trust file of this release"):
        trust.grant(writable=False)


def test_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="nowhere cannot be read: No such file"):
        LocalTrust(tmp_path / "nowhere").grant(writable=False)


def test_rekey_gives_the_epochs_to_come_a_new_key_and_keeps_the_older_one_until_its_end(
    tmp_path: Path,
) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    first = trust.grant(writable=True)
    with pytest.raises(ConflictError, match="was never written"):
        trust.begin_rekey()
    trust.advance(first.epoch, 0, bytes(32), 1, ROOT_1)
    assert "older_key" not in (tmp_path / "trust").read_text()  # as releases before wrote it
    assert (trust.begin_rekey(), trust.begin_rekey()) == (2, 2)
    reading, writing = trust.grant(writable=False), trust.grant(writable=True)
    assert (reading.key, reading.older_key, reading.key_since) == (writing.key, first.key, 2)
    assert writing.epoch == writing.key_since
    assert first.key != writing.key
    with pytest.raises(FencedError, match="epoch 2, here 1"):
        trust.end_rekey(first.epoch, 1)
    with pytest.raises(ConflictError, match="is at sequence 1"):
        trust.end_rekey(writing.epoch, 2)
    trust.end_rekey(writing.epoch, 1)
    ended = trust.grant(writable=False)
    assert (ended.key, ended.older_key, ended.key_version, ended.key_since) == (writing.key, None, 2, 2)
    assert trust.begin_rekey() == 3


def test_rekey_is_not_ended_by_a_writer_from_before_it(tmp_path: Path) -> None:
    trust = LocalTrust.create(tmp_path / "trust")
    writer = trust.grant(writable=True)
    trust.advance(writer.epoch, 0, bytes(32), 1, ROOT_1)
    trust.begin_rekey()
    with pytest.raises(ConflictError, match="with a key from epoch 2 on; sealed anew was 1 in epoch 1"):
        trust.end_rekey(writer.epoch, 1)
    assert trust.grant(writable=False).older_key == writer.key
