"""Says in plain words what differs between two Manifests."""

import msgspec

from securetf.manifest.convert import dotted
from securetf.manifest.types import Manifest

_ABSENT = object()


def diff(old: Manifest, new: Manifest) -> list[str]:
    """Return one sentence for each key that was added, removed or changed, in the order of the keys."""
    return _tables(msgspec.to_builtins(old), msgspec.to_builtins(new), ())


def _tables(old: dict[str, object], new: dict[str, object], path: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for key in sorted({*old, *new}):
        lines += _values(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
    return lines


def _values(old: object, new: object, path: tuple[str, ...]) -> list[str]:
    name = dotted(*path)
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return _tables(old, new, path)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and path[-1] != "command":
        lines = [f"{name} no longer names {_shown(item)}" for item in old if item not in new]
        lines += [f"{name} now names {_shown(item)}" for item in new if item not in old]
        return lines or [f"{name} has another order"]
    if old is _ABSENT or old is None:
        return [f"{name} is added: {_shown(new)}"]
    if new is _ABSENT or new is None:
        return [f"{name} is removed; it was {_shown(old)}"]
    return [f"{name} changes from {_shown(old)} to {_shown(new)}"]


def _shown(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
