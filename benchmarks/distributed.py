"""Distributed training on 1, 2 and 3 workers: plain, with stunnel, with volumes, with all shields.

`python benchmarks/distributed.py [--quick] [--json FILE] [--minutes N]`, as root, with TensorFlow. The
examples multi-worker (train.py) and parameter-server (a chief, one parameter server, the workers) with
batches of 100 and a learning rate of 0.0005, as in the paper; each task on a host of its own (a network
namespace; a bridge joins them). Each of 5 rounds runs every kind of cluster in every variant, one after
another, so that a machine that gets slower slows down all. A round that would not end within --minutes
(24) is not begun, and the medians are of those that were. --quick: one round of two mirrored workers and of
one worker with a parameter server, few steps and images, only plain and under securetf: within a minute.

What is compared is the time of a step as the program itself measures it, without its start: the median of
the rounds' ratios, each of runs one after another, with the least and the most; every second round runs the
variants in reverse order. "volumes": the same program finds data and checkpoints in mounted volumes, by a
process of this benchmark's own (`_volumes_only.py`), because `securetf run` has no way to leave the network
shield away. "volumes+network" is `securetf run`. All tasks share this machine's cores, so more workers than
cores cannot be faster.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from _report import RESULTS, Row, bars, publish
from _stunnelled import Stunnelled
from securetf.shields.filesystem import closing, open_volume
from securetf.shields.local_trust import LocalTrust
from support.cloud import Cloud
from support.distributed import EXAMPLES, Member, Shielded, Unshielded, end, small_data
from support.hosts import Hosts

VARIANTS = ("native", "stunnel", "volumes", "volumes+network")
STEP_TARGET = 1.05
PATIENCE_S = 300
VOLUMES_ONLY = Path(__file__).with_name("_volumes_only.py")


@dataclass
class Experiment:
    """One kind of cluster with a number of workers. steps: median ms of a step, by variant and round.

    shield_cpu: processor seconds of all launchers, volumes and relays while their programs ran, by round.
    stunnel_cpu: those of all stunnels.
    """

    kind: str
    workers: int
    arguments: list[str]
    data: Path
    variants: tuple[str, ...] = VARIANTS
    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    shield_cpu: list[float] = field(default_factory=list)
    stunnel_cpu: list[float] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    @property
    def example(self) -> str:
        return {"mirrored": "multi-worker", "servers": "parameter-server"}[self.kind]

    @property
    def title(self) -> str:
        return f"{self.kind}, {self.workers} worker{'s' if self.workers > 1 else ''}"

    @property
    def members(self) -> list[Member]:
        """Return all tasks; the first is the one that ends the job, and that is listened to."""
        workers = [("worker", number) for number in range(self.workers)]
        return workers if self.kind == "mirrored" else [("chief", 0), ("ps", 0), *workers]

    def step_ms(self, said: str) -> float:
        """Return the time of a step from what the first task said."""
        if self.kind == "mirrored":
            return float(re.findall(r"median step ([0-9.]+) ms", said)[-1])
        epochs = re.findall(r"epoch [0-9]+: .*, ([0-9.]+) ms a step", said)
        return statistics.median(map(float, epochs[1:]))  # in the first, functions are traced


class VolumesOnly(Unshielded):
    """A plain cluster whose data and output are volumes."""

    def __init__(self, hosts: Hosts, one: Experiment, directory: Path) -> None:
        self.mounts = directory / "mnt"
        super().__init__(hosts, one.example, one.members, directory, self.mounts / "data")
        self.data.mkdir(parents=True)
        self._trust = {"data": LocalTrust.create(directory / "data.trust")}
        with closing(
            open_volume(
                directory / "data", self._trust["data"].grant(writable=True), self._trust["data"].advance
            )
        ) as volume:
            volume.pack(str(one.data))

    def output(self, member: Member) -> Path:
        return self.mounts / f"{member[0]}-{member[1]}"

    def wrap(self, member: Member, command: list[str]) -> list[str]:
        name = f"{member[0]}-{member[1]}"
        self._trust[name] = LocalTrust.create(self.directory / f"{name}.trust")
        self.output(member).mkdir()
        mounts = [
            {
                "directory": str(self.directory / f"volume-{one}" if one == name else self.directory / one),
                "trust": str(self._trust[one].path),
                "mountpoint": str(self.mounts / one),
                "writable": one == name,
            }
            for one in ("data", name)
        ]
        python = ["env", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", sys.executable]
        return [*python, str(VOLUMES_ONLY), json.dumps(mounts), *command]

    def read(self, member: Member, path: str) -> bytes:
        name = f"{member[0]}-{member[1]}"
        grant = self._trust[name].grant(writable=False)
        with closing(open_volume(self.directory / f"volume-{name}", grant, None)) as volume:
            return volume.cat(path)


def run_plain(hosts: Hosts, cloud: Cloud, one: Experiment, area: Path) -> tuple[str, bytes]:  # noqa: ARG001
    """Run without securetf; return what the first task said, and its weights."""
    return _run(Unshielded(hosts, one.example, one.members, area, one.data), one)


def run_stunnel(hosts: Hosts, cloud: Cloud, one: Experiment, area: Path) -> tuple[str, bytes]:  # noqa: ARG001
    """The same with every connection through stunnel."""
    job = Stunnelled(hosts, one.example, one.members, area, one.data)
    try:
        return _run(job, one)
    finally:
        one.stunnel_cpu.append(job.close())


def run_volumes(hosts: Hosts, cloud: Cloud, one: Experiment, area: Path) -> tuple[str, bytes]:  # noqa: ARG001
    """The same with volumes."""
    return _run(VolumesOnly(hosts, one, area), one)


def _run(job: Unshielded, one: Experiment) -> tuple[str, bytes]:
    try:
        for member in reversed(one.members):
            job.start(member, *one.arguments)
        for task in reversed(job.tasks):
            if one.kind == "mirrored" or task is job.tasks[-1]:
                task.succeeded(PATIENCE_S)
    finally:
        end(job.tasks)
    return job.tasks[-1].said, job.read(one.members[0], "digits.weights.h5")


def run_shielded(hosts: Hosts, cloud: Cloud, one: Experiment, area: Path) -> tuple[str, bytes]:
    """The same under `securetf run`."""
    job = Shielded(cloud, hosts, one.example, one.members, area)
    job.create(job.manifest_text(*one.arguments))
    job.pack_all(one.data)
    try:
        for member in reversed(one.members):
            job.launch(member)
        for task in reversed(job.tasks):
            if one.kind == "mirrored" or task is job.tasks[-1]:
                task.succeeded(PATIENCE_S)
    finally:
        end(job.tasks)
    used = [job.report_of(member)["processor_seconds"]["beside_program"] for member in one.members]
    one.shield_cpu.append(sum(used))
    return job.tasks[-1].said, job.read(one.members[0], "digits.weights.h5")


RUNNERS: dict[str, Callable[[Hosts, Cloud, Experiment, Path], tuple[str, bytes]]] = dict(
    zip(VARIANTS, (run_plain, run_stunnel, run_volumes, run_shielded), strict=True)
)


def measure(hosts: Hosts, cloud: Cloud, one: Experiment, number: int, area: Path) -> None:
    """Run all variants, one after another: one round of this experiment."""
    for variant in one.variants if number % 2 == 0 else one.variants[::-1]:
        begin = time.monotonic()
        place = area / f"{one.kind}-{one.workers}-{number}-{variant}"
        said, weights = RUNNERS[variant](hosts, cloud, one, place)
        one.steps[variant].append(one.step_ms(said))
        one.seconds[variant].append(time.monotonic() - begin)
        one.digests.add(hashlib.sha256(weights).hexdigest())
        shutil.rmtree(place)
    last = ", ".join(f"{variant} {each[-1]:.1f} ms" for variant, each in one.steps.items())
    print(f"{one.title}, round {number + 1}: {last}", flush=True)


def measure_all(
    hosts: Hosts, cloud: Cloud, found: list[Experiment], area: Path, rounds: int, end_at: float
) -> int:
    """Run rounds of all experiments until the next would end after `end_at`; return how many were run."""
    longest = 0.0
    for number in range(rounds):
        begin = time.monotonic()
        if number and begin + longest > end_at:
            print(f"no time for round {number + 1} of {rounds}")
            return number
        for one in found:
            measure(hosts, cloud, one, number, area)
        longest = max(longest, time.monotonic() - begin)
    return rounds


def rows_of(one: Experiment, alone: Experiment | None) -> list[Row]:
    """Return the figures of one experiment. alone: the same kind with one worker, if it was measured."""
    medians = {variant: statistics.median(each) for variant, each in one.steps.items()}
    rows = []
    peers = [(variant, "native") for variant in one.variants if variant.startswith("volumes")]
    if "stunnel" in one.variants:
        peers.append((VARIANTS[-1], "stunnel"))
    for variant, peer in peers:
        ratios = [ours / its for ours, its in zip(one.steps[variant], one.steps[peer], strict=True)]
        ratio = statistics.median(ratios)
        target = {"native": STEP_TARGET}.get(peer)
        rows.append(
            Row(
                name=f"{one.title}: {variant}", value=medians[variant], unit="ms/step",
                peer=peer, peer_value=medians[peer], ratio=ratio, target=target,
                met=None if target is None else ratio <= target, spread=(min(ratios), max(ratios)),
            )
        )  # fmt: skip
    rows.append(_processor_row(one))
    if alone is not None and alone is not one:
        # A mirrored step of n workers takes n batches; a step of parameter servers one, whoever does it.
        batches = one.workers if one.kind == "mirrored" else 1
        ups = {
            variant: batches * statistics.median(alone.steps[variant]) / medians[variant]
            for variant in one.variants
        }
        rows.append(
            Row(
                name=f"{one.title}: speed-up", value=ups[VARIANTS[-1]], unit="times",
                peer="native", peer_value=ups["native"], ratio=ups[VARIANTS[-1]] / ups["native"],
            )
        )  # fmt: skip
    if one.kind == "mirrored":
        equal = float(len(one.digests) == 1)
        name = f"{one.title}: weights equal"
        rows.append(Row(name=name, value=equal, unit="yes=1", target=1.0, met=equal == 1.0))
    return rows


def _processor_row(one: Experiment) -> Row:
    name, used = f"{one.title}: shields' processor time", statistics.median(one.shield_cpu)
    if not one.stunnel_cpu:
        return Row(name=name, value=used, unit="s/job")
    peer = statistics.median(one.stunnel_cpu)
    return Row(
        name=name, value=used, unit="s/job", peer="stunnel", peer_value=peer, ratio=used / max(peer, 0.01)
    )


def experiments(area: Path, *, quick: bool, numbers: list[int]) -> list[Experiment]:
    """Prepare the data, and return what is to be measured."""
    arrays, records = area / "arrays", area / "records"
    prepare = EXAMPLES / "mnist" / "prepare_data.py"
    subprocess.run([sys.executable, prepare, area / "whole", "--offline"], check=True)
    if quick:
        small_data(area / "whole" / "mnist.npz", arrays)
    else:
        (area / "whole").rename(arrays)
    prepare = EXAMPLES / "parameter-server" / "prepare_data.py"
    subprocess.run([sys.executable, prepare, arrays / "mnist.npz", records], check=True)
    if quick:
        least = ("native", "volumes+network")
        return [
            Experiment("mirrored", 2, ["--epochs", "1", "--steps", "20"], arrays, least),
            Experiment("servers", 1, ["--epochs", "2", "--steps", "20"], records, least),
        ]
    mirrored, servers = ["--epochs", "1", "--steps", "100"], ["--epochs", "6", "--steps", "40"]
    return [
        Experiment(kind, number, arguments, data)
        for kind, arguments, data in (("mirrored", mirrored, arrays), ("servers", servers, records))
        for number in numbers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of two experiments, few steps")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    parser.add_argument("--rounds", type=int, help="instead of 5, or of 1 with --quick")
    parser.add_argument("--workers", type=int, nargs="+", choices=(1, 2, 3), help="instead of 1 2 3")
    parser.add_argument("--minutes", type=float, default=24, help="begin no round that would end later")
    options = parser.parse_args()
    end_at = time.monotonic() + 60 * options.minutes
    if not options.quick and not shutil.which("stunnel4"):
        sys.exit("stunnel4 is missing: apt-get install stunnel4")
    rounds = options.rounds or (1 if options.quick else 5)
    numbers = options.workers or [1, 2, 3]
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as name, Hosts(2 + max(numbers)) as hosts:
        area = Path(name)
        found = experiments(area, quick=options.quick, numbers=numbers)
        cloud = Cloud(area, f"{hosts.address}:0")
        try:
            rounds = measure_all(hosts, cloud, found, area, rounds, end_at)
        finally:
            cloud.stop()
    alone = {one.kind: one for one in found if one.workers == 1}
    rows = [row for one in found for row in rows_of(one, alone.get(one.kind))]
    raw = {
        one.title: {
            "step_ms": one.steps,
            "job_s": one.seconds,
            "shield_cpu_s": one.shield_cpu,
            "stunnel_cpu_s": one.stunnel_cpu,
        }
        for one in found
    }
    publish(f"distributed training, medians of {rounds}", rows, options.json, {"rounds": raw})
    medians = {
        one.title: {variant: statistics.median(each) for variant, each in one.steps.items()} for one in found
    }
    bars(RESULTS / "distributed.png", "Distributed training (simulated TEE)", medians, "ms per step")
    if any(row.met is False for row in rows if "weights" in row.name):
        raise SystemExit("the weights differ")


if __name__ == "__main__":
    main()
