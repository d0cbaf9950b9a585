"""Runs all members of a Manifest on this machine, for development: one `securetf run` process each."""

import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from securetf.launcher.progress import State
from securetf.manifest import Manifest

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 30.0  # between the signal that ends a member and its hard end: it commits its volumes meanwhile
DRAIN_S = 1.0  # for the output of a member that has ended, if something else still holds it open
LINE_LIMIT = 64 * 1024  # bytes; a longer line is cut in two
HINTS = {  # what a program prints → what it means; each is told once
    re.compile(
        rb"unsupported type .*PerReplica"
    ): "Keras 3 cannot `fit` under MultiWorkerMirroredStrategy, securetf "
    "or not: use a custom loop, or tf_keras with TF_USE_LEGACY_KERAS=1 (docs/how-to/distributed-training.md)",
}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(slots=True)
class Member:
    """One instance of a workload. servant: it never ends by itself (see `servants`), so we end it."""

    workload: str
    instance: int
    servant: bool
    process: "subprocess.Popen[bytes] | None" = None
    state: "State | str" = ""
    kill_at: float | None = None
    ended_by_us: bool = False
    open_pipes: int = 0
    drain_until: float = 0.0

    @property
    def name(self) -> str:
        """Return `worker-1`."""
        return f"{self.workload}-{self.instance}"


def members(manifest: Manifest) -> list[Member]:
    """Return the instances that a Manifest always needs: 0 to minimum - 1 of each workload."""
    serving = servants(manifest)
    return [
        Member(name, instance, name in serving)
        for name, workload in manifest.workloads.items()
        for instance in range(workload.instances.minimum)
    ]


def servants(manifest: Manifest) -> set[str]:
    """Return the workloads that serve a chief and never end: `ps` and `worker` of a cluster with both.

    tf.distribute's guide: their programs end with `server.join()`; the chief coordinates the training.
    """
    tasks: dict[str, dict[str, str]] = {}
    for name, workload in manifest.workloads.items():
        if workload.tensorflow_cluster is not None:
            task = workload.tensorflow_task or name
            tasks.setdefault(workload.tensorflow_cluster, {})[name] = task
    return {
        name
        for cluster in tasks.values()
        if {"chief", "ps"} <= set(cluster.values())
        for name, task in cluster.items()
        if task in ("ps", "worker")
    }


@dataclass(slots=True)
class _Pipe:
    """What one member writes: to `show` line by line."""

    member: Member
    stream: IO[bytes]
    show: Callable[[bytes], None]
    rest: bytes = field(default=b"")

    def read(self) -> bool:
        """Show what is there; return whether more may come."""
        raw = os.read(self.stream.fileno(), LINE_LIMIT)
        *lines, self.rest = (self.rest + raw).split(b"\n")
        if not raw or len(self.rest) >= LINE_LIMIT:
            lines, self.rest = [*lines, self.rest], b""
        for line in lines:
            if line or raw:
                self.show(line)
        return bool(raw)


class Local:
    """Starts the members, shows what they print, and ends them together. Use from the main thread, once."""

    def __init__(self, found: Sequence[Member], command: Callable[[Member, int], list[str]]) -> None:
        """command: what to start for a member, whose progress goes to the given descriptor."""
        self._members, self._command = list(found), command
        self._width = max((len(one.name) for one in found), default=0)
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._hints = set(HINTS)
        self._status: int | None = None
        self._ending = False

    def run(self) -> int:
        """Run until all have ended; return the status of the first that failed, or 0."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in ENDING:
            signal.signal(number, self._receive)
        self._selector.register(woken, selectors.EVENT_READ)
        try:
            for one in self._members:
                self._start(one)
            while any(one.process is not None for one in self._members):
                self._step(woken)
        finally:
            for one in self._members:
                if one.process is not None:
                    one.process.kill()
                    one.process.wait()
        return self._status or 0

    def _start(self, one: Member) -> None:
        reader, writer = os.pipe()
        try:
            one.process = subprocess.Popen(  # noqa: S603  (ourselves; no shell)
                self._command(one, writer),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[writer],
                start_new_session=True,  # Ctrl-C reaches them through us, once
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (there are no threads here)
            )
        finally:
            os.close(writer)
        for stream, show in (
            (one.process.stdout, lambda line: self._show(one, line, sys.stdout.buffer)),
            (one.process.stderr, lambda line: self._show(one, line, sys.stderr.buffer)),
            (os.fdopen(reader, "rb"), lambda line: self._progress(one, line)),
        ):
            if stream is not None:
                self._selector.register(stream, selectors.EVENT_READ, _Pipe(one, stream, show))
                one.open_pipes += 1

    def _step(self, woken: int) -> None:
        for key, _ in self._selector.select(timeout=0.2):
            pipe = key.data
            if pipe is None:
                os.read(woken, 4096)
            elif not pipe.read():
                self._selector.unregister(pipe.stream)
                pipe.stream.close()
                pipe.member.open_pipes -= 1
        while self._signals:
            self._end_all(self._signals.pop(0), "interrupted")
        now = time.monotonic()
        for one in self._members:
            if one.process is None:
                continue
            if one.process.poll() is not None:
                one.drain_until = one.drain_until or now + DRAIN_S
                if not one.open_pipes or now >= one.drain_until:
                    self._ended(one, one.process.returncode)
            elif one.kill_at is not None and now >= one.kill_at:
                one.process.kill()

    def _ended(self, one: Member, code: int) -> None:
        one.process = None
        status = code if code >= 0 else 128 - code
        self._say(one, f"exited {status}")
        expected = one.ended_by_us and one.servant
        if status and not expected and self._status is None:
            self._status = status
            if not self._ending:  # else each has been told, and may be saving what it did
                self._end_all(signal.SIGTERM, f"{one.name} failed")
        left = [other for other in self._members if other.process is not None]
        if left and not self._ending and all(other.servant for other in left):
            self._end_all(signal.SIGTERM, "only servers are left")

    def _end_all(self, number: int, why: str) -> None:
        left = [one for one in self._members if one.process is not None]
        if left:
            print(
                f"securetf: {why}: ending {', '.join(one.name for one in left)}", file=sys.stderr, flush=True
            )
        again = self._ending and number == signal.SIGINT
        for one in left:
            if one.process is not None:
                # `server.join()` of TensorFlow never comes back to Python, which would see SIGINT.
                gentle = signal.SIGTERM if one.servant else number
                one.process.send_signal(signal.SIGKILL if again else gentle)
                one.ended_by_us = True
                one.kill_at = one.kill_at or time.monotonic() + GRACE_S
        self._ending = True

    def _progress(self, one: Member, line: bytes) -> None:
        if line:
            told = json.loads(line)
            detail = f" for {told['detail']}" if told["state"] == "waiting" else ""
            self._say(one, told["state"] + detail)

    def _say(self, one: Member, state: str) -> None:
        if state != one.state:
            one.state = state
            print(f"{one.name:<{self._width}} * {state}", file=sys.stderr, flush=True)

    def _show(self, one: Member, line: bytes, to: IO[bytes]) -> None:
        to.write(f"{one.name:<{self._width}} | ".encode() + line + b"\n")
        to.flush()
        for pattern, hint in HINTS.items():
            if pattern in self._hints and pattern.search(line):
                self._hints.remove(pattern)
                print(f"securetf: hint for {one.name}: {hint}", file=sys.stderr, flush=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (signal's signature)
        self._signals.append(number)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run_command(member: Member, progress: int, options: Sequence[str], reports: Path | None) -> list[str]:
    """Return the `securetf run` of one member."""
    report = [] if reports is None else ["--report", str(reports / f"{member.name}.json")]
    return [
        sys.executable, "-m", "securetf", "run", member.workload, "--instance", str(member.instance),
        "--progress-fd", str(progress), *report, *options,
    ]  # fmt: skip
