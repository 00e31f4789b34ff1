"""Metrics of the process and its interpreter, under the names that Prometheus clients share."""

from __future__ import annotations

import gc
import os
import platform
import resource
from functools import cache
from pathlib import Path
from time import process_time
from typing import Final

from serving_gateway.telemetry.exposition import Exposition, labels

PROCESS_TABLE: Final = """
process_cpu_seconds_total counter CPU time, of user and system.
process_start_time_seconds gauge When the process started, since the epoch.
process_virtual_memory_bytes gauge Size of the address space.
process_resident_memory_bytes gauge Memory that is in use.
process_open_fds gauge Open file descriptors.
process_max_fds gauge Most file descriptors that may be open.
python_info gauge Version of the interpreter.
python_gc_collections_total counter Runs of the garbage collector.
python_gc_objects_collected_total counter Objects that it freed.
python_gc_objects_uncollectable_total counter Objects that it could not free.
"""
_PROC: Final = Path("/proc")


def add_process(text: Exposition) -> None:
    """Add CPU, memory and descriptors of this process, and the work of its garbage collector."""
    text.add("python_info", labels(version=platform.python_version()), 1)
    for generation, stats in enumerate(gc.get_stats()):
        for key in ("collections", "objects_collected", "objects_uncollectable"):
            value = stats[key.removeprefix("objects_")]
            text.add(f"python_gc_{key}_total", labels(generation=generation), value)
    try:
        # The name before the bracket may hold spaces; field 22 is then the 20th.
        stat = (_PROC / "self" / "stat").read_text().rpartition(")")[2].split()
        descriptors = len(os.listdir(_PROC / "self" / "fd"))  # noqa: PTH208 -- maybe thousands
        started = _boot_seconds() + int(stat[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:  # not Linux
        return
    text.add("process_cpu_seconds_total", "", process_time())
    text.add("process_start_time_seconds", "", started)
    text.add("process_virtual_memory_bytes", "", int(stat[20]))
    text.add("process_resident_memory_bytes", "", int(stat[21]) * os.sysconf("SC_PAGE_SIZE"))
    text.add("process_open_fds", "", descriptors)
    text.add("process_max_fds", "", resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@cache
def _boot_seconds() -> float:
    """When the host started, in seconds since the epoch."""
    lines = (_PROC / "stat").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("btime ")).split()[1])
