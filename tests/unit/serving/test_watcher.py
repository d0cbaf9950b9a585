"""What the watcher says of versions, with the steps of its threads in an order of the test's choice."""

import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from securetf.serving import engines
from securetf.serving.errors import Kind, ModelLoadError, Refusal
from securetf.serving.models import Models, State, Version
from securetf.serving.options import Options
from securetf.serving.pool import Job
from securetf.serving.tensors import Signature, TensorSpec
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


class Engine:
    """Answers what it is asked once it is open; notes what was done to it."""

    def __init__(self, *, fails: bool = False) -> None:
        spec = TensorSpec(dtype=np.dtype("float32"), shape=(-1, 2))
        self.signatures = {"serving_default": Signature(inputs={"x": spec}, outputs={"y": spec})}
        self.open, self.done, self.fails = threading.Event(), [], fails

    def prepare(self):
        self.done.append("prepare")

    def infer(self, _, inputs):
        self.done.append("infer")
        assert self.open.wait(PATIENCE_S)
        if self.fails:
            raise Refusal(Kind.ENGINE, "cannot compute", "another model")
        return {"y": inputs["x"]}


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Return a watcher whose next models are the engines in a list, the models, and the repository."""
    waiting: list[list[Engine]] = []
    monkeypatch.setattr(engines, "load", lambda *_, **__: waiting.pop(0))
    options = Options(models=tmp_path)
    models = Models(options)
    return Watcher(options, models, None), models, tmp_path, waiting


def until(promise, what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not promise():
        assert time.monotonic() < limit, f"never: {what}"
        time.sleep(0.001)


def test_first_version_when_one_worker_is_prepared_answers_and_is_ready_when_all_are_warm(watched) -> None:
    watcher, models, repository, waiting = watched
    put(repository, "small", 1, "small1")
    first, second = Engine(), Engine()
    waiting.append([first, second])
    look = threading.Thread(target=watcher.look)
    look.start()
    until(lambda: models.served("small"), "served")
    version = models.acquire("small")
    first.open.set()
    late = time.monotonic() + PATIENCE_S
    inputs = {"x": np.ones((1, 2))}
    job = Job(signature="serving_default", inputs=inputs, deadline=late, done=Future())
    version.pool.submit(job)
    assert job.done.result(PATIENCE_S)["y"].tolist() == [[1, 1]]
    assert (first.done, models.ready(), version.pool.workers) == (["prepare", "infer"], False, 1)
    second.open.set()
    look.join(PATIENCE_S)
    assert (second.done, models.ready(), version.pool.workers) == (["infer"], True, 2)
    assert models.highest("small") == 1


def test_first_version_when_a_worker_fails_its_warm_up_is_taken_back_and_was_never_served(watched) -> None:
    watcher, models, repository, waiting = watched
    put(repository, "small", 2, "small2")
    failing = Engine(fails=True)
    failing.open.set()
    waiting.append([Engine(), failing])
    watcher.look()
    (status,) = models.status("small")
    assert (status.state, status.problem) == (State.END, "fails its warm-up: cannot compute")
    assert (models.served("small"), models.ready(), models.highest("small")) == ({}, False, -1)
    with pytest.raises(Refusal, match="Servable not found"):
        models.acquire("small")


def test_first_version_when_it_cannot_be_prepared_by_itself_is_served_once_its_warm_up_succeeds(
    watched,
) -> None:
    class Unprepared(Engine):
        def prepare(self):
            raise ModelLoadError("shapes as they are stored do not fit", "resize")

    watcher, models, repository, waiting = watched
    put(repository, "small", 1, "small1")
    found = [Unprepared(), Unprepared()]
    for one in found:
        one.open.set()
    waiting.append(found)
    watcher.look()
    assert models.ready()
    assert [one.done for one in found] == [["infer"], ["infer"]]


@pytest.mark.parametrize("why", ["an older one is served", "its requests are recorded"])
def test_version_when_it_need_not_hurry_is_served_with_all_its_workers_warm(watched, why) -> None:
    watcher, models, repository, waiting = watched
    if why == "an older one is served":
        put(repository, "small", 1, "small1")
        waiting.append(opened())
        watcher.look()
    new = opened()
    waiting.append(new)
    folder = put(repository, "small", 2, "small2")
    if why == "its requests are recorded":
        recorded = folder / "assets.extra" / "tf_serving_warmup_requests"
        recorded.parent.mkdir()
        recorded.write_bytes(b"")
        os.utime(recorded, (1, 1))
    served: list[int] = []
    publish = models.publish
    models.publish = lambda version: (served.append(version.pool.workers), publish(version))
    watcher.look()
    assert served == [2]
    assert all("prepare" not in one.done for one in new)


def opened() -> list[Engine]:
    found = [Engine(), Engine()]
    for one in found:
        one.open.set()
    return found
