"""scikit-learn estimator -> ONNX bytes, and what a graph declares about itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from platform_assets.packaging.triton_config import TensorSpec
from serving_gateway.contract import DType, Signature

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# ONNX Runtime 1.19, in the container of Triton 2.51 (24.10), reads up to opset 21, ai.onnx.ml 5
# and IR 10. Staying below keeps older images usable.
OPSET: Final = 18
ML_OPSET: Final = 3
MAX_IR_VERSION: Final = 9


class ExportError(Exception):
    """The estimator cannot be expressed in ONNX, or the graph is not what we promised."""


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """What an ONNX graph declares."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ml_opset: int
    ir_version: int


def export(
    estimator: Any, signature: Signature, graph_name: str
) -> bytes:  # any scikit-learn estimator
    """Convert a fitted estimator to ONNX; the same estimator gives the same bytes.

    The graph has the inputs that `signature` says and the outputs `label` and, for a
    classifier, `probabilities` ([-1, classes], no map).

    Raises:
        ExportError: skl2onnx has no converter for a part of the estimator.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    options = {id(estimator): {"zipmap": False}} if signature.probabilities_output else None
    try:
        model = convert_sklearn(
            estimator,
            name=graph_name,
            initial_types=_initial_types(signature),
            options=options,
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        )
    except (MissingConverter, MissingShapeCalculator) as error:
        raise ExportError(
            f"{type(estimator).__name__} has no ONNX converter: {error}. Nothing was packaged; "
            "choose an estimator that skl2onnx supports."
        ) from error
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    return bytes(model.SerializeToString(deterministic=True))


def _initial_types(signature: Signature) -> list[tuple[str, Any]]:
    from skl2onnx.common import data_types as types

    tensors = {
        DType.FP32: types.FloatTensorType,
        DType.FP64: types.DoubleTensorType,
        DType.INT64: types.Int64TensorType,
        DType.BOOL: types.BooleanTensorType,
        DType.BYTES: types.StringTensorType,
    }
    if signature.packed_input is not None:
        dtype = signature.features[0].dtype
        width = len(signature.features)
        return [(signature.packed_input, tensors[dtype]([None, width]))]
    return [(feature.name, tensors[feature.dtype]([None, 1])) for feature in signature.features]


def inspect_graph(onnx_bytes: bytes) -> GraphSummary:
    """Check a graph with the ONNX checker and return what it declares.

    Raises:
        ExportError: the bytes are no valid ONNX model, or lie beyond what the serving image reads.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(onnx_bytes)
        onnx.checker.check_model(model, full_check=True)
    except (
        DecodeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise ExportError(f"not a valid ONNX model: {error}") from error
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    summary = GraphSummary(
        inputs=tuple(_tensor(value) for value in model.graph.input),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        opset=opsets.get("", 0),
        ml_opset=opsets.get("ai.onnx.ml", 0),
        ir_version=model.ir_version,
    )
    if summary.opset > OPSET or summary.ml_opset > ML_OPSET or model.ir_version > MAX_IR_VERSION:
        raise ExportError(
            f"opset {summary.opset}, ai.onnx.ml {summary.ml_opset}, IR {summary.ir_version}: the "
            f"serving image reads at most {OPSET}, {ML_OPSET} and {MAX_IR_VERSION}"
        )
    return summary


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
        features: [n] rows with at least the signature's columns.

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
        dtype = dtypes[signature.features[0].dtype]
        return {signature.packed_input: features[names].to_numpy(dtype=dtype)}
    return {
        feature.name: features[[feature.name]].to_numpy(dtype=dtypes[feature.dtype])
        for feature in signature.features
    }


def run_graph(
    onnx_bytes: bytes, inputs: dict[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Run a graph with ONNX Runtime on the CPU; return its outputs by name."""
    import onnxruntime as ort

    session = ort.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
