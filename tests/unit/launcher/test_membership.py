"""The membership with a fake CAS, shield and clock: what it does when, and which errors end it."""

from contextlib import suppress
from types import SimpleNamespace

import pytest

from securetf.errors import (
    CasUnreachableError,
    ConflictError,
    FencedError,
    ManifestHashError,
    MeasurementError,
    NonceError,
    SecuretfError,
)
from securetf.launcher.denials import KEPT
from securetf.launcher.membership import Membership
from support.launching import until


class World:
    """CAS, shield, clock and screen in one."""

    def __init__(self, lifetime_s: int = 3600) -> None:
        self.now, self.calls, self.said = 0.0, [], []
        self.grant = SimpleNamespace(lifetime_s=lifetime_s)
        self.view = SimpleNamespace(members=[], ready=True, missing=[], tf_config=None, volumes={})
        self.fail: dict[str, SecuretfError] = {}
        self.refused, self.reported, self.dropped = [], [], 0
        progress = SimpleNamespace(say=self.said.append, state=lambda *_: None)
        self.membership = Membership(
            self, self, self.grant, me=("worker", 0), progress=progress, clock=lambda: self.now
        )

    def note(self, name: str, *details: object) -> None:
        self.calls.append((name, *details))
        if name in self.fail:
            raise self.fail[name]

    def members(self):
        self.note("members")
        return self.view

    def renew(self, offer):
        self.note("renew", offer.spki)
        return self.grant

    def leave(self) -> None:
        self.note("leave")

    def report_denials(self, denials, dropped: int) -> None:
        self.note("report")
        self.reported += denials
        self.dropped += dropped

    def new_key(self) -> bytes:
        return b"key"

    def endpoint(self) -> str:
        return "10.0.0.1:1"

    def install(self, _grant) -> None:
        self.note("install")

    def set_endpoints(self, endpoints) -> None:
        self.note("endpoints", *endpoints)

    def revoke(self, reason: str) -> None:
        self.note("revoke", reason)

    def denials(self):
        found, self.refused = self.refused, []
        return found, 0

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.membership.tick()


def test_membership_when_its_thread_fails_by_a_defect_cuts_the_network_and_ends_the_program() -> None:
    world = World()
    world.fail["members"] = ZeroDivisionError()
    ended = []
    world.membership.start(ended.append)
    until(lambda: ended)
    world.fail.clear()
    world.membership.stop()
    assert ended[0].problem == "the membership's thread ended with ZeroDivisionError"
    assert world.calls[-1] == ("revoke", ended[0].problem)


def member(workload: str, instance: int, endpoint: str | None):
    return SimpleNamespace(workload=workload, instance=instance, endpoint=endpoint)


def test_tick_when_members_are_there_tells_the_relay_where_all_but_itself_are() -> None:
    world = World()
    world.view.members = [member("worker", 0, "a:1"), member("worker", 1, "b:1"), member("ps", 0, None)]
    world.membership.tick()
    assert world.calls == [("members",), ("endpoints", ("worker", 1, "b:1"))]


def test_tick_when_not_ready_polls_each_second_and_then_every_five() -> None:
    world = World()
    world.view.ready = False
    world.run(10)
    assert world.names().count("members") == 10
    world.view.ready = True
    world.run(1)
    world.calls.clear()
    world.run(20)
    assert world.names().count("members") == 4


def test_tick_when_the_lifetime_is_20_s_renews_every_10() -> None:
    world = World(lifetime_s=20)
    world.run(60)
    assert world.names().count("renew") == 6
    assert world.membership.renewals == 6


@pytest.mark.parametrize("error", [CasUnreachableError, ConflictError, NonceError])
def test_tick_when_a_renewal_fails_for_now_says_so_once_and_tries_again_before_the_end(error: type) -> None:
    world = World(lifetime_s=20)
    world.fail["renew"] = error("not now", "later")
    world.run(14)
    assert world.names().count("renew") >= 2
    del world.fail["renew"]
    world.run(5)
    assert "install" in world.names()
    assert world.said[0] == f"membership: [{error.code}] not now; trying again"
    assert "revoke" not in world.names()


@pytest.mark.parametrize("error", [ManifestHashError, FencedError, MeasurementError])
@pytest.mark.parametrize("call", ["members", "renew"])
def test_tick_when_the_cas_does_not_want_it_any_more_cuts_the_network_and_raises(
    error: type, call: str
) -> None:
    world = World(lifetime_s=20)
    world.fail[call] = error("gone", "ask the owner")
    with pytest.raises(error):
        world.run(12)
    assert world.calls[-1] == ("revoke", "gone")


def refusal(number: int):
    return SimpleNamespace(
        direction="outbound", process="", destination=f"198.51.100.1:{number}", reason="no rule"
    )


def test_stop_when_the_member_is_wanted_leaves_as_the_last_thing() -> None:
    world = World()
    world.membership.tick()
    world.membership.stop()
    assert world.calls[-1] == ("leave",)


def test_stop_when_the_cas_refuses_the_leave_says_so_and_goes_on() -> None:
    world = World()
    world.fail["leave"] = CasUnreachableError("the CAS is away", "wait")
    world.membership.stop()
    assert world.said == ["membership: [STF-1410] the CAS is away; this member did not leave"]


@pytest.mark.parametrize("error", [ManifestHashError, CasUnreachableError])
def test_stop_when_the_cas_does_not_want_it_or_is_away_does_not_ask_again(error: type[SecuretfError]) -> None:
    world = World()
    world.fail["members"] = error("no", "no")
    with suppress(ManifestHashError):
        world.membership.tick()
    world.membership.stop()
    assert "leave" not in world.names()


def test_denials_when_the_cas_is_away_are_kept_up_to_a_bound_and_counted() -> None:
    world = World()
    world.fail["report"] = CasUnreachableError("away", "start it")
    world.refused = [refusal(number) for number in range(KEPT + 10)]
    world.run(1)
    del world.fail["report"]
    world.run(1)
    assert [one.destination for one in world.reported] == [
        f"198.51.100.1:{number}" for number in range(10, KEPT + 10)
    ]
    assert world.dropped == 10


def test_denials_when_the_cas_stays_away_says_at_the_end_how_many_it_did_not_get() -> None:
    world = World()
    world.fail["report"] = CasUnreachableError("away", "start it")
    world.refused = [refusal(number) for number in range(3)]
    world.membership.stop()
    assert world.said[-1] == "network: 3 refused connections did not reach the CAS's audit log"


def test_denials_when_a_program_tries_many_destinations_print_a_bounded_number_of_lines() -> None:
    world = World()
    for begin in range(0, 5000, 500):
        world.refused = [refusal(number) for number in range(begin, begin + 500)]
        world.run(1)
    assert len(world.said) < 1100
    world.run(60)
    assert any("times more" in line for line in world.said)
