"""What a host can change in ciphertext without being noticed: twenty offline attacks on three file systems.

`python benchmarks/attacks.py [--quick] [--json FILE]`, as root, with gocryptfs and securefs (`apt-get install
gocryptfs securefs`). A small tree is written once, and the host keeps a copy of the ciphertext after each
step: it sees what changes where and when, and has no key. Each attack changes a copy of the newest
ciphertext; then the file system is mounted again and everything is read. `noticed`: the mount or a read
fails. `no effect`: exactly what was written is served. `SERVED`: something else is, without an error. Before
the attacks, each must serve the untouched copy.
"""

import argparse
import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _offline_attacks import ATTACKS, Host, live
from _report import Row, publish
from _sealed_systems import NotMountedError, System, systems
from securetf.shields.filesystem import enter_mount_namespace, mount_tmpfs


def view(mount: Path) -> dict[str, Any]:
    """Read everything that a program can see."""
    seen: dict[str, Any] = {}
    for root, directories, files in os.walk(mount, onerror=stop):
        for name in sorted(directories + files):
            path = Path(root, name)
            facts = path.lstat()
            entry = [stat.S_IFMT(facts.st_mode), stat.S_IMODE(facts.st_mode)]
            if path.is_symlink():
                entry.append(os.readlink(path))
            elif path.is_file():
                time = facts.st_mtime_ns if name == "b" else 0
                entry += [time, note(path), path.read_bytes()]
            seen[str(path.relative_to(mount))] = entry
    return seen


def note(path: Path) -> bytes | None:
    """Return the extended attribute of a file, if there is one and the file system has them."""
    try:
        return os.getxattr(path, "user.note")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


def stop(error: OSError) -> None:
    raise error


def outcome(host: Host, expected: dict[str, Any], attack: Callable[[Host], None] | None) -> tuple[str, str]:
    """Attack a copy of the newest store; return the verdict and what was said."""
    host.store = host.system.area / "attacked"
    shutil.rmtree(host.store, ignore_errors=True)
    shutil.copytree(host.steps["last"], host.store, symlinks=True)
    if attack is not None:
        attack(host)
    try:
        with host.system.mounted(host.store, writable=False) as mount:
            seen = view(mount)
    except NotMountedError as error:
        return "noticed", f"mount: {error}"
    except OSError as error:
        return "noticed", f"read: {error.strerror}"
    if seen == expected:
        return "no effect", ""
    different = {name for name in seen.keys() | expected.keys() if seen.get(name) != expected.get(name)}
    return "SERVED", f"otherwise than written: {', '.join(sorted(different))}"


def attacked(system: System) -> list[dict[str, str]]:
    """Return a row for each attack on one file system."""
    host = live(system)
    with system.mounted(host.steps["last"], writable=False) as mount:
        expected = view(mount)
    if len(expected) != 10 - 1:
        raise SystemExit(f"{system.name} does not hold the tree: {sorted(expected)}")
    if outcome(host, expected, None)[0] != "no effect":
        raise SystemExit(f"{system.name} raises an alarm for an untouched copy")
    rows = []
    for name, attack in ATTACKS:
        verdict, said = outcome(host, expected, attack)
        rows.append({"system": system.name, "attack": name, "verdict": verdict, "said": said})
    return rows


def sums(rows: list[dict[str, str]]) -> list[Row]:
    """Return how often each verdict was given on each system; only ours has a target, to serve none."""
    found = []
    for name in dict.fromkeys(row["system"] for row in rows):
        of = [row["verdict"] for row in rows if row["system"] == name]
        for verdict in ("noticed", "no effect", "SERVED"):
            count, held = of.count(verdict), name == "securetf" and verdict == "SERVED"
            target, met = (0, count == 0) if held else (None, None)
            found.append(
                Row(name=f"{name}: {verdict}", value=count, unit=f"of {len(of)}", target=target, met=met)
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: it is quick")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--only", help="one file system by name")
    options = parser.parse_args()
    enter_mount_namespace()
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as name:
        mount_tmpfs(name, size_bytes=2 << 30, mode=0o700)
        try:
            for system in systems(Path(name)):
                if options.only in (None, system.name):
                    rows += attacked(system)
        finally:
            subprocess.run(["umount", "-l", name], check=True)
    names = list(dict.fromkeys(row["system"] for row in rows))
    print(f"{'':34}" + "".join(f"{one:12}" for one in names))
    for attack, _ in ATTACKS:
        verdicts = {row["system"]: row["verdict"] for row in rows if row["attack"] == attack}
        print(f"{attack:34}" + "".join(f"{verdicts[one]:12}" for one in names))
    publish("Twenty offline attacks", sums(rows), options.json, {"attacks": rows})
    if any(row["system"] == "securetf" and row["verdict"] == "SERVED" for row in rows):
        raise SystemExit("securetf served what was never written")


if __name__ == "__main__":
    main()
