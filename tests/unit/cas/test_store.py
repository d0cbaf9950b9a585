"""The store keeps what it answered, and notices whatever is done to its database or its anchor."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from securetf.cas.store import Store, Transaction, open_store
from securetf.cas.store.anchor import InsecureFileAnchor
from securetf.errors import CasRollbackError, CasStateError, NoSpaceError, SecuretfError, UsageError

MakeStore = Callable[[], Store]


def write(store: Store, key: bytes, value: bytes, table: str = "t") -> None:
    def operation(transaction: Transaction) -> None:
        transaction.put(table, key, value)
        transaction.append(lambda seq: b"entry %d" % seq)

    store.transact(operation)


def sql(directory: Path, statement: str, *values: object) -> None:
    """What a host does to the database behind the CAS's back."""
    connection = sqlite3.connect(directory / "data" / "cas.sqlite")
    with connection:
        connection.execute(statement, values)
    connection.close()


def saved(directory: Path, key: bytes) -> tuple[int, bytes]:
    connection = sqlite3.connect(directory / "data" / "cas.sqlite")
    row = connection.execute("SELECT version, sealed FROM row WHERE key = ?", (key,)).fetchone()
    connection.close()
    return row[0], row[1]


@pytest.fixture
def filled(make_store: MakeStore) -> Store:
    store = make_store()
    for key in (b"a", b"b", b"c"):
        write(store, key, b"value of " + key)
    return store


class TestTransactions:
    def test_what_was_written_is_there_after_a_restart(self, filled: Store, make_store: MakeStore) -> None:
        filled.close()
        assert make_store().get("t", b"b") == b"value of b"

    def test_a_refused_operation_leaves_nothing(self, filled: Store) -> None:
        def refuse(transaction: Transaction) -> None:
            transaction.put("t", b"a", b"changed")
            transaction.append(lambda _: b"never")
            raise UsageError("refused", "no")

        before = filled.counter
        with pytest.raises(UsageError):
            filled.transact(refuse)
        assert (filled.get("t", b"a"), filled.log_head()[0], filled.counter) == (b"value of a", 3, before)

    def test_one_refusal_in_a_group_does_not_touch_the_others(self, filled: Store) -> None:
        results: list[str] = []

        def work(number: int) -> None:
            def operation(transaction: Transaction) -> None:
                transaction.put("t", b"n%d" % number, b"x")
                if number % 2:
                    raise UsageError("odd", "no")

            try:
                filled.transact(operation)
                results.append("done")
            except UsageError:
                results.append("refused")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == ["done"] * 20 + ["refused"] * 20
        assert [filled.get("t", b"n%d" % number) for number in range(4)] == [b"x", None, b"x", None]

    def test_concurrent_transactions_share_commits_and_lose_none(self, make_store: MakeStore) -> None:
        store = make_store()

        def count(transaction: Transaction) -> None:
            value = int(transaction.get("t", b"n") or b"0")
            transaction.put("t", b"n", b"%d" % (value + 1))

        def work() -> None:
            for _ in range(25):
                store.transact(count)

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.get("t", b"n") == b"400"
        assert store.counter < 400

    def test_a_removed_row_is_gone_and_stays_gone(self, filled: Store, make_store: MakeStore) -> None:
        filled.transact(lambda transaction: transaction.delete("t", b"a"))
        filled.close()
        store = make_store()
        assert store.get("t", b"a") is None
        assert store.keys("t", b"") == [b"b", b"c"]

    def test_a_full_disk_changes_nothing_and_says_so(self, filled: Store) -> None:
        connection = filled._writer._connection
        connection.execute("PRAGMA max_page_count = 8")
        with pytest.raises(NoSpaceError):
            write(filled, b"big", os.urandom(200_000))
        connection.execute("PRAGMA max_page_count = 1000000")
        assert filled.get("t", b"big") is None
        write(filled, b"small", b"fits")
        assert filled.get("t", b"small") == b"fits"

    def test_nothing_of_a_value_is_in_the_files(self, filled: Store, tmp_path: Path) -> None:
        write(filled, b"secret-row", b"the plain text of a secret")
        filled.close()
        for path in (tmp_path / "data").iterdir():
            assert b"plain text" not in path.read_bytes()

    def test_a_second_cas_on_the_same_directory_is_refused(
        self, filled: Store, make_store: MakeStore
    ) -> None:
        assert filled.usable
        with pytest.raises(CasStateError, match="another CAS runs on"):
            make_store()


class TestTamperingWhileRunning:
    @pytest.mark.parametrize(
        ("statement", "reason"),
        [
            ("DELETE FROM row WHERE key = x'61'", "was removed"),
            ("UPDATE row SET sealed = zeroblob(80) WHERE key = x'61'", "altered or replayed"),
            ("UPDATE row SET version = 9 WHERE key = x'61'", "is of commit 9, expected 1: it was replayed"),
            ("UPDATE row SET key = x'7a' WHERE key = x'61'", "was removed"),
        ],
    )
    def test_a_changed_row_is_refused_when_it_is_read(
        self, filled: Store, tmp_path: Path, statement: str, reason: str
    ) -> None:
        sql(tmp_path, statement)
        with pytest.raises(CasStateError, match=reason):
            filled.get("t", b"a")

    def test_an_older_version_of_a_row_is_refused(self, filled: Store, tmp_path: Path) -> None:
        version, sealed = saved(tmp_path, b"a")
        write(filled, b"a", b"newer")
        sql(tmp_path, "UPDATE row SET version = ?, sealed = ? WHERE key = x'61'", version, sealed)
        with pytest.raises(CasStateError, match="it was replayed"):
            filled.get("t", b"a")

    def test_a_row_put_back_after_removal_is_refused(self, filled: Store, tmp_path: Path) -> None:
        version, sealed = saved(tmp_path, b"a")
        filled.transact(lambda transaction: transaction.delete("t", b"a"))
        sql(tmp_path, "INSERT INTO row VALUES ('t', x'61', ?, ?)", version, sealed)
        with pytest.raises(CasStateError, match="put back or added"):
            filled.get("t", b"a")

    def test_swapped_rows_are_refused(self, filled: Store, tmp_path: Path) -> None:
        a, b = saved(tmp_path, b"a"), saved(tmp_path, b"b")
        sql(tmp_path, "UPDATE row SET version = ?, sealed = ? WHERE key = x'61'", *b)
        sql(tmp_path, "UPDATE row SET version = ?, sealed = ? WHERE key = x'62'", *a)
        with pytest.raises(CasStateError, match="replayed"):
            filled.get("t", b"a")

    @pytest.mark.parametrize(
        ("statement", "reason"),
        [
            ("DELETE FROM log WHERE seq = 1", "are not all there"),
            ("UPDATE log SET sealed = zeroblob(80) WHERE seq = 1", "does not open"),
            ("UPDATE log SET sealed = (SELECT sealed FROM log WHERE seq = 2) WHERE seq = 1", "does not open"),
        ],
    )
    def test_a_changed_log_is_refused_when_it_is_read(
        self, filled: Store, tmp_path: Path, statement: str, reason: str
    ) -> None:
        sql(tmp_path, statement)
        with pytest.raises(CasStateError, match=reason):
            filled.log(0, 10)


class TestTamperingBeforeStart:
    @pytest.mark.parametrize(
        ("statement", "reason"),
        [
            ("DELETE FROM row WHERE key = x'61'", "2 rows, its head counts 3"),
            ("UPDATE row SET sealed = zeroblob(80) WHERE key = x'61'", "row t/a does not open"),
            ("UPDATE row SET key = x'7a' WHERE key = x'61'", "row t/z does not open"),
            ("UPDATE row SET tbl = 'u' WHERE key = x'61'", "row u/a does not open"),
            ("UPDATE row SET version = 9 WHERE key = x'61'", "row t/a does not open"),
            ("DELETE FROM log WHERE seq = 2", "are not all there"),
            ("DELETE FROM log WHERE seq = 0", "are not all there"),
            ("INSERT INTO log VALUES (3, zeroblob(80))", "entries were changed"),
            ("UPDATE meta SET head = zeroblob(80)", "row head/ does not open"),
            ("UPDATE meta SET wrapped_master = zeroblob(80)", "master key does not open"),
            ("UPDATE meta SET store_id = zeroblob(16)", "belongs to another CAS|does not open"),
            ("UPDATE meta SET root_version = 2", "version 2 of the root key, which is not here"),
            ("UPDATE meta SET format = 7", "has format 7, this release reads format 1"),
            ("CREATE TRIGGER x AFTER UPDATE ON row BEGIN DELETE FROM row; END", "does not have the tables"),
            ("DROP TABLE log", "does not have the tables"),
        ],
    )
    def test_a_changed_database_is_refused(
        self, filled: Store, make_store: MakeStore, tmp_path: Path, statement: str, reason: str
    ) -> None:
        filled.close()
        sql(tmp_path, statement)
        with pytest.raises(CasStateError, match=reason):
            make_store()

    def test_a_replayed_row_is_refused(self, filled: Store, make_store: MakeStore, tmp_path: Path) -> None:
        version, sealed = saved(tmp_path, b"a")
        write(filled, b"a", b"newer")
        filled.close()
        sql(tmp_path, "UPDATE row SET version = ?, sealed = ? WHERE key = x'61'", version, sealed)
        with pytest.raises(CasStateError, match="at least one is of another version"):
            make_store()

    def test_an_older_head_with_newer_rows_is_refused(
        self, filled: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        head = filled._writer.meta().head
        write(filled, b"a", b"newer")
        filled.close()
        sql(tmp_path, "UPDATE meta SET head = ?", head)
        with pytest.raises(CasStateError, match="at least one is of another version"):
            make_store()

    def test_an_older_database_is_refused_naming_both_counters_and_the_recovery(
        self, filled: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        filled.close()
        shutil.copytree(tmp_path / "data", tmp_path / "backup")
        store = make_store()
        write(store, b"a", b"newer")
        write(store, b"a", b"newest")
        store.close()
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(tmp_path / "backup", tmp_path / "data")
        with pytest.raises(
            CasRollbackError, match=r"at commit 3, the anchor at 5.*2 commits are missing"
        ) as got:
            make_store()
        assert "restore the copy of the database that is at commit 5" in got.value.fix

    def test_another_root_key_is_refused(self, filled: Store, tmp_path: Path) -> None:
        filled.close()
        anchor = InsecureFileAnchor(tmp_path / "anchor", b"test store id 16")
        with pytest.raises(CasStateError, match="master key does not open"):
            open_store(tmp_path / "data", root_keys={1: bytes(32)}, anchor=anchor)

    def test_a_file_that_is_no_database_is_refused(
        self, filled: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        filled.close()
        (tmp_path / "data" / "cas.sqlite").write_bytes(os.urandom(5000))
        with pytest.raises(CasStateError, match="cannot be used"):
            make_store()


class TestAnchor:
    def test_a_commit_that_a_crash_left_unanchored_is_taken_up(
        self, filled: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        before = (tmp_path / "anchor").read_bytes()
        write(filled, b"a", b"newer")
        filled.close()
        (tmp_path / "anchor").write_bytes(before)
        store = make_store()
        assert store.get("t", b"a") == b"newer"
        assert InsecureFileAnchor(tmp_path / "anchor", b"test store id 16").read().counter == 4

    def test_a_database_two_ahead_of_its_anchor_is_refused(
        self, filled: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        before = (tmp_path / "anchor").read_bytes()
        write(filled, b"a", b"newer")
        write(filled, b"a", b"newest")
        filled.close()
        (tmp_path / "anchor").write_bytes(before)
        with pytest.raises(
            CasRollbackError, match="at commit 5, the anchor at 3, and the one does not follow"
        ):
            make_store()

    def test_a_sibling_of_the_anchored_state_is_refused(
        self, filled: Store, make_store: MakeStore, tmp_path: Path
    ) -> None:
        filled.close()
        shutil.copytree(tmp_path / "data", tmp_path / "fork")
        shutil.copy(tmp_path / "anchor", tmp_path / "anchor-fork")
        store = make_store()
        write(store, b"a", b"one branch")
        store.close()
        anchored = (tmp_path / "anchor").read_bytes()
        shutil.rmtree(tmp_path / "data")
        (tmp_path / "fork").rename(tmp_path / "data")
        (tmp_path / "anchor-fork").replace(tmp_path / "anchor")
        store = make_store()
        write(store, b"a", b"other branch")
        store.close()
        (tmp_path / "anchor").write_bytes(anchored)
        with pytest.raises(CasRollbackError, match="at commit 4, the anchor at 4"):
            make_store()

    def test_a_torn_write_of_one_slot_leaves_the_one_before(self, tmp_path: Path) -> None:
        anchor = InsecureFileAnchor.create(tmp_path / "a", bytes(16), bytes(32))
        anchor.advance(1, b"1" * 32)
        anchor.advance(2, b"2" * 32)
        anchor.close()
        raw = bytearray((tmp_path / "a").read_bytes())
        raw[60] ^= 1  # in the slot of counter 2
        (tmp_path / "a").write_bytes(raw)
        assert InsecureFileAnchor(tmp_path / "a", bytes(16)).read().counter == 1

    def test_it_never_goes_back_or_ahead(self, tmp_path: Path) -> None:
        anchor = InsecureFileAnchor.create(tmp_path / "a", bytes(16), bytes(32))
        anchor.advance(1, b"1" * 32)
        for counter in (0, 1, 3):
            with pytest.raises(CasStateError, match=f"is at 1 and was asked for {counter}"):
                anchor.advance(counter, b"2" * 32)

    @pytest.mark.parametrize("content", [b"", b"x" * 10, bytes(8192)])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(CasStateError, match="is damaged or belongs to another CAS"):
            InsecureFileAnchor(tmp_path / "a", bytes(16))

    def test_the_anchor_of_another_cas_is_refused(self, tmp_path: Path) -> None:
        InsecureFileAnchor.create(tmp_path / "a", bytes(16), bytes(32)).close()
        with pytest.raises(CasStateError, match="belongs to another CAS"):
            InsecureFileAnchor(tmp_path / "a", b"another store id")

    def test_a_missing_one_is_refused(self, filled: Store, make_store: MakeStore, tmp_path: Path) -> None:
        filled.close()
        (tmp_path / "anchor").unlink()
        with pytest.raises(SecuretfError, match="exists or its anchor has counted before"):
            make_store()

    def test_after_an_anchor_failure_nothing_more_is_answered(self, filled: Store) -> None:
        os.close(filled._anchor._descriptor)  # type: ignore[attr-defined]
        with pytest.raises(CasStateError, match="cannot be written"):
            write(filled, b"a", b"newer")
        with pytest.raises(CasStateError, match="stopped using its state"):
            filled.get("t", b"a")
        with pytest.raises(CasStateError, match="stopped using its state"):
            write(filled, b"b", b"newer")
        filled._anchor._descriptor = os.open("/dev/null", os.O_RDONLY)  # type: ignore[attr-defined]


class TestLog:
    def test_pages_chain_across_checkpoints(self, make_store: MakeStore) -> None:
        store = make_store()

        def many(transaction: Transaction) -> None:
            for _ in range(500):
                transaction.append(lambda seq: b"entry %d" % seq)

        for _ in range(5):
            store.transact(many)
        store.close()
        store = make_store()
        store.transact(many)
        _, everything, (length, digest) = store.log(0, 10_000)
        assert (length, len(everything), everything[-1].digest) == (3000, 3000, digest)
        for first in (0, 1, 1023, 1024, 1025, 2048, 2999):
            previous, page, _ = store.log(first, 10)
            assert previous == (everything[first - 1].digest if first else bytes(32))
            assert page == everything[first : first + 10]
        assert store.log(3000, 10) == (digest, [], (3000, digest))
