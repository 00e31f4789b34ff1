"""Which graphs fit which configuration: the rules of the C++ backend, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from platform_assets.local_stack.onnxruntime_backend.graph_config import (
    BadEntry,
    GraphTensor,
    boolean,
    check_inputs,
    check_outputs,
    complete,
    integer,
    refuse_unsupported,
)


def tensor(name: str, shape: list[int | str | None], kind: str = "tensor(float)") -> GraphTensor:
    return GraphTensor(SimpleNamespace(name=name, type=kind, shape=shape))


def entry(name: str, dims: list[int], data_type: str = "TYPE_FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "dims": dims, "data_type": data_type, **more}


def config(max_batch_size: int = 8, **more: Any) -> dict[str, Any]:
    return {"max_batch_size": max_batch_size, "input": [], "output": [], **more}


@pytest.mark.parametrize("batch", ["N", None, -1])
def test_any_way_to_write_a_free_dimension_is_one(batch: Any) -> None:
    assert tensor("x", [batch, 4]).shape == [-1, 4]


def test_a_map_cannot_be_served_and_the_reason_names_zipmap() -> None:
    with pytest.raises(BadEntry, match="zipmap"):
        tensor("output_probability", [], "seq(map(int64,tensor(float)))")


@pytest.mark.parametrize(
    ("max_batch_size", "shape", "given"),
    [
        (8, [None, 4], entry("x", [4])),
        (8, [None, None], entry("x", [4])),  # the graph takes any width
        (8, [None], entry("x", [1], reshape={"shape": []})),
        (8, [None], entry("x", [1], reshape={})),
        (8, [None, 2, 3], entry("x", [6], reshape={"shape": [2, 3]})),
        (0, [None, 4], entry("x", [-1, 4])),
        (0, [2, 4], entry("x", [2, 4])),
        (0, [], entry("x", [1])),
    ],
)
def test_an_input_whose_shape_fits_is_taken(
    max_batch_size: int, shape: list[int | str | None], given: dict[str, Any]
) -> None:
    check_inputs(config(max_batch_size, input=[given]), [tensor("x", shape)], [])


@pytest.mark.parametrize(
    ("max_batch_size", "shape", "given", "reason"),
    [
        (8, [None, 4], entry("x", [5]), r"\[-1, 5\] by the configuration .* \[-1, 4\]"),
        (8, [None, 4], entry("x", [4, 1]), "batch dimension"),
        (8, [1, 4], entry("x", [4]), "first dimension of any size"),
        (
            8,
            [None, 4],
            entry("x", [4], "TYPE_FP64"),
            "TYPE_FP64 in the configuration and TYPE_FP32",
        ),
        (8, [None, 4], entry("y", [4]), "needs the inputs x"),
        (0, [2, 4], entry("x", [-1, 4]), r"\[-1, 4\]"),
        (0, [], entry("x", [2]), r"\[2\]"),
        (8, [None, 4], entry("x", [4], optional=True), "needs the inputs x"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_with_the_reason(
    max_batch_size: int, shape: list[int | str | None], given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadEntry, match=reason):
        check_inputs(config(max_batch_size, input=[given]), [tensor("x", shape)], [])


def test_an_input_that_the_graph_lacks_is_refused() -> None:
    both = config(input=[entry("x", [4]), entry("extra", [4])])
    with pytest.raises(BadEntry, match="input 'extra', the graph has x"):
        check_inputs(both, [tensor("x", [None, 4])], [])


def test_an_overridable_initializer_may_be_an_optional_input_without_batching() -> None:
    given = [entry("x", [-1, 4]), entry("scale", [1], optional=True)]
    known = [tensor("x", [None, 4])], [tensor("scale", [1])]
    check_inputs(config(0, input=given), *known)
    with pytest.raises(BadEntry, match="optional, which a model that batches cannot have"):
        check_inputs(config(8, input=[entry("x", [4]), given[1]]), *known)


def test_outputs_may_be_left_out_but_not_invented() -> None:
    outputs = [tensor("label", [None], "tensor(int64)"), tensor("scores", [None, 3])]
    check_outputs(config(output=[entry("scores", [3])]), outputs)
    with pytest.raises(BadEntry, match="output 'odds', the graph has label, scores"):
        check_outputs(config(output=[entry("odds", [3])]), outputs)


def test_an_output_must_fit_exactly() -> None:
    with pytest.raises(BadEntry, match="output 'scores'"):
        check_outputs(config(output=[entry("scores", [3])]), [tensor("scores", [None, None])])


def test_what_is_left_out_is_completed_as_the_cpp_backend_does() -> None:
    bare = config(0)
    complete(
        bare,
        [tensor("features", ["N", 4])],
        [tensor("label", ["N"], "tensor(int64)"), tensor("scores", ["N", 3])],
    )
    assert bare == {
        "max_batch_size": 4,
        "dynamic_batching": {},
        "input": [entry("features", [4])],
        "output": [
            entry("label", [1], "TYPE_INT64", reshape={"shape": []}),
            entry("scores", [3]),
        ],
    }
    check_inputs(bare, [tensor("features", ["N", 4])], [])


def test_completion_keeps_what_is_there() -> None:
    given = config(16, input=[entry("x", [4])], dynamic_batching={"preferred_batch_size": [8]})
    complete(given, [tensor("x", [None, 4])], [tensor("y", [None, 2])])
    assert given["max_batch_size"] == 16
    assert given["dynamic_batching"] == {"preferred_batch_size": [8]}
    assert given["input"] == [entry("x", [4])]
    assert given["output"] == [entry("y", [2])]


def test_a_graph_that_cannot_batch_is_completed_without_and_refused_with_a_batch_size() -> None:
    fixed = [tensor("x", [2, 4])], [tensor("y", [])]
    bare = config(0)
    complete(bare, *fixed)
    assert bare == {
        "max_batch_size": 0,
        "input": [entry("x", [2, 4])],
        "output": [entry("y", [1])],
    }
    with pytest.raises(BadEntry, match="max_batch_size is 8"):
        complete(config(8), *fixed)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"sequence_batching": {"max_sequence_idle_microseconds": 1}}, "sequence_batching"),
        ({"batch_input": [{"kind": "BATCH_ELEMENT_COUNT"}]}, "batch_input"),
        ({"input": [entry("x", [-1], allow_ragged_batch=True)]}, "allow_ragged_batch"),
        ({"model_transaction_policy": {"decoupled": True}}, "decoupled"),
        (
            {
                "optimization": {
                    "execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}
                }
            },
            "accelerator openvino",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(more: dict[str, Any], named: str) -> None:
    with pytest.raises(BadEntry, match=f"{named}.*NVIDIA's container"):
        refuse_unsupported(config(**more), "CPU")
    refuse_unsupported(config(), "CPU")


def test_only_cpu_instances_are_taken() -> None:
    with pytest.raises(BadEntry, match="KIND_CPU"):
        refuse_unsupported(config(), "GPU")


def test_parameters_are_read_as_triton_writes_them() -> None:
    given = {
        "parameters": {
            "intra_op_thread_count": {"string_value": "2"},
            "enable_mem_arena": {"string_value": "False"},
            "broken": {"string_value": "two"},
        }
    }
    assert integer(given, "intra_op_thread_count") == 2
    assert integer(given, "inter_op_thread_count") == 0
    assert not boolean(given, "enable_mem_arena", default=True)
    assert boolean(given, "enable_mem_pattern", default=True)
    with pytest.raises(BadEntry, match="broken is 'two': give a whole number"):
        integer(given, "broken")
    with pytest.raises(BadEntry, match="broken is 'two': give 1, 0"):
        boolean(given, "broken", default=True)
