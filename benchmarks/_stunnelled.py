"""A plain cluster whose connections are stunnel's, with certificates on both sides, for `distributed.py`."""

import subprocess
from pathlib import Path

from _processes import cpu_s
from support.distributed import Unshielded
from support.hosts import Hosts

TLS_PORT, FIRST_PORT = 15443, 23000


class Stunnelled(Unshielded):
    """Each host has one stunnel: into its own task, and a local port for every other task.

    Task number i has port FIRST_PORT + i of the loopback on every host, so all tasks have one TF_CONFIG.
    """

    def __init__(
        self, hosts: Hosts, example: str, members: list[tuple[str, int]], directory: Path, data: Path
    ) -> None:
        super().__init__(hosts, example, members, directory, data)
        self._pem = _certificate(directory)
        self._tunnels = [self._tunnel(number) for number in range(len(members))]

    def entries(self) -> list[str]:
        return [f"127.0.0.1:{FIRST_PORT + number}" for number in range(len(self.members))]

    def close(self) -> float:
        """Stop the tunnels, after the tasks; return their processor seconds."""
        used = sum(cpu_s(tunnel.pid)[0] for tunnel in self._tunnels)
        for tunnel in self._tunnels:
            tunnel.terminate()
            tunnel.wait(20)
        return used

    def _tunnel(self, own: int) -> subprocess.Popen[bytes]:
        text = (
            "foreground = yes\npid =\ndebug = 3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"
            f"cert = {self._pem}\nCAfile = {self._pem}\nverifyChain = yes\nsslVersionMin = TLSv1.3\n"
            f"[own]\nclient = no\naccept = {self.hosts.addresses[own]}:{TLS_PORT}\n"
            f"connect = 127.0.0.1:{FIRST_PORT + own}\n"
        )
        for other in set(range(len(self.members))) - {own}:
            text += (
                f"[to-{other}]\nclient = yes\naccept = 127.0.0.1:{FIRST_PORT + other}\n"
                f"connect = {self.hosts.addresses[other]}:{TLS_PORT}\n"
            )
        file = self.directory / f"stunnel-{own}.conf"
        file.write_text(text)
        with (self.directory / f"stunnel-{own}.log").open("wb") as log:
            return subprocess.Popen(
                self.hosts.on(own, ["stunnel4", str(file)]), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )


def _certificate(directory: Path) -> Path:
    """Return a file with one key and its certificate, for all hosts."""
    pem = directory / "peer.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-keyout", str(directory / "key.pem"), "-out", str(pem)],
        capture_output=True, check=True,
    )  # fmt: skip
    pem.write_bytes(pem.read_bytes() + (directory / "key.pem").read_bytes())
    return pem
