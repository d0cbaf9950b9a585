"""Answers of the workers reach the request that waits; who gave up is not computed for, and harms nobody."""

import asyncio
import threading
import time

import numpy as np
import pytest

from securetf.serving.errors import Kind, Refusal
from securetf.serving.models import Models, Origin, Version
from securetf.serving.options import Options
from securetf.serving.service import Service
from securetf.serving.tensors import Signature, TensorSpec
from securetf.serving.watcher import Watcher

PATIENCE_S = 60
SPEC = TensorSpec(dtype=np.dtype("float32"), shape=(-1,))
SIGNATURES = {"s": Signature(inputs={"x": SPEC}, outputs={"y": SPEC})}


class Doubling:
    """Doubles x when it is let; a negative one is refused, 13 is a failure."""

    signatures = SIGNATURES

    def __init__(self) -> None:
        self.entered, self.open, self.seen = threading.Event(), threading.Event(), []

    def infer(self, _, inputs):
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        self.seen.append(float(inputs["x"][0]))
        if inputs["x"][0] == 13:
            raise ZeroDivisionError
        if inputs["x"][0] < 0:
            raise Refusal(Kind.ENGINE, "negative", "another number")
        return {"y": inputs["x"] * 2}


class Scene:
    def __init__(self, directory) -> None:
        options = Options(models=directory, workers=1)
        models = Models(options)
        self.engine = Doubling()
        self.version = Version("m", 1, "test", SIGNATURES, Origin(sha256=""), models.pool([self.engine]))
        self.service = Service(options, models, Watcher(options, models, None), None)

    async def ask(self, value: float, after_s: float = PATIENCE_S) -> float:
        inputs = {"x": np.array([value], np.float32)}
        deadline = time.monotonic() + after_s
        return float((await self.service.infer(self.version, "s", inputs, deadline=deadline))["y"][0])


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.engine.open.set()
    made.version.pool.close()


def test_answers_when_the_engine_gives_or_refuses_them_reach_who_asked(scene) -> None:
    async def requests() -> list:
        return await asyncio.gather(*map(scene.ask, (1, -1, 13, 4)), return_exceptions=True)

    scene.engine.open.set()
    one, refused, failed, four = asyncio.run(requests())
    assert (one, four) == (2, 8)
    assert (refused.kind, refused.problem) == (Kind.ENGINE, "negative")
    assert (failed.kind, "ZeroDivisionError" in failed.problem) == (Kind.ENGINE, True)


def test_request_when_its_client_gives_up_in_the_queue_is_not_computed(scene) -> None:
    async def requests() -> float:
        first = asyncio.create_task(scene.ask(1))
        await asyncio.to_thread(scene.engine.entered.wait, PATIENCE_S)
        gone, kept = asyncio.create_task(scene.ask(2)), asyncio.create_task(scene.ask(3))
        while len(scene.version.pool) < 2:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert len(scene.version.pool) == 1, "it takes a place and memory until a worker comes to it"
        scene.engine.open.set()
        await first
        return await kept

    assert asyncio.run(requests()) == 6
    assert scene.engine.seen == [1, 3]


def test_request_when_its_deadline_passes_is_refused_and_its_late_answer_is_dropped(scene) -> None:
    async def requests() -> float:
        with pytest.raises(Refusal) as refused:
            await scene.ask(1, after_s=0.05)
        assert refused.value.kind is Kind.LATE
        with pytest.raises(Refusal, match="deadline passed"):
            await scene.ask(1, after_s=0.05)  # behind the first, which is being computed
        assert len(scene.version.pool) == 0
        scene.engine.open.set()
        return await scene.ask(2)

    assert asyncio.run(requests()) == 4


def test_worker_when_the_loop_of_a_request_has_ended_goes_on_with_the_next(scene) -> None:
    async def leave() -> None:
        asyncio.get_running_loop().create_task(scene.ask(1))
        await asyncio.to_thread(scene.engine.entered.wait, PATIENCE_S)

    asyncio.run(leave())
    scene.engine.open.set()
    assert asyncio.run(scene.ask(2)) == 4
