"""A volume under what people do with one, on the machine's disk: against gocryptfs, and against plain files.

`python benchmarks/volume_workloads.py [--quick] [--area DIR] [--json FILE]`, as root, with gocryptfs. The
other targets of a volume, beside those of `volume.py`, whose files lie in memory:

- reads from the disk: the page cache is dropped and the file system mounted anew before each;
- `tf.data` over TFRecords, first epoch (from the disk) and second, parsed only and with JPEG images decoded;
  and a checkpoint of TensorFlow's: beside the same program on plain files, and on P, FUSE over plain files
  without cryptography (`volume.py`), which is what the kernel's part takes;
- fsync of a `strict` volume that a CAS on loopback anchors, the state of both on that disk, and in memory,
  which is what the software takes: one thread, sixteen;
- how much more than its files a volume stores.

Contenders take turns; medians of 5 rounds (3 with --quick). Everything happens in a mount namespace that ends
with this process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _anchored import SEQUENTIAL, TOGETHER, fsyncs, mounted
from _report import RESULTS, Row, panels, publish
from _volume_contenders import OFFERED, Gocryptfs, Passthrough, Plain, Securetf
from securetf.shields.filesystem import closing, enter_mount_namespace, mount_tmpfs, open_volume
from securetf.shields.local_trust import LocalTrust
from volume import MIB, drop_caches, make_small, read_file, read_small, timed, write_file

PROGRAM = Path(__file__).with_name("_tensorflow_files.py")
LARGE, SMALL, SMALL_URING = (
    "large file, from disk",
    "small files, from disk",
    "small files, from disk, io_uring",
)
# Steps of the program: the row's name, and how many times as long as on plain files at most.
STEPS: dict[tuple[str, int], tuple[str, float | None]] = {
    ("parse", 0): ("tf.data, TFRecords parsed, epoch 1", 1.10),
    ("parse", 1): ("tf.data, TFRecords parsed, epoch 2", 1.02),
    ("decode", 0): ("tf.data, JPEG decoded, epoch 1", 1.10),
    ("decode", 1): ("tf.data, JPEG decoded, epoch 2", 1.02),
    ("save", 0): ("checkpoint saved", 1.3),
    ("keep", 0): ("checkpoint saved, files synced", None),
}
LEAST = {LARGE: 1.5, SMALL: 3.0, SMALL_URING: 3.0}  # times gocryptfs
FSYNCS = {SEQUENTIAL: 1200.0, TOGETHER: 5000.0}  # a second, at least
OVERHEAD = 0.1  # per cent, of files of 1 MiB and more
MEMORY = ("tmpfs", "ramfs")


@dataclass
class Sizes:
    large_mib: int
    small_files: int
    records: int
    images: int
    variable_mib: int
    fsyncs: int
    stored_mib: int
    rounds: int


@dataclass
class Figures:
    """Row to contender to what was measured, in the order of the rounds."""

    found: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def note(self, row: str, contender: str, value: float) -> None:
        self.found.setdefault(row, {}).setdefault(contender, []).append(value)

    def median(self, row: str, contender: str) -> float:
        return statistics.median(self.found[row][contender])

    def row(self, name: str, ours: str, peer: str, unit: str, target: float | None, *, least: bool) -> Row:
        value, other = self.median(name, ours), self.median(name, peer)
        ratio = value / other
        met = None if target is None else (ratio >= target if least else ratio <= target)
        rounds = [a / b for a, b in zip(self.found[name][ours], self.found[name][peer], strict=True)]
        return Row(
            name=name, value=value, unit=unit, peer=peer, peer_value=other, ratio=ratio, target=target,
            met=met, spread=(min(rounds), max(rounds)),
        )  # fmt: skip


class Program:
    """TensorFlow, started once, that does what it is told in the directory that it is told."""

    def __init__(self, sizes: Sizes) -> None:
        given = {"records": sizes.records, "images": sizes.images, "variable_mib": sizes.variable_mib}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        )
        self._line()

    def do(self, what: str, at: Path) -> float:
        """Return the seconds that it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, "at": str(at)}) + "\n")
        self._process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        self._process.communicate()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the program with TensorFlow failed")
        return json.loads(line)


def from_disk(contenders: list[Any], sizes: Sizes, figures: Figures) -> None:
    """Read a large file and small ones, each after the caches were dropped and the mount was made anew."""
    block = os.urandom(MIB)
    roots = {one.name: one.start() for one in contenders}
    for root in roots.values():
        write_file(root / "large", sizes.large_mib, block)
        make_small(root / "small", sizes.small_files, block[:4096])
    for _ in range(sizes.rounds):
        for one in contenders:
            root = roots[one.name]
            one.again()
            drop_caches()
            spent = timed(lambda root=root: read_file(root / "large"))
            figures.note(LARGE, one.name, sizes.large_mib * MIB / 1e6 / spent)
            one.again()
            drop_caches()
            spent = timed(lambda root=root: read_small(root / "small", sizes.small_files))
            figures.note(SMALL, one.name, sizes.small_files / spent)
    for one in contenders:
        one.stop()


def tensorflow_round(
    program: Program, contenders: list[Any], roots: dict[str, Path], figures: Figures
) -> None:
    for what in ("parse", "decode"):
        for one in contenders:
            one.again()
            drop_caches()
            for epoch in (0, 1):
                figures.note(STEPS[what, epoch][0], one.name, program.do(what, roots[one.name]))
    for what in ("save", "keep"):
        for one in contenders:
            os.sync()  # what was written before is not measured
            figures.note(STEPS[what, 0][0], one.name, program.do(what, roots[one.name]))


def with_tensorflow(contenders: list[Any], sizes: Sizes, figures: Figures) -> None:
    program = Program(sizes)
    roots = {one.name: one.start() for one in contenders}
    for root in roots.values():
        program.do("make", root)
        program.do("save", root)
    for root in roots.values():  # what a first call makes is not measured
        for what in ("parse", "decode"):
            program.do(what, root)
    for _ in range(sizes.rounds):
        tensorflow_round(program, contenders, roots, figures)
    program.end()
    for one in contenders:
        one.stop()


def anchored(area: Path, sizes: Sizes, where: str) -> list[Row]:
    """Measure with the state of volume and CAS in `area`, which lies `where`."""
    rates: dict[int, list[float]] = {threads: [] for threads in FSYNCS}
    with mounted(area) as root:
        for _ in range(sizes.rounds):
            for threads, found in rates.items():
                found.append(fsyncs(root, threads, sizes.fsyncs // (1 if threads == 1 else 4)))
    rows = []
    for threads, found in rates.items():
        value, target = statistics.median(found), FSYNCS[threads]
        name = f"anchored fsync {where}, {threads} thread{'s' if threads > 1 else ''}"
        rows.append(Row(name=name, value=value, unit="1/s", target=target, met=value >= target))
    return rows


def overhead(area: Path, mib: int, count: int) -> Row:
    """Pack `count` files of `mib` each into a new volume; what is stored beyond them, in per cent."""
    source = area / "source"
    source.mkdir(parents=True)
    for number in range(count):
        (source / str(number)).write_bytes(os.urandom(mib * MIB))
    trust = LocalTrust.create(area / "trust")
    with closing(open_volume(area / "store", trust.grant(writable=True), trust.advance)) as volume:
        volume.pack(str(source))
    stored = sum(one.stat().st_blocks * 512 for one in (area / "store").rglob("*") if one.is_file())
    held = count * mib * MIB
    value = (stored / held - 1) * 100
    name = f"stored beyond {count} file{'s' if count > 1 else ''} of {mib} MiB"
    return Row(name=name, value=value, unit="%", target=OVERHEAD, met=value <= OVERHEAD)


def on_disk(area: Path) -> None:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(area)], capture_output=True, text=True, check=True
    ).stdout.strip()
    if kind in MEMORY:
        raise SystemExit(f"{area} is memory ({kind}), not a disk; name another place with --area")


def measured(area: Path, sizes: Sizes) -> list[Row]:
    figures = Figures()
    ours, peer, plain = (
        Securetf("securetf", area / "s"),
        Gocryptfs("gocryptfs", area / "g"),
        Plain("plain", area / "p"),
    )
    uring = [Securetf("io_uring", area / "u", transport="io_uring")] if OFFERED.exists() else []
    from_disk([ours, *uring, peer, plain], sizes, figures)
    passthrough = Passthrough("P", area / "pp").build()
    with_tensorflow(
        [Securetf("securetf", area / "st"), Plain("plain", area / "pt"), passthrough], sizes, figures
    )
    rows = []
    for name, unit in ((LARGE, "MB/s"), (SMALL, "1/s")):
        rows.append(figures.row(name, "securetf", "gocryptfs", unit, LEAST[name], least=True))
        rows.append(figures.row(name, "securetf", "plain", unit, None, least=True))
    if uring:
        figures.found[SMALL_URING] = figures.found[SMALL]
        rows.append(figures.row(SMALL_URING, "io_uring", "gocryptfs", "1/s", LEAST[SMALL_URING], least=True))
    for name, most in STEPS.values():
        rows.append(figures.row(name, "securetf", "plain", "s", most, least=False))
        rows.append(figures.row(name, "securetf", "P", "s", None, least=False))
    rows += anchored(area / "anchored", sizes, "on disk")
    (area / "memory").mkdir()
    mount_tmpfs(str(area / "memory"), size_bytes=2 << 30, mode=0o700)
    rows += anchored(area / "memory" / "anchored", sizes, "in memory")
    subprocess.run(["umount", "-l", str(area / "memory")], check=True)
    rows.append(overhead(area / "o1", 1, sizes.stored_mib))
    rows.append(overhead(area / "o64", sizes.stored_mib, 1))
    return rows


def drawn(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return what is compared with something, as bars."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.peer_value is not None:
            bars = found.setdefault(row.name.replace(", ", ",\n") + f"\n({row.unit})", {})
            bars |= {"securetf": row.value, row.peer: row.peer_value}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: about a minute")
    parser.add_argument("--area", type=Path, default=Path("/var/tmp"), help="a directory on the disk")  # noqa: S108
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    parser.add_argument("--plot", type=Path, default=RESULTS / "volume_workloads.png")
    options = parser.parse_args()
    on_disk(options.area)
    sizes = (
        Sizes(96, 400, 1500, 800, 2, 200, 16, 3)
        if options.quick
        else Sizes(384, 1500, 8000, 3000, 4, 1000, 64, 5)
    )
    enter_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="securetf-workloads-", dir=options.area) as name:
        rows = measured(Path(name), sizes)
    publish("A volume on a disk, under programs", rows, options.json, {"area": str(options.area)})
    panels(options.plot, "A volume on a disk", drawn(rows))


if __name__ == "__main__":
    main()
