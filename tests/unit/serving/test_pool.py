"""Workers: order, batches, deadlines, refusals, failures of the engine."""

import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from securetf.serving.errors import Kind, Refusal
from securetf.serving.pool import Job, Pool
from securetf.serving.tensors import Signature, TensorSpec

SPEC = TensorSpec(dtype=np.dtype("float32"), shape=(-1, 2))
PATIENCE_S = 60


class Doubling:
    """Doubles x when it is let; counts the rows of each call; refuses rows that begin with 13."""

    def __init__(self) -> None:
        self.signatures = {"s": Signature(inputs={"x": SPEC}, outputs={"y": SPEC})}
        self.entered, self.open, self.rows = threading.Event(), threading.Event(), []

    def infer(self, signature, inputs):
        assert signature == "s"
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        self.rows.append(len(inputs["x"]))
        if (inputs["x"][:, 0] == 13).any():
            raise Refusal(Kind.ENGINE, "thirteen", "another number")
        return {"y": inputs["x"] * 2}


def job(value: float, rows: int = 1, after_s: float = PATIENCE_S) -> Job:
    inputs = {"x": np.full((rows, 2), value, np.float32)}
    return Job(signature="s", inputs=inputs, deadline=time.monotonic() + after_s, done=Future())


@pytest.fixture
def engine():
    return Doubling()


def held(engine, **options) -> Pool:
    """Return a pool whose only worker is busy with a first job until the engine is opened."""
    pool = Pool([engine], **options)
    pool.submit(job(0))
    assert engine.entered.wait(PATIENCE_S)
    return pool


def test_batch_when_others_wait_is_computed_at_once_and_cut_apart(engine) -> None:
    pool = held(engine, queue=8, max_batch=4, batch_wait_s=0.01)
    jobs = [job(1), job(2, rows=2), job(3), job(4)]
    for one in jobs:
        pool.submit(one)
    engine.open.set()
    for number, one in enumerate(jobs, 1):
        np.testing.assert_array_equal(one.done.result(PATIENCE_S)["y"], one.inputs["x"] * 2)
        assert one.done.result()["y"][0, 0] == 2 * number
    assert engine.rows[1:] == [4, 1]
    pool.close()


def test_batch_when_one_request_fails_answers_the_others(engine) -> None:
    pool = held(engine, queue=8, max_batch=4, batch_wait_s=0.01)
    jobs = [job(1), job(13), job(3)]
    for one in jobs:
        pool.submit(one)
    engine.open.set()
    with pytest.raises(Refusal, match="thirteen"):
        jobs[1].done.result(PATIENCE_S)
    assert [jobs[number].done.result(PATIENCE_S)["y"][0, 0] for number in (0, 2)] == [2, 6]
    pool.close()


def test_queue_when_full_refuses_with_a_time_to_come_back(engine) -> None:
    pool = held(engine, queue=1)
    waiting = job(1)
    pool.submit(waiting)
    with pytest.raises(Refusal, match="1 requests wait already") as caught:
        pool.submit(job(2))
    assert (caught.value.kind.http, caught.value.kind.grpc, caught.value.retry_after_s) == (
        503,
        "RESOURCE_EXHAUSTED",
        1,
    )
    engine.open.set()
    assert waiting.done.result(PATIENCE_S)["y"][0, 0] == 2
    pool.close()


def test_job_when_its_deadline_passed_or_it_was_given_up_is_not_computed(engine) -> None:
    pool = held(engine, queue=8)
    late, gone, kept = job(1, after_s=0.0), job(2), job(3)
    for one in (late, gone, kept):
        pool.submit(one)
    assert gone.done.cancel()
    engine.open.set()
    assert kept.done.result(PATIENCE_S)["y"][0, 0] == 6
    with pytest.raises(Refusal, match="deadline passed"):
        late.done.result(PATIENCE_S)
    assert engine.rows == [1, 1]
    pool.close()


def test_job_when_it_is_withdrawn_gives_its_place_away_and_is_not_computed(engine) -> None:
    pool = held(engine, queue=1)
    gone, following = job(1, rows=3), job(2, rows=5)
    pool.submit(gone)
    pool.withdraw(gone)
    pool.withdraw(gone)  # as if a worker had it
    pool.submit(following)
    engine.open.set()
    assert following.done.result(PATIENCE_S)["y"].shape == (5, 2)
    assert engine.rows == [1, 5]
