"""Followed volumes with fake mounts: what moves, what stays, what is said, and in which order."""

from collections.abc import Callable

import pytest

from securetf.errors import LaunchError, VolumeIntegrityError, VolumeRollbackError
from securetf.launcher.follow import Followers
from securetf.wire import VolumeHead


class World:
    """A mount, the one who is told, and the screen in one."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.said: list[str] = []
        self.rolled_back = self.unwritable = self.stuck = False
        self.followers = Followers(self.said.append)
        self.followers.add("models", self, 5)
        self.followers.tell(self)

    def newer(self, epoch: int, seq: int, root: bytes) -> Callable[[], None]:
        if self.rolled_back:
            raise VolumeRollbackError(f"the store ends before {seq}", "put the files back")

        def show() -> None:
            if self.stuck:
                raise VolumeIntegrityError("the tree is damaged", "put the files back")
            self.events.append(("shown", epoch, seq, root))

        return show

    def moving(self, name: str) -> None:
        self.events.append(("moving", name))

    def moved(self, name: str, head: VolumeHead) -> None:
        if self.unwritable:
            raise LaunchError("no room", "make room")
        self.events.append(("moved", name, head.seq))

    def see(self, seq: int) -> None:
        self.followers.see({"models": VolumeHead(epoch=2, seq=seq, root=bytes([seq] * 32))})


def test_see_when_the_cas_names_a_newer_root_moves_once_and_tells_before_and_after() -> None:
    world = World()
    for seq in (5, 7, 7):
        world.see(seq)
    assert world.events == [("moving", "models"), ("shown", 2, 7, b"\7" * 32), ("moved", "models", 7)]
    assert world.said == [f"volume models moved to sequence 7, root {'07' * 32}"]


def test_see_when_the_newer_root_cannot_be_opened_stays_says_so_once_and_tries_again() -> None:
    world = World()
    world.rolled_back = True
    for _ in range(3):
        world.see(7)
    assert world.events == []
    assert world.said == [
        "volume models: [STF-2011] the store ends before 7; sequence 5 stays mounted, trying again"
    ]
    world.rolled_back = False
    world.see(8)
    assert [event[0] for event in world.events] == ["moving", "shown", "moved"]


def test_see_when_the_cas_names_an_older_root_never_goes_back() -> None:
    world = World()
    world.see(4)
    world.see(4)
    assert world.events == []
    assert world.said == ["volume models: the CAS names sequence 4, 5 is mounted: a volume never goes back"]


def test_see_when_it_could_not_tell_of_a_move_tells_at_the_next_poll() -> None:
    world = World()
    world.unwritable = True
    with pytest.raises(LaunchError, match="no room"):
        world.see(7)
    world.unwritable = False
    world.see(7)
    assert world.events[-1] == ("moved", "models", 7)
    assert world.events.count(("moving", "models")) == 1


def test_see_when_a_root_could_not_be_shown_is_never_told_as_the_one_that_is_mounted() -> None:
    world = World()
    world.stuck = True
    with pytest.raises(VolumeIntegrityError):
        world.see(7)
    world.rolled_back = True
    world.see(8)
    assert world.events == [("moving", "models")]
    world.stuck = world.rolled_back = False
    world.see(8)
    assert world.events == [("moving", "models"), ("moving", "models"), ("shown", 2, 8, b"\10" * 32),
                            ("moved", "models", 8)]  # fmt: skip
