"""A program, not a test: mounts one volume in a mount namespace of its own and runs commands there.

argv[1]: JSON {directory, trust_file, mountpoint, writable, options}. Then one JSON request a line on stdin,
one answer a line on stdout. Ends at end of input: unmounts and closes the volume.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from securetf.errors import SecuretfError
from securetf.shields.filesystem import Mount, Volume, enter_mount_namespace, open_volume
from securetf.shields.local_trust import LocalTrust


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def failed(error: SecuretfError) -> dict[str, str]:
    return {"error": type(error).__name__, "problem": error.problem, "fix": error.fix}


def answer(request: dict[str, Any], volume: Volume, mount: Mount) -> dict[str, Any]:
    if "run" in request:
        done = subprocess.run(
            request["run"], capture_output=True, text=True, timeout=request["timeout"], check=False
        )
        return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    if "stats" in request:
        stats = mount.stats()
        return {
            "integrity_errors": stats.integrity_errors,
            "last": stats.last_integrity_error,
            "reads": stats.reads,
        }
    if "sync" in request:
        volume.sync()
        return {"seq": volume.status().seq}
    raise ValueError(f"unknown request {request}")


def main() -> None:
    given = json.loads(sys.argv[1])
    trust = LocalTrust(Path(given["trust_file"]))
    try:
        enter_mount_namespace()
        grant = trust.grant(writable=given["writable"])
        volume = open_volume(Path(given["directory"]), grant, trust.advance)
        mount = volume.mount(given["mountpoint"], **given.get("options", {}))
    except SecuretfError as error:
        say(**failed(error))
        return
    say(ready=True)
    for line in sys.stdin:
        try:
            say(**answer(json.loads(line), volume, mount))
        except SecuretfError as error:
            say(**failed(error))
    try:
        mount.unmount()
        volume.close()
    except SecuretfError as error:
        say(**failed(error))
        return
    say(closed=True)


if __name__ == "__main__":
    main()
