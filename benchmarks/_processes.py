"""The processor time of other processes, from /proc."""

import os
from pathlib import Path


def cpu_s(pid: int) -> tuple[float, float]:
    """Return the processor time of a process so far, and that of its children that run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    return _process_cpu_s(str(pid)), sum(_process_cpu_s(child) for child in children)


def _process_cpu_s(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
