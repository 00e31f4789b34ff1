"""Metrics of the process and its interpreter, under the names that Prometheus clients share."""

from __future__ import annotations

import gc
import os
import platform
import resource
from functools import cache
from pathlib import Path
from typing import Final

from serving_gateway.telemetry.exposition import Family, families_of, labels

_PROC: Final = Path("/proc")
_PROCESS: Final = """
process_cpu_seconds_total counter User and system CPU time.
process_start_time_seconds gauge Start of the process since the epoch.
process_virtual_memory_bytes gauge Virtual memory.
process_resident_memory_bytes gauge Resident memory.
process_open_fds gauge Open file descriptors.
process_max_fds gauge Most open file descriptors.
"""
_INTERPRETER: Final = """
python_info gauge Python platform information.
python_gc_collections_total counter Runs of the garbage collector.
python_gc_objects_collected_total counter Objects collected.
python_gc_objects_uncollectable_total counter Objects that cannot be collected.
"""


def process_families() -> list[Family]:
    """CPU, memory and descriptors of this process; nothing where there is no /proc."""
    families = families_of(_PROCESS)
    try:
        # The name before the bracket may hold spaces; field 14 is then the 12th.
        stat = (_PROC / "self" / "stat").read_text().rpartition(")")[2].split()
        descriptors = len(os.listdir(_PROC / "self" / "fd"))  # noqa: PTH208 -- there may be thousands
        booted = _boot_seconds()
    except OSError:
        return []
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu, start = (int(stat[11]) + int(stat[12])) / ticks, booted + int(stat[19]) / ticks
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    values = (cpu, start, int(stat[20]), int(stat[21]) * page, descriptors, limit)
    for family, value in zip(families.values(), values, strict=True):
        family.add("", value)
    return [*families.values()]


def interpreter_families() -> list[Family]:
    """Version of the interpreter, and the work of its garbage collector."""
    families = families_of(_INTERPRETER)
    version, kind = platform.python_version(), platform.python_implementation()
    families["python_info"].add(labels(implementation=kind, version=version), 1)
    for generation, stats in enumerate(gc.get_stats()):
        label = labels(generation=generation)
        families["python_gc_collections_total"].add(label, stats["collections"])
        families["python_gc_objects_collected_total"].add(label, stats["collected"])
        families["python_gc_objects_uncollectable_total"].add(label, stats["uncollectable"])
    return [*families.values()]


@cache
def _boot_seconds() -> float:
    """When the host started, in seconds since the epoch."""
    lines = (_PROC / "stat").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("btime ")).split()[1])
