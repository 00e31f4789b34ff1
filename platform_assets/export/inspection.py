"""What an ONNX graph declares about itself, and whether the serving image can read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from platform_assets.export.triton_config import TensorSpec
from serving_gateway.contract import DType, Feature, feature_contract

if TYPE_CHECKING:
    from google.protobuf.message import Message

ML: Final = "ai.onnx.ml"
IMAGE_OPSET: Final = 21
IMAGE_ML_OPSET: Final = 5
IMAGE_IR_VERSION: Final = 10
"""Limits of ONNX Runtime 1.19, in the container of Triton 2.51 (24.10)."""
CONTRACT_KEY: Final = "serving.feature_contract"
"""Metadata key of a graph: the digest of its features."""
FEATURES_KEY: Final = "serving.features"
"""Metadata key of a graph: names, types and nullability of its features, as JSON."""
ML_OPSET: Final = 3
"""Opset that exporters should target: the image's ONNX Runtime lacks later operators."""


class ExportError(Exception):
    """The estimator cannot be expressed in ONNX, or the graph is not as promised."""


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """The declarations of an ONNX graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    ml_opset: int
    ir_version: int


def inspect_graph(onnx_bytes: bytes) -> GraphSummary:
    """Check a graph with the ONNX checker and return what it declares.

    Raises:
        ExportError: the bytes are not a valid ONNX model, or beyond what the serving image reads.
    """
    model = _parse_checked(onnx_bytes)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    summary = GraphSummary(
        inputs=tuple(_tensor(value) for value in model.graph.input),
        outputs=tuple(_tensor(value) for value in model.graph.output),
        opset=opsets.get("", 0),
        ml_opset=opsets.get(ML, 0),
        ir_version=model.ir_version,
    )
    versions = (summary.opset, summary.ml_opset, summary.ir_version)
    most = (IMAGE_OPSET, IMAGE_ML_OPSET, IMAGE_IR_VERSION)
    if any(number > limit for number, limit in zip(versions, most, strict=True)):
        raise ExportError(
            "opset {}, {} {}, IR {}: ".format(versions[0], ML, *versions[1:])
            + "the serving image reads at most {}, {} and {}: ".format(*most)
            + f"export it with target_opset {{'': {IMAGE_OPSET}, '{ML}': {ML_OPSET}}}, and set "
            f"ir_version to {IMAGE_IR_VERSION}"
        )
    return summary


def graph_contract(onnx_bytes: bytes) -> str:
    """Return the feature contract of a graph, computed from its own declarations.

    The graph's metadata lists its features and their types; its inputs must agree with them, and
    so must the contract that the metadata records.

    Raises:
        ExportError: the graph is invalid, names no features, or contradicts itself; the message
            says where.
    """
    model = _parse_checked(onnx_bytes)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if FEATURES_KEY not in metadata:
        raise ExportError(f"the graph has no {FEATURES_KEY} in its metadata")
    try:
        features = msgspec.json.decode(metadata[FEATURES_KEY], type=tuple[Feature, ...])
    except msgspec.MsgspecError as error:
        raise ExportError(f"{FEATURES_KEY} of the graph cannot be read: {error}") from error
    _require_agreement([_tensor(value) for value in model.graph.input], features)
    contract = feature_contract(features)
    if metadata.get(CONTRACT_KEY) != contract:
        raise ExportError(
            f"the graph records the feature contract {metadata.get(CONTRACT_KEY)}, but its "
            f"features make {contract}"
        )
    return contract


def _require_agreement(inputs: Sequence[TensorSpec], features: Sequence[Feature]) -> None:
    declared = [(tensor.name, tensor.dtype, tensor.shape) for tensor in inputs]
    each = [(feature.name, feature.tensor_dtype, (None, 1)) for feature in features]
    packed = len(declared) == 1 and declared[0][1:] == (DType.FP32, (None, len(features)))
    if declared != each and not (
        packed and all(feature.dtype is DType.FP32 for feature in features)
    ):
        raise ExportError(
            f"the graph reads {[tensor.name for tensor in inputs]}, which are not the features "
            f"{[feature.name for feature in features]} of its metadata with their types"
        )


def parse_graph(onnx_bytes: bytes) -> Any:  # onnx.ModelProto is untyped here
    """Parse a graph without checking it; ExportError if it is not an ONNX model."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(onnx_bytes)
    except DecodeError as error:
        raise ExportError(f"not a valid ONNX model: {error}") from error


def find_messages(
    message: Message, kind: Any
) -> Iterator[Any]:  # so are the other messages of onnx
    """Yield the messages of one kind in a graph, at any depth."""
    from google.protobuf.message import Message

    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        for part in [value] if isinstance(value, Message) else value:
            if isinstance(part, kind):
                yield part
            yield from find_messages(part, kind)


def _parse_checked(onnx_bytes: bytes) -> Any:
    import onnx

    model = parse_graph(onnx_bytes)
    tensors = find_messages(model, onnx.TensorProto)
    if any(map(onnx.external_data_helper.uses_external_data, tensors)):
        # A version is one file with one digest; no path in it may refer to a server's file.
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

    elements = {number: dtype for dtype, number in element_types().items()}
    tensor = value.type.tensor_type
    if tensor.elem_type not in elements:
        name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ExportError(f"{value.name}: element type {name} is not served by this platform")
    shape = tuple(
        dimension.dim_value if dimension.HasField("dim_value") else None
        for dimension in tensor.shape.dim
    )
    return TensorSpec(value.name, elements[tensor.elem_type], shape)


def element_types() -> dict[DType, int]:
    """Return ONNX's number for each type that the platform serves."""
    from onnx import TensorProto

    return {
        DType.FP32: TensorProto.FLOAT,
        DType.FP64: TensorProto.DOUBLE,
        DType.INT64: TensorProto.INT64,
        DType.BOOL: TensorProto.BOOL,
        DType.BYTES: TensorProto.STRING,
    }


def sha256(data: bytes) -> str:
    """Return the hexadecimal digest that identifies a graph everywhere."""
    return hashlib.sha256(data).hexdigest()
