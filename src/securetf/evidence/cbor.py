"""CBOR (RFC 8949), the part that Evidence uses, read so strictly that no two byte strings mean the same.

Read and written: integers, byte strings, texts, arrays, maps with integers or texts as keys, tags, false,
true and null. Refused: indefinite lengths, lengths and integers not in their shortest form (section 4.2.1),
keys that stand twice, floats and other simple values, anything after the one item, and more than the limits
allow.
"""

from dataclasses import dataclass
from typing import NoReturn, Union

from securetf.errors import MalformedEvidenceError

DEPTH_LIMIT = 8
ITEM_LIMIT = 1024  # of all arrays and maps together; a Nitro document has fewer than 100

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_OPEN_MAP, _BREAK = b"\xbf", b"\xff"
_SIMPLE_VALUES: dict[int, bool | None] = {20: False, 21: True, 22: None}
_FIX = "pass the Evidence exactly as the platform gave it"


@dataclass(frozen=True, slots=True)
class Tagged:
    """One item with a tag before it (RFC 8949 section 3.4)."""

    tag: int
    value: "Item"


Item = Union[int, bytes, str, bool, None, "tuple[Item, ...]", "dict[int | str, Item]", Tagged]


def decode(raw: bytes) -> Item:
    """Return the one item in `raw`; arrays are tuples.

    Raises:
        MalformedEvidenceError: not exactly one item of the part above.
    """
    return _decode(_Reader(raw, open_maps=False))


def decode_with_open_maps(raw: bytes) -> Item:
    """As `decode`, and maps may have an indefinite length (RFC 8949 section 3.2.2). Only for bytes that a
    signature covers, so that two forms of one map cannot be made of one another, and for answers of a device.

    Nitro Security Modules write the map of their documents so since about 2025.

    Raises:
        MalformedEvidenceError: not exactly one such item.
    """
    return _decode(_Reader(raw, open_maps=True))


def _decode(reader: "_Reader") -> Item:
    item = reader.item(DEPTH_LIMIT)
    if reader.rest():
        _refuse(f"{reader.rest()} bytes follow the item")
    return item


def encode(item: Item) -> bytes:
    """Return the shortest form of an item; maps keep their order. `decode(encode(item)) == item`."""
    match item:
        case None | bool():
            simple = next(number for number, value in _SIMPLE_VALUES.items() if value is item)
            encoded = _head(_SIMPLE, simple)
        case int():
            encoded = _head(_UNSIGNED, item) if item >= 0 else _head(_NEGATIVE, -1 - item)
        case bytes():
            encoded = _head(_BYTES, len(item)) + item
        case str():
            encoded = _head(_TEXT, len(item.encode())) + item.encode()
        case Tagged():
            encoded = _head(_TAG, item.tag) + encode(item.value)
        case tuple():
            encoded = _head(_ARRAY, len(item)) + b"".join(map(encode, item))
        case dict():
            pairs = (encode(key) + encode(value) for key, value in item.items())
            encoded = _head(_MAP, len(item)) + b"".join(pairs)
    return encoded


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    power = next(power for power in range(4) if number < 1 << (8 << power))
    return bytes([kind << 5 | 24 + power]) + number.to_bytes(1 << power, "big")


def _refuse(problem: str) -> NoReturn:
    raise MalformedEvidenceError(f"CBOR: {problem}", _FIX)


class _Reader:
    def __init__(self, raw: bytes, *, open_maps: bool) -> None:
        self._raw, self._open_maps = raw, open_maps
        self._offset = self._items = 0

    def rest(self) -> int:
        return len(self._raw) - self._offset

    def item(self, depth: int) -> Item:
        if depth == 0:
            _refuse(f"items are nested more than {DEPTH_LIMIT} deep")
        self._items += 1
        if self._items > ITEM_LIMIT:
            _refuse(f"more than {ITEM_LIMIT} items")
        if self._open_maps and self._raw[self._offset : self._offset + 1] == _OPEN_MAP:
            self._take(1)
            return self._open_map(depth - 1)
        kind, number = self._head()
        if kind in {_ARRAY, _MAP, _TAG}:
            return self._container(kind, number, depth - 1)
        return self._scalar(kind, number)

    def _scalar(self, kind: int, number: int) -> Item:
        if kind in {_UNSIGNED, _NEGATIVE}:
            return number if kind == _UNSIGNED else -1 - number
        if kind == _BYTES:
            return self._take(number)
        if kind == _TEXT:
            return self._text(number)
        if number not in _SIMPLE_VALUES:
            _refuse(f"simple value {number} is not one that Evidence uses")
        return _SIMPLE_VALUES[number]

    def _container(self, kind: int, number: int, depth: int) -> Item:
        if kind == _TAG:
            return Tagged(number, self.item(depth))
        if number > self.rest():
            _refuse(f"an array or map declares {number} items, more than bytes are left")
        if kind == _ARRAY:
            return tuple(self.item(depth) for _ in range(number))
        found: dict[int | str, Item] = {}
        for _ in range(number):
            self._pair(found, depth)
        return found

    def _open_map(self, depth: int) -> "dict[int | str, Item]":
        found: dict[int | str, Item] = {}
        while self._raw[self._offset : self._offset + 1] != _BREAK:
            self._pair(found, depth)
        self._take(1)
        return found

    def _pair(self, found: "dict[int | str, Item]", depth: int) -> None:
        key = self.item(depth)
        if not isinstance(key, int | str) or isinstance(key, bool):
            _refuse("a map key is neither an integer nor a text")
        if key in found:
            _refuse(f"key {key!r} stands twice in one map")
        found[key] = self.item(depth)

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            _refuse("a text is not UTF-8")

    def _head(self) -> tuple[int, int]:
        initial = self._take(1)[0]
        kind, short = initial >> 5, initial & 31
        if short < 24:
            return kind, short
        if kind == _SIMPLE or short > 27:
            _refuse(f"initial byte {initial:#04x} is a float, an indefinite length or reserved")
        size = 1 << (short - 24)
        number = int.from_bytes(self._take(size), "big")
        if _head(kind, number)[0] != initial:
            _refuse(f"{number} is not in its shortest form")
        return kind, number

    def _take(self, size: int) -> bytes:
        taken = self._raw[self._offset : self._offset + size]
        if len(taken) != size:
            _refuse(f"the input ends inside an item: {len(taken)} bytes of {size}")
        self._offset += size
        return taken
