"""Runs the commands that a user would type, in one working directory, and starts and ends the CAS."""

import importlib.util
import json
import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from securetf.demo.screen import Screen
from securetf.errors import DemoError, EnvironmentUnfitError, FuseUnavailableError

SECURETF = (sys.executable, "-m", "securetf")
CAS_START_LIMIT_S = 30
CAS_STOP_LIMIT_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a command ended. lines: what it printed, both streams in order. seconds: wall-clock time."""

    code: int
    lines: tuple[str, ...]
    seconds: float

    def line_with(self, text: str) -> str:
        """Return the last line that contains `text`, or an empty one."""
        return next((line for line in reversed(self.lines) if text in line), "")


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands run in `directory`, so that they are shown with short relative paths."""

    directory: Path
    screen: Screen

    def securetf(self, *arguments: str, quiet: bool = False) -> Result:
        """Run `securetf ARGUMENTS`, show its output, and raise DemoError unless it exits with 0."""
        self.screen.command(shlex.join(["securetf", *arguments]))
        result = self._run([*SECURETF, *arguments], show=not quiet)
        _expect_success("securetf " + arguments[0], result)
        return result

    def json(self, *arguments: str) -> dict[str, object]:
        """Run `securetf ARGUMENTS --json` and return the object it prints."""
        result = self.securetf(*arguments, "--json", quiet=True)
        try:
            facts = json.loads(next(line for line in result.lines if line.startswith("{")))
        except (StopIteration, ValueError):
            raise DemoError(
                f"`securetf {arguments[0]} --json` printed no JSON object", "report this as a defect"
            ) from None
        return dict(facts)

    def attempt(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Result:
        """Run `securetf ARGUMENTS`, which may fail, without showing its output."""
        prefix = [f"{name}={value}" for name, value in (environment or {}).items()]
        self.screen.command(shlex.join([*prefix, "securetf", *arguments]))
        return self._run([*SECURETF, *arguments], environment={**os.environ, **(environment or {})})

    def plain(self, *command: str, environment: Mapping[str, str] | None = None, show: bool = True) -> Result:
        """Run another program; `environment` replaces the whole environment. Raises DemoError on failure."""
        self.screen.command(shlex.join(_short(word) for word in command))
        result = self._run(list(command), environment=environment, show=show)
        _expect_success(_short(command[0]), result)
        return result

    def _run(
        self, command: list[str], *, environment: Mapping[str, str] | None = None, show: bool = False
    ) -> Result:
        begin, lines = time.monotonic(), []
        with subprocess.Popen(  # noqa: S603  (the demonstration's own commands; no shell)
            command,
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for raw in process.stdout or ():
                line = raw.rstrip()
                lines.append(line)
                if show and line:
                    self.screen.output(line)
        return Result(code=process.returncode, lines=tuple(lines), seconds=time.monotonic() - begin)

    @contextmanager
    def cas(self, *arguments: str) -> Iterator[str]:
        """Start `securetf cas start ARGUMENTS`, yield the URL, and end the process whatever happens."""
        self.screen.command(shlex.join(["securetf", "cas", "start", *arguments]) + " &")
        with (self.directory / "cas.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                ["setpriv", "--pdeathsig", "TERM", "--", *SECURETF, "cas", "start", *arguments],  # noqa: S607
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield self._ready(process)
        finally:
            process.terminate()
            try:
                process.wait(CAS_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()

    def _ready(self, process: "subprocess.Popen[str]") -> str:
        readable = process.stdout and select.select([process.stdout], [], [], CAS_START_LIMIT_S)[0]
        line = process.stdout.readline() if process.stdout and readable else ""
        try:
            facts = json.loads(line)
            self.screen.output(line.rstrip())
            return str(facts["url"])
        except (ValueError, KeyError, TypeError):
            log = (self.directory / "cas.log").read_text(errors="replace").strip()
            raise DemoError(f"the CAS did not start: {log[-2000:] or line!r}", "mend what it names") from None


def check_machine() -> None:
    """Raise EnvironmentUnfitError if the demonstration cannot be done here, before anything is started."""
    if os.geteuid() != 0:
        raise EnvironmentUnfitError(
            f"running as user {os.geteuid()}, expected root: mounts need it", "run the demonstration as root"
        )
    if not Path("/dev/fuse").exists():
        raise FuseUnavailableError(
            "/dev/fuse is not there", "`modprobe fuse`; in a container, pass the device /dev/fuse"
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise EnvironmentUnfitError(
            f"TensorFlow is not installed for {sys.executable}", "run `make demo`, which installs it"
        )


def left_over(directory: Path) -> list[str]:
    """Return what is left of commands in `directory`: processes that work there, and mounts below it."""
    found = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {directory}" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(directory):
                command = (process / "cmdline").read_text().replace("\0", " ")
                found.append(f"process {process.name}: {command}")
        except OSError:
            continue  # it ended meanwhile
    return found


def _expect_success(name: str, result: Result) -> None:
    if result.code != 0:
        said = "\n".join(result.lines[-15:])
        raise DemoError(
            f"`{name}` ended with exit code {result.code}, expected 0:\n{said}", "mend what it names"
        )


def _short(word: str) -> str:
    """Show this interpreter as `python`."""
    return "python" if word == sys.executable else word
