"""What the program sees of names and devices: its own hosts file, resolver, and no way around the shield."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from securetf.errors import EnvironmentUnfitError
from securetf.launcher.stages import Network, Shield
from securetf.manifest.rules import HOME_MEMORY

DIRECTORY = f"{HOME_MEMORY}/network"
# Sockets that a network namespace does not confine: RDMA, and name look-ups that the host would do for us.
HIDDEN = ("/dev/infiniband", "/run/nscd", "/run/systemd/resolve")


def cover(
    shield: Shield,
    network: Network,
    undo: Callable[[str], None],
    *,
    etc: Path = Path("/etc"),
    hidden: tuple[str, ...] = HIDDEN,
) -> list[str]:
    """Cover the files and directories for the program; return the directories that were hidden.

    undo: called with each path that has a mount on it now; they are to be unmounted in reverse order.

    Raises:
        EnvironmentUnfitError: the machine has no /etc/hosts or no /etc/resolv.conf to cover.
    """
    os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
    texts = {"hosts": network.hosts(), "resolv.conf": network.resolv_conf()}
    switch = etc / "nsswitch.conf"
    if switch.is_file():
        texts["nsswitch.conf"] = names_from_files_and_dns(switch.read_text())
    for name, text in texts.items():
        target = os.path.realpath(etc / name)
        if not os.path.isfile(target):
            raise EnvironmentUnfitError(
                f"{etc / name} does not exist, so the program cannot be given its own",
                f"make it on this machine, empty: `touch {target}`",
            )
        source = Path(DIRECTORY) / name
        source.write_text(text)
        source.chmod(0o644)
        shield.cover_file(str(source), target)
        undo(target)
    found = [directory for directory in hidden if os.path.isdir(directory)]
    for directory in found:
        shield.mount_memory(directory, size_bytes=4096, mode=0o555)
        undo(directory)
    return found


def names_from_files_and_dns(text: str) -> str:
    """Return nsswitch.conf with host names from the hosts file and DNS alone: other services ask the host."""
    line = "hosts: files dns"
    changed, count = re.subn(r"^hosts:.*$", line, text, flags=re.MULTILINE)
    return changed if count else f"{text.rstrip()}\n{line}\n"
