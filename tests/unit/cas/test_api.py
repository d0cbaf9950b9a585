"""The API document is complete, and so is its page."""

import json
from pathlib import Path

import pytest

from securetf.cas.http.call import Call
from securetf.cas.http.calls import CALLS
from securetf.cas.http.limits import BURST, MAX_ADDRESSES, RateLimit
from securetf.cas.http.openapi import document
from securetf.cas.service import AuditDraft
from securetf.errors import LimitError

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cas-api.md"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.action)
def test_each_call_is_in_the_openapi_document_and_on_the_page(call: Call) -> None:
    operation = json.loads(document())["paths"][call.path][call.method.lower()]
    assert operation["operationId"] == call.action
    assert ("requestBody" in operation) == (call.request is not None)
    assert f"| `{call.action}` | `{call.method} {call.path}" in PAGE.read_text()


def test_all_references_lead_to_a_schema() -> None:
    text = document().decode()
    schemas = json.loads(text)["components"]["schemas"]
    used = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= set(schemas)
    assert all(schemas[name]["additionalProperties"] is False for name in schemas)


def test_actions_have_one_name_each() -> None:
    assert len({call.action for call in CALLS}) == len(CALLS)
    assert AuditDraft(action=CALLS[0].action).action == "status"


class TestRateLimit:
    def test_an_address_that_calls_too_often_is_refused_and_others_are_not(self) -> None:
        limit = RateLimit()
        for _ in range(int(BURST)):
            limit.take("192.0.2.1", 0.0)
        with pytest.raises(LimitError, match=r"192\.0\.2\.1 calls more than"):
            limit.take("192.0.2.1", 0.0)
        limit.take("192.0.2.2", 0.0)
        limit.take("192.0.2.1", 1.0)

    def test_ipv6_addresses_of_one_network_count_together(self) -> None:
        limit = RateLimit()
        for number in range(int(BURST)):
            limit.take(f"2001:db8::{number:x}", 0.0)
        with pytest.raises(LimitError):
            limit.take("2001:db8::ffff:1", 0.0)

    def test_its_memory_is_bounded(self) -> None:
        limit = RateLimit()
        for number in range(MAX_ADDRESSES + 500):
            limit.take(f"a{number}", 0.0)
        assert len(limit._buckets) == MAX_ADDRESSES
