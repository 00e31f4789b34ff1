"""Memory that libraries keep for later, given back between large steps of one process."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc


def release() -> None:
    """Give back to the system what Arrow and the C library hold without using it.

    A run is one process, and its steps need their memory one after the other: without this,
    what the join of a million rows needed for a moment would stay beside what the training needs.
    """
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(library, "malloc_trim"):  # the GNU library has it, others give back by themselves
        library.malloc_trim(0)
