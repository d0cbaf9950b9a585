"""A mount that follows its volume: what is opened next is of the newest root, what is open stays."""

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from securetf.shields.filesystem import closing

pytestmark = pytest.mark.root
SIZE = 3 << 20  # bytes: many chunks, so that a part of an open file has not been read yet


def tree(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def packed(new_volume: Callable[..., Any], tmp_path: Path) -> Any:
    made = new_volume()
    made.fill(tree(tmp_path / "first", {"m/1/model": b"1" * SIZE, "top": b"first"}))
    return made


@pytest.fixture
def host(packed: Any) -> Iterator[Any]:
    with packed.mounted(writable=False, follow=True) as one:
        assert one.greeting == {"ready": True}
        yield one


def shell(host: Any, script: str) -> str:
    done = host.run("/bin/sh", "-c", f"cd {host.packed.mountpoint} && {script}")
    assert done["status"] == 0, done["stderr"]
    return done["stdout"]


def test_mount_when_the_writer_goes_on_shows_the_newer_root_to_what_is_opened_next_whole(
    packed: Any, host: Any, tmp_path: Path
) -> None:
    assert shell(host, "cat top; echo; ls m; wc -c < m/1/model").split() == ["first", "1", str(SIZE)]
    second = {"m/1/model": b"1" * SIZE, "m/2/model": b"2" * SIZE, "top": b"second"}
    packed.fill(tree(tmp_path / "second", second))
    assert shell(host, "cat top; echo; ls m").split() == ["first", "1"], "nothing moves by itself"
    assert host.ask(follow=True)["seq"] == packed.trust.grant(writable=False).seq
    assert shell(host, "cat top; echo; ls m; tr -d 2 < m/2/model | wc -c").split() == [
        "second",
        "1",
        "2",
        "0",
    ]
    assert shell(host, "ls") == "m\ntop\n"
    assert host.close() == {"closed": True}


def test_file_when_it_is_open_over_a_move_stays_the_one_that_was_opened(
    packed: Any, host: Any, tmp_path: Path
) -> None:
    opened = host.ask(open="m/1/model")["descriptor"]
    assert host.ask(read=opened, offset=0, size=10) == {"data": "1" * 10}
    with closing(packed.open(writable=True)) as volume:
        volume.pack(str(tree(tmp_path / "second", {"m/1/model": b"X" * SIZE, "top": b"second"})))
        volume.sync()
        host.ask(follow=True)
        assert shell(host, "head -c 3 m/1/model; tail -c 3 m/1/model; cat top") == "XXXXXXsecond"
        assert host.ask(read=opened, offset=0, size=10) == {"data": "1" * 10}
        held = host.ask(
            read=opened, offset=SIZE - 10, size=10
        )  # its slots may be used again: never other data
        assert held in ({"data": "1" * 10}, {"errno": errno.ESTALE})
        assert host.ask(stats=True)["integrity_errors"] == 0
    host.ask(close=opened)


def test_open_file_when_the_writer_uses_its_room_again_fails_as_stale_and_the_next_open_reads_on(
    packed: Any, host: Any, tmp_path: Path
) -> None:
    with closing(packed.open(writable=True)) as volume:
        for letter in "abc":  # from the second on, room of the one before the last is used again
            volume.pack(str(tree(tmp_path / letter, {"m/1/model": letter.encode() * SIZE})))
            volume.sync()
            if letter == "a":
                host.ask(follow=True)
                opened = host.ask(open="m/1/model")["descriptor"]
        host.ask(follow=True)
        assert host.ask(read=opened, offset=0, size=10) == {"errno": errno.ESTALE}
        assert shell(host, "head -c 3 m/1/model; tail -c 3 m/1/model") == "cccccc"
        found = host.ask(stats=True)
        assert found["integrity_errors"] == 0
        assert found["stale_errors"] >= 1
    host.ask(close=opened)


def test_root_when_it_is_not_newer_is_refused_and_the_newest_stays(
    packed: Any, host: Any, tmp_path: Path
) -> None:
    before = packed.trust.grant(writable=False)
    packed.fill(tree(tmp_path / "second", {"top": b"second"}))
    host.ask(follow=True)
    older = host.ask(follow=[before.epoch, before.seq, before.root.hex()])
    assert older["error"] == "UsageError"
    assert "is not newer than the one shown" in older["problem"]
    assert shell(host, "cat top") == "second"


def test_store_when_the_host_puts_back_the_older_directory_is_refused_and_the_mount_stays(
    packed: Any, host: Any, tmp_path: Path
) -> None:
    kept = shutil.copytree(packed.directory, tmp_path / "kept")
    packed.fill(tree(tmp_path / "second", {"m/2/model": b"2" * SIZE, "top": b"second"}))
    packed.directory.rename(tmp_path / "newer")
    kept.rename(packed.directory)
    refused = host.ask(follow=True)
    assert refused["error"] == "VolumeRollbackError", refused
    assert shell(host, "cat top; echo; ls m").split() == ["first", "1"]
    packed.directory.rename(tmp_path / "older")
    (tmp_path / "newer").rename(packed.directory)
    host.ask(follow=True)
    assert shell(host, "cat top; echo; ls m").split() == ["second", "2"]


def test_directory_when_a_program_stands_in_it_stays_the_one_it_entered(
    packed: Any, host: Any, tmp_path: Path
) -> None:
    opened = host.ask(open="m")["descriptor"]
    packed.fill(tree(tmp_path / "second", {"m/2/model": b"2"}))
    host.ask(follow=True)
    assert host.ask(listing=opened) == {"names": ["1"]}
    assert shell(host, "ls m").split() == ["2"]
    host.ask(close=opened)


def test_mount_when_it_was_not_made_to_follow_refuses(packed: Any, tmp_path: Path) -> None:
    with packed.mounted(writable=False) as host:
        packed.fill(tree(tmp_path / "second", {"top": b"second"}))
        refused = host.ask(follow=True)
        assert refused["error"] == "UsageError"
        assert "this volume was opened at one state" in refused["problem"]
