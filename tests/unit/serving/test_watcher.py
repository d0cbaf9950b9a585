"""What the watcher says of versions, with the steps of its threads in an order of the test's choice."""

import time
from pathlib import Path

from securetf.serving.models import Models, State, Version
from securetf.serving.options import Options
from securetf.serving.watcher import Watcher
from support.service import PATIENCE_S, put


class PromptWatcher(Watcher):
    """One whose versions have drained before it goes on, as they may."""

    def _retire(self, version: Version) -> None:
        super()._retire(version)
        limit = time.monotonic() + PATIENCE_S
        while self._models.status(version.model, version.number)[0].state is not State.END:
            assert time.monotonic() < limit, "never drained"
            time.sleep(0.001)


def test_version_when_it_has_drained_before_the_look_ends_stays_ended(tmp_path: Path) -> None:
    put(tmp_path, "small", 1, "small1")
    options = Options(models=tmp_path)
    models = Models(options)
    watcher = PromptWatcher(options, models, None)
    watcher.look()
    put(tmp_path, "small", 2, "small2")
    watcher.look()
    assert [(one.number, one.state) for one in models.status("small")] == [
        (2, State.AVAILABLE),
        (1, State.END),
    ]
