"""Keeps what is served in step with the model volume: load in the background, warm up, swap, drain.

A volume that cannot be read, or one whose models have gone or become older, changes nothing: what is served
stays, and status and metrics say so.
"""

import logging
import threading
import time
from collections.abc import Sequence

from securetf.errors import SecuretfError
from securetf.serving import engines, repository
from securetf.serving.engines import Engine
from securetf.serving.errors import ModelLoadError, ReceiptUnavailableError
from securetf.serving.identity import Identity
from securetf.serving.models import Models, Origin, State, Status, Version
from securetf.serving.options import Options
from securetf.serving.repository import Digest, Found
from securetf.serving.warmup import recorded, warm_up

_log = logging.getLogger(__name__)
_FIRST_ASKED_S, _FIRST_ANSWERED_S = 0.1, 1.0  # how long the other workers' packing waits for that
_REFUSED = (
    "lower than the highest version ever served: refused as a rollback; --allow-lower-versions lets it pass"
)


class Watcher:
    """Looks at the repository every `poll_s`. problem: why the last look failed, empty if it did not."""

    def __init__(self, options: Options, models: Models, identity: Identity | None) -> None:
        self._options, self._models, self._identity = options, models, identity
        self._seen: dict[tuple[str, int], Found] = {}
        self._failed: dict[tuple[str, int], Found] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.problem = ""

    def start(self) -> None:
        """Begin to look, at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the look that is under way."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(self._options.poll_s)

    def look(self) -> None:
        """Look once and do what follows from it."""
        try:
            found = repository.scan(self._options.models)
        except (OSError, ModelLoadError) as error:
            problem = error.strerror or "I/O error" if isinstance(error, OSError) else error.problem
            if problem != self.problem:
                _log.warning("repository_unreadable", extra={"problem": problem})
            self.problem = f"the model repository cannot be read ({problem}): what is served stays"
            return
        self.problem = ""
        for model in sorted(found.keys() | set(self._models.names())):
            self._model(model, found.get(model, {}))
        self._seen = {
            (model, one.number): one for model, versions in found.items() for one in versions.values()
        }

    def _model(self, model: str, versions: dict[int, Found]) -> None:
        served = self._models.served(model)
        wanted = repository.aspired(
            versions,
            served=served,
            highest=self._models.highest(model),
            keep=self._options.versions,
            allow_lower=self._options.allow_lower_versions,
        )
        for number in sorted(wanted - served.keys(), reverse=True):
            if self._stop.is_set():
                return
            self._load_if_whole(model, versions[number])
        now = self._models.served(model)
        if wanted <= now.keys():  # never fewer than before because a new one could not be loaded
            for number in now.keys() - wanted:
                self._retire(now[number])
        self._note_lower(model, versions)

    def _note_lower(self, model: str, versions: dict[int, Found]) -> None:
        """Say of what is served that its directory has gone, and of a lower version that it is refused."""
        now, highest = self._models.served(model), self._models.highest(model)
        gone = highest in now and max(versions, default=-1) < highest
        problem = "its directory has gone or was rolled back: this version stays served" if gone else ""
        if highest in now:
            self._models.note(model, Status(highest, State.AVAILABLE, problem))
        if gone and not self._options.allow_lower_versions:
            for number in versions.keys() - now.keys():
                self._models.note(model, Status(number, State.END, _REFUSED))

    def _load_if_whole(self, model: str, found: Found) -> None:
        key = (model, found.number)
        settled = found.changed_ns() < time.time_ns() - int(2e9 * self._options.poll_s)
        if not settled and self._seen.get(key) != found:
            self._models.note(model, Status(found.number, State.START, "is still being written"))
            return
        if self._failed.get(key) == found:
            return
        self._models.note(model, Status(found.number, State.LOADING))
        try:
            served = self._serve(model, found)
        except Exception as error:  # noqa: BLE001  (whatever an engine raises, the others stay served)
            problem = (
                error.problem if isinstance(error, SecuretfError) else f"failed with {type(error).__name__}"
            )
            if not isinstance(error, OSError | ReceiptUnavailableError):  # those may pass by themselves
                self._failed[key] = found
            self._models.note(model, Status(found.number, State.END, problem))
            _log.warning("model_refused", extra={"model": model, "version": found.number, "problem": problem})
            return
        if not served:
            self._models.note(model, Status(found.number, State.START, "changed while it was being loaded"))
            return
        self._failed.pop(key, None)

    def _serve(self, model: str, found: Found) -> bool:
        """Load a version and serve it, warm; not if files or volume changed meanwhile: the next look tries
        again.

        Where no version of the model is served and no requests are recorded to warm it up, it answers as soon
        as one worker can. The others warm up then, and if they fail, it is taken back.
        """
        path = repository.model_of(found)
        before, digest = self._volume(), Digest(path)
        with digest:
            loaded = engines.load(
                path, workers=self._options.workers, threads=self._options.threads, read=digest.read
            )
            hurried = not self._models.served(model) and not recorded(found.path)
            early = hurried and loaded[-1] is not loaded[0] and _prepared(loaded[0])
            if not early:
                warm_up(found.path, loaded)
        moving = before[0] and not before[1]
        if moving or self._volume() != before or not _unchanged(self._options, model, found):
            return False
        version = Version(
            model=model,
            number=found.number,
            platform="tensorflow_litert" if path.suffix == ".tflite" else "tensorflow_savedmodel",
            signatures=loaded[0].signatures,
            origin=Origin(sha256=digest.hex(), volume=before[0], root=before[1], epoch=before[2]),
            pool=self._models.pool(loaded[:1] if early else loaded),
            warm=not early,
        )
        self._models.publish(version)
        if early:
            self._warm_up_others(version, found, loaded[1:])
        facts = {"model": model, "version": found.number, "sha256": version.origin.sha256}
        _log.info("model_served", extra=facts)
        return True

    def _warm_up_others(self, version: Version, found: Found, others: Sequence[Engine]) -> None:
        # Packing takes a core, and the GIL for some models: who waited for the start is answered first.
        if self._models.wait_asked(version, _FIRST_ASKED_S):
            self._models.wait_idle(version, _FIRST_ANSWERED_S)
        try:
            warm_up(found.path, others)
        except BaseException:
            self._retire(version)
            raise
        version.pool.add(others)
        self._models.warmed(version)

    def _volume(self) -> tuple[str, str, int]:
        return self._identity.volume_of(self._options.models) if self._identity else ("", "", 0)

    def _retire(self, version: Version) -> None:
        self._models.retire(version)
        threading.Thread(target=_drain, args=(self._models, version), name="drain", daemon=True).start()


def _prepared(engine: Engine) -> bool:
    """Prepare an engine. If it cannot by itself, the warm-up decides: its inputs have their own shapes."""
    try:
        engine.prepare()
    except ModelLoadError:
        return False
    return True


def _unchanged(options: Options, model: str, found: Found) -> bool:
    return repository.scan(options.models).get(model, {}).get(found.number) == found


def _drain(models: Models, version: Version) -> None:
    models.wait_idle(version)
    version.pool.close()
    models.drained(version)
