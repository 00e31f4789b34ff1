"""What an ONNX graph declares about itself, and how it is run.

Graphs are made by `training.graph.export`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from platform_assets.packaging.triton_config import TensorSpec
from platform_assets.training.graph.builder import (
    MAX_IR_VERSION,
    ML,
    ML_OPSET,
    OPSET,
    ExportError,
)
from platform_assets.training.graph.export import CONTRACT_KEY, FEATURES_KEY
from serving_gateway.contract import DType, Feature, Signature, feature_contract

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from google.protobuf.message import Message

_ROWS_AT_ONCE: Final = 10_000
"""What the runtime holds between two nodes grows with the rows, and is never given back."""


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """What an ONNX graph declares."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ml_opset: int
    ir_version: int


def inspect_graph(onnx_bytes: bytes) -> GraphSummary:
    """Check a graph with the ONNX checker and return what it declares.

    Raises:
        ExportError: the bytes are no valid ONNX model, or lie beyond what the serving image reads.
    """
    model = _checked(onnx_bytes)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    summary = GraphSummary(
        inputs=tuple(_tensor(value) for value in model.graph.input),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        opset=opsets.get("", 0),
        ml_opset=opsets.get(ML, 0),
        ir_version=model.ir_version,
    )
    if summary.opset > OPSET or summary.ml_opset > ML_OPSET or model.ir_version > MAX_IR_VERSION:
        raise ExportError(
            f"opset {summary.opset}, ai.onnx.ml {summary.ml_opset}, IR {summary.ir_version}: the "
            f"serving image reads at most {OPSET}, {ML_OPSET} and {MAX_IR_VERSION}"
        )
    return summary


def graph_contract(onnx_bytes: bytes) -> str:
    """Return the feature contract of a graph, computed from what it declares that it reads.

    The graph's metadata says which features these are and of what types; its own inputs have
    to agree, and so has the contract that the metadata records.

    Raises:
        ExportError: no valid graph, one that names no features, or one that contradicts
            itself; the message says where.
    """
    model = _checked(onnx_bytes)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if FEATURES_KEY not in metadata:
        raise ExportError(f"the graph has no {FEATURES_KEY} in its metadata")
    try:
        features = msgspec.json.decode(metadata[FEATURES_KEY], type=tuple[Feature, ...])
    except msgspec.MsgspecError as error:
        raise ExportError(f"{FEATURES_KEY} of the graph cannot be read: {error}") from error
    _agree([_tensor(value) for value in model.graph.input], features)
    contract = feature_contract(features)
    if metadata.get(CONTRACT_KEY) != contract:
        raise ExportError(
            f"the graph records the feature contract {metadata.get(CONTRACT_KEY)}, but its "
            f"features make {contract}"
        )
    return contract


def _agree(inputs: Sequence[TensorSpec], features: Sequence[Feature]) -> None:
    declared = [(tensor.name, tensor.dtype, tensor.shape) for tensor in inputs]
    each = [(one.name, one.tensor_dtype, (None, 1)) for one in features]
    packed = len(declared) == 1 and declared[0][1:] == (DType.FP32, (None, len(features)))
    if declared != each and not (packed and all(one.dtype is DType.FP32 for one in features)):
        raise ExportError(
            f"the graph reads {[tensor.name for tensor in inputs]}, which are not the features "
            f"{[one.name for one in features]} of its metadata with their types"
        )


def parse_graph(onnx_bytes: bytes) -> Any:  # onnx.ModelProto is untyped here
    """Return a graph as it is written; nothing is checked.

    Raises:
        ExportError: the bytes are no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(onnx_bytes)
    except DecodeError as error:
        raise ExportError(f"not a valid ONNX model: {error}") from error


def parts(message: Message, kind: Any) -> Iterator[Any]:  # so are the other messages of onnx
    """Find the messages of one kind in a graph, however deep they are."""
    from google.protobuf.message import Message

    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        for part in [value] if isinstance(value, Message) else value:
            if isinstance(part, kind):
                yield part
            yield from parts(part, kind)


def _checked(onnx_bytes: bytes) -> Any:
    import onnx

    model = parse_graph(onnx_bytes)
    tensors = parts(model, onnx.TensorProto)
    if any(map(onnx.external_data_helper.uses_external_data, tensors)):
        # A version is one file with one digest, and no path in it may name a server's file.
        raise ExportError(
            "the graph keeps its weights in other files: save it whole (MLflow's ONNX "
            "flavour does with save_as_external_data=False)"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"not a valid ONNX model: {error}") from error
    return model


def _tensor(value: Any) -> TensorSpec:  # onnx.ValueInfoProto is untyped here
    import onnx

    elements = {
        onnx.TensorProto.FLOAT: DType.FP32,
        onnx.TensorProto.DOUBLE: DType.FP64,
        onnx.TensorProto.INT64: DType.INT64,
        onnx.TensorProto.BOOL: DType.BOOL,
        onnx.TensorProto.STRING: DType.BYTES,
    }
    tensor = value.type.tensor_type
    if tensor.elem_type not in elements:
        name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ExportError(f"{value.name}: element type {name} is not served by this platform")
    shape = tuple(
        dimension.dim_value if dimension.HasField("dim_value") else None
        for dimension in tensor.shape.dim
    )
    return TensorSpec(value.name, elements[tensor.elem_type], shape)


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest by which a graph is known everywhere."""
    return hashlib.sha256(data).hexdigest()


def model_inputs(signature: Signature, features: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    """Turn rows into the tensors that the graph reads.

    Args:
        signature: says the columns, their order and whether they are packed.
        features: [n] rows in tensor form with at least the signature's columns.

    Returns:
        {input name: [n, width] array} for a packed input, else one [n, 1] array per feature.
    """
    import numpy as np

    dtypes: dict[DType, Any] = {
        DType.FP32: np.float32,
        DType.FP64: np.float64,
        DType.INT64: np.int64,
        DType.BOOL: np.bool_,
        DType.BYTES: np.object_,
    }
    names = [feature.name for feature in signature.features]
    if signature.packed_input is not None:
        dtype = dtypes[signature.features[0].tensor_dtype]
        return {signature.packed_input: features[names].to_numpy(dtype=dtype)}
    return {
        feature.name: features[[feature.name]].to_numpy(dtype=dtypes[feature.tensor_dtype])
        for feature in signature.features
    }


def run_graph(
    onnx_bytes: bytes, inputs: dict[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Run a graph with ONNX Runtime on the CPU, part by part; return its outputs by name.

    Args:
        onnx_bytes: the graph.
        inputs: tensors of as many rows each.
    """
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = max(map(len, inputs.values()))
    parts = [
        session.run(names, {key: one[start : start + _ROWS_AT_ONCE] for key, one in inputs.items()})
        for start in range(0, max(rows, 1), _ROWS_AT_ONCE)
    ]
    return {name: np.concatenate(found) for name, *found in zip(names, *parts, strict=True)}
