"""Options of a model configuration, as they reach the session of ONNX Runtime."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import onnxruntime as ort
import pytest

MODULE = "platform_assets.local_stack.onnxruntime_backend.model"
LEVELS = ort.GraphOptimizationLevel


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend as Triton loads it: beside a module that only Triton's environment has."""
    utilities = "triton_python_backend_utils"
    monkeypatch.setitem(sys.modules, utilities, ModuleType(utilities))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in (MODULE, "graph_config"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(MODULE)
    for name in (MODULE, "graph_config"):
        sys.modules.pop(name, None)


def options(backend: Any, level: int | None = None, **parameters: str) -> ort.SessionOptions:
    config: dict[str, Any] = {
        "parameters": {name: {"string_value": text} for name, text in parameters.items()}
    }
    if level is not None:
        config["optimization"] = {"graph": {"level": level}}
    return backend._session_options(config)


def test_without_options_the_session_has_the_defaults_of_the_c_backend(backend: Any) -> None:
    made = options(backend)
    assert made.graph_optimization_level == LEVELS.ORT_ENABLE_ALL
    assert made.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (0, 0)
    assert made.enable_cpu_mem_arena
    assert made.enable_mem_pattern


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (-1, LEVELS.ORT_ENABLE_BASIC),
        (1, LEVELS.ORT_ENABLE_EXTENDED),
        (2, LEVELS.ORT_DISABLE_ALL),
    ],
)
def test_the_optimization_level_reaches_the_session(
    backend: Any, level: int, expected: Any
) -> None:
    assert options(backend, level).graph_optimization_level == expected


def test_every_parameter_reaches_the_session(backend: Any) -> None:
    made = options(
        backend,
        intra_op_thread_count="3",
        inter_op_thread_count="2",
        execution_mode="1",
        enable_mem_arena="0",
        enable_mem_pattern="0",
    )
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (3, 2)
    assert made.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not made.enable_cpu_mem_arena
    assert not made.enable_mem_pattern
