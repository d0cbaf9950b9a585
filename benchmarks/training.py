"""Training under the shields against the same program without: time, weights, start-up and memory.

`python benchmarks/training.py [--quick] [--json FILE]`, as root, with TensorFlow. The examples MNIST and
CIFAR-10 (JPEG) run with the same data, seeds and environment, alternating native and shielded, medians of 5
rounds (--quick: 1 round, smaller), after TensorFlow was read into the page cache. The CAS runs on loopback.
Time of a program is its whole life, with TensorFlow's import; CPU is the program's own and, shielded, the
launcher's and the shield's, too. Without ../shared/data CIFAR-10 (JPEG) is left
out, which is said.
"""

import argparse
import hashlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from _report import RESULTS, Row, bars, publish
from securetf.demo.commands import Commands
from securetf.demo.screen import Screen

ROOT = Path(__file__).resolve().parents[1]
CIFAR10_JPEG = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
RATIO_TARGET, START_TARGET_S, MEMORY_TARGET_MB = 1.05, 1.0, 120.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Experiment:
    """One example and its measurements. arguments: what follows the output directory on the command line."""

    name: str
    title: str
    session: str
    program: list[str]
    weights: str
    arguments: list[str]
    native: list[float] = field(default_factory=list)
    shielded: list[float] = field(default_factory=list)
    native_cpu: list[float] = field(default_factory=list)
    shielded_cpu: list[float] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)
    reports: list[dict[str, Any]] = field(default_factory=list)


class Bench:
    """An area with a CAS, in which experiments are set up and run."""

    def __init__(self, area: Path) -> None:
        self.area = area
        quiet = Screen(Console(file=(area / "log").open("w"), soft_wrap=True, highlight=False))
        self.commands = Commands(area, quiet)
        self.measurement = ""

    @contextmanager
    def cas(self) -> Iterator[None]:
        """Start a CAS, attest it, make the owner's key."""
        self.commands.securetf("simulation", "create", "platform")
        anchor = ("--insecure-simulation", "platform", "--insecure-anchor", "anchor")
        with self.commands.cas("--data", "cas", "--listen", "127.0.0.1:0", *anchor) as url:
            self.measurement = self.commands.securetf("measure").lines[-1]
            root = ("--insecure-simulation-root", "platform/root.pem")
            self.commands.securetf(
                "cas", "attest", url, *root, "--measurement", self.measurement, "--out", "cas.json"
            )
            self.commands.securetf("key", "new", "owner.pem")
            yield

    def set_up(self, one: Experiment) -> None:
        """Create the session and pack data and code."""
        folder = ROOT / "examples" / one.name
        text = (folder / "manifest.toml").read_text().replace("0" * 96, self.measurement)
        text = text.replace("/usr/bin/python3", sys.executable)
        extra = "".join(f', "{argument}"' for argument in one.arguments)
        (self.area / f"{one.name}.toml").write_text(text.replace('"/model"]', f'"/model"{extra}]'))
        self.commands.securetf(
            "session", "create", f"{one.name}.toml", "--cas", "cas.json", "--key", "owner.pem"
        )
        code = self.area / one.name / "code"
        code.mkdir(parents=True, exist_ok=True)
        for source in folder.glob("*.py"):
            shutil.copy(source, code)
        for volume in ("train-data", "code"):
            source = f"{one.name}/{volume}"
            self.commands.securetf(
                "volume", "pack", source, f"{one.name}/volumes/{volume}", *self._owner(one, volume)
            )

    def run_shielded(self, one: Experiment) -> None:
        """Run once under the shields; keep the time of the program, the report and the weights' digest."""
        run = (
            "run",
            "trainer",
            "--manifest",
            f"{one.name}.toml",
            "--cas",
            "cas.json",
            "--report",
            "report.json",
        )
        volumes = ("--volumes", f"{one.name}/volumes", "--insecure-simulation", "platform")
        begin = _cpu_of_children()
        self.commands.securetf(*run, *volumes)
        one.shielded_cpu.append(_cpu_of_children() - begin)
        report = json.loads((self.area / "report.json").read_text())
        one.reports.append(report)
        one.shielded.append(next(step["seconds"] for step in report["steps"] if step["name"] == "program"))
        out = self.area / one.name / "model"
        shutil.rmtree(out, ignore_errors=True)
        model = f"{one.name}/volumes/model"
        self.commands.securetf("volume", "unpack", model, f"{one.name}/model", *self._owner(one, "model"))
        one.digests.add(_sha256(out / one.weights))

    def run_native(self, one: Experiment) -> None:
        """Run once without securetf, with the variables that the Manifest and the launcher give."""
        home, out = self.area / one.name / "home", self.area / one.name / "native"
        home.mkdir(exist_ok=True)
        environment = {"PATH": PATH, "HOME": str(home), "LANG": "C.UTF-8", "TF_CPP_MIN_LOG_LEVEL": "2"}
        data = [] if one.name == "mnist" else [str(self.area / one.name / "train-data")]
        command = [sys.executable, *one.program, *data, str(out), *one.arguments]
        begin, begin_cpu = time.monotonic(), _cpu_of_children()
        subprocess.run(
            command, cwd=self.area / one.name / "code", env=environment, check=True, stdout=subprocess.DEVNULL
        )
        one.native.append(time.monotonic() - begin)
        one.native_cpu.append(_cpu_of_children() - begin_cpu)
        one.digests.add(_sha256(out / one.weights))

    @staticmethod
    def _owner(one: Experiment, volume: str) -> tuple[str, ...]:
        return ("--cas", "cas.json", "--key", "owner.pem", "--session", one.session, "--volume", volume)


def prepare_mnist(area: Path) -> None:
    """Write mnist.npz, also where the native run's Keras looks for it."""
    script = ROOT / "examples" / "mnist" / "prepare_data.py"
    subprocess.run([sys.executable, script, area / "mnist" / "train-data"], check=True)
    datasets = area / "mnist" / "home" / ".keras" / "datasets"
    datasets.mkdir(parents=True)
    shutil.copy(area / "mnist" / "train-data" / "mnist.npz", datasets)


def prepare_cifar10(area: Path, share: int) -> None:
    """Unpack one of `share` images of each class."""
    with tarfile.open(CIFAR10_JPEG) as archive:
        # Debian 12's Python 3.11.2 knows no filters; the archive is our own.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        for number, member in enumerate(archive):
            if member.isdir() or number % share == 0:
                archive.extract(member, area / "cifar10" / "train-data")


def rows_of(one: Experiment) -> list[Row]:
    """Return the figures of one experiment."""
    native, shielded = statistics.median(one.native), statistics.median(one.shielded)
    ratio = shielded / native
    start = statistics.median(report["until_program_seconds"] for report in one.reports)
    memory = max(report["resident_memory"]["peak_bytes"] for report in one.reports) / 1e6
    steps = {step["name"] for step in one.reports[0]["steps"]} - {"program"}
    split = {
        name: statistics.median(
            sum(step["seconds"] for step in report["steps"] if step["name"] == name) for report in one.reports
        )
        for name in steps
    }
    equal = float(len(one.digests) == 1)
    cpu, native_cpu = statistics.median(one.shielded_cpu), statistics.median(one.native_cpu)
    return [
        Row(
            name=f"{one.title}: program",
            value=shielded,
            unit="s",
            peer="native",
            peer_value=native,
            ratio=ratio,
            target=RATIO_TARGET,
            met=ratio <= RATIO_TARGET,
        ),
        Row(
            name=f"{one.title}: CPU",
            value=cpu,
            unit="s",
            peer="native",
            peer_value=native_cpu,
            ratio=cpu / native_cpu,
        ),
        Row(name=f"{one.title}: weights equal", value=equal, unit="yes=1", target=1.0, met=equal == 1.0),
        Row(
            name=f"{one.title}: start",
            value=start,
            unit="s",
            target=START_TARGET_S,
            met=start <= START_TARGET_S,
        ),
        *(Row(name=f"{one.title}:   {name}", value=split[name], unit="s") for name in sorted(split)),
        Row(
            name=f"{one.title}: launcher's memory",
            value=memory,
            unit="MB",
            target=MEMORY_TARGET_MB,
            met=memory <= MEMORY_TARGET_MB,
        ),
    ]


def experiments(area: Path, *, quick: bool) -> list[Experiment]:
    """Prepare the data and return what can be measured here."""
    prepare_mnist(area)
    wrapped = ["local_mnist.py", "train.py"]
    arguments = ["1"] if quick else []
    found = [Experiment("mnist", "MNIST", "demo/digits", wrapped, "digits.weights.h5", arguments)]
    if CIFAR10_JPEG.exists():
        prepare_cifar10(area, share=20 if quick else 1)
        arguments = ["1", "2000"] if quick else []
        title = "CIFAR-10 (JPEG)"
        found.append(
            Experiment("cifar10", title, "demo/images", ["train.py"], "images.weights.h5", arguments)
        )
    else:
        print(f"CIFAR-10 (JPEG) is not measured: {CIFAR10_JPEG} is not there")
    return found


def warm_caches() -> None:
    """Read TensorFlow's files once, so that the first measured run finds them as the others do."""
    environment = {"PATH": PATH, "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, env=environment)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of shorter trainings: under a minute")
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    options = parser.parse_args()
    rounds = 1 if options.quick else 5
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as name:
        area = Path(name)
        found = experiments(area, quick=options.quick)
        warm_caches()
        bench = Bench(area)
        with bench.cas():
            for one in found:
                bench.set_up(one)
                for number in range(rounds):
                    bench.run_native(one)
                    bench.run_shielded(one)
                    last = f"native {one.native[-1]:.2f} s, shielded {one.shielded[-1]:.2f} s"
                    print(f"{one.title} {number + 1}: {last}", flush=True)
    rows = [row for one in found for row in rows_of(one)]
    raw = {
        one.title: {
            "native": one.native,
            "shielded": one.shielded,
            "native_cpu": one.native_cpu,
            "shielded_cpu": one.shielded_cpu,
        }
        for one in found
    }
    publish(f"training, medians of {rounds}", rows, options.json, {"rounds": raw})
    medians = {
        one.title: {"native": statistics.median(one.native), "shielded": statistics.median(one.shielded)}
        for one in found
    }
    bars(RESULTS / "training.png", "Training, native and shielded (simulated TEE)", medians, "seconds")
    if any(row.met is False for row in rows if "weights" in row.name):
        raise SystemExit("the weights differ")


if __name__ == "__main__":
    main()
