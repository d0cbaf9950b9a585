"""Opens one volume, mounts it, and tells how long that took and how much memory this process takes.

argv[1]: JSON {directory, trust, mountpoint, writable}. Says one JSON line when it is mounted, and one for
each line on stdin; unmounts and closes at the end of stdin, in the mount namespace that it was started in.
"""

import json
import sys
import time
from pathlib import Path

from securetf.shields.filesystem import open_volume
from securetf.shields.local_trust import LocalTrust


def memory() -> dict[str, int]:
    """Return what this process takes now, and took at most, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Vm")}
    return {"resident": found["VmRSS"], "peak": found["VmHWM"]}


def main() -> None:
    given = json.loads(sys.argv[1])
    trust = LocalTrust(Path(given["trust"]))
    grant = trust.grant(writable=given["writable"])
    before = memory()["resident"]
    begin, busy = time.perf_counter(), time.process_time()
    volume = open_volume(Path(given["directory"]), grant, trust.advance)
    mount = volume.mount(given["mountpoint"])
    spent = {"seconds": time.perf_counter() - begin, "processor": time.process_time() - busy}
    print(json.dumps({**spent, "before": before, **memory()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(memory()), flush=True)
    mount.unmount()
    volume.close()


if __name__ == "__main__":
    main()
