"""Moves the mounts of volumes that a program follows to newer roots, as the CAS names them.

A root that cannot be opened changes nothing: the host has put older files back, or has not got the newer ones
yet. What is mounted stays, that is said, and the next poll tries again. No mount ever goes back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from securetf.errors import SecuretfError
from securetf.launcher.stages import Mounted
from securetf.wire import VolumeHead


class Told(Protocol):
    """Who is told before and after a mount moves."""

    def moving(self, name: str) -> None:
        """What is said of this volume's root does not hold from now on."""
        ...

    def moved(self, name: str, head: VolumeHead) -> None:
        """It shows this root, and will until the next `moving`."""
        ...


@dataclass(slots=True)
class _Followed:
    mounted: Mounted
    seq: int
    trouble: str = ""
    untold: VolumeHead | None = None


class Followers:
    """The followed mounts of one launch. `add` them, then one thread calls `see` at each poll."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: Told | None = None
        self._followed: dict[str, _Followed] = {}

    def add(self, name: str, mounted: Mounted, seq: int) -> None:
        """Follow this mount, which shows the root of this sequence."""
        self._followed[name] = _Followed(mounted, seq)

    def tell(self, told: Told) -> None:
        """Tell of each move from now on."""
        self._told = told

    def see(self, heads: Mapping[str, VolumeHead]) -> None:
        """Move what is behind.

        Raises:
            SecuretfError: who is to be told cannot be; the next call tries again.
        """
        for name, one in self._followed.items():
            head = heads.get(name)
            if head is not None and head.seq < one.seq:
                older = f"the CAS names sequence {head.seq}, {one.seq} is mounted: a volume never goes back"
                self._trouble(one, f"volume {name}: {older}")
            elif head is not None and head.seq > one.seq:
                self._move(name, one, head)
            if one.untold is not None and self._told is not None:
                self._told.moved(name, one.untold)
            one.untold = None

    def _move(self, name: str, one: _Followed, head: VolumeHead) -> None:
        try:
            show = one.mounted.newer(head.epoch, head.seq, head.root)
        except SecuretfError as error:
            stays = f"sequence {one.seq} stays mounted, trying again"
            self._trouble(one, f"volume {name}: [{error.code}] {error.problem}; {stays}")
            return
        if self._told is not None:
            self._told.moving(name)
        show()
        one.seq, one.trouble, one.untold = head.seq, "", head
        self._say(f"volume {name} moved to sequence {head.seq}, root {head.root.hex()}")

    def _trouble(self, one: _Followed, text: str) -> None:
        if text != one.trouble:
            self._say(text)
            one.trouble = text
