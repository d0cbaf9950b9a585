"""A program, not a test: checks what it kept in a volume, then writes, syncs and says what was acknowledged.

argv: directory in the volume, seed, file of a secret. START (environment): per writer the first step that was
never acknowledged, as "12,7". Every step follows from seed, writer and number, so any process can tell what
the steps before START must have left. Lines on stdout: `verified …`, `secret HEX`, `ack WRITER STEP`,
`error WRITER STEP ERRNO`. Exit status 99: something acknowledged is missing, or torn.
"""

import contextlib
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

WRITERS = 2
CANARY = "plaintext-canary-7c9f1b"
NAME = "name-canary-51d0"
KEPT_FILES = 5
SIZES = (0, 40, 2_000, 5_000, 70_000, 200_000)  # bytes
LOG_SIZE = 1_000_000  # bytes, then it begins anew
KINDS = ("append", "append", "replace", "create", "move")


def draw_of(seed: str, writer: int, step: int) -> tuple[random.Random, bytes, int]:
    draw = random.Random(f"{seed}-{writer}-{step}")
    return draw, f"<{CANARY} {writer} {step}>".encode(), draw.choice(SIZES)


def content(seed: str, writer: int, step: int) -> bytes:
    """What a step writes: from a few bytes to some chunks, its own number at both ends."""
    draw, mark, size = draw_of(seed, writer, step)
    return mark + draw.randbytes(size) + mark + b"\n"


class Model:
    """What one writer's files hold after the steps before `step`: numbers of the steps that wrote them."""

    def __init__(self, seed: str, writer: int, end: int) -> None:
        self.seed, self.writer, self.step = seed, writer, 1
        self.log: list[int] = []
        self.log_size = 0
        self.state: int | None = None
        self.files: dict[str, int] = {}
        while self.step < end:
            self.apply()

    def after(self) -> "Model":
        """The next state; this one stays."""
        new = Model(self.seed, self.writer, 1)
        new.step, new.log, new.log_size = self.step, list(self.log), self.log_size
        new.state, new.files = self.state, dict(self.files)
        new.apply()
        return new

    def apply(self) -> None:
        step = self.step
        kind = random.Random(f"{self.seed}-{self.writer}-{step}-kind").choice(KINDS)
        if kind == "append":
            _, mark, size = draw_of(self.seed, self.writer, step)
            if self.log_size > LOG_SIZE:
                self.log, self.log_size = [], 0
            self.log.append(step)
            self.log_size += 2 * len(mark) + size + 1
        elif kind == "replace":
            self.state = step
        elif kind == "create" or not self.files:
            self.files[f"{NAME}-{step}"] = step
        else:  # move: the oldest gets a new name; a move over another file when there are many
            source, of = next(iter(self.files.items()))
            del self.files[source]
            target = next(iter(self.files)) if len(self.files) >= KEPT_FILES else f"{NAME}-{step}"
            self.files.pop(target, None)
            self.files[target] = of
        self.step += 1

    def log_bytes(self) -> bytes:
        return b"".join(content(self.seed, self.writer, step) for step in self.log)


def lost(what: str) -> None:
    print(f"LOST {what}", flush=True)
    os._exit(99)


def read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def verify(base: Path, seed: str, writer: int, start: int) -> None:
    """All acknowledged steps are there in full; the one after them is there whole, in part or not at all."""
    here = base / f"writer-{writer}"
    old = Model(seed, writer, start)
    new = old.after()
    following = content(seed, writer, start)
    log, kept, next_log = read(here / "log") or b"", old.log_bytes(), new.log_bytes()
    grows = log.startswith(kept) and next_log.startswith(log)
    begins_anew = len(new.log) == 1 and next_log.startswith(log)
    if not (log == kept or grows or begins_anew):
        lost(f"writer {writer} step {start}: the log has {len(log)} bytes, acknowledged are {len(kept)}")
    state = read(here / "state")
    legal = [None if one.state is None else content(seed, writer, one.state) for one in (old, new)]
    if state not in legal:
        lost(f"writer {writer} step {start}: state is torn or old, {None if state is None else len(state)}")
    found = {path.name: path.read_bytes() for path in here.iterdir() if path.name.startswith(NAME)}
    for name in old.files.keys() | new.files.keys() | found.keys():
        steps = [old.files.get(name), new.files.get(name)]
        if found.get(name) in [None if one is None else content(seed, writer, one) for one in steps]:
            continue
        if steps == [None, start] and following.startswith(found.get(name, b"")):
            continue  # created, not yet acknowledged
        lost(f"writer {writer} step {start}: {name} is missing, torn or back from the dead")


def sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def put(path: Path, raw: bytes, flags: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(file, view[:50_000]) :]
        os.fsync(file)
    finally:
        os.close(file)


def do(here: Path, old: Model) -> None:
    """Do the step that follows `old`; doing it again after a part of it is the same as doing it once."""
    new = old.after()
    raw = content(old.seed, old.writer, old.step)
    if new.log != old.log:
        with (here / "log").open("ab") as log:
            log.truncate(old.log_size if len(new.log) > 1 else 0)
        put(here / "log", raw, os.O_APPEND)
    elif new.state != old.state:
        put(here / "state.new", raw, os.O_TRUNC)
        os.rename(here / "state.new", here / "state")
        sync(here)
    elif added := [name for name, of in new.files.items() if of == old.step]:
        put(here / added[0], raw, os.O_TRUNC)
        sync(here)
    else:
        source = next(iter(old.files))
        target = next(name for name, of in new.files.items() if of == old.files[source])
        with contextlib.suppress(FileNotFoundError):
            os.rename(here / source, here / target)
        sync(here)


def work(base: Path, seed: str, writer: int, start: int) -> None:
    here = base / f"writer-{writer}"
    done = Model(seed, writer, start)
    while not STOP.is_set():
        try:
            do(here, done)
        except OSError as error:
            os.write(1, f"error {writer} {done.step} {error.errno} {time.monotonic()}\n".encode())
            time.sleep(0.1)
            continue
        os.write(1, f"ack {writer} {done.step}\n".encode())
        done.apply()


STOP = threading.Event()


def main() -> None:
    base, seed, secret = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    starts = [int(one) for one in os.environ["START"].split(",")]
    for writer, start in enumerate(starts):
        (base / f"writer-{writer}").mkdir(exist_ok=True)
        verify(base, seed, writer, start)
    print(f"verified {','.join(map(str, starts))}\nsecret {secret.read_bytes().hex()}", flush=True)
    if os.environ.get("ONLY_VERIFY"):
        return
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    threads = [
        threading.Thread(target=work, args=(base, seed, writer, start)) for writer, start in enumerate(starts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
