"""Other people's test suites without a shield, under interceptor N and under S; differences must be expected.

`python tests/suites/shielded.py SHIELDED cpython [--python PYTHON]`: CPython's test_socket and test_asyncio,
without VSOCK, which would connect to the host.
`python tests/suites/shielded.py SHIELDED tensorflow --programs DIRECTORY`: each program there, a test
of TensorFlow that was made executable.
As root. SHIELDED is the example `shielded` of the crate netshield; docs/how-to/run-other-suites.md has every
step. Prints each test that fails under a shield and not without, and why. The exit status is the number of
those whose reason is not one of `EXPECTED`.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SHIELDS = ("none", "namespace", "seccomp")
PATIENCE_S = 3600
CPYTHON = ["-m", "test", "-v", "-i", "*VSOCK*", "-i", "*Vsock*", "test_socket", "test_asyncio"]
EXPECTED = {  # what is found in "NAME: LAST LINE" of a test that failed, and why
    r"PermissionError: \[Errno 13\]|AssertionError: Can not create socket": "a UDP socket: refused",
    r"(?s)127\.77\.": "S binds a loopback address of its own, and getsockname says so",
    r"test_ipv6_only_default: AssertionError": "S turns IPV6_V6ONLY off when it binds",
}
# TensorFlow's tests choose ports with the package portpicker, which tries UDP, too, and skip without a port.
PORTPICKER = """
import socket
class NoFreePortFoundError(Exception):
    pass
def pick_unused_port(*_, **__):
    with socket.create_server(("", 0)) as one:
        return one.getsockname()[1]
"""
Results = dict[str, str]  # name of a failed test to the last line of what it said


def unittest_failures(said: str) -> tuple[Results, int, int]:
    """Return the failures in what unittest printed, and how many tests ran and were skipped."""
    blocks = re.split(r"^={70}\n", said, flags=re.MULTILINE)[1:]
    found: Results = {}
    for block in blocks:
        if match := re.match(r"(?:ERROR|FAIL): (\S+)(?: \(([^)]*)\))?", block):
            body = re.split(r"^-{70}\n", block, flags=re.MULTILINE)[1]
            lines = [
                line
                for line in body.strip().splitlines()
                if re.match(r"\w[\w.]*(Error|Exception|Failure)", line)
            ]
            found[match[2] or match[1]] = lines[-1] if lines else body.strip()[-200:]
    ran = re.findall(r"^Ran (\d+) tests? in", said, flags=re.MULTILINE)
    skipped = re.findall(r"^(?:OK|FAILED) \(.*?skipped=(\d+)", said, flags=re.MULTILINE)
    return found, sum(map(int, ran)), sum(map(int, skipped))


def run(commands: list[list[str]], shield: str, shielded: Path, area: Path) -> tuple[Results, str]:
    """Run programs one after another; return what failed, and how much ran."""
    before = [] if shield == "none" else [str(shielded), shield]
    (area / "portpicker.py").write_text(PORTPICKER)
    environment = {**os.environ, "PYTHONPATH": f"{area}:{os.environ.get('PYTHONPATH', '')}"}
    failures: Results = {}
    ran = skipped = 0
    for command in commands:
        log = area / f"{Path(command[0]).name}-{shield}.log"
        with log.open("wb") as out:
            status = subprocess.run(
                [*before, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=area, env=environment, timeout=PATIENCE_S, check=False,
            ).returncode  # fmt: skip
        found, count, left_out = unittest_failures(log.read_text(errors="replace"))
        if status and not found:
            found = {str(command[0]): f"ended with {status}: {log}"}
        failures |= found
        ran += count
        skipped += left_out
    return failures, f"{ran} tests, {len(failures)} failed, {skipped} skipped"


def commands_of(suite: str, directory: Path | None, python: str) -> list[list[str]]:
    """Return the programs of a suite."""
    if suite == "cpython":
        return [[python, *CPYTHON]]
    programs = sorted(path for path in directory.iterdir() if os.access(path, os.X_OK) and path.is_file())
    return [[str(path.resolve())] for path in programs]


def compare(shield: str, found: Results, without: Results) -> int:
    """Print what fails under a shield alone; return how many of these nobody expects."""
    unexpected = 0
    by_reason: dict[str, list[str]] = {}
    for name in sorted(found.keys() - without.keys()):
        reason = next(
            (why for what, why in EXPECTED.items() if re.search(what, f"{name}: {found[name]}")), None
        )
        unexpected += reason is None
        by_reason.setdefault(reason or f"UNEXPECTED: {found[name]}", []).append(name)
    for reason, names in by_reason.items():
        print(f"{shield}: {len(names)} with: {reason}\n  " + "\n  ".join(names))
    for name in sorted(without.keys() - found.keys()):
        print(f"{shield}: passes, and fails without a shield: {name}: {without[name]}")
    return unexpected


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shielded", type=Path)
    parser.add_argument("suite", choices=("cpython", "tensorflow"))
    parser.add_argument("--programs", type=Path, help="directory of TensorFlow's tests")
    parser.add_argument("--python", default=sys.executable, help="whose own tests to run")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root for network namespaces")
    commands = commands_of(options.suite, options.programs, options.python)
    unexpected = 0
    without: Results = {}
    with tempfile.TemporaryDirectory(prefix="securetf-suite-") as name:
        for shield in SHIELDS:
            found, ran = run(commands, shield, options.shielded.resolve(), Path(name))
            print(f"{shield}: {ran}", flush=True)
            if shield == "none":
                without = found
            else:
                unexpected += compare(shield, found, without)
    return min(unexpected, 255)


if __name__ == "__main__":
    raise SystemExit(main())
