"""A path means one call of the table, or none; nothing in it is decoded."""

import pytest

from securetf.cas.http.call import Call
from securetf.cas.http.calls import CALLS
from securetf.cas.http.routes import Routes
from securetf.cas.http.tpm_calls import TPM_CALLS

ROUTES = Routes((*CALLS, *TPM_CALLS))


@pytest.mark.parametrize("call", [*CALLS, *TPM_CALLS], ids=lambda call: call.action)
def test_each_call_is_found_by_its_own_path(call: Call) -> None:
    names = [part[1:-1] for part in call.path.split("/") if part.startswith("{")]
    path = call.path.replace("{", "a-").replace("}", "")
    assert ROUTES.find(call.method, path) == (call, {name: f"a-{name}" for name in names})


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1/status/", "/v1/volumes//advance", "/v1/%73tatus", "v1/status", "/v1/volumes/a/advance/b"],
)
def test_other_paths_mean_no_call(path: str) -> None:
    assert ROUTES.find("POST", path) == (None, {})
    assert not ROUTES.knows(path)


def test_a_path_of_another_method_is_known() -> None:
    assert ROUTES.find("DELETE", "/v1/status") == (None, {})
    assert ROUTES.knows("/v1/status")


def test_an_encoded_name_stays_as_it_was_sent() -> None:
    assert ROUTES.find("GET", "/v1/sessions/acme/a%2Fb")[1] == {"tenant": "acme", "name": "a%2Fb"}
