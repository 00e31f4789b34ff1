"""What a step of many rows takes is given back before the next one needs its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from platform_assets.resources.feast import _own_duckdb

IN_THE_HEAP = """
import numpy as np
from platform_assets.memory import release
release()
large = np.ones(2 << 20)
del large  # of which the C library learns to keep such room
array = np.ones(1 << 20)
heaps = [line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n")]
bounds = [[int(one, 16) for one in heap.split("-")] for heap in heaps]
print(any(start <= array.ctypes.data < end for start, end in bounds))
"""


def test_large_arrays_are_the_systems_own_after_a_release() -> None:
    command = [sys.executable, "-c", IN_THE_HEAP]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_the_database_of_a_join_is_closed_and_the_usual_one_comes_back() -> None:
    import duckdb
    import ibis  # type: ignore[import-untyped] # its annotations are not published

    usual = ibis.options.default_backend
    with _own_duckdb():
        own = ibis.get_backend()
        own.con.execute("select 1")
    assert ibis.options.default_backend is usual
    with pytest.raises(duckdb.ConnectionException):
        own.con.execute("select 1")
