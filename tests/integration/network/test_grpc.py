"""gRPC's interoperability cases between two hosts, through both shields and without TLS of gRPC's own."""

import os
import sys
from pathlib import Path

import pytest

from support import grpc_interop
from support.grpc_interop import CASES
from support.hosts import Hosts
from support.pair import PORT, Pair

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]
PROGRAM = [sys.executable, str(Path(grpc_interop.__file__))]


@pytest.mark.parametrize("interceptor", ["namespace", "seccomp"])
def test_grpc_when_both_sides_are_shielded_passes_its_interoperability_cases(
    pair: Pair, interceptor: str, hosts: Hosts, tmp_path: Path
) -> None:
    client = [*PROGRAM, "client", "server-0", str(PORT)]
    pair.create(pair.text(client, server=[*PROGRAM, "server", str(PORT)]))
    with hosts.captured(tmp_path / "wire"):
        pair.run("server", "--interceptor", interceptor).wait_for("listening")
        run = pair.run("client", "--interceptor", interceptor)
        status = run.wait()
    lines = [line for line in run.said.splitlines() if line.partition(" ")[0] in CASES]
    assert lines == [f"{case} passed" for case in CASES], run.said
    assert status == 0
    wire = (tmp_path / "wire").read_bytes()
    assert len(wire) > 1_000_000  # what the cases send
    for plain in (b"PRI * HTTP/2.0", b"grpc.testing.TestService"):
        assert plain not in wire
