"""Counters and histograms in Prometheus' text format (version 0.0.4). No label holds anything of a request's
content.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable

_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)  # seconds, coarse on purpose
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """All of a service's figures. gauges: asked for when somebody reads, each gives labels and values."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: dict[str, tuple[str, str]] = {}
        self._counters: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, list[float]]] = {}
        self._gauges: dict[str, Callable[[], Iterable[tuple[Labels, float]]]] = {}

    def gauge(self, name: str, explanation: str, read: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """Publish what `read` returns."""
        self._help[name] = ("gauge", explanation)
        self._gauges[name] = read

    def count(self, name: str, explanation: str, labels: Labels) -> None:
        """Add one."""
        with self._lock:
            self._help.setdefault(name, ("counter", explanation))
            series = self._counters.setdefault(name, {})
            series[labels] = series.get(labels, 0) + 1

    def observe(self, name: str, explanation: str, labels: Labels, seconds: float) -> None:
        """Add one duration."""
        with self._lock:
            self._help.setdefault(name, ("histogram", explanation))
            series = self._histograms.setdefault(name, {})
            cells = series.setdefault(labels, [0.0] * (len(_BUCKETS) + 2))
            cells[bisect_left(_BUCKETS, seconds)] += 1
            cells[-1] += seconds

    def text(self) -> str:
        """Return everything as Prometheus reads it."""
        lines: list[str] = []
        with self._lock:
            counters = {name: dict(series) for name, series in self._counters.items()}
            histograms = {
                name: {labels: list(cells) for labels, cells in series.items()}
                for name, series in self._histograms.items()
            }
        gauges = {name: dict(read()) for name, read in self._gauges.items()}
        for name, (kind, explanation) in sorted(self._help.items()):
            lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
            for labels, value in sorted((counters.get(name) or gauges.get(name) or {}).items()):
                lines.append(f"{name}{_labels(labels)} {value:g}")
            for labels, cells in sorted(histograms.get(name, {}).items()):
                lines += _histogram(name, labels, cells)
        return "\n".join(lines) + "\n"


def _histogram(name: str, labels: Labels, cells: list[float]) -> Iterable[str]:
    total = 0.0
    for bound, number in zip((*map(str, _BUCKETS), "+Inf"), cells, strict=False):
        total += number
        yield f"{name}_bucket{_labels((*labels, ('le', bound)))} {total:g}"
    yield f"{name}_sum{_labels(labels)} {cells[-1]:.9g}"
    yield f"{name}_count{_labels(labels)} {total:g}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
