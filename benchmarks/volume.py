"""The file-system shield by itself, against gocryptfs, securefs and FUSE without cryptography.

`python benchmarks/volume.py [--quick] [--json FILE]`, as root, with gocryptfs, securefs, and what it takes
to compile libfuse's example (README.md). EVALUATION row 4. P is that example: FUSE over plain files. The
files of all lie on a tmpfs, so the software is measured and not a disk; reads are cold after
drop_caches (the ciphertext stays in memory), warm where said. Contenders alternate; medians of 5 rounds
(3 with --quick). Everything happens in a mount namespace that ends with this process. The volume's anchor
is a local trust file on the same tmpfs: write and fsync rows include its fsyncs and rename, but no network.
Where the kernel has FUSE over io_uring, rows "... over io_uring" come from mounts that were made while it was
offered (`enable_uring`, which is then put back).
"""

import argparse
import json
import mmap
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _report import machine
from _volume_contenders import Contender, Gocryptfs, Passthrough, Plain, Securefs, Securetf, over_io_uring
from securetf.shields.filesystem import enter_mount_namespace, mount_tmpfs

MIB = 1 << 20
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20)  # of the plot
TARGETS: dict[tuple[str, str], float] = {  # design/VOLUME.md "Targets": the least ratio to each peer
    ("write_and_fsync", "P"): 0.9,
    ("cold_read", "P"): 0.93,
    ("write_and_fsync", "gocryptfs"): 2.0,
    ("write_and_fsync", "gocryptfs+"): 2.0,
    ("cold_read", "gocryptfs"): 2.0,
    ("cold_read", "gocryptfs+"): 1.3,
    ("mmap_cold_read", "gocryptfs"): 2.0,
    ("reopen_warm_read", "gocryptfs"): 8.0,
    ("random_4k", "gocryptfs"): 1.0,
    ("small_create", "gocryptfs"): 2.0,
    ("pack_small_files", "gocryptfs"): 5.0,
    ("stat over io_uring", "gocryptfs"): 3.0,
    ("small_create over io_uring", "gocryptfs"): 3.0,
    ("random_4k over io_uring, 16 KiB chunks", "gocryptfs"): 1.2,
}
LIMITS = {
    "write_and_fsync": "FUSE copies through the page cache (1 MiB requests), then sealing and one commit",
    "cold_read": "copies to page cache and program; decryption (a third of the server)",
    "mmap_cold_read": "as cold_read, plus page faults",
    "reopen_warm_read": "one copy out of the page cache, as of a file in memory (plain)",
    "random_4k": "one FUSE round trip and one 64 KiB chunk to decrypt for each 4 KiB",
    "small_create": "FUSE round trips for each file (LOOKUP, CREATE, WRITE), classic transport",
    "stat": "one FUSE round trip for each file: LOOKUP, which is answered from memory",
    "small_cold_read": "FUSE round trips: LOOKUP, OPEN, READ",
    "append_fsync": "commit: journal record, two syncs of the store, anchor",
    "pack_small_files": "reading the source; no mount is involved",
}


@dataclass
class Sizes:
    sequential_mib: int
    random_reads: int
    small_files: int
    packed_files: int
    appends: int
    rounds: int


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def write_file(path: Path, mib: int, block: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    for _ in range(mib):
        os.write(descriptor, block)
    os.fsync(descriptor)
    os.close(descriptor)


def read_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    buffer = bytearray(MIB)
    while os.readv(descriptor, [buffer]):
        pass
    os.close(descriptor)


def map_file(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        for start in range(0, len(mapping), MIB):
            mapping[start : start + MIB]


def read_at_random(path: Path, mib: int, count: int) -> None:
    generator = random.Random(3)
    descriptor = os.open(path, os.O_RDONLY)
    buffer = bytearray(4096)
    for _ in range(count):
        os.preadv(descriptor, [buffer], generator.randrange(mib * 256) * 4096)
    os.close(descriptor)


def make_small(directory: Path, count: int, data: bytes) -> None:
    directory.mkdir()
    for number in range(count):
        descriptor = os.open(directory / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, data)
        os.close(descriptor)


def read_small(directory: Path, count: int) -> None:
    for number in range(count):
        descriptor = os.open(directory / str(number), os.O_RDONLY)
        os.read(descriptor, 8192)
        os.close(descriptor)


def stat_small(directory: Path, count: int) -> None:
    for number in range(count):
        os.stat(directory / str(number))


def append_and_sync(path: Path, count: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(count):
        os.write(descriptor, bytes(4096))
        os.fsync(descriptor)
    os.close(descriptor)


def one_round(contender: Any, sizes: Sizes) -> None:
    """Run each measurement once on a new file system."""
    block = random.Random(1).randbytes(MIB)
    root: Path = contender.start()
    big, small = root / "big", root / "small"
    mib, count = sizes.sequential_mib, sizes.small_files
    megabytes = mib * MIB / 1e6
    contender.note("write_and_fsync", megabytes / timed(lambda: write_file(big, mib, block)))
    drop_caches()
    contender.note("cold_read", megabytes / timed(lambda: read_file(big)))
    contender.note("reopen_warm_read", megabytes / timed(lambda: read_file(big)))
    drop_caches()
    contender.note("mmap_cold_read", megabytes / timed(lambda: map_file(big)))
    drop_caches()
    contender.note(
        "random_4k", sizes.random_reads / timed(lambda: read_at_random(big, mib, sizes.random_reads))
    )
    contender.note("small_create", count / timed(lambda: make_small(small, count, block[:4096])))
    drop_caches()
    contender.note("stat", count / timed(lambda: stat_small(small, count)))
    drop_caches()
    contender.note("small_cold_read", count / timed(lambda: read_small(small, count)))
    contender.note(
        "append_fsync", sizes.appends / timed(lambda: append_and_sync(root / "log", sizes.appends))
    )
    contender.stop()


def warm_read(contender: Plain, sizes: Sizes) -> None:
    """Measure what the machine reads from a file in memory, with no file system of ours or a peer's."""
    big, mib = contender.start() / "big", sizes.sequential_mib
    write_file(big, mib, random.Random(1).randbytes(MIB))
    read_file(big)
    contender.note("reopen_warm_read", mib * MIB / 1e6 / timed(lambda: read_file(big)))
    big.unlink()


def plain_tree(area: Path, count: int) -> Path:
    generator = random.Random(2)
    for number in range(count):
        directory = area / "source" / str(number % 100)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / str(number)).write_bytes(generator.randbytes(generator.randrange(200, 6000)))
    return area / "source"


UNITS = {"write_and_fsync": "MB/s", "cold_read": "MB/s", "reopen_warm_read": "MB/s", "mmap_cold_read": "MB/s"}


def rows(ours: Contender, peers: list[Contender], suffix: str = "") -> list[dict[str, Any]]:
    """Compare; `suffix` tells rows of another transport from those of the classic one."""
    found = []
    for row in ours.results:
        for peer in peers:
            if row not in peer.results:
                continue
            ratio = ours.median(row) / peer.median(row)
            name = row + suffix
            target = TARGETS.get((name, peer.name))
            found.append(
                {
                    "name": name,
                    "value": round(ours.median(row), 1),
                    "unit": UNITS.get(row, "1/s"),
                    "peer": peer.name,
                    "peer_value": round(peer.median(row), 1),
                    "ratio": round(ratio, 2),
                    "target": target,
                    "met": None if target is None else ratio >= target,
                    "simulated": True,
                    "limited_by": LIMITS[row],
                }
            )
    return found


def gocryptfs() -> dict[str, str]:
    """Return which release of the peer this is."""
    said = subprocess.run(["gocryptfs", "-version"], capture_output=True, text=True, check=True).stdout
    return {"gocryptfs": said.split(";")[0]}


def plot(found: list[dict[str, Any]], path: Path) -> str:
    try:
        import matplotlib as mpl  # noqa: PLC0415  (optional)
    except ImportError:
        return "no plot: matplotlib is not installed"
    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    names = list(dict.fromkeys(row["name"] for row in found))
    peers = list(dict.fromkeys(row["peer"] for row in found))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.15 * len(names) * len(peers)))
    height = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        ratios = {row["name"]: row["ratio"] for row in found if row["peer"] == peer}
        places = [place + number * height for place, name in enumerate(names) if name in ratios]
        axes.barh(places, [ratios[name] for name in names if name in ratios], height, label=f"of {peer}")
    axes.set_yticks([place + 0.4 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{one:g}" for one in TICKS])
    axes.margins(y=0.01)
    axes.set_xlabel("rate of securetf, as a multiple of the peer's (more is better)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    return f"plot: {path}"


def show(found: list[dict[str, Any]]) -> None:
    print(f"{'row':42} {'securetf':>10} {'peer':>12} {'value':>10} {'unit':5} {'ratio':>6} {'target':>6} met")
    for row in found:
        met = {None: "", True: "yes", False: "NO"}[row["met"]]
        print(
            f"{row['name']:42} {row['value']:10} {row['peer']:>12} {row['peer_value']:10} {row['unit']:5} "
            f"{row['ratio']:6} {row['target'] or '':>6} {met}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: under a minute")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    parser.add_argument("--plot", type=Path, default=Path("benchmarks/results/volume.png"))
    options = parser.parse_args()
    sizes = Sizes(96, 1000, 400, 1500, 60, 3) if options.quick else Sizes(384, 3000, 1500, 10_000, 300, 5)
    enter_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as name:
        area = Path(name)
        mount_tmpfs(name, size_bytes=6 << 30, mode=0o700)
        ours = Securetf("securetf", area / "s")
        peers: list[Contender] = [
            Gocryptfs("gocryptfs", area / "g"),
            Gocryptfs("gocryptfs+", area / "gp", read_ahead_kib=1024),
            Securefs("securefs", area / "sf"),
            Passthrough("P", area / "p").build(),
        ]
        plain = Plain("plain", area / "plain")
        uring = over_io_uring(area)
        source = plain_tree(area, sizes.packed_files)
        for _ in range(sizes.rounds):
            for contender in (ours, *uring, *peers):
                one_round(contender, sizes)
            warm_read(plain, sizes)
            for contender in (ours, peers[0]):
                contender.note("pack_small_files", sizes.packed_files / contender.take(source))  # type: ignore[attr-defined]
        subprocess.run(["umount", "-l", name], check=True)
    found = rows(ours, [*peers, plain])
    for contender in uring:
        found += rows(contender, [ours, *peers, plain], contender.name)
    show(found)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    print(plot(found, options.plot))
    if options.json:
        options.json.write_text(
            json.dumps({"rows": found, "machine": machine() | gocryptfs()}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
