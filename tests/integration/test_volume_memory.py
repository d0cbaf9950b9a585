"""A volume laid out as a plain tree and taken back: whatever happened to the tree, the volume is equal."""

import mmap
import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from securetf.errors import UsageError, VolumeError
from securetf.shields.filesystem import closing, lay_out, memory_needed, take_back

MIB = 1 << 20
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and modes of others")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory on a tmpfs, which is where volumes are laid out, and which keeps no times of mappings."""
    path = tmp_path / "tree"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def picture(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that a volume keeps, by path; hard links by the first path of the node."""
    found, first = {}, dict[int, str]()
    for path in [top, *sorted(top.rglob("*"))]:
        facts, name = path.lstat(), str(path.relative_to(top))
        kind = stat.S_IFMT(facts.st_mode)
        content: object = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            content = facts.st_rdev
        node = first.setdefault(facts.st_ino, name) if facts.st_nlink > 1 and kind != stat.S_IFDIR else ""
        labels = {} if kind == stat.S_IFLNK else {one: os.getxattr(path, one) for one in os.listxattr(path)}
        owned = (kind, stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid, facts.st_mtime_ns)
        found[name] = (*owned, content, node, labels)
    return found


def same(packed: Any, tree: Path, area: Path) -> None:
    """The volume, laid out anew, is the tree."""
    area.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(area)], check=True)
    try:
        with closing(packed.open(writable=False)) as volume:
            lay_out(volume, str(area))
            assert volume.check() == []
        assert picture(area) == picture(tree)
    finally:
        subprocess.run(["umount", str(area)], check=True)


def taken(packed: Any, tree: Path) -> tuple[int, int, int]:
    """Take the tree back; return the commits that it took, bytes that were written, files that stayed."""
    with closing(packed.open(writable=True)) as volume:
        begun = volume.status().seq
        done = take_back(volume, str(tree))
        return volume.status().seq - begun, done.bytes, done.kept


class Editor:
    """Changes a tree at random, as programs do."""

    def __init__(self, tree: Path, seed: int) -> None:
        self.tree, self.draw = tree, random.Random(seed)

    def file(self) -> Path | None:
        found = [one for one in self.tree.rglob("*") if one.is_file() and not one.is_symlink()]
        return self.draw.choice(sorted(found)) if found else None

    def new(self) -> Path:
        found = [self.tree, *(one for one in self.tree.rglob("*") if one.is_dir() and not one.is_symlink())]
        return self.draw.choice(sorted(found)) / f"n{self.draw.randrange(12)}"

    def step(self) -> None:
        often, seldom = (self.make, self.patch), (self.remove, self.rename, self.link, self.attributes)
        self.draw.choice([*often, *often, *seldom])()

    def make(self) -> None:
        path = self.new()
        if path.exists() or path.is_symlink():
            return
        kind = self.draw.randrange(6)
        if kind == 0:
            path.mkdir(mode=self.draw.choice([0o755, 0o2750, 0o1777]))
        elif kind == 1:
            path.symlink_to(f"../t{self.draw.randrange(3)}")
        elif kind == 2:
            special = self.draw.choice([stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
            device = special in (stat.S_IFCHR, stat.S_IFBLK)
            os.mknod(path, special | 0o620, os.makedev(*self.draw.choice([(0, 0), (259, 1 << 19)])) * device)
        else:
            path.write_bytes(self.draw.randbytes(self.draw.choice([0, 10, 3000, 70_000, MIB, 2_500_000])))

    def patch(self) -> None:
        path = self.file()
        if path is None:
            return
        size = path.stat().st_size
        kind = self.draw.randrange(5)
        if kind == 0:
            os.truncate(path, self.draw.choice([0, size // 2, size + 5000, size + 3 * MIB]))
        elif kind == 1 and size > 8192:
            subprocess.run(["fallocate", "-p", "-o", "4096", "-l", str(size // 2), str(path)], check=True)
        elif kind == 2 and size > 0:  # through a mapping, and with the old time of change
            times, at = path.stat(), self.draw.randrange(size)
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
                mapping[at] ^= 1
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        else:
            with path.open("r+b") as file:
                file.seek(self.draw.randrange(size + 1))
                file.write(self.draw.randbytes(self.draw.choice([1, 5000, 200_000])))

    def remove(self) -> None:
        path = self.new()
        if path.is_dir() and not path.is_symlink():
            subprocess.run(["rm", "-r", str(path)], check=True)
        elif path.exists() or path.is_symlink():
            path.unlink()

    def rename(self) -> None:
        source, target = self.new(), self.new()
        if (source.exists() or source.is_symlink()) and not target.is_relative_to(source):
            subprocess.run(["mv", "-T", str(source), str(target)], check=False, stderr=subprocess.DEVNULL)

    def link(self) -> None:
        path, target = self.file(), self.new()
        if path is not None and not target.exists() and not target.is_symlink():
            os.link(path, target)

    def attributes(self) -> None:
        path = self.file()
        if path is None:
            return
        kind = self.draw.randrange(4)
        if kind == 0:
            path.chmod(self.draw.choice([0o600, 0o4711, 0o2755]))
        elif kind == 1:
            os.chown(path, self.draw.randrange(5), self.draw.randrange(5))
        elif kind == 2:
            os.utime(path, ns=(1, self.draw.randrange(1 << 60)))
        elif os.listxattr(path):
            os.removexattr(path, os.listxattr(path)[0])
        else:
            os.setxattr(path, f"user.n{self.draw.randrange(2)}", self.draw.randbytes(20))


@pytest.mark.root
@pytest.mark.parametrize("seed", range(12))
def test_taken_back_volume_is_equal_to_the_tree_after_any_changes(
    new_volume: Callable[..., Any], tree: Path, tmp_path: Path, seed: int
) -> None:
    packed, editor = new_volume(), Editor(tree, seed)
    for number in range(4):
        for _ in range(25):
            editor.step()
        assert taken(packed, tree)[0] <= 1
        same(packed, tree, tmp_path / f"again-{number}")
        assert taken(packed, tree)[:2] == (0, 0), "nothing changed, and yet something was committed"


@pytest.mark.root
def test_taken_back_writes_the_blocks_that_differ_as_one_commit(
    new_volume: Callable[..., Any], tree: Path, tmp_path: Path
) -> None:
    packed = new_volume()
    (tree / "big").write_bytes(os.urandom(20 * MIB))
    (tree / "small").write_text("small")
    assert taken(packed, tree) == (1, 20 * MIB + 5, 0)
    with (tree / "big").open("r+b") as file:
        file.seek(7 * MIB + 77)
        file.write(b"changed")
    assert taken(packed, tree) == (1, MIB, 1)
    same(packed, tree, tmp_path / "again")


@pytest.mark.root
def test_taken_back_over_a_chunk_that_the_host_damaged_writes_the_file_anew_from_memory(
    new_volume: Callable[..., Any], tree: Path, tmp_path: Path
) -> None:
    packed = new_volume()
    (tree / "big").write_bytes(os.urandom(3_000_000))
    taken(packed, tree)
    segment = max((packed.directory / "data").rglob("*"), key=lambda one: one.is_file() * one.stat().st_size)
    with segment.open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"damaged")
    with closing(packed.open(writable=False)) as damaged:
        assert [one.path for one in damaged.check()] == ["/big"]
    assert taken(packed, tree) == (1, 3_000_000, 0)
    same(packed, tree, tmp_path / "again")


@pytest.mark.root
def test_taken_back_when_it_cannot_be_finished_changes_nothing(
    new_volume: Callable[..., Any], tree: Path
) -> None:
    packed = new_volume()
    (tree / "a").write_text("first")
    taken(packed, tree)
    (tree / "a").write_text("second")
    (tree / "more").write_bytes(bytes(70_000))
    with (tree / "z").open("wb") as file:
        file.truncate((1 << 48) + 1)
    with pytest.raises(VolumeError, match="z: "):
        taken(packed, tree)
    with closing(packed.open(writable=False)) as volume:
        assert [entry.name for entry in volume.ls("/")] == ["a"]
        assert volume.cat("a") == b"first"


@pytest.mark.root
def test_devices_in_a_tree_in_memory_are_kept_with_all_else_and_those_of_a_machines_directory_are_not_packed(
    new_volume: Callable[..., Any], tree: Path, tmp_path: Path
) -> None:
    packed, numbers = new_volume(), [os.makedev(0, 0), os.makedev(4095, (1 << 20) - 1)]
    (tree / "a").write_text("data")
    os.mknod(tree / "whiteout", stat.S_IFCHR | 0o600, numbers[0])
    os.mknod(tree / "last", stat.S_IFBLK | 0o644, numbers[1])
    os.link(tree / "last", tree / "again")
    taken(packed, tree)
    same(packed, tree, tmp_path / "laid")
    assert taken(packed, tree)[:2] == (0, 0)
    (tree / "last").unlink()
    (tree / "again").unlink()
    os.mknod(tree / "last", stat.S_IFBLK | 0o644, numbers[0])
    assert taken(packed, tree)[0] == 1, "another device under the same name"
    same(packed, tree, tmp_path / "changed")
    with closing(packed.open(writable=True)) as volume:
        with pytest.raises(UsageError, match="last is a device, which is not packed"):
            volume.pack(str(tree))
        with pytest.raises(UsageError, match="the volume holds a device, /last, which opens nothing there"):
            volume.unpack(str(tmp_path / "plain"))


def test_memory_that_is_needed_counts_pages_of_content_and_names(
    new_volume: Callable[..., Any], tmp_path: Path
) -> None:
    packed, source = new_volume(), tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(5 * MIB + 1))
    os.link(source / "big", source / "again")
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    packed.fill(source)
    with closing(packed.open(writable=False)) as volume:
        assert memory_needed(volume) == 5 * MIB + 4096 + 4 * 1024
