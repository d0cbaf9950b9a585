"""What is served now: the versions of each model, their labels and states, and who still uses them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from securetf.serving.engines import Engine
from securetf.serving.errors import Kind, Refusal
from securetf.serving.options import Options
from securetf.serving.pool import Pool
from securetf.serving.tensors import DEFAULT_SIGNATURE, Signature


class State(Enum):
    """Numbers of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a version's bytes came from. sha256: hex, `repository.digest`.

    volume, root, epoch: of the volume that was mounted while it was read; empty and 0 outside of the shields.
    """

    sha256: str
    volume: str = ""
    root: str = ""
    epoch: int = 0


@dataclass(slots=True, eq=False)
class Version:
    """One loaded version. It is closed once it is retired and nobody uses it.

    warm: whether each of its workers has answered. Before, it answers those who ask already.
    """

    model: str
    number: int
    platform: str
    signatures: Mapping[str, Signature]
    origin: Origin
    pool: Pool
    warm: bool = True
    users: int = 0
    asked: bool = False  # whether anybody ever used it
    awaited: int = 0  # how many threads wait for a change of these

    def signature(self, name: str) -> tuple[str, Signature]:
        """Return the signature of this name; without one the default, or the only one there is.

        Raises:
            Refusal: the model has none of this name.
        """
        wanted = name or DEFAULT_SIGNATURE
        if wanted not in self.signatures and not name and len(self.signatures) == 1:
            wanted = next(iter(self.signatures))
        if wanted not in self.signatures:
            raise Refusal(
                Kind.INVALID,
                f"model {self.model} has no signature {wanted!r}",
                f"it has: {', '.join(sorted(self.signatures))}",
            )
        return wanted, self.signatures[wanted]


@dataclass(frozen=True, slots=True)
class Status:
    """State of one version. problem: why it is not served, or what is wrong with its directory; empty if
    nothing.
    """

    number: int
    state: State
    problem: str = ""


class Models:
    """The table of served versions. Any thread may use it; the watcher alone changes it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._served: dict[str, dict[int, Version]] = {}
        self._status: dict[str, dict[int, Status]] = {}
        self._labels = {model: dict(labels) for model, labels in options.labels.items()}
        self._highest: dict[str, int] = {}

    def acquire(self, model: str, number: int | None = None, label: str = "") -> Version:
        """Return the version with this number or label, or the highest, and keep it loaded until `release`.

        Raises:
            Refusal: there is none.
        """
        with self._lock:
            served = self._served.get(model, {})
            if label:
                number = self._labels.get(model, {}).get(label)
            if served and number is None and not label:
                number = max(served)
            version = served.get(-1 if number is None else number)
            if version is None:
                raise self._unknown(model, number, label)
            version.users += 1
            version.asked = True
            self._tell(version)
            return version

    def release(self, version: Version) -> None:
        """Say that a version from `acquire` is no longer used."""
        with self._lock:
            version.users -= 1
            self._tell(version)

    def _tell(self, version: Version) -> None:
        if version.awaited:  # mostly nobody waits, and requests pay for it
            self._changed.notify_all()

    def wait_asked(self, version: Version, timeout_s: float) -> bool:
        """Wait until anybody has used a version; return whether that was in time."""
        return self._wait(version, lambda: version.asked, timeout_s)

    def wait_idle(self, version: Version, timeout_s: float | None = None) -> bool:
        """Wait until nobody uses a version; return whether that was in time."""
        return self._wait(version, lambda: not version.users, timeout_s)

    def _wait(self, version: Version, promise: Callable[[], bool], timeout_s: float | None) -> bool:
        with self._changed:
            version.awaited += 1
            try:
                return self._changed.wait_for(promise, timeout_s)
            finally:
                version.awaited -= 1

    def _unknown(self, model: str, number: int | None, label: str) -> Refusal:
        which = f"label {label}" if label else "latest" if number is None else f"version {number}"
        loading = [
            one for one in self._status.get(model, {}).values() if one.state in (State.START, State.LOADING)
        ]
        if loading and not self._served.get(model):
            return Refusal(
                Kind.UNAVAILABLE, f"model {model} is being loaded", "ask again shortly", retry_after_s=1
            )
        return Refusal(
            Kind.NOT_FOUND,
            f"Servable not found for request: {model}, {which}",
            "GET /v1/models/MODEL shows the versions of a model",
        )

    def publish(self, version: Version) -> None:
        """Serve a version that is loaded. One that is not warm may be taken back yet: it does not count as
        served before `warmed`.
        """
        with self._lock:
            self._served.setdefault(version.model, {})[version.number] = version
            if version.warm:
                self._count(version)
            self._note(version.model, Status(version.number, State.AVAILABLE))

    def warmed(self, version: Version) -> None:
        """Say that a version which answers already is warm."""
        with self._lock:
            version.warm = True
            self._count(version)

    def _count(self, version: Version) -> None:
        self._highest[version.model] = max(self._highest.get(version.model, -1), version.number)

    def retire(self, version: Version) -> None:
        """Serve it to nobody else. It stays loaded for those who use it."""
        with self._lock:
            self._served[version.model].pop(version.number, None)
            self._note(version.model, Status(version.number, State.UNLOADING))

    def drained(self, version: Version) -> None:
        """Record that nobody uses a retired version any more; why it was retired stays."""
        with self._lock:
            if self._status[version.model][version.number].state is State.UNLOADING:
                self._note(version.model, Status(version.number, State.END))

    def note(self, model: str, status: Status) -> None:
        """Record the state of a version."""
        with self._lock:
            self._note(model, status)

    def _note(self, model: str, status: Status) -> None:
        known = self._status.setdefault(model, {})
        known[status.number] = status
        ended = sorted(number for number, one in known.items() if one.state is State.END)
        for number in ended[:-16]:
            del known[number]

    def served(self, model: str) -> dict[int, Version]:
        """Return the versions of a model that are served."""
        with self._lock:
            return dict(self._served.get(model, {}))

    def names(self) -> list[str]:
        """Return the models that are known, served or not."""
        with self._lock:
            return sorted(self._status)

    def highest(self, model: str) -> int:
        """Return the highest version ever served, -1 for none."""
        with self._lock:
            return self._highest.get(model, -1)

    def status(self, model: str, number: int | None = None, label: str = "") -> list[Status]:
        """Return the states of a model's versions, highest first.

        Raises:
            Refusal: no such model or version.
        """
        with self._lock:
            known = self._status.get(model, {})
            if label:
                number = self._labels.get(model, {}).get(label, -1)
            found = [one for one in known.values() if number is None or one.number == number]
            if not found:
                raise self._unknown(model, number, label)
            return sorted(found, key=lambda one: -one.number)

    def set_labels(self, model: str, labels: Mapping[str, int]) -> None:
        """Replace the labels of a model.

        Raises:
            Refusal: a label names a version that is not served.
        """
        with self._lock:
            absent = {number for number in labels.values() if number not in self._served.get(model, {})}
            if absent:
                raise Refusal(
                    Kind.PRECONDITION,
                    f"versions {sorted(absent)} of {model} are not served",
                    "give labels to versions that are AVAILABLE",
                )
            self._labels[model] = dict(labels)

    def ready(self) -> bool:
        """Whether there is a model, and each that is known is served in one version that is warm."""
        with self._lock:
            served = [self._served.get(model, {}).values() for model in self._status]
            return bool(served) and all(any(one.warm for one in versions) for versions in served)

    def pool(self, engines: Sequence[Engine]) -> Pool:
        """Return workers for engines, as the options say."""
        options = self._options
        return Pool(
            engines, queue=options.queue, max_batch=options.max_batch, batch_wait_s=options.batch_wait_s
        )
