"""Secrets: put in by owners or made by the CAS, handed only to attested workloads."""

import pytest

from securetf.errors import ConflictError, LimitError, NotFoundError, UnsealError

from .conftest import Cas


@pytest.fixture
def with_value(cas: Cas) -> Cas:
    cas.create(cas.manifest(secrets__token='kind = "value"'))  # noqa: S106
    cas.pack()
    return cas


def test_an_imported_value_reaches_the_workload(with_value: Cas) -> None:
    with_value.import_secret("token", b"first")
    with_value.import_secret("token", b"second")
    with_value.restart()
    got = with_value.attest()
    assert got.provision is not None
    assert got.provision.secrets == {"token": b"second"}


def test_a_random_secret_is_not_imported(cas: Cas) -> None:
    cas.create()
    with pytest.raises(ConflictError, match="is made by the CAS"):
        cas.import_secret("token", b"mine")


def test_an_unknown_secret_is_refused(with_value: Cas) -> None:
    with pytest.raises(NotFoundError, match="has no secret nonsuch"):
        with_value.import_secret("nonsuch", b"x")


@pytest.mark.parametrize("change", [{"session": "acme/other"}, {"secret": "other"}, {"key_id": "ed25519:0"}])
def test_a_value_sealed_for_something_else_is_refused(with_value: Cas, change: dict[str, str]) -> None:
    with pytest.raises(UnsealError, match="does not open"):
        with_value.import_secret("token", b"x", **change)


@pytest.mark.parametrize("size", [0, 65537])
def test_a_value_out_of_size_is_refused(with_value: Cas, size: int) -> None:
    with pytest.raises(LimitError, match=f"the secret has {size} bytes"):
        with_value.import_secret("token", b"x" * size)


def test_no_value_is_in_the_log_or_the_files(with_value: Cas) -> None:
    with_value.import_secret("token", b"a secret that shows")
    with_value.attest()
    assert "a secret that shows" not in repr(with_value.audit())
    assert with_value.audit()[-1]["released"] == ["volume-key:data:ro", "volume-key:model:rw", "secret:token"]
    with_value.store.close()
    for path in (with_value.directory / "data").iterdir():
        assert b"a secret that shows" not in path.read_bytes()
    with_value.start()


def test_a_secret_that_becomes_random_is_made_anew(with_value: Cas) -> None:
    with_value.import_secret("token", b"imported")
    with_value.update()
    got = with_value.attest()
    assert got.provision is not None
    assert len(got.provision.secrets["token"]) == 32
