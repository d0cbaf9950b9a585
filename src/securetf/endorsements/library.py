"""Endorsements for what a piece of Evidence needs: from the cache, else from the vendors' services.

Whoever verifies asks here first, with `verifier.needs.needs_of(evidence)`, and gives the values to the
verifier, which stays offline and authenticates every byte. All calls block, and may come from any thread.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import overload

from securetf.endorsements import names
from securetf.endorsements.cache import Artefact, Cache, window_of
from securetf.endorsements.dcap import Endorsements
from securetf.endorsements.flights import Flights
from securetf.endorsements.issuers import issuers
from securetf.endorsements.needs import DcapNeed, IssuersNeed, Need, SnpNeed
from securetf.endorsements.refusals import (
    EndorsementExpiredError,
    EndorsementMissingError,
    EndorsementSourceError,
)
from securetf.endorsements.sev_snp import SnpEndorsements
from securetf.endorsements.sources import Fetched, Sources
from securetf.endorsements.tpm import Issuers
from securetf.endorsements.windows import Window
from securetf.errors import EndorsementError, EnvironmentUnfitError
from securetf.evidence.sev_snp import SnpProduct

MEMO_LIMIT = 512  # needs whose values stay in memory
_FETCH = "fetch or import them: `securetf endorsements fetch|import`; check the clock, the host and the proxy"

Value = Endorsements | SnpEndorsements | Issuers
Get = Callable[[str, Callable[[], Fetched]], Artefact]  # name and how to fetch it, to the artefact


class Library:
    """One cache with the services behind it."""

    def __init__(self, cache: Cache, sources: Sources | None) -> None:
        """sources: None never asks the network: what is not in the cache is refused."""
        self.cache, self.sources = cache, sources
        self._flights = Flights()
        self._memo: dict[Need, tuple[Value, Window]] = {}
        self._generation, self._lock = -1, threading.Lock()

    @overload
    def obtain(self, need: DcapNeed, *, now: datetime) -> Endorsements: ...
    @overload
    def obtain(self, need: SnpNeed, *, now: datetime) -> SnpEndorsements: ...
    @overload
    def obtain(self, need: IssuersNeed, *, now: datetime) -> Issuers: ...
    def obtain(self, need: Need, *, now: datetime) -> Value:
        """Return what the need names, all of it inside its validity window at `now`.

        A valid cache is used without asking anybody. What is missing or expired is fetched once, however many
        ask at the same time, within the deadline of `Sources`; a failure is remembered for a while.

        Raises:
            EndorsementMissingError: not in the cache, and not to be had. EndorsementExpiredError: in the
            cache, out of its window, and nothing newer to be had. Both say why the service did not give it.
            EndorsementError: what the cache or the service has cannot be read.
        """
        known = self._remembered(need)
        if known is not None and known[1].holds(now):
            return known[0]
        used: list[Window] = []

        def get(name: str, fetch: Callable[[], Fetched]) -> Artefact:
            found = self._artefact(name, fetch, now)
            used.append(found.window)
            return found

        value = _value(need, get, self.sources or Sources())
        if used:
            self._remember(need, value, used)
        return value

    def _artefact(self, name: str, fetch: Callable[[], Fetched], now: datetime) -> Artefact:
        try:
            return self.cache.get(name, now=now)
        except EndorsementError as error:
            reason = error
        if self.sources is None:
            raise type(reason)(f"{reason.problem}; nothing is fetched here", reason.fix)
        try:
            return self._flights.take(name, lambda: self._fetched(name, fetch, now))
        except EndorsementSourceError as error:
            kind = (
                EndorsementExpiredError
                if isinstance(reason, EndorsementExpiredError)
                else EndorsementMissingError
            )
            raise kind(f"{reason.problem}; fetching it failed: {error.problem}", _FETCH) from None

    def _fetched(self, name: str, fetch: Callable[[], Fetched], now: datetime) -> Artefact:
        found = fetch()
        try:
            return self.cache.put(name, found.content, source=found.source, now=now)
        except EnvironmentUnfitError:  # a full disk keeps nobody from being verified
            return Artefact(
                name=name,
                content=found.content,
                source=found.source,
                fetched_at=now,
                window=window_of(name, found.content),
            )
        except EndorsementError as error:  # damaged or out of its window: the service's fault
            raise EndorsementSourceError(error.problem, error.fix) from None

    def _remembered(self, need: Need) -> tuple[Value, Window] | None:
        generation = self.cache.generation()
        with self._lock:
            if generation != self._generation:  # somebody fetched or imported something newer
                self._memo.clear()
                self._generation = generation
            return self._memo.get(need)

    def _remember(self, need: Need, value: Value, used: list[Window]) -> None:
        window = Window(
            start=max(one.start for one in used), end=min(one.end for one in used), ends_with="earliest part"
        )
        with self._lock:
            if len(self._memo) >= MEMO_LIMIT:
                self._memo.clear()
            self._memo[need] = value, window


def _value(need: Need, get: Get, sources: Sources) -> Value:
    match need:
        case DcapNeed():
            name = names.dcap(need, sources.update)
            return Endorsements.from_json(get(name, lambda: sources.dcap(need)).content)
        case SnpNeed():
            return _snp(need, get, sources)
        case IssuersNeed():
            return issuers(need, get, sources)


def _snp(need: SnpNeed, get: Get, sources: Sources) -> SnpEndorsements:
    vcek, product, refused = None, need.product, None
    if need.chip_id:
        for line in _lines(need):
            try:
                name = names.vcek(line, need.chip_id, need.tcb)
                vcek, product = get(name, partial(sources.vcek, line, need)), line
                break
            except EndorsementMissingError as error:
                refused = refused or error
        else:
            raise refused or EndorsementMissingError(f"no VCEK for {need}", _FETCH)
    if product is None:
        raise EndorsementMissingError(
            "the report does not say whether it is of Milan or Genoa, and its VCEK is not looked up",
            "give the certificates as files",
        )
    chain = get(names.amd_chain(product, need.key), lambda: sources.amd_chain(product, need.key))
    crl = get(names.amd_crl(product, need.key), lambda: sources.amd_crl(product, need.key))
    return SnpEndorsements.of([part.content for part in (chain, crl, vcek) if part is not None])


def _lines(need: SnpNeed) -> Iterator[SnpProduct]:
    """Yield the product lines to ask: a report of version 2 does not name its own."""
    yield from (need.product,) if need.product else (SnpProduct.MILAN, SnpProduct.GENOA)
