"""Mount points: made when missing, removed by the last one that used them, never while another one does."""

import json
from pathlib import Path

import pytest

from securetf.errors import LaunchError
from securetf.launcher.mountpoints import MountPoints


def test_make_when_parents_are_missing_makes_and_later_removes_only_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with MountPoints(tmp_path / "registry") as points:
        points.make(f"{tmp_path}/there/a/b")
        points.make(f"{tmp_path}/there")
        assert (tmp_path / "there/a/b").is_dir()
    assert (tmp_path / "there").is_dir()
    assert not (tmp_path / "there/a").exists()
    assert (tmp_path / "registry").read_bytes() == b""
    assert (tmp_path / "registry").stat().st_mode & 0o777 == 0o600


def test_exit_when_another_launcher_uses_a_directory_leaves_that_one_to_it(tmp_path: Path) -> None:
    first, second = MountPoints(tmp_path / "registry"), MountPoints(tmp_path / "registry")
    with first:
        first.make(f"{tmp_path}/shared/only-first")
        second.__enter__()
        second.make(f"{tmp_path}/shared/both")
        first.make(f"{tmp_path}/shared/both")
    assert (tmp_path / "shared/both").is_dir()
    assert not (tmp_path / "shared/only-first").exists()
    second.__exit__(None, None, None)
    assert not (tmp_path / "shared").exists()
    assert (tmp_path / "registry").read_bytes() == b""


def test_enter_when_a_killed_launcher_left_directories_removes_the_empty_ones(tmp_path: Path) -> None:
    for name in ("empty/deeper", "used"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "used/file").touch()
    lines = [json.dumps(f"{tmp_path}/{name}") for name in ("empty", "empty/deeper", "used", "gone")]
    (tmp_path / "registry").write_text("\n".join(lines) + '\n"/cut off')
    with MountPoints(tmp_path / "registry"):
        assert not (tmp_path / "empty").exists()
        assert (tmp_path / "used/file").exists()
    assert (
        json.loads((tmp_path / "registry").read_bytes()) == f"{tmp_path}/used"
    )  # tried again by the next one


def test_make_when_a_file_is_in_the_way_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with MountPoints(tmp_path / "registry") as points, pytest.raises(LaunchError) as refused:
        points.make(f"{tmp_path}/file/below")
    assert f"the mount point {tmp_path}/file cannot be made" in refused.value.problem


def test_enter_when_the_registry_is_a_link_or_missing_its_directory_refuses(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "link", tmp_path / "no" / "registry"):
        with pytest.raises(LaunchError) as refused, MountPoints(path):
            pass
        assert f"registry of mount points {path} cannot be opened" in refused.value.problem
