"""The host of `attacks.py`: what it has seen of the ciphertext, and what it does with it.

Where the host cannot rename single files, it brings back the metadata of a time when it was so.
"""

import os
import random
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from _sealed_systems import System

CHUNK = 65536
Place = tuple[str, int]  # object in the store, offset of a block


def content(seed: int, chunks: int) -> bytes:
    return random.Random(seed).randbytes(chunks * CHUNK)


@dataclass
class Host:
    """Who has the storage: the ciphertext after each step, and a copy of the newest to change."""

    system: System
    steps: dict[str, Path] = field(default_factory=dict)
    store: Path = Path()

    def objects(self, step: str) -> dict[str, Path]:
        """Return all files and links of a step, by their place in the store."""
        root = self.steps[step]
        return {str(path.relative_to(root)): path for path in root.rglob("*") if not is_directory(path)}

    def before(self, step: str) -> str:
        names = list(self.steps)
        return names[names.index(step) - 1]

    def changed(self, step: str) -> list[str]:
        """Return the objects that a step made or changed."""
        old, new = self.objects(self.before(step)), self.objects(step)
        return sorted(name for name, path in new.items() if name not in old or raw(path) != raw(old[name]))

    def blocks(self, step: str) -> list[Place]:
        """Return the blocks of content that a step wrote, in order."""
        found = []
        old, new = self.objects(self.before(step)), self.objects(step)
        for name in self.changed(step):
            if not self.system.mirrored and not name.startswith("data/"):
                continue
            then, now = raw(old[name]) if name in old else b"", raw(new[name])
            for at in range(self.system.header, len(now), self.system.block):
                if now[at : at + self.system.block] != then[at : at + self.system.block]:
                    found.append((name, at))
        return found

    def object(self, step: str) -> Path:
        """Return the one new object of a step, in the copy that is attacked."""
        fresh = self.changed(step)
        if len(fresh) != 1:
            raise SystemExit(f"{self.system.name}, {step}: {fresh} instead of one object")
        return self.store / fresh[0]

    def read(self, place: Place, step: str | None = None) -> bytes:
        root = self.steps[step] if step else self.store
        return raw(root / place[0])[place[1] : place[1] + self.system.block]

    def write(self, place: Place, block: bytes) -> None:
        with (self.store / place[0]).open("r+b") as file:
            file.seek(place[1])
            file.write(block)

    def swap(self, one: Place, two: Place) -> None:
        first, second = self.read(one), self.read(two)
        self.write(one, second)
        self.write(two, first)

    def put_back(self, step: str, prefix: str = "") -> None:
        """Make the objects under a prefix what they were after a step."""
        for name in self.objects(list(self.steps)[-1]):
            if name.startswith(prefix):
                (self.store / name).unlink()
        for name, path in self.objects(step).items():
            if name.startswith(prefix):
                (self.store / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, self.store / name, follow_symlinks=False)


def is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def raw(path: Path) -> bytes:
    return os.readlink(path).encode() if path.is_symlink() else path.read_bytes()


def exchange(one: Path, two: Path) -> None:
    spare = one.with_name("spare")
    one.rename(spare)
    two.rename(one)
    spare.rename(two)


def life(mount: Path) -> dict[str, Callable[[], object]]:
    """Return the steps of the program that writes the tree."""

    def rewrite() -> None:
        with (mount / "a").open("r+b") as file:
            file.seek(CHUNK)
            file.write(content(9, 1))

    def attributes() -> None:
        (mount / "b").chmod(0o600)
        with suppress(OSError):  # securefs has no extended attributes on Linux
            os.setxattr(mount / "b", "user.note", b"kept")
        os.utime(mount / "b", ns=(7, 7_000_000_000))

    def relink() -> None:
        (mount / "link").unlink()
        (mount / "link").symlink_to("b")

    return {
        "begun": lambda: (mount / "keep").write_bytes(b"."),
        "one": (mount / "one").mkdir,
        "same in one": lambda: (mount / "one" / "same").write_bytes(content(1, 1)),
        "two": (mount / "two").mkdir,
        "same in two": lambda: (mount / "two" / "same").write_bytes(content(2, 1)),
        "a": lambda: (mount / "a").write_bytes(content(3, 4)),
        "b": lambda: (mount / "b").write_bytes(content(4, 4)),
        "long": lambda: (mount / "long").write_bytes(content(5, 3)),
        "gone": lambda: (mount / "gone").write_bytes(content(6, 2)),
        "link": lambda: (mount / "link").symlink_to("a"),
        "names swapped": lambda: exchange(mount / "a", mount / "b"),
        "names back": lambda: exchange(mount / "a", mount / "b"),
        "directory moved": lambda: (mount / "one").rename(mount / "two" / "one"),
        "directory back": lambda: (mount / "two" / "one").rename(mount / "one"),
        "directories swapped": lambda: exchange(mount / "one", mount / "two"),
        "directories back": lambda: exchange(mount / "one", mount / "two"),
        "attributes": attributes,
        "link changed": relink,
        "long cut": lambda: os.truncate(mount / "long", 2 * CHUNK),
        "gone deleted": (mount / "gone").unlink,
        "a rewritten": rewrite,
    }


def live(system: System) -> Host:
    """Write the tree; keep the ciphertext after each step."""
    system.create()
    host = Host(system)
    with system.mounted(system.store, writable=True) as mount:
        for number, (name, act) in enumerate(life(mount).items()):
            act()
            with (mount / "keep").open("r+b") as file:
                os.fsync(file.fileno())
            copy = system.area / "steps" / f"{number:02}"
            shutil.copytree(system.store, copy, symlinks=True)
            host.steps[name] = copy
    # The last step is what remains after the unmount.
    last = system.area / "steps" / "last"
    shutil.copytree(system.store, last, symlinks=True)
    host.steps["last"] = last
    return host


def flip(host: Host) -> None:
    place = host.blocks("b")[1]
    block = bytearray(host.read(place))
    block[100] ^= 1
    host.write(place, bytes(block))


def swap_in_file(host: Host) -> None:
    host.swap(host.blocks("b")[0], host.blocks("b")[2])


def swap_between_files(host: Host) -> None:
    host.swap(host.blocks("b")[3], host.blocks("long")[1])


def cut(host: Host) -> None:
    name, at = host.blocks("b")[-1]
    os.truncate(host.store / name, at)


def cut_to_zero(host: Host) -> None:
    os.truncate(host.store / host.blocks("b")[0][0], 0)


def extend(host: Host) -> None:
    """Bring the end back that the program has cut off."""
    for place in host.blocks("long")[2 * CHUNK // (4096 if host.system.mirrored else CHUNK) :]:
        host.write(place, host.read(place, "long"))


def zero(host: Host) -> None:
    host.write(host.blocks("b")[1], bytes(host.system.block))


def append_zeros(host: Host) -> None:
    with (host.store / host.blocks("b")[-1][0]).open("ab") as file:
        file.write(bytes(host.system.block))


def swap_names(host: Host) -> None:
    if host.system.mirrored:
        exchange(host.store / host.blocks("b")[0][0], host.store / host.blocks("a")[0][0])
    else:
        host.put_back("names swapped", "metadata/")


def copy_over(host: Host) -> None:
    if host.system.mirrored:
        shutil.copy2(host.store / host.blocks("a")[0][0], host.store / host.blocks("b")[0][0])
    else:
        for source, target in zip(host.blocks("a"), host.blocks("b"), strict=True):
            host.write(target, host.read(source, "a"))


def of_directory(host: Host, step: str) -> Path:
    return host.store / Path(host.blocks(step)[0][0]).parent


def move_directory(host: Host) -> None:
    if host.system.mirrored:
        one = of_directory(host, "same in one")
        one.rename(of_directory(host, "same in two") / one.name)
    else:
        host.put_back("directory moved", "metadata/")


def swap_directories(host: Host) -> None:
    if host.system.mirrored:
        exchange(of_directory(host, "same in one"), of_directory(host, "same in two"))
    else:
        host.put_back("directories swapped", "metadata/")


def delete(host: Host) -> None:
    if host.system.mirrored:
        (host.store / host.blocks("b")[0][0]).unlink()
    else:
        host.put_back("a", "metadata/")


def resurrect(host: Host) -> None:
    if host.system.mirrored:
        name = host.blocks("gone")[0][0]
        shutil.copy2(host.steps["gone"] / name, host.store / name)
    else:
        host.put_back("long cut", "metadata/")


def older_file(host: Host) -> None:
    for name in {place[0] for place in host.blocks("a")}:
        shutil.copy2(host.steps["gone deleted"] / name, host.store / name)
    if not host.system.mirrored:
        host.put_back("gone deleted", "metadata/")


def older_chunk(host: Host) -> None:
    if host.system.mirrored:
        place = host.blocks("a rewritten")[0]
        host.write(place, host.read(place, "gone deleted"))
    else:
        host.write(host.blocks("a rewritten")[0], host.read(host.blocks("a")[1], "a"))


def older_volume(host: Host) -> None:
    host.put_back("b")


def mix(host: Host) -> None:
    older = host.objects("long")
    differ = [name for name in sorted(older) if (host.store / name).exists()]
    for name in [one for one in differ if raw(host.store / one) != raw(older[one])][::2]:
        shutil.copy2(older[name], host.store / name, follow_symlinks=False)


def older_link(host: Host) -> None:
    if host.system.mirrored:
        host.object("link").unlink()
        shutil.copy2(host.steps["link"] / host.changed("link")[0], host.object("link"), follow_symlinks=False)
    else:
        host.put_back("attributes", "metadata/")


def older_attributes(host: Host) -> None:
    if host.system.mirrored:
        victim = host.store / host.blocks("b")[0][0]
        victim.chmod(0o777)
        os.utime(victim, ns=(1, 1))
    else:
        host.put_back("directories back", "metadata/")


ATTACKS: list[tuple[str, Callable[[Host], None]]] = [
    ("flip a bit", flip),
    ("swap chunks in a file", swap_in_file),
    ("swap chunks between files", swap_between_files),
    ("cut at a chunk edge", cut),
    ("cut to zero", cut_to_zero),
    ("extend with a valid chunk", extend),
    ("zero a chunk", zero),
    ("append zeros", append_zeros),
    ("swap names", swap_names),
    ("copy contents over another file", copy_over),
    ("move a directory", move_directory),
    ("swap directories", swap_directories),
    ("delete a file", delete),
    ("resurrect a file", resurrect),
    ("roll back one file", older_file),
    ("roll back one chunk", older_chunk),
    ("roll back the whole volume", older_volume),
    ("mix old and new", mix),
    ("change a symbolic link's target", older_link),
    ("change mode and times", older_attributes),
]
