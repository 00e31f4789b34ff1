"""Metrics of the process and its interpreter, under the names that Prometheus clients share."""

from __future__ import annotations

import gc
import os
import platform
import resource
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from serving_gateway.telemetry.exposition import Family, labels

_PROC: Final = Path("/proc")


def process_families() -> Iterator[Family]:
    """CPU, memory and descriptors of this process, and the work of its garbage collector."""
    try:
        # The name before the bracket may hold spaces; field 14 is then the 12th.
        stat = (_PROC / "self" / "stat").read_text().rpartition(")")[2].split()
        descriptors = len(os.listdir(_PROC / "self" / "fd"))  # noqa: PTH208 -- maybe thousands
        booted = _boot_seconds()
    except OSError:  # not Linux
        return
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for name, kind, value in (
        ("process_cpu_seconds_total", "counter", (int(stat[11]) + int(stat[12])) / ticks),
        ("process_start_time_seconds", "gauge", booted + int(stat[19]) / ticks),
        ("process_virtual_memory_bytes", "gauge", int(stat[20])),
        ("process_resident_memory_bytes", "gauge", int(stat[21]) * page),
        ("process_open_fds", "gauge", descriptors),
        ("process_max_fds", "gauge", resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    ):
        family = Family(name, kind, "Of the process, as the kernel counts it.")
        family.add("", value)
        yield family
    info = Family("python_info", "gauge", "Version of the interpreter.")
    info.add(labels(version=platform.python_version()), 1)
    yield info
    for key in ("collections", "collected", "uncollectable"):
        name = key if key == "collections" else f"objects_{key}"
        family = Family(f"python_gc_{name}_total", "counter", "Of the garbage collector.")
        for generation, stats in enumerate(gc.get_stats()):
            family.add(labels(generation=generation), stats[key])
        yield family


@cache
def _boot_seconds() -> float:
    """When the host started, in seconds since the epoch."""
    lines = (_PROC / "stat").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("btime ")).split()[1])
