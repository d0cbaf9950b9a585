"""Single flight: of all who ask for one thing at one time, one fetches it; failures are remembered."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from securetf.endorsements.cache import Artefact
from securetf.endorsements.refusals import EndorsementSourceError
from securetf.errors import EndorsementError

FLIGHT_LIMIT = 8  # at one time; Evidence that nobody has verified yet asks for them
FAILURE_LIMIT = 1024  # remembered at one time
AGAIN_S = 30.0  # after a failure the service is left alone for this long
WAIT_LIMIT_S = 120.0  # for somebody else's fetch, which has a deadline of its own
_FIX = "try again later; fetch what is needed beforehand: `securetf endorsements fetch`"


class Flights:
    """Fetches under way, by name, and those that failed a short while ago."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that only grow."""
        self._clock, self._lock = clock, threading.Lock()
        self._flying: dict[str, Future[Artefact]] = {}
        self._failed: dict[str, tuple[float, EndorsementError]] = {}

    def take(self, name: str, fetch: Callable[[], Artefact]) -> Artefact:
        """Return what `fetch` gives, or what it gave to whoever asked first.

        Raises:
            EndorsementSourceError: it failed, now or up to `AGAIN_S` ago, or too many are under way.
        """
        with self._lock:
            self._forget()
            if name in self._failed:
                raise self._failed[name][1]
            flight = self._flying.get(name)
            if flight is None:
                if len(self._flying) >= FLIGHT_LIMIT:
                    raise EndorsementSourceError(f"{FLIGHT_LIMIT} fetches are under way already", _FIX)
                mine = self._flying[name] = Future()
        if flight is not None:
            return _wait(flight)
        try:
            mine.set_result(fetch())
        except EndorsementError as error:
            with self._lock:
                self._failed[name] = self._clock() + AGAIN_S, error
            mine.set_exception(error)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flying[name]
        return mine.result()

    def _forget(self) -> None:
        now = self._clock()
        for name in [name for name, (until, _) in self._failed.items() if until <= now]:
            del self._failed[name]
        while len(self._failed) >= FAILURE_LIMIT:
            del self._failed[next(iter(self._failed))]


def _wait(flight: "Future[Artefact]") -> Artefact:
    try:
        return flight.result(timeout=WAIT_LIMIT_S)
    except FutureTimeoutError:
        raise EndorsementSourceError("somebody else's fetch of the same thing does not end", _FIX) from None
