"""How a volume behaves as it grows: mount, commits, creating, reading and memory, by files and by bytes.

`python benchmarks/growth.py [--quick] [--files N …] [--gigabytes N …] [--area DIR] [--json FILE]`, as root.
10^3 to 10^6 files and 1, 4, 16 GB. The ciphertext lies in memory (/dev/shm) unless `--area` names another
place; sizes that do not fit into it with some room to spare are left out, and that is said. The volume's
anchor is a local trust file beside it. The server of the mount is a process of its own: its memory is
measured. Everything happens in a mount namespace that ends with this process.

Resident memory while much is written: 20 GB in files of 1 GB, each of which replaces the one before it, since
20 GB at once do not fit into the memory of the machine that this was written on.
"""

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _report import RESULTS, Row, lines, publish
from securetf.shields.filesystem import closing, enter_mount_namespace, open_volume, pack_tar
from securetf.shields.local_trust import LocalTrust

MIB, GB = 1 << 20, 10**9
FILES = (1_000, 10_000, 100_000, 1_000_000)
GIGABYTES = (1.0, 4.0, 16.0)
PER_DIRECTORY = 1000
CONTENT = b"what a small file holds: an index, a label, a line of settings\n"
SAMPLE = 1000  # files that are made, or read, in a volume of each size
COMMITS = 20
MOST_MEMORY_PER_FILE, MOST_MOUNT_S = 300, 3.0  # at a million files: design/VOLUME.md, issue 6
MOST_RESIDENT = 512 * MIB  # while writing: a bound, whatever is written
SERVER = Path(__file__).with_name("_volume_server.py")


class Scene:
    """A volume in a directory of its own."""

    def __init__(self, area: Path, name: str) -> None:
        self.base = area / name
        self.store, self.mounted, self.trust = self.base / "v", self.base / "mnt", self.base / "trust"
        self.mounted.mkdir(parents=True)
        LocalTrust.create(self.trust)

    @contextmanager
    def served(self, *, writable: bool) -> Iterator["Server"]:
        """Mount it by a process of its own."""
        server = Server(self, writable)
        yield server
        server.stop()

    def remove(self) -> None:
        shutil.rmtree(self.base)


class Server:
    def __init__(self, scene: Scene, writable: bool) -> None:
        given = {"directory": scene.store, "trust": scene.trust, "mountpoint": scene.mounted}
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), json.dumps({**given, "writable": writable}, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.begin = self._line()

    def memory(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._line()

    def stop(self) -> None:
        self._process.communicate()
        if self._process.returncode != 0:
            raise SystemExit("the server of the mount failed")

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the server of the mount failed")
        return json.loads(line)


def tar_of_small_files(count: int, out: io.BufferedWriter) -> None:
    """Write a tar stream of `count` small files in directories."""
    padded = CONTENT.ljust(512, b"\0")
    with out:
        for number in range(count):
            member = tarfile.TarInfo(f"{number // PER_DIRECTORY}/{number}")
            member.size = len(CONTENT)
            out.write(member.tobuf(tarfile.USTAR_FORMAT) + padded)
        out.write(bytes(1024))


def packed(scene: Scene, count: int) -> float:
    """Fill the volume from a tar stream; seconds. No tree of a million files has to lie anywhere."""
    reader, writer = os.pipe()
    source = threading.Thread(target=tar_of_small_files, args=(count, os.fdopen(writer, "wb")))
    trust = LocalTrust(scene.trust)
    begin = time.perf_counter()
    with closing(open_volume(scene.store, trust.grant(writable=True), trust.advance)) as volume:
        source.start()
        pack_tar(volume, f"/proc/self/fd/{reader}")
        source.join()
    os.close(reader)
    return time.perf_counter() - begin


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")  # names and inodes, not the ciphertext


def timed_commits(root: Path) -> list[float]:
    """Milliseconds of an fsync after a small change, again and again."""
    found = []
    for number in range(COMMITS):
        descriptor = os.open(root / f"committed-{number}", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, CONTENT)
        begin = time.perf_counter()
        os.fsync(descriptor)
        found.append((time.perf_counter() - begin) * 1000)
        os.close(descriptor)
    return found


def made(root: Path) -> float:
    """Files a second that are made in a directory of their own."""
    (root / "made").mkdir()
    begin = time.perf_counter()
    for number in range(SAMPLE):
        descriptor = os.open(root / "made" / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, CONTENT)
        os.close(descriptor)
    return SAMPLE / (time.perf_counter() - begin)


def read_at_random(root: Path, count: int) -> float:
    """Files a second, cold, from anywhere in the volume."""
    draw = random.Random(5)
    drop_caches()
    begin = time.perf_counter()
    for _ in range(SAMPLE):
        number = draw.randrange(count)
        descriptor = os.open(root / str(number // PER_DIRECTORY) / str(number), os.O_RDONLY)
        if os.read(descriptor, 4096) != CONTENT:
            raise SystemExit("a file has other contents")
        os.close(descriptor)
    return SAMPLE / (time.perf_counter() - begin)


def by_files(area: Path, count: int) -> dict[str, tuple[float, str]]:
    scene = Scene(area, f"files-{count}")
    found = {"pack": (count / packed(scene, count), "files/s")}
    with scene.served(writable=False) as server:
        found["mount"] = server.begin["seconds"], "s"
        found["mount, processor time"] = server.begin["processor"], "s"
        found["memory per file"] = (server.begin["resident"] - server.begin["before"]) / count, "bytes"
        found["cold read"] = read_at_random(scene.mounted, count), "files/s"
    with scene.served(writable=True) as server:
        found["mount to write"] = server.begin["seconds"], "s"
        commits = timed_commits(scene.mounted)
        found["commit"] = statistics.median(commits), "ms"
        found["slowest commit"] = max(commits), "ms"
        found["create"] = made(scene.mounted), "files/s"
        found["peak memory"] = server.memory()["peak"] / MIB, "MiB"
    scene.remove()
    return found


def write_file(path: Path, size: int, block: bytes) -> float:
    """Write and sync a file; megabytes a second."""
    begin = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for _ in range(size // len(block)):
        os.write(descriptor, block)
    os.fsync(descriptor)
    os.close(descriptor)
    return size / 1e6 / (time.perf_counter() - begin)


def read_file(path: Path) -> float:
    Path("/proc/sys/vm/drop_caches").write_text("3")
    buffer, done, begin = bytearray(MIB), 0, time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    while count := os.readv(descriptor, [buffer]):
        done += count
    os.close(descriptor)
    return done / 1e6 / (time.perf_counter() - begin)


def by_bytes(area: Path, gigabytes: float) -> dict[str, tuple[float, str]]:
    scene, block = Scene(area, f"bytes-{gigabytes}"), random.Random(1).randbytes(MIB)
    found = {}
    with scene.served(writable=True) as server:
        found["write"] = write_file(scene.mounted / "big", int(gigabytes * GB), block), "MB/s"
        found["commit"] = statistics.median(timed_commits(scene.mounted)), "ms"
        found["peak memory"] = server.memory()["peak"] / MIB, "MiB"
    with scene.served(writable=False) as server:
        found["mount"] = server.begin["seconds"], "s"
        found["cold read"] = read_file(scene.mounted / "big"), "MB/s"
        found["peak memory of a reader"] = server.memory()["peak"] / MIB, "MiB"
    scene.remove()
    return found


def much_written(area: Path, gigabytes: int) -> tuple[float, float]:
    """Write this much in files of 1 GB, each over the one before; peak memory and MB/s."""
    scene, block = Scene(area, "much"), random.Random(2).randbytes(MIB)
    with scene.served(writable=True) as server:
        rates = [write_file(scene.mounted / "big", GB, block) for _ in range(gigabytes)]
        peak = server.memory()["peak"]
    scene.remove()
    return peak / MIB, statistics.median(rates)


def rows_of(found: dict[str, dict[str, tuple[float, str]]], targets: dict[str, float]) -> list[Row]:
    rows = []
    for size, figures in found.items():
        for name, (value, unit) in figures.items():
            whole = f"{name}, {size}"
            most = targets.get(whole)
            met = None if most is None else value <= most
            rows.append(Row(name=whole, value=value, unit=unit, target=most, met=met))
    return rows


def fits(area: Path, gigabytes: float) -> bool:
    return shutil.disk_usage(area).free > gigabytes * GB * 1.3 and (
        not str(area).startswith("/dev/shm")  # noqa: S108  (compared only)
        or available_memory() > gigabytes * GB * 1.3
    )


def available_memory() -> int:
    line = next(one for one in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in one)
    return int(line.split()[1]) * 1024


def plotted(found: dict[str, dict[str, tuple[float, str]]], names: list[str]) -> dict[str, list[float]]:
    return {
        f"{name} ({next(iter(found.values()))[name][1]})": [figures[name][0] for figures in found.values()]
        for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: under a minute")
    parser.add_argument("--files", type=int, nargs="*", help="numbers of files")
    parser.add_argument("--gigabytes", type=float, nargs="*", help="sizes")
    parser.add_argument("--much", type=int, help="gigabytes that are written over one another")
    parser.add_argument("--area", type=Path, default=Path("/dev/shm"), help="where the volumes lie")  # noqa: S108
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    options = parser.parse_args()
    counts = options.files if options.files is not None else (FILES[:2] if options.quick else FILES)
    sizes = options.gigabytes if options.gigabytes is not None else ((0.25,) if options.quick else GIGABYTES)
    much = options.much if options.much is not None else (2 if options.quick else 20)
    enter_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="securetf-growth-", dir=options.area) as name:
        area = Path(name)
        files = {f"{count} files": by_files(area, count) for count in counts}
        left_out = [size for size in sizes if not fits(options.area, size)]
        data = {f"{size} GB": by_bytes(area, size) for size in sizes if size not in left_out}
        peak, rate = much_written(area, much) if much else (0.0, 0.0)
    targets = {
        f"memory per file, {FILES[-1]} files": MOST_MEMORY_PER_FILE,
        f"mount, {FILES[-1]} files": MOST_MOUNT_S,
    }
    rows = rows_of(files, targets) + rows_of(data, {})
    if much:
        most = MOST_RESIDENT / MIB
        met = peak <= most
        rows.append(Row(name=f"peak memory, {much} GB written", value=peak, unit="MiB", target=most, met=met))
        rows.append(Row(name=f"write, {much} GB written", value=rate, unit="MB/s"))
    publish("How a volume grows", rows, options.json, {"area": str(options.area), "left_out_gb": left_out})
    for size in left_out:
        print(f"left out: {size} GB do not fit into {options.area}")
    if len(files) > 1:
        chosen = plotted(files, ["mount", "memory per file", "commit", "create", "cold read"])
        lines(RESULTS / "growth.png", "A volume by its number of files", "files", list(counts), chosen)


if __name__ == "__main__":
    main()
