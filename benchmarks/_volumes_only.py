"""Runs a program that finds its data and its output in mounted volumes, and its network as it is.

Not a way to run securetf, which never starts a program without the network shield: a part of
`distributed.py`, to tell what each of the two shields costs. The volumes' keys come from local trust files.

argv[1]: JSON list of {directory, trust, mountpoint, writable}. The rest is the command.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

from securetf.shields.filesystem import enter_mount_namespace, open_volume
from securetf.shields.local_trust import LocalTrust


def main() -> int:
    enter_mount_namespace()
    opened = []
    for one in json.loads(sys.argv[1]):
        trust = LocalTrust(Path(one["trust"]))
        volume = open_volume(Path(one["directory"]), trust.grant(writable=one["writable"]), trust.advance)
        opened.append((volume, volume.mount(one["mountpoint"])))
    program = subprocess.Popen(sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())
    status = program.wait()
    for volume, mount in reversed(opened):
        mount.unmount()
        volume.close()
    return status


if __name__ == "__main__":
    raise SystemExit(main())
