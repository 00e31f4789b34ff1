"""Memory that libraries keep for later, given back between large steps of one process."""

from __future__ import annotations

import ctypes


def release() -> None:
    """Give back to the system what Arrow and the C library hold without using it.

    A run is one process, and its steps need their memory one after the other: without this,
    what the join of a million rows needed for a moment would stay beside what the training needs.
    """
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    process = ctypes.CDLL(None)  # the C library that this process has loaded already
    if hasattr(process, "malloc_trim"):  # the GNU one has it, others give back by themselves
        process.malloc_trim(0)
