"""What a CAS refuses with arrives as the error that it was, wherever in the tree that stands."""

import pytest

from securetf.cas_client.answers import refusal_of
from securetf.endorsements.refusals import EndorsementExpiredError
from securetf.errors import ManifestHashError, SecuretfError
from securetf.wire import ErrorDocument, encode


@pytest.mark.parametrize("kind", [ManifestHashError, EndorsementExpiredError])
def test_refusal_when_it_arrives_is_of_its_class_with_problem_and_fix(kind: type[SecuretfError]) -> None:
    error = refusal_of(400, encode(ErrorDocument(code=kind.code, problem="what", fix="how")))
    assert type(error) is kind
    assert (error.problem, error.fix) == ("what", "how")


def test_refusal_when_its_code_is_of_a_later_release_is_an_error_all_the_same() -> None:
    error = refusal_of(400, encode(ErrorDocument(code="STF-9999", problem="what", fix="how")))
    assert type(error) is SecuretfError
