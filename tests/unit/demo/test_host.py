"""The search for plaintext finds what is there; else finding nothing would prove nothing."""

import os
from pathlib import Path

import pytest

from securetf.demo import host
from securetf.errors import DemoError


@pytest.fixture
def plaintext(tmp_path: Path) -> Path:
    path = tmp_path / "weights.h5"
    path.write_bytes(os.urandom(100_000))
    return path


def test_windows_when_the_file_is_large_are_spread_over_all_of_it(plaintext: Path) -> None:
    raw = plaintext.read_bytes()
    positions = sorted(raw.index(piece) for piece in host.windows(raw))
    assert len(positions) >= 40
    assert positions[0] < 5_000
    assert positions[-1] > 90_000


def test_search_when_a_piece_is_stored_in_the_clear_names_the_file(tmp_path: Path, plaintext: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "segment").write_bytes(os.urandom(1000) + plaintext.read_bytes()[500:60_000] + os.urandom(10))
    with pytest.raises(DemoError, match=r"the host can read the model: .*volume/segment"):
        host.expect_no_plaintext([volume], {"the model": [plaintext]})


def test_search_when_only_a_file_name_is_in_the_clear_finds_it(tmp_path: Path, plaintext: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "segment").write_bytes(b"\0\0weights.h5\0\0")
    with pytest.raises(DemoError, match=r"weights\.h5"):
        host.expect_no_plaintext([volume], {"the model": [plaintext]})


def test_search_when_nothing_is_in_the_clear_counts_what_was_searched_for(
    tmp_path: Path, plaintext: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "segment").write_bytes(os.urandom(200_000))
    assert host.expect_no_plaintext([volume], {"the model": [plaintext]})["the model"] > 40


def test_search_when_a_plaintext_gives_no_pieces_refuses_to_prove_anything(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(5000))
    with pytest.raises(DemoError, match="gives no pieces to search for"):
        host.expect_no_plaintext([tmp_path], {"the data": [empty]})


def test_flip_bit_when_done_changes_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(bytes(100))
    host.flip_bit(path, 50)
    assert path.read_bytes() == bytes(50) + b"\1" + bytes(49)
