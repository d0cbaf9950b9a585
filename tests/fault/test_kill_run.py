"""kill -9 of CAS and launcher at random points while a program writes: nothing acknowledged is lost.

Real processes, started as a user starts them. The program says each fsync that returned; whatever it said
must be there after every crash. SECURETF_KILLS=200 gives the number of kills; the seed is printed, and
SECURETF_SEED repeats one.
"""

import base64
import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from securetf.cas.store.anchor import InsecureFileAnchor
from securetf.cas.store.sealing import GENESIS

HERE = Path(__file__).parent
# ruff: noqa: E402  (both are no packages)
sys.path[:0] = [str(HERE.parent / "integration"), str(HERE)]
from test_run import SECUR_ETF, Cloud, Job, alive, until
from writer_program import CANARY, NAME, WRITERS

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts"),
]
KILLS = int(os.environ.get("SECURETF_KILLS", "20"))
SECRET = b"the secret that an owner imported, 7c9f1b"
PATIENCE_S = 60
MOUNT_GONE = (errno.ECONNABORTED, errno.ENOTCONN)  # just before the program dies with the launcher
PROGRAM = str(HERE / "writer_program.py")


class Scene:
    """One session whose program writes; what it acknowledged so far; what the host must never hold."""

    def __init__(self, directory: Path, seed: str) -> None:
        self.directory, self.seed = directory, seed
        self.cloud = Cloud(directory)
        (directory / "job").mkdir()
        self.job = Job(self.cloud, directory / "job")
        self.starts = [1] * WRITERS
        self.secrets: set[bytes] = {SECRET}
        self.verified = self.acknowledged = self.kills = 0
        base = self.job.base
        self.job.create(
            self.job.text(
                ["/usr/bin/python3", "-S", PROGRAM, f"{base}/m", seed, f"{base}/s/random"],
                workload=f'volumes = {{ model = "{base}/m:rw" }}\n'
                'host_environment = ["START", "ONLY_VERIFY"]\n'
                f'secrets = {{ token = "file:{base}/s/token", random = "file:{base}/s/random" }}',
                tables='[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\n'
                '[secrets.token]\nkind = "value"\n[secrets.random]\nkind = "random"\nsize_bytes = 32\n',
            )
        )  # fmt: skip
        self.cloud.client.import_secret(self.job.name, "token", SECRET, self.cloud.owner)

    def run(self, **environment: str) -> "Run":
        return Run(self, environment)

    def kill_cas(self) -> None:
        self.kills += 1
        self.cloud.cas.kill()
        self.cloud.cas.wait()
        self.cloud.cas.stdout.close()

    def restart_cas(self) -> None:
        """Start it on the same data, anchor and port; `Cloud.start` fails unless it says that it is ready."""
        self.cloud.start(self.cloud.ready["url"].removeprefix("https://"))

    def check_host(self) -> None:
        """Nothing runs, nothing is mounted, no plaintext, name, secret or key lies on the host's disk."""
        until(lambda: not self.processes(), PATIENCE_S)
        assert self.job.base not in Path("/proc/self/mounts").read_text()
        if self.starts != [1] * WRITERS and len(self.secrets) < 3:
            key = self.cloud.client.export_grant(self.job.name, "model", self.cloud.owner).key
            self.secrets.add(key)
        needles = [CANARY.encode(), NAME.encode()]
        for secret in self.secrets:
            needles += [secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"=")]
        searched = 0
        for path in self.places():
            raw = os.fsencode(path.name)
            if path.is_file() and not path.is_symlink():
                raw += b"\0" + path.read_bytes()
            searched += len(raw)
            found = [needle for needle in needles if needle in raw]
            assert not found, f"{path} holds {found[0]!r}"
        assert searched > 1000

    def places(self) -> Iterator[Path]:
        """The work directory without what stands for TEE and owner's machine; /run; the mount points."""
        apart = {self.cloud.platform, self.cloud.key_file}
        for top in (*self.directory.iterdir(), Path("/run"), Path(self.job.base)):
            if top not in apart:
                yield top
                yield from top.rglob("*")

    def processes(self) -> list[str]:
        """Each process but the CAS that has this job on its command line or its mounts in its namespace."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                mounts = Path(f"/proc/{pid}/mountinfo").read_text()
            except (OSError, ValueError):
                continue
            if self.job.base in mounts or self.job.base in command or str(self.job.manifest) in command:
                found.append(f"{pid} {command}")
        return found

    def close(self) -> None:
        for process in self.job.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.cloud.stop()


class Run:
    """One `securetf run`; a thread reads what the program says."""

    def __init__(self, scene: Scene, environment: dict[str, str]) -> None:
        self.scene = scene
        os.environ.update(environment, START=",".join(map(str, scene.starts)))
        try:
            self.process = scene.job.start()
        finally:
            for name in ("START", *environment):
                del os.environ[name]
        self.verified = threading.Event()
        self.errors: list[tuple[int, float]] = []  # errno, CLOCK_MONOTONIC
        self.other = ""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        self.messages = threading.Thread(target=self._read_messages, daemon=True)
        self.messages.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            match line.split():
                case ["ack", writer, step] if line.endswith("\n"):
                    assert self.scene.starts[int(writer)] == int(step)
                    self.scene.starts[int(writer)] += 1
                    self.scene.acknowledged += 1
                case ["error", _, _, number, when]:
                    if int(number) not in MOUNT_GONE:
                        self.errors.append((int(number), float(when)))
                case ["verified", _]:
                    self.scene.verified += 1
                    self.verified.set()
                case ["secret", value] if line.endswith("\n"):
                    self.scene.secrets.add(bytes.fromhex(value))
                case _:
                    self.other += line

    def _read_messages(self) -> None:
        self.stderr = self.process.stderr.read()

    def wait_verified(self) -> None:
        until(lambda: self.verified.is_set() or self.process.poll() is not None, PATIENCE_S)
        assert self.verified.is_set(), self.end()

    def wait_progress(self, steps: int = 1) -> None:
        """Wait until each writer got an acknowledgement that it asked for after now."""
        wanted = [start + steps for start in self.scene.starts]
        until(
            lambda: (
                all(a >= b for a, b in zip(self.scene.starts, wanted, strict=True))
                or self.process.poll() is not None
            ),
            PATIENCE_S,
        )
        assert self.process.poll() is None, self.end()

    def kill(self) -> None:
        self.scene.kills += self.process.poll() is None
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> str:
        """Wait for the end and read the last acknowledgements; return what else was said."""
        self.process.wait(PATIENCE_S)
        self.thread.join(PATIENCE_S)
        self.messages.join(PATIENCE_S)
        return self.other + self.stderr


@pytest.fixture
def seed() -> str:
    value = os.environ.get("SECURETF_SEED", str(random.SystemRandom().randrange(1 << 32)))
    print(f"SECURETF_SEED={value}")
    return value


@pytest.fixture
def scene(tmp_path: Path, seed: str) -> Iterator[Scene]:
    one = Scene(tmp_path, seed)
    yield one
    one.close()


def test_run_when_launcher_or_cas_is_killed_at_any_point_keeps_what_was_acknowledged(
    scene: Scene, seed: str
) -> None:
    choice, begin, figures = random.Random(seed), time.monotonic(), {}
    while scene.kills < KILLS:
        name = choice.choice(("early", "launcher", "launcher", "cas", "cas", "both", "end"))
        figures[name] = figures.get(name, 0) + 1
        KINDS[name](scene, choice)
        scene.check_host()
    last = scene.run(ONLY_VERIFY="1")
    assert (last.process.wait(PATIENCE_S), last.end().count("error")) == (0, 0), last.end()
    assert last.verified.is_set()
    check_as_owner(scene)
    until(lambda: not Path(scene.job.base).exists())
    sizes = sum(path.stat().st_size for path in scene.job.volumes.rglob("*") if path.is_file())
    print(
        f"{scene.kills} kills in rounds {figures}, {scene.verified} verified restarts, {scene.acknowledged} "
        f"acknowledged steps, none lost; ciphertext {sizes} bytes; {time.monotonic() - begin:.0f} s on "
        f"{file_system(scene.directory)}"
    )
    assert scene.acknowledged > KILLS  # work was done between the kills
    assert scene.verified > KILLS // 4


def killed_early(scene: Scene, choice: random.Random) -> None:
    """The launcher, anywhere from its first instruction to the program's first writes."""
    run = scene.run()
    time.sleep(choice.uniform(0.0, 1.5))
    run.kill()


def killed_launcher(scene: Scene, choice: random.Random) -> None:
    """The launcher, while the program writes."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 1.0))
    run.kill()
    assert run.errors == []


def killed_cas(scene: Scene, choice: random.Random) -> None:
    """The CAS, perhaps again while it starts; the program, which never notices, goes on; the launcher."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 0.7))
    scene.kill_cas()
    time.sleep(choice.uniform(0.0, 0.5))
    if choice.random() < 0.3:
        starting = subprocess.Popen(
            [str(one) for one in scene.cloud.cas.args], stdout=subprocess.DEVNULL, stderr=scene.cloud.log
        )
        time.sleep(choice.uniform(0.0, 1.5))
        starting.kill()
        starting.wait()
        scene.kills += 1
    scene.restart_cas()
    run.wait_progress(2)
    run.kill()
    assert run.errors == []


def killed_both(scene: Scene, choice: random.Random) -> None:
    """CAS and launcher within milliseconds, in either order."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 0.7))
    actions = [run.kill, scene.kill_cas]
    choice.shuffle(actions)
    for action in actions:
        action()
        time.sleep(choice.choice((0, 0, choice.uniform(0, 0.05))))
    scene.restart_cas()


def killed_at_the_end(scene: Scene, choice: random.Random) -> None:
    """The launcher, while it commits and unmounts after the program ended; perhaps it is done by then."""
    run = scene.run()
    run.wait_verified()
    time.sleep(choice.uniform(0.0, 0.3))
    run.process.terminate()
    time.sleep(choice.uniform(0.0, 0.15))
    run.kill()


KINDS = {
    "early": killed_early,
    "launcher": killed_launcher,
    "cas": killed_cas,
    "both": killed_both,
    "end": killed_at_the_end,
}


def check_as_owner(scene: Scene) -> None:
    """`securetf volume check` and `unpack` with the owner's key: nothing damaged, everything is there."""
    directory, out = str(scene.job.volumes / "model"), str(scene.directory / "unpacked")
    options = ["--cas", str(scene.cloud.trust_file), "--session", scene.job.name, "--volume", "model"]
    for command in (["check", directory], ["unpack", directory, out]):
        succeed(*SECUR_ETF, "volume", *command, *options, "--key", str(scene.cloud.key_file))
    environment = f"START={','.join(map(str, scene.starts))}"
    program = [sys.executable, PROGRAM, out, scene.seed, "/dev/null"]
    succeed("env", "ONLY_VERIFY=1", environment, *program)


def succeed(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def file_system(path: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_run_when_the_cas_comes_back_in_time_the_program_only_waits(scene: Scene) -> None:
    run = scene.run()
    run.wait_verified()
    run.wait_progress()
    scene.kill_cas()
    time.sleep(0.5)  # what was acknowledged just before has been read by now
    before = list(scene.starts)
    time.sleep(3)
    assert scene.starts == before  # nothing is acknowledged that the CAS did not anchor
    scene.restart_cas()
    run.wait_progress(3)
    assert run.errors == []
    run.process.terminate()
    text = run.end()
    assert run.process.returncode == 0, text
    again = scene.run(ONLY_VERIFY="1")
    assert again.process.wait(PATIENCE_S) == 0, again.end()
    again.end()
    scene.check_host()


def test_run_when_the_cas_stays_away_fsync_fails_with_eio_and_nothing_acknowledged_is_lost(
    scene: Scene,
) -> None:
    run = scene.run()
    run.wait_verified()
    run.wait_progress()
    scene.kill_cas()
    gone = time.monotonic()
    until(lambda: len(run.errors) >= WRITERS or run.process.poll() is not None, PATIENCE_S)
    waited = run.errors[0][1] - gone
    print(f"fsync failed after {waited:.1f} s without a CAS")
    assert {number for number, _ in run.errors} == {errno.EIO}, run.errors
    assert 25 < waited < 45
    before = list(scene.starts)
    scene.restart_cas()
    run.wait_progress(2)  # the same mount works again
    assert all(start >= old + 2 for start, old in zip(scene.starts, before, strict=True))
    run.kill()
    again = scene.run(ONLY_VERIFY="1")
    assert again.process.wait(PATIENCE_S) == 0, again.end()
    again.end()
    scene.check_host()


def test_run_when_killed_takes_the_programs_children_with_it(scene: Scene, tmp_path: Path) -> None:
    pid_file = tmp_path / "child"
    job = scene.job
    job.name += "-children"
    job.shell(
        f"(setsid sh -c 'echo $$ > {pid_file}; sleep 600') & while :; do sleep 0.1; done",
        workload=f'volumes = {{ model = "{job.base}:rw" }}',
        tables='[volumes.model]\nwriter = "trainer"\n',
    )
    process = job.start()
    until(lambda: (pid_file.exists() and pid_file.read_text()) or process.poll() is not None, PATIENCE_S)
    process.kill()
    process.wait()
    child = int(pid_file.read_text())
    try:
        until(lambda: not alive(child) and not scene.processes())
    finally:
        if alive(child):
            os.killpg(child, signal.SIGKILL)


@pytest.mark.parametrize("left", [("anchor",), ("anchor", ".anchor.new", "database"), (".anchor.new",)])
def test_cas_when_its_first_start_was_killed_starts(tmp_path: Path, left: tuple[str, ...]) -> None:
    """What each step of a first start leaves when the next one is never reached."""
    if "anchor" in left:
        InsecureFileAnchor.create(tmp_path / "anchor", os.urandom(16), GENESIS.digest()).close()
    if ".anchor.new" in left:
        (tmp_path / ".anchor.new").write_bytes(b"STF")
    if "database" in left:
        (tmp_path / "cas").mkdir()
        sqlite3.connect(tmp_path / "cas" / "cas.sqlite").execute("PRAGMA journal_mode = WAL").fetchall()
    cloud = Cloud(tmp_path)
    try:
        cloud.cas.kill()
        cloud.cas.wait()
        cloud.cas.stdout.close()
        cloud.start()
    finally:
        cloud.stop()
    shutil.rmtree(tmp_path / "cas")
    cloud.log = (tmp_path / "cas.log").open("a")
    with pytest.raises(AssertionError, match=r"STF-1421.*holds no database"):
        cloud.start()
    cloud.cas.wait()
    cloud.cas.stdout.close()
    cloud.log.close()
