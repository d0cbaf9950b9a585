"""Genuine Evidence of others: SECURETF_SHARED or ../shared beside the checkout; not in this repository."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("SECURETF_SHARED", Path(__file__).parents[3] / "shared"))
VECTORS = SHARED / "vectors"
NEEDED = pytest.mark.skipif(
    not (VECTORS / "manifest.json").exists(),
    reason=f"no shared vectors at {VECTORS}: set SECURETF_SHARED to the folder that holds vectors/",
)


def entries(folder: str) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries of one folder, by file name; none where there are no vectors."""
    if not (VECTORS / "manifest.json").exists():
        return {}
    found = json.loads((VECTORS / "manifest.json").read_text())
    prefix = f"{folder}/"
    return {entry["file"].removeprefix(prefix): entry for entry in found if entry["file"].startswith(prefix)}
