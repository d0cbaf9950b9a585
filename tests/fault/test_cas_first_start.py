"""A CAS whose first start was killed between two of its steps starts; one whose database is gone does not."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from securetf.cas.store.anchor import InsecureFileAnchor
from securetf.cas.store.sealing import GENESIS
from support.cloud import Cloud


@pytest.mark.parametrize("left", [("anchor",), ("anchor", ".anchor.new", "database"), (".anchor.new",)])
def test_cas_when_its_first_start_was_killed_starts(tmp_path: Path, left: tuple[str, ...]) -> None:
    """What each step of a first start leaves when the next one is never reached."""
    if "anchor" in left:
        InsecureFileAnchor.create(tmp_path / "anchor", os.urandom(16), GENESIS.digest()).close()
    if ".anchor.new" in left:
        (tmp_path / ".anchor.new").write_bytes(b"STF")
    if "database" in left:
        (tmp_path / "cas").mkdir()
        sqlite3.connect(tmp_path / "cas" / "cas.sqlite").execute("PRAGMA journal_mode = WAL").fetchall()
    cloud = Cloud(tmp_path)
    try:
        cloud.cas.kill()
        cloud.cas.wait()
        cloud.cas.stdout.close()
        cloud.start()
    finally:
        cloud.stop()
    shutil.rmtree(tmp_path / "cas")
    cloud.log = (tmp_path / "cas.log").open("a")
    with pytest.raises(AssertionError, match=r"STF-1421.*holds no database"):
        cloud.start()
    cloud.cas.wait()
    cloud.cas.stdout.close()
    cloud.log.close()
