"""The eight steps of `securetf demo`, in order, each with its check."""

import hashlib
import json
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from securetf.demo import host
from securetf.demo.attacks import Attacks
from securetf.demo.commands import Commands, Result, check_machine, left_over
from securetf.demo.example import PROGRAM, Example, next_manifest
from securetf.demo.screen import SIMULATION, Screen
from securetf.errors import DemoError

SESSION = "demo/digits"
MODEL = ("digits.weights.h5", "digits.keras")
_PLATFORM = ("--insecure-simulation", "platform")
_AT_CAS = ("--cas", "cas.json", "--key", "owner.pem")
_OWNER = (*_AT_CAS, "--session", SESSION)
_MANIFESTS = ("manifest-1.toml", "manifest-2.toml")
_RUN = (
    "run",
    "trainer",
    "--manifest",
    _MANIFESTS[1],
    "--cas",
    "cas.json",
    "--volumes",
    "volumes",
    *_PLATFORM,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """example: the folder examples/mnist. epochs: of the training, None = the program's own number."""

    example: Path
    epochs: int | None = None


def tell(options: Options, directory: Path, screen: Screen) -> None:
    """Do all steps in the empty `directory`; nothing runs on afterwards.

    Raises:
        DemoError: a step did not give what it must give. UsageError: the example is not there.
        EnvironmentUnfitError: not root, no FUSE, no TensorFlow.
    """
    example = Example(options.example.resolve())
    example.check()
    check_machine()
    story = _Story(options, directory, screen, Commands(directory, screen), example)
    screen.title("securetf demo: TensorFlow trains on data that the host cannot read")
    with ExitStack() as running:
        with screen.step("start a CAS"):
            url = story.start_cas(running)
        with screen.step("attest the CAS and pin it"):
            story.attest_cas(url)
        with screen.step("submit the Manifest; the CAS makes the volume keys"):
            story.submit()
        with screen.step("pack data and code, pin what was packed"):
            story.pack()
        with screen.step("train under the shields"):
            story.train_shielded()
        with screen.step("train natively and compare"):
            story.train_natively()
            story.compare()
        with screen.step("what the host sees, and what it tries"):
            story.look_as_host()
            story.attack()
        with screen.step("stop the CAS"):
            running.close()
            if left := left_over(directory):
                raise DemoError(f"still there: {'; '.join(left)}", "report this as a defect")
            screen.held("no process and no mount is left")
    screen.summary(story.facts)
    screen.warn(SIMULATION)


@dataclass(slots=True)
class _Story:
    options: Options
    directory: Path
    screen: Screen
    commands: Commands
    example: Example
    facts: list[tuple[str, str]] = field(default_factory=list)
    shielded: dict[str, object] = field(default_factory=dict)
    accuracy: str = ""

    def start_cas(self, running: ExitStack) -> str:
        self.commands.securetf("simulation", "create", "platform")
        anchor = ("--insecure-anchor", "cas-anchor.json")
        return running.enter_context(
            self.commands.cas("--data", "cas", "--listen", "127.0.0.1:0", *_PLATFORM, *anchor)
        )

    def attest_cas(self, url: str) -> None:
        measurement = self._measurement()
        root = ("--insecure-simulation-root", "platform/root.pem")
        self.commands.securetf("cas", "attest", url, *root, "--measurement", measurement, "--out", "cas.json")

    def submit(self) -> None:
        self.commands.securetf("key", "new", "owner.pem")
        text = self.example.first_manifest(measurement=self._measurement(), epochs=self.options.epochs)
        self._path(_MANIFESTS[0]).write_text(text)
        self.commands.securetf("manifest", "check", _MANIFESTS[0])
        self.commands.securetf("session", "create", _MANIFESTS[0], *_AT_CAS)

    def pack(self) -> None:
        prepare = self.commands.plain(sys.executable, str(self.example.folder / "prepare_data.py"), "data")
        if notice := prepare.line_with("NOT MNIST"):
            self.screen.warn(f"   {notice}")
            self.facts.append(("data", "scikit-learn's digits, not MNIST"))
        self.example.copy_program(self._path("code"))
        self._path("volumes").mkdir()
        roots = {}
        for volume, source in (("train-data", "data"), ("code", "code")):
            packed = self.commands.json(
                "volume", "pack", source, f"volumes/{volume}", "--volume", volume, *_OWNER
            )
            roots[volume] = str(packed["root"])
            self.screen.output(f"{packed['files']} files, {packed['bytes']} bytes, root {packed['root']}")
        self.screen.say("The owner's second Manifest names these roots: no other code or data is accepted.")
        predecessor = self._hash(_MANIFESTS[0])
        text = next_manifest(self._path(_MANIFESTS[0]).read_text(), predecessor=predecessor, roots=roots)
        self._path(_MANIFESTS[1]).write_text(text)
        self.commands.securetf("manifest", "diff", *_MANIFESTS)
        self.commands.securetf("session", "update", _MANIFESTS[1], *_AT_CAS)

    def train_shielded(self) -> None:
        result = self.commands.securetf(*_RUN, "--report", "report.json")
        self.accuracy = _accuracy(result)
        self.shielded = json.loads(self._path("report.json").read_text())
        shutil.copytree(self._path("volumes/model"), self._path("older-model"))

    def train_natively(self) -> None:
        home = self._path("native/home")
        datasets = home / ".keras" / "datasets"
        datasets.mkdir(parents=True)
        shutil.copy(self._path("data/mnist.npz"), datasets)
        epochs = [] if self.options.epochs is None else [str(self.options.epochs)]
        result = self.commands.plain(
            *(sys.executable, "code/local_mnist.py", "code/train.py", "native/model", *epochs),
            environment=self._native_environment(home),
        )
        if _accuracy(result) != self.accuracy:
            raise DemoError(
                f"native: {_accuracy(result)}, shielded: {self.accuracy}", "report this as a defect"
            )
        self._compare_times(result.seconds)

    def compare(self) -> None:
        self.screen.say("The owner, whom the Manifest lets export the model, takes it out and compares.")
        self.commands.securetf("volume", "unpack", "volumes/model", "model", "--volume", "model", *_OWNER)
        native, shielded = (_sha256(self._path(folder) / MODEL[0]) for folder in ("native/model", "model"))
        if native != shielded:
            raise DemoError(
                f"SHA-256 of the weights: native {native}, shielded {shielded}, expected the same",
                "report this as a defect",
            )
        self.screen.output(f"native   {native}  {MODEL[0]}")
        self.screen.output(f"shielded {shielded}  {MODEL[0]}")
        self.screen.held("the weights are the same, bit by bit")
        self.facts.append(("test accuracy, native and shielded", self.accuracy))
        self.facts.append(("weights, SHA-256, native and shielded", f"{native[:16]}…"))

    def look_as_host(self) -> None:
        self.screen.say("Files that the host has:")
        for file in host.listing(self._path("volumes")):
            self.screen.output(f"{file.size:>12}  volumes/{file.name}")
        for file in host.listing(self._path("cas")):
            self.screen.output(f"{file.size:>12}  cas/{file.name}")
        counts = host.expect_no_plaintext(
            [self._path("volumes"), self._path("cas")],
            {
                "the data": [self._path("data/mnist.npz")],
                "the code": [self._path("code") / name for name in PROGRAM],
                "the model": [self._path("model") / name for name in MODEL],
            },
        )
        searched = ", ".join(f"{count} of {kind}" for kind, count in counts.items())
        self.screen.held(f"none of the pieces of plaintext searched for is there: {searched}")
        self.facts.append(("pieces of plaintext that the host found", f"0 of {sum(counts.values())}"))

    def attack(self) -> None:
        changed = self._path("changed-code")
        self.example.copy_program(changed)
        with (changed / "train.py").open("a") as file:
            file.write("\nprint(open('/run/securetf/home/.keras/datasets/mnist.npz', 'rb').read())\n")
        attacks = Attacks(self.commands, self.screen, run=_RUN, owner=_OWNER)
        attacks.flip_a_byte()
        attacks.roll_back(self._path("older-model"))
        attacks.exchange_the_code(changed)
        attacks.change_the_manifest(_MANIFESTS[1])
        attacks.change_securetf()
        attacks.pack_other_code(changed)
        attacks.read_the_audit_log()
        self.screen.say("What the host left alone still opens: no false alarm.")
        self.commands.securetf("volume", "check", "volumes/model", "--volume", "model", *_OWNER)
        self.facts.append(("attacks refused", "6 of 6"))

    def _compare_times(self, native_s: float) -> None:
        steps = self.shielded["steps"]
        times = {step["name"]: float(step["seconds"]) for step in steps} if isinstance(steps, list) else {}
        shielded_s = times["program"]
        memory = self.shielded["resident_memory"]
        peak = memory["peak_bytes"] / 1e6 if isinstance(memory, dict) else 0.0
        self.facts += [
            ("program, shielded", f"{shielded_s:.1f} s"),
            ("program, native", f"{native_s:.1f} s"),
            ("shielded : native (one run each)", f"{shielded_s / native_s:.3f}"),
            ("`securetf run` to the program's start", f"{self.shielded['until_program_seconds']:.2f} s"),
            ("memory of launcher and shield", f"{peak:.0f} MB"),
        ]

    def _native_environment(self, home: Path) -> dict[str, str]:
        """The Manifest's variables and the launcher's defaults, with a home of its own."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }

    def _measurement(self) -> str:
        return self.commands.securetf("measure", quiet=True).lines[-1]

    def _hash(self, manifest: str) -> str:
        return self.commands.securetf("manifest", "hash", manifest, quiet=True).lines[-1]

    def _path(self, name: str) -> Path:
        return self.directory / name


def _accuracy(result: Result) -> str:
    line = result.line_with("test accuracy")
    if not line:
        raise DemoError("the program printed no accuracy", "look at its output above")
    return line.split(",")[0].removeprefix("test accuracy ")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
