"""Not a test: a CAS, a session whose program writes, runs of it, and a search of what the host can see."""

import base64
import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from support.cloud import Cloud, Job, until
from support.writer_program import CANARY, NAME, WRITERS

SECRET = b"the secret that an owner imported, 7c9f1b"
PATIENCE_S = 60
MOUNT_GONE = (errno.ECONNABORTED, errno.ENOTCONN)  # just before the program dies with the launcher
PROGRAM = str(Path(__file__).with_name("writer_program.py"))


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
                # Other programs' network namespaces stand in /run as files that cannot be read.
                yield from (path for path in top.rglob("*") if path.parent != Path("/run/netns"))

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
