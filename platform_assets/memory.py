"""Memory that libraries keep for later, released between large steps of one process."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = (-1, 64 << 20)
_MMAP_THRESHOLD: Final = (-3, 4 << 20)
"""Options of GNU's `mallopt`: how much may stay unused at the end of the heap, and the size
from which a piece of memory is mapped by itself and released as soon as it is freed."""


def release() -> None:
    """Give back to the system what Arrow and the C library hold without using it.

    A run is one process, and its steps need their memory one after the other: without this,
    what the join of a million rows needed for a moment would stay beside what the training
    needs. From then on the C library also releases large arrays as soon as they are freed; by
    itself it learns from each to keep the room of the next, and ends with room in pieces.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    process = ctypes.CDLL(None)  # the C library that this process has loaded already
    if hasattr(process, "malloc_trim"):  # the GNU one has it, others release memory by themselves
        for option, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            process.mallopt(option, value)
        process.malloc_trim(0)
