"""Writes docs/evaluation.md and its pictures from what the benchmarks measured.

Usage: python scripts/evaluation.py, after `python benchmarks/NAME.py --json benchmarks/results/NAME.json` of
as many as were run in full on an otherwise idle machine. A script without results keeps the
section that it has, or gets one that says so.
"""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, PICTURES = ROOT / "docs" / "evaluation.md", ROOT / "docs" / "evaluation"
SECTIONS = {  # script: what of the paper's evaluation it repeats, or shows beyond it
    "attestation": "Attestation and key transfer",
    "attestation_load": "Attestations in a second",
    "evidence": "Verification of Evidence",
    "launch": "Start of a program",
    "training": "Training: time, and the same weights",
    "classification": "Classification by size of the model",
    "volume": "The file-system shield by itself",
    "volume_workloads": "Volumes on a disk, under programs",
    "growth": "Volumes as they grow",
    "attacks": "Offline attacks on ciphertext",
    "scaling": "Classification on more processes and nodes",
    "serving": "Serving; TensorFlow against LiteRT",
    "packaged_models": "Models of other packages",
    "distributed": "Distributed training",
    "network": "The network shield by itself",
}
_MANY_PEERS = 4  # of one figure: a column for each, instead of a line
HEADER = """\
# Evaluation

What `benchmarks/` measured: the paper's experiments, and more. `scripts/evaluation.py` wrote this page.
Everything is a **simulation**: no hardware TEE was in use, so the cost of encrypted memory and of leaving the
TEE is not in any figure. Each table is one run, in which what is compared took turns. A ratio counts, a time
does not: machines differ, and this one is shared with others, so that ratios near their target fall on either
side of it from run to run. A target that was missed says so. Which decision explains a figure:
[decisions](README.md#decisions). To repeat one: [benchmarks](../benchmarks/README.md).
"""


def main() -> None:
    """Write the page and copy the plots."""
    PICTURES.mkdir(exist_ok=True)
    before = PAGE.read_text() if PAGE.exists() else ""
    sections = [section(name, title, before) for name, title in SECTIONS.items()]
    PAGE.write_text("\n".join([HEADER, *sections]))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def section(script: str, title: str, before: str) -> str:
    """Return the section of one script: its conditions, its table, its plot."""
    lines = [f"## {title}", ""]
    source = RESULTS / f"{script}.json"
    if not source.exists():
        kept = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", before, re.MULTILINE | re.DOTALL)
        if kept:
            return kept[0].rstrip("\n") + "\n"
        return "\n".join([*lines, f"`{script}.py` was not run for this page.", ""])
    found = json.loads(source.read_text())
    machine = found["machine"]
    lines += [
        f"`{script}.py` on {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"{machine['measured']}, load {machine['load']:.1f} at the end.",
        "",
        *(by_peer(found["rows"]) if _peers_of_a_name(found["rows"]) >= _MANY_PEERS else table(found["rows"])),
        "",
    ]
    picture = RESULTS / f"{script}.png"
    if picture.exists():
        shutil.copyfile(picture, PICTURES / picture.name)
        lines += [f"![{title}](evaluation/{picture.name})", ""]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each figure."""
    return ["| | | peer | ratio | target | |", "|---|---:|---|---:|---:|---|", *map(row, rows)]


def by_peer(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each name and a column for each peer, and what limits each figure."""
    rows = [one for one in rows if one["peer"] != "securetf"]  # ways of its own have a line each
    peers = list(dict.fromkeys(one["peer"] for one in rows))
    lines = [f"| | securetf | {' | '.join(peers)} |", "|---|" + "---:|" * (1 + len(peers))]
    for name in dict.fromkeys(one["name"] for one in rows):
        of_peer = {one["peer"]: one for one in rows if one["name"] == name}
        ours = next(iter(of_peer.values()))
        cells = [f"{number(ours['value'])} {ours['unit']}", *(_against(of_peer.get(peer)) for peer in peers)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "In brackets: securetf's figure divided by the peer's, and the target, if there is one. What limits:",
    ]
    limits: dict[str, str] = {}
    for one in rows:
        limits.setdefault(one["limited_by"], one["name"])
    return [*lines, "", *(f"- {name}: {limit}" for limit, name in limits.items())]


def _against(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    ratio = number(one["ratio"])
    if one["target"] is not None:
        ratio += f"; {one['target']:g} met" if one["met"] else f"; **{one['target']:g} missed**"
    return f"{number(one['peer_value'])} ({ratio})"


def _peers_of_a_name(rows: list[dict[str, Any]]) -> int:
    return max(Counter(one["name"] for one in rows).values())


def row(one: dict[str, Any]) -> str:
    """Return one line of a table."""
    peer = "" if one["peer_value"] is None else f"{number(one['peer_value'])} {one['unit']}"
    cells = [
        one["name"],
        f"{number(one['value'])} {one['unit']}".strip(),
        " ".join(filter(None, [one["peer"], peer])),
        "" if one["ratio"] is None else number(one["ratio"]),
        "" if one["target"] is None else number(one["target"]),
        {None: "", True: "met", False: "**missed**"}[one["met"]],
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def number(value: float) -> str:
    """Return three digits that count, or whole numbers where there are more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
