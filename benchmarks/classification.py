"""In-process classification under the shields against the same program without: rows 2 and 3 of the
evaluation.

`python benchmarks/classification.py [--quick] [--rounds N] [--json FILE]`, as root, with TensorFlow (to make
the models). LiteRT, one image at a time, DenseNet121, InceptionV3 and InceptionResNetV2 (--quick:
MobileNetV2), model and images in volumes, alternating native and shielded, medians of 5 rounds (--quick: 2).
The last row has 1,000 images of CIFAR-10's size, where reading weighs most. Outputs must be the same bytes.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from _models import SIZES, litert
from _report import RESULTS, Row, bars, publish

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.cloud import Cloud, Job

TARGET = 1.01
PROGRAM = Path(__file__).with_name("_classify.py")
IMAGES, CIFAR_IMAGES, THREADS = 10, 1000, 2
PATIENCE_S = 600


class Experiment:
    """One model with its images, native and in volumes. ms: p50 of each run."""

    def __init__(self, cloud: Cloud, area: Path, name: str, rounds: int) -> None:
        self.name, self.rounds = name, rounds
        self.area = area / name
        self.area.mkdir()
        self.native: list[float] = []
        self.shielded: list[float] = []
        self.digests: set[str] = set()
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
        command = [sys.executable, *self._arguments(f"{base}/c/main.py", f"{base}/d")]
        volumes = f'volumes = {{ code = "{base}/c:ro", data = "{base}/d:ro" }}\n'
        job.create(job.text(command, workload=volumes, tables="[volumes.code]\n[volumes.data]\n"))
        job.pack("code", {"main.py": PROGRAM.read_bytes()})
        names = ("model.tflite", "images.npy")
        job.pack("data", {name: (self.area / name).read_bytes() for name in names})
        return job

    def _arguments(self, program: str, data: str) -> list[str]:
        return [program, f"{data}/model.tflite", f"{data}/images.npy", str(self.rounds), str(THREADS)]

    def run_native(self) -> None:
        """Run once without securetf."""
        command = [sys.executable, *self._arguments(str(PROGRAM), str(self.area))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self._keep(json.loads(done.stdout), self.native)

    def run_shielded(self) -> None:
        """Run once under the shields."""
        process = self.job.start()
        said, problem = process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            raise SystemExit(problem)
        self._keep(json.loads(said), self.shielded)

    def _keep(self, found: dict, medians: list[float]) -> None:
        medians.append(statistics.median(found["ms"]))
        self.digests.add(found["sha256"])

    def label(self) -> str:
        """Name the model in the plot, with what the shields cost."""
        ratio = statistics.median(self.shielded) / statistics.median(self.native)
        return f"{self.name}\n{self.size_mb:.3g} MB: {ratio:.3f}"

    def rows(self) -> list[Row]:
        """Return the figures."""
        native, shielded = statistics.median(self.native), statistics.median(self.shielded)
        ratio = shielded / native
        title = f"{self.name} ({self.size_mb:.3g} MB)"
        return [
            Row(
                name=f"{title}: p50",
                value=shielded,
                unit="ms",
                peer="native",
                peer_value=native,
                ratio=ratio,
                target=TARGET,
                met=ratio <= TARGET,
            ),
            Row(
                name=f"{self.name}: same outputs",
                value=float(len(self.digests) == 1),
                unit="yes=1",
                target=1.0,
                met=len(self.digests) == 1,
            ),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 and CIFAR-10's size, two rounds")
    parser.add_argument("--rounds", type=int, default=5, help="of all models, native and shielded (5)")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    options = parser.parse_args()
    names = ["MobileNetV2"] if options.quick else ["DenseNet121", "InceptionV3", "InceptionResNetV2"]
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as area:
        cloud = Cloud(Path(area))
        try:
            found = [
                Experiment(cloud, Path(area), name, 3 if name != "cifar" else 1) for name in [*names, "cifar"]
            ]
            for _ in range(2 if options.quick else options.rounds):
                for one in found:
                    one.run_native()
                    one.run_shielded()
                    print(
                        f"{one.name}: native {one.native[-1]:.2f} ms, shielded {one.shielded[-1]:.2f} ms",
                        flush=True,
                    )
        finally:
            cloud.stop()
    rows = [row for one in found for row in one.rows()]
    publish(f"classification in the process, {THREADS} threads", rows, options.json)
    medians = {
        one.label(): {"native": statistics.median(one.native), "shielded": statistics.median(one.shielded)}
        for one in found
    }
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
