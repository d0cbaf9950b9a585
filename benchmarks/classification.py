"""In-process classification under the shields against the same program without: rows 2 and 3 of the
evaluation.

`python benchmarks/classification.py [--quick] [--rounds N] [--only MODEL] [--json FILE]`, as root, with
TensorFlow (to make the models). LiteRT, one image at a time, DenseNet121, InceptionV3 and InceptionResNetV2
(--quick: MobileNetV2), model and images in volumes. The last row has 1,000 images of CIFAR-10's size, where
reading weighs most. Outputs must be the same bytes.

In each of 5 rounds (--quick: 2) both programs are started anew and live side by side, and one works while the
other sleeps, in short turns: what the machine does besides meets both. Each pair of turns gives a ratio. A
row has the median of all of them, and is decided if its 95 % interval is on one side of the target; the same
of the processor time knows nothing of who else had the cores.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from _models import SIZES, litert
from _report import RESULTS, Row, bars, publish

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.cloud import Cloud, Job

TARGET = 1.01
PROGRAM = Path(__file__).with_name("_classify.py")
IMAGES, CIFAR_IMAGES, THREADS = 10, 1000, 2
TURNS, TURN_S = 16, 0.6  # of each program in one round
PATIENCE_S = 600


class Experiment:
    """One model with its images, native and in volumes. turns: by way, (ms, processor ms) of an image."""

    def __init__(self, cloud: Cloud, area: Path, name: str) -> None:
        self.name = name
        self.area = area / name
        self.area.mkdir()
        self.turns: dict[str, list[tuple[float, float]]] = {"native": [], "shielded": []}
        self.digests: set[str] = set()
        self.rounds = 0  # in every second one, the other begins
        size = SIZES[name]
        number = CIFAR_IMAGES if name == "cifar" else IMAGES
        images = np.random.default_rng(0).integers(0, 256, (number, size, size, 3), np.uint8)
        np.save(self.area / "images.npy", images)
        shutil.copy(litert(name), self.area / "model.tflite")
        self.size_mb = (self.area / "model.tflite").stat().st_size / 1e6
        self.job = self._job(cloud)

    def _job(self, cloud: Cloud) -> Job:
        """Make the session and pack code, model and images."""
        folder = self.area / "job"
        folder.mkdir()
        job = Job(cloud, folder)
        base = job.base
        command = [sys.executable, *self._arguments(f"{base}/c/main.py", f"{base}/d", 1)]
        volumes = f'volumes = {{ code = "{base}/c:ro", data = "{base}/d:ro" }}\n'
        job.create(job.text(command, workload=volumes, tables="[volumes.code]\n[volumes.data]\n"))
        job.pack("code", {"main.py": PROGRAM.read_bytes()})
        names = ("model.tflite", "images.npy")
        job.pack("data", {name: (self.area / name).read_bytes() for name in names})
        return job

    def _arguments(self, program: str, data: str, which: int) -> list[str]:
        files = [program, f"{data}/model.tflite", f"{data}/images.npy"]
        return [*files, str(THREADS), str(TURNS), str(which), str(self.area / "go")]

    def run(self, turn_s: float) -> None:
        """Start both, let them work in turns, and keep what they say."""
        go = self.area / "go"
        go.unlink(missing_ok=True)
        command = [sys.executable, *self._arguments(str(PROGRAM), str(self.area), 0)]
        native = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # as the launcher does it: Linux shares out cores by session
        )
        running = {"native": native, "shielded": self.job.start()}
        for process in running.values():
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise SystemExit(process.communicate()[1])
        hidden = go.with_suffix(".partial")
        begin, first = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.5, self.rounds % 2
        hidden.write_text(f"{begin} {turn_s} {first}")
        self.rounds += 1
        hidden.rename(go)
        for way, process in running.items():
            said, problem = process.communicate(timeout=PATIENCE_S)
            if process.returncode:
                raise SystemExit(problem)
            found = json.loads(said)
            self.turns[way] += [(ms, cpu_ms) for ms, cpu_ms in found["turns"]]
            self.digests.add(found["sha256"])

    def median(self, way: str, which: int) -> float:
        """Return the median of all turns: ms of an image (0), or its processor time in ms (1)."""
        return statistics.median(turn[which] for turn in self.turns[way])

    def ratios(self, which: int) -> list[float]:
        """Return shielded to native for each pair of turns, in order of size."""
        pairs = zip(self.turns["native"], self.turns["shielded"], strict=True)
        return sorted(shielded[which] / native[which] for native, shielded in pairs)

    def label(self) -> str:
        """Name the model in the plot, with what the shields cost."""
        return f"{self.name}\n{self.size_mb:.3g} MB: {statistics.median(self.ratios(0)):.3f}"

    def rows(self) -> list[Row]:
        """Return the figures."""
        same = len(self.digests) == 1
        return [
            *self._compared(f"{self.name} ({self.size_mb:.3g} MB): p50", 0),
            *self._compared(f"{self.name}: processor time", 1),
            Row(name=f"{self.name}: same outputs", value=float(same), unit="yes=1", target=1.0, met=same),
        ]

    def _compared(self, name: str, which: int) -> list[Row]:
        """Return the median of the ratios, and the ends of its interval."""
        found = self.ratios(which)
        low, high = interval(found)
        row = Row(
            name=name,
            value=self.median("shielded", which),
            unit="ms",
            peer="native",
            peer_value=self.median("native", which),
            ratio=statistics.median(found),
            target=TARGET,
            met=None if low <= TARGET < high else high <= TARGET,
        )
        ends = (("least", low), ("most", high))
        return [
            row,
            *(Row(name=f"{name}: {end} of {len(found)} pairs", value=one, unit="x") for end, one in ends),
        ]


def interval(found: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median of what these, in order of size, were drawn from: their order is
    all that it takes (binomial distribution, in its normal approximation).
    """
    middle, reach = len(found) / 2, 0.98 * math.sqrt(len(found))
    return found[max(0, math.floor(middle - reach) - 1)], found[
        min(len(found) - 1, math.ceil(middle + reach))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 and CIFAR-10's size, two rounds")
    parser.add_argument("--rounds", type=int, default=5, help="of all models (5)")
    parser.add_argument("--only", choices=sorted(SIZES), help="one model")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    options = parser.parse_args()
    names = ["MobileNetV2"] if options.quick else ["DenseNet121", "InceptionV3", "InceptionResNetV2"]
    names = [options.only] if options.only else [*names, "cifar"]
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as area:
        cloud = Cloud(Path(area))
        try:
            found = [Experiment(cloud, Path(area), name) for name in names]
            for _ in range(2 if options.quick else options.rounds):
                for one in found:
                    one.run(0.5 if options.quick else TURN_S)
                    print(f"{one.name}: {statistics.median(one.ratios(0)):.3f} so far", flush=True)
        finally:
            cloud.stop()
    rows = [row for one in found for row in one.rows()]
    publish(f"classification in the process, {THREADS} threads", rows, options.json)
    medians = {one.label(): {way: one.median(way, 0) for way in one.turns} for one in found}
    bars(
        RESULTS / "classification.png",
        "Classification, native and shielded (simulated TEE)",
        medians,
        "ms per image",
        logarithmic=True,
    )
    if any(row.met is False for row in rows if "outputs" in row.name):
        raise SystemExit("the outputs differ")


if __name__ == "__main__":
    main()
