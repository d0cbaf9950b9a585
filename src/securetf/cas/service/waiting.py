"""How a decision waits: its steps are quick, and between them nobody holds a thread for it."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Waits(Protocol):
    """Waits for what takes long. Who is no longer waited for goes on: a decision handed in stands."""

    async def elsewhere(self, work: Callable[[], _T]) -> _T:
        """Return what `work` returns, or raise what it raises; it computes long, or waits for the disk."""
        ...

    async def done(self, begun: Future[_T]) -> _T:
        """Return what `begun` comes to, or raise what it fails with."""
        ...
