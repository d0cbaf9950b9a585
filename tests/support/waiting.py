"""Steps of the CAS's service, carried out in the thread that asks for them."""

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")


class WaitsHere:
    """`Waits` that blocks its caller."""

    async def elsewhere(self, work: Callable[[], _T]) -> _T:
        return work()

    async def done(self, begun: Future[_T]) -> _T:
        return begun.result()


HERE = WaitsHere()


def waited(steps: Coroutine[Any, Any, _T]) -> _T:
    """Return what steps that wait `HERE` come to, or raise what they raise."""
    try:
        steps.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("they waited for an event loop")
