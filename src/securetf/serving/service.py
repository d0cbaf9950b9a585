"""One request on its way, the same for all APIs: budget of memory, version, check, queue, engine, figures,
receipt.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from securetf.errors import SecuretfError
from securetf.serving.errors import Kind, Refusal
from securetf.serving.metrics import Labels, Metrics
from securetf.serving.models import Models, Version
from securetf.serving.options import Options
from securetf.serving.pool import Job, late
from securetf.serving.receipts import Signer
from securetf.serving.tensors import Array, check_inputs
from securetf.serving.watcher import Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which model a request is for. number and label: at most one of them; neither is the highest version."""

    model: str
    number: int | None = None
    label: str = ""


class Service:
    """What the APIs adapt to. `infer` and what calls it run on one event loop, the engines on their own
    threads.
    """

    def __init__(self, options: Options, models: Models, watcher: Watcher, signer: Signer | None) -> None:
        self.options, self.models, self.watcher = options, models, watcher
        self.metrics = Metrics()
        self.listening = self.draining = False
        self._signer = signer
        self._inflight = 0
        self._lock = threading.Lock()
        self._publish_gauges()

    def ready(self) -> bool:
        """Whether the interfaces listen and every model is loaded and warm. That this program runs attested
        and mounted is the launcher's doing: under it, the program does not start before.
        """
        return self.listening and not self.draining and self.models.ready()

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Hold memory for a request.

        Raises:
            Refusal: more than the service may hold at once.
        """
        self.take(size_bytes)
        try:
            yield
        finally:
            self.give_back(size_bytes)

    def take(self, size_bytes: int) -> None:
        """As `reserve`, until `give_back`."""
        with self._lock:
            if self._inflight + size_bytes > self.options.max_inflight_bytes:
                raise Refusal(
                    Kind.OVERLOADED,
                    "requests hold all the memory that they may",
                    "ask again later",
                    retry_after_s=1,
                )
            self._inflight += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Release what `take` took."""
        with self._lock:
            self._inflight -= size_bytes

    @contextmanager
    def version(self, target: Target) -> Iterator[Version]:
        """Keep a version loaded while it is used.

        Raises:
            Refusal: it is not served.
        """
        found = self.models.acquire(target.model, target.number, target.label)
        try:
            yield found
        finally:
            self.models.release(found)

    async def infer(
        self, version: Version, signature: str, inputs: Mapping[str, Array], *, deadline: float
    ) -> dict[str, Array]:
        """Return the outputs. deadline: on the monotonic clock.

        Raises:
            Refusal: the inputs do not fit, the queue is full, the deadline passed, or the model cannot
            compute.
        """
        name, described = version.signature(signature)
        check_inputs(described, inputs, allow_non_finite=self.options.allow_non_finite)
        reply = _Reply()
        job = Job(signature=name, inputs=inputs, deadline=deadline, done=reply)
        version.pool.submit(job)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                outputs = await reply.future
        except TimeoutError:
            raise late() from None
        except SecuretfError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever an engine raises, its client gets an answer)
            raise Refusal(
                Kind.ENGINE,
                f"the model failed with {type(error).__name__}",
                "try the model with the engine alone",
            ) from None
        finally:
            if reply.future.cancelled():  # too late, or the client has gone
                version.pool.withdraw(job)
        self._observe(version, job)
        return outputs

    def receipt(self, version: Version, request: bytes, response: bytes) -> str:
        """Return the receipt for one answer.

        Raises:
            Refusal: this service has no key for receipts.
        """
        self.check_receipts()
        assert self._signer  # noqa: S101  (just checked)
        return self._signer.sign(version, request, response)

    def check_receipts(self) -> None:
        """Refuse, before anything is computed, a request for a receipt that could not be signed.

        Raises:
            Refusal: this service has no key for receipts.
        """
        if self._signer is None:
            raise Refusal(
                Kind.PRECONDITION,
                "this service cannot sign receipts",
                "the operator sets `receipts = true` in the workload's table of the Manifest",
            )

    def count(self, api: str, method: str, model: str, outcome: str) -> None:
        """Count an answered request. model: counted by name only if there is one of this name."""
        known = model if model in self.models.names() else ""
        self.metrics.count(
            "securetf_serving_requests_total",
            "Requests answered, by interface, method, model and status.",
            (("api", api), ("method", method), ("model", known), ("status", outcome)),
        )

    def _observe(self, version: Version, job: Job) -> None:
        labels = (("model", version.model), ("version", str(version.number)))
        self.metrics.observe("securetf_serving_queue_seconds", "Time in the queue.", labels, job.waited_s)
        self.metrics.observe(
            "securetf_serving_compute_seconds", "Time in the engine.", labels, job.computed_s
        )

    def _versions(self) -> list[Version]:
        return [one for name in self.models.names() for one in self.models.served(name).values()]

    def _publish_gauges(self) -> None:
        def queued() -> Iterable[tuple[Labels, float]]:
            return [
                ((("model", one.model), ("version", str(one.number))), float(len(one.pool)))
                for one in self._versions()
            ]

        def loaded() -> Iterable[tuple[Labels, float]]:
            for one in self._versions():
                yield (
                    (
                        ("model", one.model),
                        ("version", str(one.number)),
                        ("sha256", one.origin.sha256),
                        ("volume", one.origin.volume),
                        ("volume_epoch", str(one.origin.epoch)),
                        ("receipts", str(self._signer is not None).lower()),
                    ),
                    1.0,
                )

        gauge = self.metrics.gauge
        gauge("securetf_serving_queue_length", "Requests that wait for a worker.", queued)
        gauge("securetf_serving_model_info", "Versions that are served.", loaded)
        gauge(
            "securetf_serving_ready",
            "1 if the service listens and every model is loaded and warm.",
            lambda: [((), float(self.ready()))],
        )
        gauge(
            "securetf_serving_repository_readable",
            "0 if the last look at the model volume failed.",
            lambda: [((), float(not self.watcher.problem))],
        )
        gauge(
            "securetf_serving_inflight_bytes",
            "Memory held for requests.",
            lambda: [((), float(self._inflight))],
        )


class _Reply:
    """From a worker to the event loop of the request. A `concurrent.futures.Future`, wrapped, takes twice the
    time (docs/decisions/0016).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[dict[str, Array]] = self._loop.create_future()

    def set_running_or_notify_cancel(self) -> bool:
        """Whether somebody waits for the answer."""
        return not self.future.cancelled()

    def set_result(self, result: dict[str, Array], /) -> None:
        """Answer."""
        self._settle(self.future.set_result, result)

    def set_exception(self, exception: BaseException | None, /) -> None:
        """Answer that there is none."""
        self._settle(self.future.set_exception, exception)

    def _settle(self, settle: Callable[[Any], None], outcome: Any) -> None:
        def unless_cancelled() -> None:
            if not self.future.done():
                settle(outcome)

        with suppress(RuntimeError):  # the loop has ended: nobody waits, and the worker goes on
            self._loop.call_soon_threadsafe(unless_cancelled)
