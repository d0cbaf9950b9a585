"""Puts the abridged output of a real `make demo` into README.md: what was tried, and the closing table.

Usage: make demo | tee demo.txt; .venv/bin/python scripts/paste_demo.py demo.txt
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
WIDTH = 110


def abridged(output: str) -> str:
    """Return the attacks with the first line of each refusal, and everything from the table on."""
    attacks, table = output.split("searched for is there:", 1)[1].split("securetf demo, SIMULATION", 1)
    kept = []
    for line in attacks.splitlines()[1:]:
        if re.match(r"   (The host|Someone) ", line):
            kept.append(line.strip())
        elif "securetf: error" in line or line.startswith("   ok: refused"):
            text = line.strip()
            kept.append("    " + (text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"))
    rows = [line.rstrip() for line in table.split("SIMULATION:")[0].splitlines() if line.strip()]
    return "\n".join([*kept, "", "securetf demo, SIMULATION", *rows])


def main() -> None:
    text = README.read_text()
    before, _, rest = text.partition("is refused:\n\n```\n")
    after = rest.partition("\n```\n")[2]
    shown = abridged(Path(sys.argv[1]).read_text())
    README.write_text(f"{before}is refused:\n\n```\n{shown}\n```\n{after}")


if __name__ == "__main__":
    main()
