"""iperf3 across two shields, under both interceptors: `python tests/suites/iperf3_pair.py`, as root.

Each side is on a host of its own (a network namespace). A case passes when iperf3 ends well and bytes came.
Not all that were sent are counted, nor are they without shields: the end is told on another connection and
overtakes them. "both ways" is tried up to 5 times, and says how often: iperf3 gives its two connections their
directions in the order in which they arrive, and shields do not keep that order. Prints the rates, which say
nothing on a machine that does other work; the exit status is the number of cases that failed.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.cloud import Cloud
from support.hosts import Hosts
from support.pair import PORT, Pair

PATIENCE_S = 120
CASES = {
    "one stream": ["-n", "500M"],
    "from server to client": ["-n", "500M", "-R"],
    "four streams": ["-n", "500M", "-P", "4"],
    "both ways": ["-t", "2", "--bidir"],
    "64 bytes a write": ["-n", "2M", "-l", "64", "-N"],
    "paced": ["-t", "2", "-b", "50M"],
}
CLIENT = f"""
import json, subprocess, sys, time
def run(*options):
    command = ["iperf3", "-J", "-c", "server-0", "-p", "{PORT}", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout)
while "error" in run("-n", "1"):
    time.sleep(0.2)
def measure(options):
    while "busy" in (told := run(*options)).get("error", ""):  # with the test before
        time.sleep(0.2)
    if "error" in told:
        return False, told["error"]
    end = told["end"]
    ways = [way for way in ("", "_bidir_reverse") if f"sum_sent{{way}}" in end]
    pairs = [(end[f"sum_sent{{way}}"], end[f"sum_received{{way}}"]) for way in ways]
    came = all(0 < got["bytes"] <= sent["bytes"] for sent, got in pairs)
    return came, ", ".join(f"{{got['bits_per_second'] / 1e9:.2f}} Gbit/s" for _, got in pairs)
for name, options in json.loads(sys.argv[1]).items():
    for attempt in range(1, 6 if name == "both ways" else 2):
        came, said = measure(options)
        if came:
            break
    print("passed" if came else "FAILED", name, said, f"attempt {{attempt}}", flush=True)
"""


def main() -> int:
    if os.geteuid():
        raise SystemExit("needs root for network namespaces")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="securetf-suite-") as name, Hosts(2) as hosts:
        cloud = Cloud(Path(name), f"{hosts.address}:0")
        try:
            for interceptor in ("namespace", "seccomp"):
                pair = Pair(cloud, hosts, Path(tempfile.mkdtemp(dir=name)))
                client = [sys.executable, "-c", CLIENT, json.dumps(CASES)]
                try:
                    pair.create(pair.text(client, server=["/usr/bin/iperf3", "-s", "-p", str(PORT)]))
                    pair.run("server", "--interceptor", interceptor)
                    said = pair.run("client", "--interceptor", interceptor)
                    said.wait(PATIENCE_S)
                finally:
                    pair.close()
                lines = [line for line in said.said.splitlines() if line.startswith(("passed", "FAILED"))]
                passed = sum(line.startswith("passed") for line in lines)
                failed += len(CASES) - passed
                print(f"{interceptor}: {passed} of {len(CASES)}", *lines, sep="\n  ", flush=True)
                if passed != len(CASES):
                    print(said.said[-2000:])
        finally:
            cloud.stop()
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
