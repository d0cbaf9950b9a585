"""What an operator sets: limits and times, with the defaults that `securetf serve` shows."""

import os
from dataclasses import dataclass, field
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """rest, grpc: `host:port`, port 0 for a free one, empty for none.

    workers: engines per version, each computing on `threads` threads. queue: requests per version that wait
    for one. deadline_s: of a request that names none. max_batch: examples computed at once, 1 for no
    batching; batch_wait_s: how long the first waits for others. body_timeout_s: from the first byte of a
    request to its last. versions: how many of the highest are served. labels: model → label → version.
    """

    models: Path
    rest: str = "127.0.0.1:8501"
    grpc: str = "127.0.0.1:8500"
    workers: int = field(default_factory=cores)
    threads: int = 1
    queue: int = 128
    deadline_s: float = 60.0
    max_batch: int = 1
    batch_wait_s: float = 0.002
    max_body_bytes: int = 64 << 20
    max_inflight_bytes: int = 512 << 20
    max_connections: int = 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    drain_s: float = 20.0
    poll_s: float = 1.0
    versions: int = 1
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    allow_lower_versions: bool = False
    allow_non_finite: bool = False
    allow_reload_config: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the service listens: `host:port`, empty for an interface that is off."""

    rest: str
    grpc: str
