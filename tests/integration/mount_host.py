"""A program, not a test: mounts one volume in a mount namespace of its own and runs commands there.

argv[1]: JSON {directory, trust_file, mountpoint, writable, follow, freshness, options}. Then one JSON
request a line on stdin, one answer a line on stdout. Ends at end of input: unmounts and closes the volume.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from securetf.errors import SecuretfError
from securetf.shields.filesystem import Mount, Volume, enter_mount_namespace, open_volume
from securetf.shields.local_trust import LocalTrust


def say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def failed(error: SecuretfError) -> dict[str, str]:
    return {"error": type(error).__name__, "problem": error.problem, "fix": error.fix}


def answer(request: dict[str, Any], volume: Volume, mount: Mount) -> dict[str, Any]:  # noqa: PLR0911
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
            "stale_errors": stats.stale_errors,
            "reads": stats.reads,
            "transport": stats.transport,
        }
    if "sync" in request:
        volume.sync()
    if "sync" in request or "status" in request:
        return {"seq": volume.status().seq}
    if "open" in request:
        return {"descriptor": os.open(Path(mount.path, request["open"]), os.O_RDONLY)}
    if "listing" in request:
        return {"names": sorted(os.listdir(request["listing"]))}
    if "close" in request:
        os.close(request["close"])
        return {}
    if "read" in request:
        try:
            return {"data": os.pread(request["read"], request["size"], request["offset"]).decode()}
        except OSError as error:
            return {"errno": error.errno}
    raise ValueError(f"unknown request {request}")


def follow(where: list[Any] | bool, trust: LocalTrust, volume: Volume, mount: Mount) -> Volume:
    """Show the newest state, or the one that is named; return it."""
    grant = trust.grant(writable=False)
    epoch, seq, root = (grant.epoch, grant.seq, grant.root.hex()) if where is True else where
    newer = volume.at(epoch, seq, bytes.fromhex(root))
    mount.follow(newer)
    return newer


def main() -> None:
    given = json.loads(sys.argv[1])
    trust = LocalTrust(Path(given["trust_file"]))
    try:
        enter_mount_namespace()
        grant = trust.grant(writable=given["writable"], freshness=given["freshness"])
        if given["follow"]:
            grant = replace(grant, freshness="follow")
        volume = open_volume(Path(given["directory"]), grant, trust.advance)
        mount = volume.mount(given["mountpoint"], **given.get("options", {}))
    except SecuretfError as error:
        say(**failed(error))
        return
    say(ready=True)
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if "follow" in request:
                volume = follow(request["follow"], trust, volume, mount)
                request = {"status": True}
            say(**answer(request, volume, mount))
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
