"""The program's own hosts file and resolver, and what is hidden from it."""

from pathlib import Path

import pytest

from securetf.errors import EnvironmentUnfitError
from securetf.launcher import netfiles


class Recorded:
    """Shield and network in one."""

    def __init__(self) -> None:
        self.covered: dict[str, str] = {}
        self.emptied: list[str] = []

    def hosts(self) -> str:
        return "127.0.0.1 localhost\n"

    def resolv_conf(self) -> str:
        return "nameserver 127.0.0.1\n"

    def cover_file(self, source: str, path: str) -> None:
        self.covered[path] = Path(source).read_text()

    def mount_memory(self, path: str, *, size_bytes: int, mode: int) -> None:  # noqa: ARG002
        self.emptied.append(path)


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(netfiles, "DIRECTORY", str(tmp_path / "network"))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hosts").touch()
    (tmp_path / "elsewhere").touch()
    (tmp_path / "etc" / "resolv.conf").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "etc"


def test_cover_when_resolv_conf_is_a_link_covers_what_it_leads_to(etc: Path, tmp_path: Path) -> None:
    world, undo = Recorded(), []
    netfiles.cover(world, world, undo.append, etc=etc, hidden=())
    assert world.covered == {
        str(etc / "hosts"): "127.0.0.1 localhost\n",
        str(tmp_path / "elsewhere"): "nameserver 127.0.0.1\n",
    }
    assert undo == list(world.covered)


def test_cover_when_names_are_asked_of_other_services_leaves_files_and_dns_alone(etc: Path) -> None:
    (etc / "nsswitch.conf").write_text(
        "passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n"
    )
    world = Recorded()
    netfiles.cover(world, world, lambda _: None, etc=etc, hidden=())
    assert world.covered[str(etc / "nsswitch.conf")] == "passwd: files\nhosts: files dns\n"


def test_cover_when_infiniband_is_there_hides_it_and_says_so(etc: Path, tmp_path: Path) -> None:
    (tmp_path / "infiniband").mkdir()
    world, undo = Recorded(), []
    devices = (str(tmp_path / "infiniband"), str(tmp_path / "absent"))
    assert netfiles.cover(world, world, undo.append, etc=etc, hidden=devices) == [devices[0]]
    assert world.emptied == [devices[0]]
    assert undo[-1] == devices[0]


def test_cover_when_the_machine_has_no_hosts_file_says_what_to_do(etc: Path) -> None:
    (etc / "hosts").unlink()
    world = Recorded()
    with pytest.raises(EnvironmentUnfitError) as refused:
        netfiles.cover(world, world, lambda _: None, etc=etc)
    assert f"touch {etc / 'hosts'}" in refused.value.fix
