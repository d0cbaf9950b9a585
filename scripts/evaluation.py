"""Writes docs/evaluation.md and its pictures from what the benchmarks measured.

Usage: python scripts/evaluation.py, after `python benchmarks/NAME.py --json benchmarks/results/NAME.json` of
as many as were run in full on an otherwise idle machine. A script without results has a section that says so.
"""

import json
import shutil
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
    sections = [section(name, title) for name, title in SECTIONS.items()]
    PAGE.write_text("\n".join([HEADER, *sections]))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def section(script: str, title: str) -> str:
    """Return the section of one script: its conditions, its table, its plot."""
    lines = [f"## {title}", ""]
    source = RESULTS / f"{script}.json"
    if not source.exists():
        return "\n".join([*lines, f"`{script}.py` was not run for this page.", ""])
    found = json.loads(source.read_text())
    machine = found["machine"]
    lines += [
        f"`{script}.py` on {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"{machine['measured']}, load {machine['load']:.1f} at the end.",
        "",
        "| | | peer | ratio | target | |",
        "|---|---:|---|---:|---:|---|",
        *map(row, found["rows"]),
        "",
    ]
    picture = RESULTS / f"{script}.png"
    if picture.exists():
        shutil.copyfile(picture, PICTURES / picture.name)
        lines += [f"![{title}](evaluation/{picture.name})", ""]
    return "\n".join(lines)


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
