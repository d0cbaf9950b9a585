"""Workers of one version: a bounded queue, deadlines, and batches where they are wanted."""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from securetf.serving.engines import Engine
from securetf.serving.errors import Kind, Refusal
from securetf.serving.tensors import Array

Outputs = dict[str, Array]


class Reply(Protocol):
    """Where the answer of a job goes: a `concurrent.futures.Future`, or what does the same for less."""

    def set_running_or_notify_cancel(self) -> bool:
        """Whether somebody waits for the answer."""
        ...

    def set_result(self, result: Outputs, /) -> None:
        """Answer."""
        ...

    def set_exception(self, exception: BaseException | None, /) -> None:
        """Answer that there is none."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request. deadline: on the monotonic clock; past it, nobody waits for the answer.

    waited_s, computed_s: set when it is done.
    """

    signature: str
    inputs: Mapping[str, Array]
    deadline: float
    done: Reply
    queued: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0
    computed_s: float = 0.0

    def rows(self) -> int:
        """Number of examples."""
        return len(next(iter(self.inputs.values())))

    def shape(self) -> tuple[object, ...]:
        """What must be equal for two requests to be computed at once."""
        parts = ((name, array.shape[1:], array.dtype.str) for name, array in sorted(self.inputs.items()))
        return (self.signature, *parts)


class Pool:
    """Threads, one for each engine. A full queue and a passed deadline are refused, never waited for."""

    def __init__(
        self, engines: Sequence[Engine], *, queue: int, max_batch: int = 1, batch_wait_s: float = 0.0
    ) -> None:
        self._queue: deque[Job] = deque()
        self._most, self._max_batch, self._batch_wait_s = queue, max_batch, batch_wait_s
        self._changed = threading.Condition()
        self._closed = False
        self._batches = {name for name, one in engines[0].signatures.items() if one.batches}
        self._threads: list[threading.Thread] = []
        self.add(engines)

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def workers(self) -> int:
        """How many requests are computed at once."""
        return len(self._threads)

    def add(self, engines: Sequence[Engine]) -> None:
        """Let these engines compute, too. Not after `close`."""
        for engine in engines:
            name = f"worker-{len(self._threads)}"
            thread = threading.Thread(target=self._work, args=(engine,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, job: Job) -> None:
        """Take a job; `job.done` gets its outputs or the exception.

        Raises:
            Refusal: as many as may wait do wait.
        """
        with self._changed:
            if len(self._queue) >= self._most or self._closed:
                raise Refusal(
                    Kind.OVERLOADED,
                    f"{len(self._queue)} requests wait already",
                    "ask again later, or let the operator add machines or a longer --queue",
                    retry_after_s=1,
                )
            self._queue.append(job)
            self._changed.notify()

    def withdraw(self, job: Job) -> None:
        """Let a job for which nobody waits go, unless a worker has it: it takes neither place nor memory."""
        with self._changed, suppress(ValueError):
            self._queue.remove(job)

    def close(self) -> None:
        """Finish what was taken and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, engine: Engine) -> None:
        while jobs := self._take():
            started = time.monotonic()
            for job in jobs:
                job.waited_s = started - job.queued
            for job, outcome in zip(jobs, _compute(engine, jobs), strict=True):
                job.computed_s = time.monotonic() - started
                if isinstance(outcome, BaseException):
                    job.done.set_exception(outcome)
                else:
                    job.done.set_result(outcome)
            del jobs  # while it waits for the next, this thread holds no tensors

    def _take(self) -> list[Job]:
        """Return the next job, or several that can be computed at once; nothing once closed and empty."""
        with self._changed:
            while True:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return []
                job = self._queue.popleft()
                if _wanted(job):
                    break
            return self._gather(job) if self._max_batch > 1 and job.signature in self._batches else [job]

    def _gather(self, first: Job) -> list[Job]:
        jobs, rows, shape = [first], first.rows(), first.shape()
        until = time.monotonic() + self._batch_wait_s
        while rows < self._max_batch:
            if not self._queue:
                left = until - time.monotonic()
                if left <= 0 or self._closed or not self._changed.wait(left):
                    break
                continue
            following = self._queue[0]
            if following.shape() != shape or rows + following.rows() > self._max_batch:
                break
            self._queue.popleft()
            if _wanted(following):
                jobs.append(following)
                rows += following.rows()
        return jobs


def _wanted(job: Job) -> bool:
    """Whether somebody waits; a job that is too late is answered with that."""
    if not job.done.set_running_or_notify_cancel():
        return False
    if time.monotonic() < job.deadline:
        return True
    job.done.set_exception(late())
    return False


def late() -> Refusal:
    """Return the answer to a request whose deadline has passed."""
    return Refusal(
        Kind.LATE,
        "the deadline passed before there was an answer",
        "allow more time, or ask for less at once",
    )


def _compute(engine: Engine, jobs: Sequence[Job]) -> list[Outputs | BaseException]:
    """Return the outputs or the failure of each job. If a batch fails, each is computed by itself."""
    try:
        return [*_batch(engine, jobs)] if len(jobs) > 1 else [engine.infer(jobs[0].signature, jobs[0].inputs)]
    except BaseException as error:  # noqa: BLE001  (whoever waits for the answer gets it)
        return [error] if len(jobs) == 1 else [_compute(engine, [job])[0] for job in jobs]


def _batch(engine: Engine, jobs: Sequence[Job]) -> list[Outputs]:
    names = jobs[0].inputs
    joined = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in names}
    outputs = engine.infer(jobs[0].signature, joined)
    cuts = np.cumsum([job.rows() for job in jobs])[:-1]
    parts = {name: np.split(array, cuts) for name, array in outputs.items()}
    return [{name: part[number] for name, part in parts.items()} for number in range(len(jobs))]
