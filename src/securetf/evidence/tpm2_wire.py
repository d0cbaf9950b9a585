"""TPM 2.0 marshalling (TPM 2.0 Library, Part 1 section 31, "Canonicalization"): big endian, sized buffers."""

import struct
from typing import NoReturn

from securetf.errors import MalformedEvidenceError

_FIX = "pass the Evidence exactly as the TPM gave it"


class Reader:
    """Takes exact parts off the front of `raw`; a part that is not there in full is an error."""

    def __init__(self, raw: bytes, name: str) -> None:
        self._raw, self._name, self._offset, self._length = raw, name, 0, len(raw)

    @property
    def offset(self) -> int:
        """How many bytes were taken."""
        return self._offset

    def take(self, part: str, size: int) -> bytes:
        """Return the next `size` bytes."""
        start, end = self._offset, self._offset + size
        if end > self._length:
            self._cut(part, size)
        self._offset = end
        return self._raw[start:end]

    def number(self, part: str, size: int) -> int:
        """Return an unsigned number of `size` bytes."""
        return int.from_bytes(self.take(part, size), "big")

    def unpack(self, part: str, layout: struct.Struct) -> tuple[int, ...]:
        """Return numbers that stand one after the other."""
        return layout.unpack(self.take(part, layout.size))

    def sized(self, part: str, limit: int, *, width: int = 2) -> bytes:
        """Return a buffer with its size before it (TPM2B): at most `limit` bytes; the size has `width`
        bytes.
        """
        end = self._offset + width
        if end > self._length:
            self._cut(f"{part} size", width)
        size = int.from_bytes(self._raw[self._offset : end], "big")
        self._offset = end
        if size > limit:
            self.refuse(f"has a {part} of {size} bytes, at most {limit} are read")
        return self.take(part, size)

    def end(self) -> None:
        """Check that nothing is left."""
        if self._offset != len(self._raw):
            self.refuse(f"has {len(self._raw) - self._offset} bytes after its end")

    def _cut(self, part: str, size: int) -> NoReturn:
        self.refuse(f"ends inside its {part}: {self._length - self._offset} bytes of {size}")

    def refuse(self, problem: str) -> NoReturn:
        """Raise `MalformedEvidenceError` with the name of what is read."""
        raise MalformedEvidenceError(f"the {self._name} {problem}", _FIX)


def number(value: int, size: int) -> bytes:
    """Return an unsigned number of `size` bytes."""
    return value.to_bytes(size, "big")


def sized(value: bytes, *, width: int = 2) -> bytes:
    """Return a buffer with its size before it (TPM2B)."""
    return len(value).to_bytes(width, "big") + value
