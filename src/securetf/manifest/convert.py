"""Turns a TOML tree into Structs; errors name the dotted key, what was found and what was expected."""

import re
import types
from collections.abc import Iterable
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from securetf.errors import ManifestValueError
from securetf.manifest.types import MAX_ENTRIES, POLICIES, Binding, PlatformName

T = TypeVar("T", bound=msgspec.Struct)
_INDEX = re.compile(r"\[[0-9]+\]\Z")
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
# Keys of `[appraisal]` that are no platforms; a Manifest has them beside `appraisal`.
OF_APPRAISAL = MappingProxyType(
    {"require": Annotated[tuple[PlatformName, ...], msgspec.Meta(min_length=1)], "binding": Binding}
)
_TOML_TYPES = {
    str: "a string", int: "an integer", bool: "a boolean", float: "a number", list: "a list", dict: "a table",
}  # fmt: skip


def dotted(*keys: str) -> str:
    """Return `keys` as TOML writes a dotted key; "[3]" stands for an entry of a list."""
    text = ""
    for key in keys:
        if _INDEX.match(key):
            text += key
        else:
            text += ("." if text else "") + (key if _BARE.match(key) else '"' + key.replace('"', '\\"') + '"')
    return text


def struct(value: object, kind: type[T], path: tuple[str, ...] = ()) -> T:
    """Return `value`, a table, as `kind`. Raises ManifestValueError for the first key that does not fit."""
    return _convert(value, kind, path)  # type: ignore[no-any-return]


def of_appraisal(name: str, value: object) -> Any:
    """Return the value of a key of `[appraisal]` that is no platform's. Raises ManifestValueError."""
    return _convert(value, OF_APPRAISAL[name], ("appraisal", name))


def _convert(value: object, kind: Any, path: tuple[str, ...]) -> Any:
    origin = get_origin(kind)
    metas: list[Any] = []
    if origin is Annotated:
        kind, *metas = get_args(kind)
        origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        kinds = [one for one in get_args(kind) if one is not type(None)]
        return _convert(value, kinds[0] if len(kinds) == 1 else POLICIES[path[-1]], path)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(_table(value, path), kind, path)
    if origin is dict:
        key_kind, value_kind = get_args(kind)
        table = _table(value, path)
        _count(len(table), metas, path)
        keys = [_leaf(key, key_kind, [], (*path, key)) for key in table]
        return {key: _convert(table[key], value_kind, (*path, key)) for key in keys}
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong_type(value, "a list", path)
        _count(len(value), metas, path)
        item_kind = get_args(kind)[0]
        items = tuple(_convert(item, item_kind, (*path, f"[{n}]")) for n, item in enumerate(value))
        return _distinct(items, path)
    return _leaf(value, kind, metas, path)


def _struct(table: dict[str, object], kind: type[msgspec.Struct], path: tuple[str, ...]) -> msgspec.Struct:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in table:
        if key not in fields:
            raise unknown_key((*path, key), fields)
    values = {}
    for name, field in fields.items():
        if name in table:
            values[field.name] = _convert(table[name], field.type, (*path, name))
        elif field.required:
            raise ManifestValueError(
                f"`{dotted(*path, name)}` is missing", "add it; docs/reference/manifest.md shows how"
            )
    return kind(**values)


def unknown_key(path: tuple[str, ...], known: Iterable[str]) -> ManifestValueError:
    """Return the error for a key that is not among `known`, with the nearest of them."""
    names = sorted(known)
    return ManifestValueError(
        f"`{dotted(*path)}` is not a known key; expected one of {', '.join(names)}",
        f"did you mean `{near}`?" if (near := nearest(path[-1], names)) else "remove it or correct its name",
    )


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `word` was probably meant to be."""
    import difflib  # noqa: PLC0415  (only when there is an error; difflib is slow to load)

    return next(iter(difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)), None)


def _leaf(value: object, kind: Any, metas: Iterable[Any], path: tuple[str, ...]) -> Any:
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        metas = [*metas, *more]
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            expected = " or ".join(f'"{choice}"' for choice in choices)
            near = nearest(value, choices) if isinstance(value, str) else None
            raise ManifestValueError(
                f"`{dotted(*path)}` is {_shown(value)}, expected {expected}",
                f'did you mean "{near}"?' if near else "use one of the expected values",
            )
        return value
    if type(value) is not kind:
        raise _wrong_type(value, _TOML_TYPES[kind], path)
    for meta in metas:
        _check(value, meta, path)
    return value


def _check(value: Any, meta: msgspec.Meta, path: tuple[str, ...]) -> None:
    expected = None
    if (meta.ge is not None and value < meta.ge) or (meta.le is not None and value > meta.le):
        expected = f"{meta.ge} to {meta.le}"
    elif meta.max_length is not None and len(value) > meta.max_length:
        expected = f"at most {meta.max_length} characters"
    elif meta.pattern is not None and not re.search(meta.pattern.removesuffix("$") + r"\Z", value):
        expected = meta.description or meta.pattern
    if expected is not None:
        raise ManifestValueError(
            f"`{dotted(*path)}` is {_shown(value)}, expected {expected}", "correct the value"
        )


def _table(value: object, path: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong_type(value, "a table", path)
    return value


def _count(count: int, metas: Iterable[Any], path: tuple[str, ...]) -> None:
    low = max((meta.min_length or 0 for meta in metas), default=0)
    high = min((meta.max_length or MAX_ENTRIES for meta in metas), default=MAX_ENTRIES)
    if count < low:
        raise ManifestValueError(
            f"`{dotted(*path)}` is an empty list, which allows nothing; expected at least {low} entry",
            "name what is allowed, or leave the key out if the reference says that it may be absent",
        )
    if count > high:
        raise ManifestValueError(
            f"`{dotted(*path)}` has {count} entries, expected at most {high}", "shorten it"
        )


def _distinct(items: tuple[Any, ...], path: tuple[str, ...]) -> tuple[Any, ...]:
    if path[-1] != "command" and len(set(items)) != len(items):
        again = next(item for n, item in enumerate(items) if item in items[:n])
        raise ManifestValueError(f"`{dotted(*path)}` names {_shown(again)} twice", "remove one of them")
    return items


def _wrong_type(value: object, expected: str, path: tuple[str, ...]) -> ManifestValueError:
    found = _TOML_TYPES.get(type(value), "a date or time")
    return ManifestValueError(
        f"`{dotted(*path)}` is {found}, expected {expected}", f"write `{dotted(*path)}` as {expected}"
    )


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 100 else text[:97] + '…"'
