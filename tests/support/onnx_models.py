"""Small ONNX models and repository entries for tests that need a real Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from serving_gateway.contract import CONFIG_FILE, MODEL_FILE

OPSET = 17
IR_VERSION = 8
N_FEATURES = 4
N_CLASSES = 3

_SQUARE = [512, 512]

_TRITON_TYPES = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    4: "TYPE_UINT16",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    12: "TYPE_UINT32",
    13: "TYPE_UINT64",
}


@cache
def iris_classifier(strength: float = 1.0) -> bytes:
    """A logistic regression on iris, as the pipeline packages it.

    `features` FP32 [N, 4] -> `label` INT64 [N], `probabilities` FP32 [N, 3]. Another
    `strength` (inverse regularisation) gives another model with the same interface.
    """
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, species = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000, C=strength).fit(rows.astype("float32"), species)
    graph = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, N_FEATURES]))],
        options={id(model): {"zipmap": False}},
        target_opset=OPSET,
    )
    return bytes(graph.SerializeToString())


def telltale(version: int, *, rounds: int = 0) -> bytes:
    """A model with the iris interface whose `label` is always `version`.

    `probabilities` are the softmax of the first three features, so a row's answer tells both
    the row and the version that made it. It takes the time of `rounds` matrix products of
    512 x 512, however many rows there are.
    """
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Slice", ["features", "from", "to", "axis"], ["head"]),
        helper.make_node("Softmax", ["head"], ["probabilities"], axis=1),
        helper.make_node("Shape", ["features"], ["rows"], start=0, end=1),
        helper.make_node(
            "ConstantOfShape",
            ["rows"],
            ["label"],
            value=helper.make_tensor("version", TensorProto.INT64, [1], [version]),
        ),
    ]
    constants = {"from": [0], "to": [N_CLASSES], "axis": [1]}
    if rounds:
        nodes[1] = helper.make_node("Softmax", ["delayed"], ["probabilities"], axis=1)
        nodes[1:1] = _delay(rounds)
    return model_bytes(
        nodes,
        inputs={"features": (TensorProto.FLOAT, [None, N_FEATURES])},
        outputs={
            "label": (TensorProto.INT64, [None]),
            "probabilities": (TensorProto.FLOAT, [None, N_CLASSES]),
        },
        initializers=[
            helper.make_tensor(name, TensorProto.INT64, [1], value)
            for name, value in constants.items()
        ],
    )


def _delay(rounds: int) -> list[Any]:
    """`head` after so many matrix products, as `delayed`; none is known before there is a row."""
    from onnx import TensorProto, helper

    def constant(name: str, kind: int, shape: list[int], *values: float) -> Any:
        return helper.make_node(
            "Constant", [], [name], value=helper.make_tensor(name, kind, shape, values)
        )

    return [
        constant("rounds", TensorProto.INT64, [], rounds),
        constant("yes", TensorProto.BOOL, [], True),
        constant("square", TensorProto.INT64, [2], *_SQUARE),
        constant("nothing", TensorProto.FLOAT, [], 0.0),
        helper.make_node("ReduceSum", ["head"], ["any"], keepdims=0),
        helper.make_node("Mul", ["any", "nothing"], ["zero"]),
        helper.make_node("Expand", ["zero", "square"], ["weights"]),
        helper.make_node("Loop", ["rounds", "yes", "weights"], ["last"], body=_product()),
        helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        helper.make_node("Add", ["head", "sum"], ["delayed"]),
    ]


def model_bytes(
    nodes: Sequence[Any],
    *,
    inputs: Mapping[str, tuple[int, Sequence[int | None]]],
    outputs: Mapping[str, tuple[int, Sequence[int | None]]],
    initializers: Sequence[Any] = (),
) -> bytes:
    """Serialize a checked graph; `inputs` and `outputs` map a name to (element type, shape)."""
    import onnx
    from onnx import helper

    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in outputs.items()],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def config_text(
    model_name: str,
    onnx_bytes: bytes,
    versions: Sequence[int],
    *,
    max_batch_size: int = 64,
    extra: str = "",
) -> str:
    """A `config.pbtxt` made from the graph's own inputs and outputs.

    `versions` become the specific version policy (none: the default policy). With a batch
    size above 0 the first dimension of every tensor is the batch.
    """
    import onnx

    graph = onnx.load_model_from_string(onnx_bytes).graph
    lines = [
        f'name: "{model_name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
        *(_tensor("input", value, batched=max_batch_size > 0) for value in graph.input),
        *(_tensor("output", value, batched=max_batch_size > 0) for value in graph.output),
        "instance_group { kind: KIND_CPU count: 1 }",
    ]
    if versions:
        listed = ", ".join(str(version) for version in versions)
        lines.append(f"version_policy {{ specific {{ versions: [{listed}] }} }}")
    return "\n".join([*lines, extra, ""])


def _tensor(kind: str, value: Any, *, batched: bool) -> str:
    tensor = value.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    dims = sizes[1:] if batched else sizes
    shape = f"dims: {dims}" if dims else "dims: [1] reshape { shape: [] }"
    return f'{kind} {{ name: "{value.name}" data_type: {_TRITON_TYPES[tensor.elem_type]} {shape} }}'


def write_version(repository: Path, model_name: str, version: int, onnx_bytes: bytes) -> Path:
    """Write one version directory and return it."""
    directory = repository / model_name / str(version)
    directory.mkdir(parents=True)
    (directory / MODEL_FILE).write_bytes(onnx_bytes)
    return directory


def write_config(repository: Path, model_name: str, text: str) -> Path:
    """Write (or replace) the model's `config.pbtxt`."""
    file = repository / model_name / CONFIG_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def write_entry(
    repository: Path,
    model_name: str,
    models: Mapping[int, bytes],
    *,
    serve: Sequence[int] | None = None,
    max_batch_size: int = 64,
    extra: str = "",
) -> Path:
    """Write versions and a configuration that serves `serve` (default: all of them).

    Returns the model's directory.
    """
    for version, onnx_bytes in models.items():
        write_version(repository, model_name, version, onnx_bytes)
    served = sorted(models) if serve is None else list(serve)
    text = config_text(
        model_name,
        next(iter(models.values())),
        served,
        max_batch_size=max_batch_size,
        extra=extra,
    )
    write_config(repository, model_name, text)
    return repository / model_name


def string_echo() -> bytes:
    """`text` STRING [N, 1] -> `echo`, the same text."""
    from onnx import TensorProto, helper

    shape = (TensorProto.STRING, [None, 1])
    nodes = [helper.make_node("Identity", ["text"], ["echo"])]
    return model_bytes(nodes, inputs={"text": shape}, outputs={"echo": shape})


def all_types() -> bytes:
    """13 inputs `in_TYPE` [N, 2], one per element type, each answered unchanged as `out_TYPE`."""
    from onnx import helper

    names = {kind: name.removeprefix("TYPE_") for kind, name in _TRITON_TYPES.items()}
    return model_bytes(
        [helper.make_node("Identity", [f"in_{n}"], [f"out_{n}"]) for n in names.values()],
        inputs={f"in_{name}": (kind, [None, 2]) for kind, name in names.items()},
        outputs={f"out_{name}": (kind, [None, 2]) for kind, name in names.items()},
    )


def look_up() -> bytes:
    """`index` INT64 [N] -> `value` FP32 [N] out of (10, 11, 12), and `twice` FP32 [N].

    An index beyond the table is an error of the run, and of the whole batch it runs in.
    """
    from onnx import TensorProto, helper

    return model_bytes(
        [
            helper.make_node("Gather", ["table", "index"], ["value"]),
            helper.make_node("Add", ["value", "value"], ["twice"]),
        ],
        inputs={"index": (TensorProto.INT64, [None])},
        outputs={"value": (TensorProto.FLOAT, [None]), "twice": (TensorProto.FLOAT, [None])},
        initializers=[helper.make_tensor("table", TensorProto.FLOAT, [3], [10, 11, 12])],
    )


def scalar() -> bytes:
    """`x` FP32 of rank 0 -> `doubled`, of rank 0 too."""
    from onnx import TensorProto, helper

    return model_bytes(
        [helper.make_node("Add", ["x", "x"], ["doubled"])],
        inputs={"x": (TensorProto.FLOAT, [])},
        outputs={"doubled": (TensorProto.FLOAT, [])},
    )


def slow() -> bytes:
    """`rounds` INT64 [1] -> `total` FP32 [1], after `rounds` matrix products of 512 x 512."""
    from onnx import TensorProto, helper

    fill = helper.make_tensor("fill", TensorProto.FLOAT, [1], [1 / 512])
    return model_bytes(
        [
            helper.make_node("ConstantOfShape", ["square"], ["weights"], value=fill),
            helper.make_node("Squeeze", ["rounds"], ["count"]),
            helper.make_node("Loop", ["count", "yes", "weights"], ["last"], body=_product()),
            helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
            helper.make_node("Unsqueeze", ["sum", "zero"], ["total"]),
        ],
        inputs={"rounds": (TensorProto.INT64, [1])},
        outputs={"total": (TensorProto.FLOAT, [1])},
        initializers=[
            helper.make_tensor("square", TensorProto.INT64, [2], _SQUARE),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )


def _product() -> Any:
    """Body of a loop: `state` times `weights` of the graph around it."""
    from onnx import TensorProto, helper

    return helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "weights"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, _SQUARE),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, _SQUARE),
        ],
    )


def with_optional_input() -> bytes:
    """`x` FP32 [N, 2] times `scale` FP32 [1], which is 3 unless given -> `scaled`."""
    from onnx import TensorProto, helper

    return model_bytes(
        [helper.make_node("Mul", ["x", "scale"], ["scaled"])],
        inputs={"x": (TensorProto.FLOAT, [None, 2]), "scale": (TensorProto.FLOAT, [1])},
        outputs={"scaled": (TensorProto.FLOAT, [None, 2])},
        initializers=[helper.make_tensor("scale", TensorProto.FLOAT, [1], [3])],
    )


def missing_values() -> bytes:
    """`x` FP32, `n` FP64, `b` FP32, `t` STRING, all [N, 1] -> `missing` FP32, `echo` STRING.

    `missing` adds up 1, 10 and 100 for NaN in `x`, `n` and `b`; `echo` is `t`.
    """
    from onnx import TensorProto, helper

    kinds = {"x": TensorProto.FLOAT, "n": TensorProto.DOUBLE, "b": TensorProto.FLOAT}
    nodes = [helper.make_node("Identity", ["t"], ["echo"])]
    for name in kinds:
        nodes += [
            helper.make_node("IsNaN", [name], [f"{name}_nan"]),
            helper.make_node("Cast", [f"{name}_nan"], [f"{name}_one"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_one", f"{name}_weight"], [f"{name}_weighted"]),
        ]
    nodes.append(helper.make_node("Sum", [f"{name}_weighted" for name in kinds], ["missing"]))
    weights = {f"{name}_weight": 10.0**place for place, name in enumerate(kinds)}
    column = [None, 1]
    return model_bytes(
        nodes,
        inputs={**{n: (k, column) for n, k in kinds.items()}, "t": (TensorProto.STRING, column)},
        outputs={"missing": (TensorProto.FLOAT, column), "echo": (TensorProto.STRING, column)},
        initializers=[
            helper.make_tensor(name, TensorProto.FLOAT, [1], [value])
            for name, value in weights.items()
        ],
    )
