"""How classification scales with processes and with nodes, native and under the shields: row 5 of the
evaluation.

`python benchmarks/scaling.py [--quick] [--rounds N] [--json FILE]`, as root, with TensorFlow (to make the
model). Batches of 1,000 images of CIFAR-10's size, LiteRT with one thread in each process; 1 to n processes
on one host, for n cores, and 1 to 3 nodes, each a network namespace on a bridge, with one process. Shielded:
model and images in volumes, each process attested by a CAS over the bridge. All classify within the same
window of time, native and shielded alternate, medians of 5 rounds (--quick: one, of up to 2 nodes).

Efficiency is the rate of n over n times that of one. All nodes share this machine's cores: with more nodes
than cores it cannot be 1 for either, and what counts is its ratio to the native one's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from _models import SIZES, litert
from _report import RESULTS, Row, bars, publish
from securetf.serving.options import cores

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.cloud import Cloud, Job
from support.hosts import Hosts

EFFICIENCY = 0.95
PROGRAM = Path(__file__).with_name("_classify_window.py")
IMAGES, NODES = 1000, 3
WAYS = ("native", "shielded")


@dataclass
class Setting:
    """So many processes on one host, or so many nodes. rates: images per second of each round, by way."""

    nodes: bool
    number: int
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def title(self) -> str:
        what = "node" if self.nodes else "process"
        return f"{self.number} {what}" + ("" if self.number == 1 else "s" if self.nodes else "es")

    def rate(self, way: str) -> float:
        """Return the median."""
        return statistics.median(self.rates[way])


class Measurement:
    """The hosts, the CAS and the data of all settings. window_s: in which images are counted."""

    def __init__(self, area: Path, hosts: Hosts, cloud: Cloud, window_s: float) -> None:
        self.area, self.hosts, self.cloud, self.window_s = area, hosts, cloud, window_s
        self.digests: set[str] = set()
        self._jobs = 0
        self.model = litert("cifar")
        size = SIZES["cifar"]
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), np.uint8)
        self.images = area / "images.npy"
        np.save(self.images, images)

    def run(self, one: Setting, way: str) -> None:
        """Run all processes of a setting once; on a machine so busy that one comes late, with more lead."""
        lead_s = 3.0 if way == "native" else 3.0 + 2 * one.number
        for _ in range(4):
            rate = self._attempt(one, way, lead_s)
            if rate is not None:
                one.rates[way].append(rate)
                return
            lead_s *= 2
        raise SystemExit(f"{one.title}, {way}: not all begin within {lead_s / 2:.0f} s")

    def _attempt(self, one: Setting, way: str, lead_s: float) -> float | None:
        """Return the images per second of all, None if one of them was not ready when the window began."""
        begin = time.clock_gettime(time.CLOCK_BOOTTIME) + lead_s
        window = [f"{begin:.3f}", f"{begin + self.window_s:.3f}"]
        start = self._native if way == "native" else self._shielded
        running = [
            start(window, self.hosts.on(number, []) if one.nodes else []) for number in range(one.number)
        ]
        ended = [(*process.communicate(timeout=120), process.returncode) for process in running]
        images = 0
        for said, problem, status in ended:
            if "after the window began" in problem:
                return None
            if status:
                raise SystemExit(problem)
            found = json.loads(said)
            images += found["images"]
            self.digests.add(found["sha256"])
        return images / self.window_s

    def _native(self, window: list[str], before: list[str]) -> subprocess.Popen:
        command = [*before, sys.executable, PROGRAM, self.model, self.images, *window]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _shielded(self, window: list[str], before: list[str]) -> subprocess.Popen:
        """Make a session and its volumes, and run it: all before the window."""
        self._jobs += 1
        folder = self.area / f"job-{self._jobs}"
        folder.mkdir()
        job = Job(self.cloud, folder)
        code, data = f"{job.base}/c", f"{job.base}/d"
        command = [sys.executable, f"{code}/main.py", f"{data}/model.tflite", f"{data}/images.npy", *window]
        volumes = f'volumes = {{ code = "{code}:ro", data = "{data}:ro" }}\n'
        job.create(job.text(command, workload=volumes, tables="[volumes.code]\n[volumes.data]\n"))
        job.pack("code", {"main.py": PROGRAM.read_bytes()})
        job.pack("data", {"model.tflite": self.model.read_bytes(), "images.npy": self.images.read_bytes()})
        return job.start(before=before)


def rows_of(found: list[Setting]) -> list[Row]:
    """Return the rates, and what is lost on the way from one to the most of each kind."""
    rows = []
    for one in found:
        value, peer = one.rate("shielded"), one.rate("native")
        title = f"{one.title}: {IMAGES:,} images"
        rows.append(
            Row(
                name=title,
                value=IMAGES / value,
                unit="s",
                peer="native",
                peer_value=IMAGES / peer,
                ratio=peer / value,
            )
        )
    for one in found:
        first = next(other for other in found if other.nodes == one.nodes)
        if one is first:
            continue
        value, peer = (one.rate(way) / first.rate(way) / one.number for way in ("shielded", "native"))
        rows.append(
            Row(
                name=f"{one.title}: efficiency",
                value=value,
                unit="",
                peer="native",
                peer_value=peer,
                ratio=value / peer,
                target=EFFICIENCY,
                met=value / peer >= EFFICIENCY,
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, two nodes at most, shorter")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all settings (5)")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    options = parser.parse_args()
    nodes = 2 if options.quick else NODES
    settings = [Setting(nodes=False, number=number + 1) for number in range(min(cores(), nodes))]
    settings += [Setting(nodes=True, number=number + 1) for number in range(nodes)]
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as name, Hosts(nodes) as hosts:
        cloud = Cloud(Path(name), f"{hosts.address}:0")
        try:
            measurement = Measurement(Path(name), hosts, cloud, 1.0 if options.quick else 3.0)
            for _ in range(1 if options.quick else options.rounds):
                for one in settings:
                    for way in WAYS:
                        measurement.run(one, way)
                        print(f"{one.title}, {way}: {one.rates[way][-1]:.0f} images/s", flush=True)
        finally:
            cloud.stop()
    rows = rows_of(settings)
    same = len(measurement.digests) == 1
    rows.append(Row(name="same outputs", value=float(same), unit="yes=1", target=1.0, met=same))
    publish(f"classification on 1 to {cores()} processes and 1 to {nodes} nodes", rows, options.json)
    rates = {one.title: {way: one.rate(way) for way in WAYS} for one in settings}
    bars(
        RESULTS / "scaling.png",
        f"Classification, {cores()} cores in all, native and shielded (simulated TEE)",
        rates,
        "images/s",
    )
    if not same:
        raise SystemExit("the outputs differ")


if __name__ == "__main__":
    main()
