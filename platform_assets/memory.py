"""Release the memory that libraries retain, between large steps of one process."""

from __future__ import annotations

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = (-1, 64 << 20)
_MMAP_THRESHOLD: Final = (-3, 4 << 20)
"""Options of glibc's `mallopt`: how much may stay unused at the end of the heap, and the size
from which an allocation is mapped on its own and released as soon as it is freed."""


def release() -> None:
    """Return to the system the memory that Arrow and the C library hold without using it.

    A run is one process, and its steps need their memory one after the other: without this, the
    temporary memory of joining a million rows would stay beside that of the training. From then
    on the C library also releases large arrays as soon as they are freed; by default it adapts to
    keep their memory for reuse, which ends in fragmentation.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    process = ctypes.CDLL(None)  # the C library that this process has already loaded
    if hasattr(process, "malloc_trim"):  # glibc has it, others release memory by themselves
        for option, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            process.mallopt(option, value)
        process.malloc_trim(0)
