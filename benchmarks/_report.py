"""What the benchmark scripts share: rows, the machine, the table, the JSON file, the plot."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. peer: what it is compared with. ratio: value to the peer's.

    target: the most that is allowed. spread: least and most ratio of the rounds. simulated: no hardware TEE
    was in use.
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    target: float | None = None
    met: bool | None = None
    spread: tuple[float, float] | None = None
    simulated: bool = True


def machine() -> dict[str, Any]:
    """Return what the figures were measured on, when, and how busy it was."""
    cpu = Path("/proc/cpuinfo").read_text().split("model name\t: ", 1)[-1].split("\n", 1)[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tee": "none: simulated",
        "measured": datetime.now(UTC).date().isoformat(),
        "load": os.getloadavg()[0],
    }


def publish(title: str, rows: list[Row], json_file: Path | None, facts: dict[str, Any] | None = None) -> None:
    """Print the table and, if asked for, write the JSON file."""
    print(f"\n{title} (simulated: no hardware TEE)")
    print(
        f"{'name':34} {'value':>10} {'unit':8} {'peer':>8} {'peer value':>10} {'ratio':>7} {'target':>7}  met"
    )
    for row in rows:
        cells = [f"{one:.3f}" if one is not None else "" for one in (row.peer_value, row.ratio, row.target)]
        met = {None: "", True: "yes", False: "NO"}[row.met]
        numbers = f"{cells[0]:>10} {cells[1]:>7} {cells[2]:>7}  {met}"
        spread = "  rounds {:.3f} to {:.3f}".format(*row.spread) if row.spread else ""
        print(f"{row.name:34} {row.value:10.3f} {row.unit:8} {row.peer:>8} {numbers}{spread}".rstrip())
    if json_file:
        whole = {"rows": [asdict(row) for row in rows], "machine": machine(), **(facts or {})}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(whole, indent=1) + "\n")


def bars(
    path: Path, title: str, groups: dict[str, dict[str, float]], unit: str, *, logarithmic: bool = False
) -> None:
    """Draw grouped bars: group to name to value."""
    import matplotlib as mpl  # noqa: PLC0415  (only for the plot)

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(7, 4))
    names = sorted({name for values in groups.values() for name in values})
    for position, name in enumerate(names):
        places = [index + position * 0.8 / len(names) for index in range(len(groups))]
        axes.bar(places, [values.get(name, 0.0) for values in groups.values()], 0.8 / len(names), label=name)
    axes.set_xticks(
        [index + 0.4 * (len(names) - 1) / len(names) for index in range(len(groups))],
        [group.replace(", ", ",\n") for group in groups],
    )
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.margins(y=0.2)  # room for the legend
    axes.legend(loc="upper center", ncols=len(names))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def lines(path: Path, title: str, across: str, places: list[int], series: dict[str, list[float]]) -> None:
    """Draw one panel for each series, all over the same places; both axes logarithmic."""
    import matplotlib as mpl  # noqa: PLC0415  (only for the plot)

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, panels = pyplot.subplots(1, len(series), figsize=(3 * len(series), 3), squeeze=False)
    for panel, (name, values) in zip(panels[0], series.items(), strict=True):
        panel.loglog(places, values, marker="o")
        panel.set_title(name, fontsize=9)
        panel.set_xlabel(across)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def panels(path: Path, title: str, figures: dict[str, dict[str, float]]) -> None:
    """Draw one panel of bars for each figure, which have units of their own: figure to name to value."""
    import matplotlib as mpl  # noqa: PLC0415  (only for the plot)

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(1, len(figures), figsize=(2.4 * len(figures), 3.6), squeeze=False)
    for panel, (name, values) in zip(axes[0], figures.items(), strict=True):
        drawn = panel.bar(list(values), list(values.values()), color=["C0", "C1", "C2"][: len(values)])
        panel.bar_label(drawn, [f"{one:.0f}" if one >= 100 else f"{one:.3g}" for one in values.values()])
        panel.margins(y=0.15)
        panel.set_title(name, fontsize=9)
        panel.tick_params(axis="x", labelsize=8)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")
