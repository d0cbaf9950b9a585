"""The program's root without mounts: what is shown where, by a shield that only notes it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from securetf.launcher import hostroot
from securetf.launcher.hostroot import HostRoot
from securetf.launcher.mountpoints import MountPoints


class NotingShield:
    """Notes what would be mounted."""

    def __init__(self) -> None:
        self.shown: dict[str, tuple[str, str]] = {}

    def bind(self, source: str, path: str) -> None:
        self.shown[path] = ("rw", source)

    def cover_file(self, source: str, path: str) -> None:
        self.shown[path] = ("ro", source)

    def mount_memory(self, path: str, *, size_bytes: int, mode: int) -> None:
        self.shown[path] = (f"{mode:o}", str(size_bytes))


def built(
    tmp_path: Path, covered: list[str], **host_paths: str
) -> tuple[dict[str, tuple[str, str]], list[str]]:
    shield, undone = NotingShield(), []
    planned = SimpleNamespace(
        host_paths={str(tmp_path / name): mode for name, mode in host_paths.items()}, mounts=()
    )
    with MountPoints(tmp_path / "registry") as points:
        root = HostRoot(shield, undone.append, str(tmp_path / "root"))  # type: ignore[arg-type]
        root.build(planned, covered, points)  # type: ignore[arg-type]
    return shield.shown, undone


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A resolv.conf that is a link to the resolver's own, as systemd makes it."""
    (tmp_path / "resolved").mkdir()
    (tmp_path / "etc").mkdir()
    target, link = tmp_path / "resolved" / "stub.conf", tmp_path / "etc" / "resolv.conf"
    target.write_text("nameserver 127.0.0.53\n")
    link.symlink_to(target)
    monkeypatch.setattr(hostroot, "OF_THE_SHIELD", (str(link),))
    return link, target


def test_linked_resolv_conf_is_shown_by_both_names_where_its_directory_is_no_host_path(
    tmp_path: Path, linked: tuple[Path, Path]
) -> None:
    link, target = linked
    shown, _ = built(tmp_path, [str(target)])
    assert shown[f"{tmp_path}/root{target}"] == ("rw", str(target))  # as read-only as what covers it
    assert shown[f"{tmp_path}/root{link}"] == ("ro", str(target))
    assert os.path.isfile(f"{tmp_path}/root{link}")


def test_longer_paths_are_shown_later_and_all_is_undone(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    shown, undone = built(tmp_path, [], **{"a/b/c": "ro", "a": "rw", "a/b": "ro"})
    names = [path.removeprefix(f"{tmp_path}/root") for path in shown]
    assert names[:4] == ["", f"{tmp_path}/a", f"{tmp_path}/a/b", f"{tmp_path}/a/b/c"]
    assert [shown[f"{tmp_path}/root{name}"][0] for name in names[1:4]] == ["rw", "ro", "ro"]
    assert undone == list(shown)
