"""Re-keying beside a program: told to the CAS when done, stopped before the unmount, said when it fails."""

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from securetf.errors import FencedError, SecuretfError, VolumeIntegrityError
from securetf.launcher.rekeying import Rekeying
from securetf.launcher.report import Report
from securetf.provisioning import VolumeGrant

GRANT = VolumeGrant(
    name="model", volume_id=b"v" * 16, key=b"k" * 32, key_version=2, key_since=5, older_key=b"o" * 32,
    epoch=5, seq=7, root=b"r" * 32, writable=True, freshness="group", mount_path="/model", chunk_size=65536,
)  # fmt: skip


class Scene:
    """A volume that is sealed anew until it is stopped, or as `outcome` says; what was told to whom."""

    def __init__(self, outcome: tuple[int, int] | SecuretfError | None) -> None:
        self.outcome, self.told, self.said = outcome, [], []
        self.begun = threading.Event()
        self.report = Report()
        self.report.mounted("model", writable=True, freshness="group")
        given: Any = self
        self.rekeying = Rekeying(GRANT, given, given, self.report, self.said.append)
        self.rekeying.start()
        self.begun.wait(10)

    told: list[tuple[bytes, int, int]]
    said: list[str]

    def rekey(self, stopped: Callable[[], bool]) -> tuple[int, int] | None:
        self.begun.set()
        while self.outcome is None and not stopped():
            time.sleep(0.001)
        if isinstance(self.outcome, SecuretfError):
            raise self.outcome
        return self.outcome

    def end_rekey(self, volume_id: bytes, epoch: int, seq: int) -> None:
        self.told.append((volume_id, epoch, seq))

    def volumes(self) -> dict[str, dict[str, object]]:
        return cast("dict[str, dict[str, object]]", self.report._volumes)


def test_rekey_that_ends_is_told_to_the_cas_and_in_the_report() -> None:
    scene = Scene((5, 9))
    scene.rekeying.stop()
    assert scene.told == [(GRANT.volume_id, 5, 9)]
    assert scene.volumes()["model"]["rekeyed"] is True
    assert scene.said == []


def test_rekey_that_is_stopped_tells_nobody_and_is_over_when_stop_returns() -> None:
    scene = Scene(None)
    scene.rekeying.stop()
    assert (scene.told, scene.said) == ([], [])
    assert "rekeyed" not in scene.volumes()["model"]
    assert "rekey model" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    "error",
    [VolumeIntegrityError("/file: chunk 3: damaged", "restore"), FencedError("another writer", "stop")],
)
def test_rekey_that_fails_says_why_and_that_the_older_key_is_still_needed(error: SecuretfError) -> None:
    scene = Scene(error)
    scene.rekeying.stop()
    assert scene.told == []
    assert scene.said == [
        f"volume model still needs its older key beside version 2: {error.problem}; the next run goes on"
    ]
