"""Keep the pages that a training step frees.

The loop of a Ray Train worker runs in a thread that is not the main one, and glibc gives the pages
of such a thread's arena back to the kernel at every step, to fault them in again at the next. That
took a fifth of a core in the first prototype; `pipelines/benchmarks/throughput.py` compares both.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEEP_BYTES = 1 << 30
_GROW_BYTES = 1 << 26  # a heap of a thread's arena is 64 MiB


def keep_freed_pages() -> bool:
    """Raise glibc's thresholds for this process; False where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    done = [
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES),
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES),
        mallopt(_M_TOP_PAD, _GROW_BYTES),
    ]
    return all(done)
