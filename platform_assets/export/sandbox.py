"""First run of an untrusted graph, in a process of its own.

A small file can demand any amount of memory and time. Therefore the graph is parsed, checked and
run within limits enforced by the operating system, without the run's secrets, before anything
else reads it.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from platform_assets.export.foreign_graph import InferenceFailed, InvalidGraph, run_and_validate
from platform_assets.export.inspection import ExportError
from platform_assets.export.runtime import import_onnxruntime
from serving_gateway.contract import Signature

_INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
_GRAPH_COPIES: Final = 10
"""Parser, checker and runtime each hold the graph, some even twice."""
_MOST_SAID: Final = 100_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """Resource limits of the first run of a graph."""

    memory_bytes: int = 2 << 30
    """Memory beyond the libraries, the rows, and room for copies of the graph."""
    seconds: float = 120.0

    def __str__(self) -> str:
        return f"{self.memory_bytes / 2**30:.1f} GiB and {self.seconds:.0f} s"


class _Array(msgspec.Struct):
    """An array as passed between the two processes; nothing is pickled."""

    dtype: str
    shape: tuple[int, ...]
    values: bytes | list[str]


class _Task(msgspec.Struct):
    graph: bytes
    signature: Signature
    inputs: dict[str, _Array]
    memory_bytes: int
    processor_seconds: int


class _Outcome(msgspec.Struct):
    answers: dict[str, _Array] | None = None
    refused: str = ""
    exhausted: bool = False
    """Whether the runtime failed, perhaps because of the bounds."""


def run_sandboxed(
    graph: bytes,
    signature: Signature,
    inputs: dict[str, np.ndarray[Any, Any]],
    bounds: Bounds = Bounds(),
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the result of `foreign_graph.run_and_validate`, run in a process with bounds.

    Raises:
        InvalidGraph: as there; also if it is not a valid ONNX model, or exceeds the bounds.
    """
    within = f"the process that runs it first may take {bounds}"
    task = _Task(
        graph,
        signature,
        _pack(inputs),
        bounds.memory_bytes + _GRAPH_COPIES * len(graph),
        math.ceil(bounds.seconds) * (os.cpu_count() or 1),
    )
    try:
        process = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=msgspec.msgpack.encode(task),
            capture_output=True,
            timeout=bounds.seconds,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidGraph(f"its graph does not finish: {within}") from None
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise InvalidGraph(f"{name} ended the process of its graph: {within}")
    if process.returncode > 0:
        log = process.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"the process for the graph's first run failed: {log}")
    outcome = msgspec.msgpack.decode(process.stdout, type=_Outcome)
    if outcome.answers is None:
        raise InvalidGraph(outcome.refused + (f" ({within})" if outcome.exhausted else ""))
    return _unpack(outcome.answers)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, sys.path))
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # Each malloc arena reserves address space.
    return inherited | {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "2"}


def _pack(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, _Array]:
    return {
        name: _Array(
            array.dtype.str,
            array.shape,
            array.ravel().tolist() if array.dtype.kind in "OU" else array.tobytes(),
        )
        for name, array in arrays.items()
    }


def _unpack(arrays: dict[str, _Array]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: (
            np.frombuffer(array.values, array.dtype)
            if isinstance(array.values, bytes)
            else np.array(array.values, dtype=object)
        ).reshape(array.shape)
        for name, array in arrays.items()
    }


def _set_limits(memory_bytes: int, processor_seconds: int) -> None:
    """Limit this process to that much beyond what it has used so far."""
    import resource

    wanted = {resource.RLIMIT_CORE: 0}
    # The CPU limit also ends this process if the parent dies.
    wanted[resource.RLIMIT_CPU] = processor_seconds + math.ceil(
        sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    )
    pages = Path("/proc/self/statm")
    if pages.exists():  # else only time is bounded
        in_use = int(pages.read_text().split()[0]) * resource.getpagesize()
        wanted[resource.RLIMIT_AS] = in_use + memory_bytes
    for limit, most in wanted.items():
        hard = resource.getrlimit(limit)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (value, value))


def _run_task(task: _Task) -> _Outcome:
    try:
        return _Outcome(_pack(run_and_validate(task.graph, task.signature, _unpack(task.inputs))))
    except (InvalidGraph, ExportError) as error:
        # The names of a graph's tensors may have any length.
        message = str(error)[:_MOST_SAID].strip()
        return _Outcome(refused=message, exhausted=isinstance(error, InferenceFailed))
    except UnicodeDecodeError as error:  # from the checker, for a name in the graph
        return _Outcome(refused=f"not a valid ONNX model: a name in it is not UTF-8: {error}")
    except MemoryError:
        return _Outcome(refused="its graph needs too much memory", exhausted=True)


def _main() -> None:
    # Libraries may write to standard output, so the result uses a duplicate of it.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Task)
        import onnx  # noqa: F401 # before the bounds, which apply to the graph alone

        import_onnxruntime()
        _set_limits(task.memory_bytes, task.processor_seconds)
        output.write(msgspec.msgpack.encode(_run_task(task)))


if __name__ == "__main__":
    _main()
