"""The gRPC project's interoperability client and server, and grpcio, with one another across two shields.

`python tests/suites/grpc_interop.py SERVER CLIENT`, as root: the two programs of any language, which take
`-port`, and `-server_host -server_port -test_case`. docs/how-to/run-other-suites.md says how to get those of
gRPC-Go. Each side is on a host of its own (a network namespace); under both interceptors: SERVER with CLIENT,
SERVER with grpcio, grpcio with CLIENT. Prints what did not pass; the exit status is the number of those.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import grpc_interop
from support.cloud import Cloud
from support.grpc_interop import CASES
from support.hosts import Hosts
from support.pair import PORT, Pair

OURS = [sys.executable, str(Path(grpc_interop.__file__).resolve())]
PATIENCE_S = 300
EACH = """
run() {{ timeout 60 {client} -server_host server-0 -server_port {port} -test_case $1; }}
until run empty_unary >/dev/null 2>&1; do sleep 0.2; done
for case in {cases}; do run $case && echo $case passed || echo $case FAILED; done
"""


def cells(server: Path, client: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return name to the commands of server and client."""
    cases = EACH.format(client=client, port=PORT, cases=" ".join(CASES))
    theirs = [str(server), "-port", str(PORT)], ["/bin/sh", "-c", cases]
    ours = [*OURS, "server", str(PORT)], [*OURS, "client", "server-0", str(PORT)]
    return {
        "theirs with theirs": theirs,
        "grpcio's client with their server": (theirs[0], ours[1]),
        "their client with grpcio's server": (ours[0], theirs[1]),
    }


def run(pair: Pair, interceptor: str) -> list[str]:
    """Run one pair to the client's end; return the cases that did not pass."""
    pair.run("server", "--interceptor", interceptor)
    client = pair.run("client", "--interceptor", interceptor)
    client.wait(PATIENCE_S)
    passed = set(re.findall(r"^(\w+) passed$", client.said, flags=re.MULTILINE))
    failed = [case for case in CASES if case not in passed]
    if failed:
        print(client.said)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("server", type=Path)
    parser.add_argument("client", type=Path)
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root for network namespaces")
    problems = 0
    with tempfile.TemporaryDirectory(prefix="securetf-suite-") as name, Hosts(2) as hosts:
        cloud = Cloud(Path(name), f"{hosts.address}:0")
        try:
            for what, (server, client) in cells(options.server.resolve(), options.client.resolve()).items():
                for interceptor in ("namespace", "seccomp"):
                    area = Path(tempfile.mkdtemp(dir=name))
                    pair = Pair(cloud, hosts, area)
                    try:
                        pair.create(pair.text(client, server=server))
                        failed = run(pair, interceptor)
                    finally:
                        pair.close()
                    problems += len(failed)
                    result = f"{len(CASES) - len(failed)} of {len(CASES)} passed"
                    print(f"{what}, {interceptor}: {result} {' '.join(failed)}".rstrip(), flush=True)
        finally:
            cloud.stop()
    return problems


if __name__ == "__main__":
    raise SystemExit(main())
