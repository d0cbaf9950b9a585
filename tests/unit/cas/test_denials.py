"""What shields refused, as members report it: bounded, and only from members."""

import pytest

from securetf.cas.service import AuditDraft
from securetf.cas.service.members import MAX_REMEMBERED, DenialLimits
from securetf.errors import NotFoundError
from securetf.wire import DenialItem, DenialReport

from .conftest import SESSION, Cas, Workload


class TestDenials:
    def report(self, packed: Cas, workload: Workload, count: int, dropped: int = 0) -> None:
        item = DenialItem(
            time_s=1,
            direction="outbound",
            process="7 cat",
            destination="[::1]:1",
            reason="not in the Manifest",
        )
        report = DenialReport(workload="trainer", instance=0, denials=[item] * count, dropped=dropped)
        draft = AuditDraft(action="network.denied")
        packed.service.members.denials(packed.signed(workload.tls), draft, SESSION, report)

    def test_each_is_an_entry_and_too_many_are_counted(self, packed: Cas) -> None:
        member = packed.attest(network=True)
        for _ in range(5):
            self.report(packed, member, 50)
        entries = [entry for entry in packed.audit() if entry["action"] == "network.denied"]
        assert len(entries) == 201
        assert sum(entry.get("suppressed", 0) for entry in entries) == 50
        assert entries[0]["details"] == {
            "at": "1",
            "direction": "outbound",
            "process": "7 cat",
            "destination": "[::1]:1",
            "count": "1",
        }
        packed.clock.turn(2)
        self.report(packed, member, 50)
        assert len([entry for entry in packed.audit() if entry["action"] == "network.denied"]) == 211

    def test_an_empty_report_writes_nothing(self, packed: Cas) -> None:
        member = packed.attest(network=True)
        before = len(packed.audit())
        self.report(packed, member, 0)
        assert len(packed.audit()) == before

    def test_who_is_no_member_writes_nothing_but_the_refusal(self, packed: Cas) -> None:
        with pytest.raises(NotFoundError, match="never attested"):
            self.report(packed, Workload(), 3)
        assert packed.audit()[-1]["code"] == NotFoundError.code

    def test_the_memory_of_rates_is_bounded(self) -> None:
        limits = DenialLimits()
        for number in range(MAX_REMEMBERED + 100):
            assert limits.take(str(number).encode(), 1, 0.0) == 1
        assert len(limits._buckets) == MAX_REMEMBERED
