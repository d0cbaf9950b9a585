"""Machines on one machine: network namespaces on a bridge, and what passes over its wire."""

import contextlib
import os
import selectors
import shutil
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

PREFIX = "sd-"
ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33  # packet(7), socket(7)
LARGEST_FRAME = 1 << 17  # with segmentation offload, frames of 64 KiB and their headers
RECEIVE_BUFFER = 256 << 20


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


class Hosts:
    """Namespaces that stand for machines, joined by a bridge on which this process has an address, too."""

    def __init__(self, count: int) -> None:
        self.id = uuid.uuid4().hex[:6]
        self.bridge = f"{PREFIX}{self.id}"
        net = int(self.id, 16) & 0xFFFF
        self._subnet = f"10.{64 + net % 64}.{net >> 6 & 0xFF}"
        self.address = f"{self._subnet}.254"
        self.addresses = [f"{self._subnet}.{number + 1}" for number in range(count)]
        self.names = [f"{PREFIX}{self.id}-{number}" for number in range(count)]
        self.ports = [f"{PREFIX}{self.id}p{number}" for number in range(count)]

    def __enter__(self) -> Self:
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
            for name, port, address in zip(self.names, self.ports, self.addresses, strict=True):
                ip("netns", "add", name)
                ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", port, "master", self.bridge, "up")
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete what exists of it; the tests end their processes before."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        for link in (*self.ports, self.bridge):
            subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)

    def on(self, host: int, command: list[str]) -> list[str]:
        """Return the command that runs `command` on a host; it has the process id of that command."""
        nsenter = shutil.which("nsenter")
        assert nsenter, "nsenter (util-linux) is missing"
        return [nsenter, f"--net=/run/netns/{self.names[host]}", "--", *command]

    @contextlib.contextmanager
    def losing(self, percent: int) -> Iterator[None]:
        """Lose so many of a hundred packets that arrive at a host; some must have been lost."""
        rule = f"numgen random mod 100 < {percent} counter drop"
        chain = f"type filter hook input priority 0; iifname eth0 {rule};"
        lost = 0
        try:
            for host in range(len(self.names)):
                self._nft(host, f"table inet lossy {{ chain arriving {{ {chain} }}; }}")
            yield
            for host in range(len(self.names)):
                lost += int(self._nft(host, "list table inet lossy").split("packets ")[1].split()[0])
        finally:
            for host in range(len(self.names)):
                self._nft(host, "add table inet lossy; delete table inet lossy")
        assert lost > 0, "no packet was lost"

    def _nft(self, host: int, text: str) -> str:
        done = subprocess.run(
            self.on(host, ["nft", "-f", "-"]), input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"nft {text}: {done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def captured(self, file: Path) -> Iterator["Capture"]:
        """Record every frame that enters or leaves a host."""
        capture = Capture(self.ports, file)
        try:
            yield capture
        finally:
            capture.stop()


class Capture:
    """Raw frames of some interfaces, one after another, in a file. Headers are left in."""

    def __init__(self, interfaces: list[str], file: Path) -> None:
        self.file = file
        self._out = file.open("wb")
        self._stop_reader, self._stop_writer = os.pipe()
        self._sockets = []
        for interface in interfaces:
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
            one.bind((interface, 0))
            one.setblocking(False)
            self._sockets.append(one)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in self._sockets:
                selector.register(one, selectors.EVENT_READ, one)
            selector.register(self._stop_reader, selectors.EVENT_READ)
            stopping = False
            while True:
                ready = [key.data for key, _ in selector.select(0 if stopping else None)]
                frames = 0
                for one in filter(None, ready):
                    with contextlib.suppress(BlockingIOError):
                        while frame := one.recv(LARGEST_FRAME):
                            self._out.write(frame)
                            frames += 1
                if stopping and not frames:
                    return
                stopping = stopping or None in ready

    def stop(self) -> None:
        """Write what has arrived, and make sure that nothing was lost."""
        os.write(self._stop_writer, b".")
        self._thread.join()
        self._out.close()
        lost = 0
        for one in self._sockets:
            statistics = one.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            lost += struct.unpack("=II", statistics)[1]
            one.close()
        os.close(self._stop_reader)
        os.close(self._stop_writer)
        assert lost == 0, f"{lost} frames were not recorded"

    def talked(self, source: str, target: str) -> bool:
        """Tell whether an IPv4 packet from one address to the other was recorded."""
        return socket.inet_aton(source) + socket.inet_aton(target) in self.file.read_bytes()

    def found(self, canaries: list[bytes]) -> int:
        """Return how many of the canaries are in what was recorded."""
        raw = self.file.read_bytes()
        return sum(canary in raw for canary in canaries)
