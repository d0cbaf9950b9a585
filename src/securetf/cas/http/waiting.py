"""Waiting on the event loop: work goes to threads, commits answer by themselves."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LoopWaits:
    """`Waits` of one event loop. workers: threads for what takes long."""

    workers: ThreadPoolExecutor

    async def elsewhere(self, work: Callable[[], _T]) -> _T:
        """As `Waits.elsewhere`."""
        return await self.done(self.workers.submit(work))

    async def done(self, begun: Future[_T]) -> _T:
        """As `Waits.done`: the shield keeps a caller that is cut off from cancelling what is under way."""
        return await asyncio.shield(asyncio.wrap_future(begun))
