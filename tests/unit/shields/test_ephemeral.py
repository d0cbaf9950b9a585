"""Ephemeral volumes: each is new, gone when closed, and a leftover of a killed process goes with the next."""

import shutil
from pathlib import Path

import pytest

from securetf.errors import VolumeIoError
from securetf.shields.ephemeral import PREFIX, Ephemeral


def test_ephemeral_when_closed_leaves_an_empty_directory(tmp_path: Path) -> None:
    one = Ephemeral("scratch", tmp_path / "made")
    assert [path.name for path in (tmp_path / "made").iterdir()] == [one.directory.name]
    assert one.volume.ls("/") == []
    one.close()
    assert list((tmp_path / "made").iterdir()) == []


def test_ephemeral_when_others_are_in_use_leaves_them_and_removes_what_a_killed_one_left(
    tmp_path: Path,
) -> None:
    first = Ephemeral("scratch", tmp_path)
    shutil.copytree(first.directory, tmp_path / f"{PREFIX}left")  # nobody has it open
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}file").write_text("not a directory: not ours")
    second = Ephemeral("scratch", tmp_path)
    kept = {first.directory.name, second.directory.name, "other", f"{PREFIX}file"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    first.close()
    second.close()
    assert {path.name for path in tmp_path.iterdir()} == {"other", f"{PREFIX}file"}


def test_ephemeral_when_its_directory_cannot_be_used_says_which_option_names_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VolumeIoError, match="file cannot hold the ephemeral volume scratch") as refused:
        Ephemeral("scratch", tmp_path / "file")
    assert "--volume scratch=DIR" in refused.value.fix
