"""Memory of requests: kept for the next one, as far as glibc is the allocator; rarely searched for cycles."""

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES = 64 << 20
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
