"""How the C library keeps memory that is free."""

import ctypes
import sys

# Of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_MEBIBYTE = 1 << 20
# A little more than the longest message with content of files: those come and go too often to be asked of the system each time.
_OWN_MAPPING_BYTES = _MEBIBYTE + _MEBIBYTE // 8
_KEPT_BYTES = _MEBIBYTE


def return_free_memory() -> None:
    """Have glibc give long blocks back when they are freed, and keep no more than 1 MiB at the end of its only heap.

    By itself it raises both thresholds with each long block that is freed, up to 32 and 64 MiB, and keeps several heaps for
    the threads: a service that has passed one large file on never gives the memory back
    (https://man7.org/linux/man-pages/man3/mallopt.3.html). Call it before threads are started. Nothing happens with
    another C library.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
