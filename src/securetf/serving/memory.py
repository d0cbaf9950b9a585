"""Freed memory is kept for the next request, as far as glibc is the allocator."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_BYTES = 64 << 20
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
