"""Fitted pipeline -> ONNX bytes, by skl2onnx; the same pipeline gives the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from platform_assets.export.boosted import boosted_substitute
from platform_assets.export.boosting_converters import register
from platform_assets.export.convertible import convertible_substitute
from platform_assets.export.custom_step import CUSTOM_STEP, is_custom
from platform_assets.export.decision import split_decision
from platform_assets.export.inspection import CONTRACT_KEY, FEATURES_KEY, ML, ML_OPSET, ExportError
from platform_assets.export.raw_columns import connect_inputs, select_raw_columns
from platform_assets.export.step_names import flatten_steps, locate_failure, require_converters
from platform_assets.export.steps import converter_options
from platform_assets.export.wiring import with_signature
from serving_gateway.contract import DType, Signature, feature_contract

_Options = dict[int, dict[str, bool]]
"""Conversion options by the `id` of a step."""
OPSET: Final = 18
MAX_IR_VERSION: Final = 9
"""Of our graphs: lower than what the serving image reads, so that older images are usable."""


def export(estimator: Any, signature: Signature, graph_name: str) -> bytes:
    """Express a fitted estimator in ONNX.

    Args:
        estimator: a pipeline of `training.preprocessing`; for a packed signature, any estimator
            over the float32 matrix of the features.
        signature: the inputs and outputs of the graph: a tensor [rows, 1] per feature of its
            tensor type, or the packed one; `label` INT64 or text, [rows], and `probabilities`
            FP32, [rows, classes], or `prediction` FP64, [rows].
        graph_name: name inside the file.

    Raises:
        ExportError: a part of the estimator has no counterpart in ONNX, or the signature
            promises outputs that the estimator does not have.
    """
    from onnx import helper

    _check_names(signature)
    register()
    scoring, decision = split_decision(estimator)
    steps = _steps(scoring, signature)
    model = boosted_substitute(steps[-1]) or convertible_substitute(steps[-1])
    steps = [*steps[:-1], model.estimator]
    options: _Options = {}
    if signature.probabilities_output is not None:  # as a matrix, or a matrix of scores
        wanted = {"zipmap": False} | ({"raw_scores": True} if decision.reads_scores else {})
        options = {id(model.estimator): wanted}
    if is_custom(scoring):
        graph = _convert_custom(scoring, steps, signature, graph_name, options)
    else:
        graph = _convert(steps, _inputs(signature), graph_name, options)
    onnx_model = helper.make_model(
        with_signature(graph, model, signature, decision),
        producer_name="readygate",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(ML, ML_OPSET)],
    )
    onnx_model.ir_version = MAX_IR_VERSION
    features = msgspec.json.encode(signature.features).decode()
    contract = feature_contract(signature.features)
    helper.set_model_props(onnx_model, {CONTRACT_KEY: contract, FEATURES_KEY: features})
    return _serialize(onnx_model)


def _check_names(signature: Signature) -> None:
    outputs = {signature.label_output, signature.probabilities_output}
    clashes = [feature.name for feature in signature.features if feature.name in outputs]
    if clashes and signature.packed_input is None:
        raise ExportError(
            f"a feature is called {clashes[0]}, like an output of every model: rename the feature"
        )


def _steps(estimator: Any, signature: Signature) -> list[Any]:
    """Return the steps of a pipeline, with nested ones flattened; a lone estimator is one step."""
    first, *others = _flatten(estimator)
    ours = not is_custom(estimator) and hasattr(first, "transformers_")
    if signature.packed_input is not None and ours:
        # The packed matrix has no column names to select by: all go through one transformer.
        return [*_flatten(first.transformers_[0][1]), *others]
    return [first, *others]


def _flatten(step: Any) -> list[Any]:
    from sklearn.pipeline import Pipeline

    return [inner for _, inner in flatten_steps(step)] if isinstance(step, Pipeline) else [step]


def _convert_custom(
    estimator: Any, steps: list[Any], signature: Signature, name: str, options: _Options
) -> Any:
    """Convert a user's pipeline; ExportError names the step that cannot be converted."""
    own = estimator.named_steps[CUSTOM_STEP]
    require_converters(own)
    paths = [path for path, _ in flatten_steps(own)]
    named, columns = select_raw_columns(list(zip(paths, steps, strict=True)), signature)
    inputs = [(column.name, _tensor_type(column.dtype)([None, 1])) for column in columns]

    def converts(first: Sequence[Any]) -> bool:
        try:
            _convert([*first], inputs, name, {})
        except ExportError:
            return False
        return True

    try:
        graph = _convert([step for _, step in named], inputs, name, options)
    except ExportError as error:
        raise locate_failure(named, converts, error) from error
    return connect_inputs(graph, columns, signature)


def _convert(steps: list[Any], inputs: list[Any], name: str, options: _Options) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    from sklearn.pipeline import Pipeline

    pipeline = Pipeline([(str(number), step) for number, step in enumerate(steps)])
    kind = type(steps[-1]).__name__
    try:
        with warnings.catch_warnings():
            # Protobuf deprecates booleans passed as numbers, as skl2onnx does.
            warnings.simplefilter("ignore", DeprecationWarning)
            return convert_sklearn(
                pipeline,
                name=name,
                initial_types=inputs,
                options=options or None,
                target_opset={"": OPSET, ML: ML_OPSET},
                **converter_options(),
            ).graph
    except (MissingConverter, MissingShapeCalculator) as error:
        raise ExportError(
            f"{kind} has no ONNX converter: {_first_line(error)} Nothing was packaged; choose an "
            "estimator that skl2onnx supports."
        ) from error
    except ExportError:
        raise
    # Converters have no common exception class.
    except Exception as error:
        raise ExportError(
            f"skl2onnx failed to convert {kind}: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _inputs(signature: Signature) -> list[tuple[str, Any]]:
    if signature.packed_input is not None:
        kind = _tensor_type(signature.features[0].tensor_dtype)
        return [(signature.packed_input, kind([None, len(signature.features)]))]
    return [
        (feature.name, _tensor_type(feature.tensor_dtype)([None, 1]))
        for feature in signature.features
    ]


def _tensor_type(dtype: DType) -> Any:
    from skl2onnx.common import data_types as types

    return {
        DType.FP32: types.FloatTensorType,
        DType.FP64: types.DoubleTensorType,
        DType.INT64: types.Int64TensorType,
        DType.BOOL: types.BooleanTensorType,
        DType.BYTES: types.StringTensorType,
    }[dtype]


def _serialize(model: Any) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        return bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise ExportError(
            f"the graph has more than the 2 GB that an ONNX file can hold ({error}): lower the "
            "depth or the number of trees"
        ) from error
