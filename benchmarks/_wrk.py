"""Clients in C: wrk (`apt-get install wrk`), each posting the same bytes as fast as it gets answers.

Clients share the cores with the service that they ask, so what a client costs is taken from its throughput;
wrk's cost is little more than the kernel's.
"""

import json
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

_SCRIPT = """
wrk.method = "POST"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
for line in io.lines(os.getenv("HEADERS")) do
  local name, value = line:match("^(.-): (.*)$")
  wrk.headers[name] = value
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "us": %d, "p99_us": %d, "status": %d, "others": %d}',
    summary.requests, summary.duration, latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""


def installed() -> bool:
    """Whether there is a wrk."""
    return shutil.which("wrk") is not None


def wrk(address: str, message: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Send the bytes of one HTTP request (`_clients.request`) from so many connections for so long.

    Return `per_s` (answered with 2xx), `p99_ms`, `others` (refused, cut or late), and the client's own
    processor time for each request, `cpu_ms`.
    """
    head, _, body = message.partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    headers = [one for one in headers if not one.startswith(("Host:", "Content-Length:"))]  # wrk's own
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as area:
        folder = Path(area)
        (folder / "script.lua").write_text(_SCRIPT)
        (folder / "body").write_bytes(body)
        (folder / "headers").write_text("".join(f"{one}\n" for one in headers))
        environment = {**os.environ, "BODY": str(folder / "body"), "HEADERS": str(folder / "headers")}
        command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds:.0f}s"]
        command += ["--timeout", "30s", "--script", str(folder / "script.lua")]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = subprocess.run(
            [*command, f"http://{address}{first.split()[1]}"],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(shown.splitlines()[-1])
    answered = found["requests"] - found["status"]
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "per_s": answered / (found["us"] / 1e6),
        "p99_ms": found["p99_us"] / 1000,
        "others": found["status"] + found["others"],
        "cpu_ms": cpu_s * 1000 / max(1, found["requests"]),
    }
