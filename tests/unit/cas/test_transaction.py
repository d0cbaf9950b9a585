"""What a request sees of the state while others of its group decide, too."""

from collections.abc import Callable

import pytest

from securetf.cas.store import Store, Transaction
from securetf.errors import UsageError

MakeStore = Callable[[], Store]


def test_a_row_that_several_of_a_group_read_is_opened_once_and_changes_are_seen() -> None:
    opened: list[bytes] = []

    def read(_: str, key: bytes) -> bytes | None:
        opened.append(key)
        return None if key == b"absent" else b"value"

    transaction = Transaction(read, log_length=0, log_digest=bytes(32))
    for _ in range(3):
        with transaction.savepoint():
            assert transaction.get("t", b"a") == b"value"
            assert transaction.get("t", b"absent") is None
    assert opened == [b"a", b"absent"]

    def refuse() -> None:
        with transaction.savepoint():
            transaction.put("t", b"a", b"changed")
            assert transaction.get("t", b"a") == b"changed"
            raise UsageError("refused", "no")

    with pytest.raises(UsageError):
        refuse()
    assert transaction.get("t", b"a") == b"value"
    transaction.delete("t", b"a")
    assert transaction.get("t", b"a") is None
    assert opened == [b"a", b"absent"]


def test_a_row_changed_by_one_commit_is_read_anew_by_the_next(make_store: MakeStore) -> None:
    filled = make_store()
    for number in range(3):
        filled.transact(lambda transaction, number=number: transaction.put("t", b"a", b"%d" % number))
        assert filled.transact(lambda transaction: transaction.get("t", b"a")) == b"%d" % number
