"""Memory of requests: kept for the next one, as far as glibc is the allocator; rarely searched for cycles."""

import ctypes
import gc
import os
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES = 64 << 20
_MADV_HUGEPAGE = 14  # madvise(2)
_NEW_OBJECTS = 50_000  # before Python looks for cycles among them
_LARGEST_KEPT_BYTES = 32 << 20  # the most that glibc takes


def keep_freed() -> None:
    """Let blocks of up to 32 MiB come from memory that stays mapped, 64 MiB at the end of each arena.

    By default, glibc returns a request's tensors to the kernel one by one, and the next request's touch new
    pages (docs/decisions/0016). Elsewhere nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def collect_rarely() -> None:
    """Let Python look for cycles after 50,000 new objects, not after 700.

    Requests leave no cycles, but one in JSON makes a list for each row: looked through again and again, they
    took longer than reading them (docs/decisions/0016). Python 3.12 and later look between two steps of a
    program, so once after the reading; with much memory in use, that one takes long, too.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


def read(path: Path) -> bytes:
    """Return the content of a file. A large one is put into large pages, where the kernel has them: of small
    ones, the first touch of each takes longer than the reading.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _LARGEST_KEPT_BYTES:
            return file.readall()
        # As C does it: bytes whose content nobody has seen yet are the maker's to fill.
        content: bytes = _new_bytes(None, size)
        begin = _address(content)
        _advise_huge(begin, size)
        place = memoryview((ctypes.c_char * size).from_address(begin)).cast("B")
        filled = 0
        while filled < size and (got := file.readinto(place[filled:])):
            filled += got
    return content if filled == size else content[:filled]


_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = [ctypes.c_void_p, ctypes.c_ssize_t], ctypes.py_object
_address = ctypes.pythonapi.PyBytes_AsString
_address.argtypes, _address.restype = [ctypes.py_object], ctypes.c_void_p


def _advise_huge(begin: int, size: int) -> None:
    """Ask for large pages within a block; a kernel that has none goes on with small ones."""
    page = os.sysconf("SC_PAGE_SIZE")
    first, last = -(-begin // page) * page, (begin + size) // page * page
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_HUGEPAGE)
