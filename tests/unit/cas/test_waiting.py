"""Waiting on the event loop: who is cut off takes nothing back that was handed in."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from securetf.cas.http.waiting import LoopWaits
from securetf.cas.store import Store, Transaction
from securetf.errors import NonceError


def test_commit_when_its_caller_is_cut_off_then_it_stands_and_the_store_goes_on(
    make_store: Callable[[], Store],
) -> None:
    store, entered, go = make_store(), threading.Event(), threading.Event()

    def slow(transaction: Transaction) -> None:
        entered.set()
        assert go.wait(60)
        transaction.put("t", b"k", b"v")

    async def cut_off(waits: LoopWaits) -> None:
        caller = asyncio.create_task(waits.done(store.submit(slow)))
        await waits.elsewhere(entered.wait)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go.set()

    with ThreadPoolExecutor(1) as workers:
        asyncio.run(cut_off(LoopWaits(workers)))
    assert store.transact(lambda transaction: transaction.get("t", b"k")) == b"v"


def test_waiting_when_the_work_refuses_then_the_caller_gets_the_refusal() -> None:
    def refuse() -> None:
        raise NonceError("used before", "ask for a new challenge")

    async def ask(waits: LoopWaits) -> None:
        await waits.elsewhere(refuse)

    with ThreadPoolExecutor(1) as workers, pytest.raises(NonceError, match="used before"):
        asyncio.run(ask(LoopWaits(workers)))
