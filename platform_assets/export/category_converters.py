"""Converters of text encoders for which skl2onnx has none, or a wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def one_hot_shape(operator: Any) -> None:
    """Tell skl2onnx how many columns a `OneHotEncoder` makes, and of which type."""
    from skl2onnx.shape_calculators import one_hot_encoder as usual

    encoder = operator.raw_operator
    if _is_grouped(encoder) and _reads_texts(operator):
        _declare(operator, len(encoder.get_feature_names_out()))
    else:
        usual.calculate_sklearn_one_hot_encoder_output_shapes(operator)


def target_shape(operator: Any) -> None:
    """Tell skl2onnx how many columns a `TargetEncoder` makes."""
    _declare(operator, len(operator.raw_operator.encodings_))


def _declare(operator: Any, width: int) -> None:
    from skl2onnx.common.data_types import FloatTensorType

    operator.outputs[0].type = FloatTensorType([operator.inputs[0].get_first_dimension(), width])


def _is_grouped(encoder: Any) -> bool:
    grouped = encoder.min_frequency is not None or encoder.max_categories is not None
    return grouped and encoder.drop is None


def _reads_texts(operator: Any) -> bool:
    from skl2onnx.common.data_types import StringTensorType

    return all(isinstance(variable.type, StringTensorType) for variable in operator.inputs)


def convert_one_hot(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a `OneHotEncoder`; skl2onnx fails on a group of infrequent categories."""
    from onnx import TensorProto
    from skl2onnx.operator_converters.one_hot_encoder import convert_sklearn_one_hot_encoder

    encoder = operator.raw_operator
    if not (_is_grouped(encoder) and _reads_texts(operator)):
        convert_sklearn_one_hot_encoder(scope, operator, container)
        return
    parts = []
    categories = zip(encoder.categories_, encoder.infrequent_categories_, strict=True)
    columns = _columns(scope, operator, container)
    for column, (known, infrequent) in zip(columns, categories, strict=True):
        rare = np.isin(known, [] if infrequent is None else infrequent)
        group = int(np.count_nonzero(~rare))
        width = group + int(rare.any())
        # A position beyond the last column leaves all columns 0.
        otherwise = group if encoder.handle_unknown == "infrequent_if_exist" else width
        places = np.where(rare, group, np.cumsum(~rare) - 1)
        listed = places != otherwise
        place = _lookup(scope, container, column, known[listed], places[listed], otherwise)
        depth, values = (scope.get_unique_variable_name(name) for name in ("depth", "values"))
        container.add_initializer(depth, TensorProto.INT64, [1], [width])
        container.add_initializer(values, TensorProto.FLOAT, [2], [0.0, 1.0])
        parts.append(_add_node(scope, container, "OneHot", [place, depth, values], axis=1))
    _concatenate(scope, operator, container, parts)


def convert_target(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a `TargetEncoder`; skl2onnx fails on more than two classes."""
    from onnx import TensorProto
    from skl2onnx.operator_converters.target_encoder import convert_sklearn_target_encoder

    encoder = operator.raw_operator
    if not _reads_texts(operator):
        convert_sklearn_target_encoder(scope, operator, container)
        return
    means = np.atleast_1d(encoder.target_mean_)
    parts = []
    for number, column in enumerate(_columns(scope, operator, container)):
        known = encoder.categories_[number]
        encodings = encoder.encodings_[number * len(means) : (number + 1) * len(means)]
        # One row of the table per category; the last one is for unseen texts.
        table = np.append(np.column_stack(encodings), means[np.newaxis], axis=0).astype(np.float32)
        place = _lookup(scope, container, column, known, np.arange(len(known)), len(known))
        values = scope.get_unique_variable_name("encodings")
        container.add_initializer(values, TensorProto.FLOAT, [*table.shape], table.ravel())
        parts.append(_add_node(scope, container, "Gather", [values, place], axis=0))
    _concatenate(scope, operator, container, parts)


def _columns(scope: Any, operator: Any, container: Any) -> Iterator[str]:
    """Yield the columns of all inputs, each as a tensor of texts, shape [rows, 1]."""
    from onnx import TensorProto

    for variable in operator.inputs:
        for number in range(variable.get_second_dimension()):
            place = scope.get_unique_variable_name("column")
            container.add_initializer(place, TensorProto.INT64, [1], [number])
            yield _add_node(scope, container, "Gather", [variable.full_name, place], axis=1)


def _lookup(
    scope: Any,
    container: Any,
    column: str,
    texts: NDArray[Any],
    places: NDArray[np.int64],
    otherwise: int,
) -> str:
    """Add nodes that map each text to its place, shape [rows]; `otherwise` if not listed."""
    from onnx import TensorProto

    shape = scope.get_unique_variable_name("rows")
    container.add_initializer(shape, TensorProto.INT64, [1], [-1])
    flat = _add_node(scope, container, "Reshape", [column, shape])
    if not len(texts):  # the operator needs a key: one that maps where all others do
        texts, places = np.array([""], dtype=object), np.array([otherwise])
    return _add_node(
        scope,
        container,
        "LabelEncoder",
        [flat],
        op_domain="ai.onnx.ml",
        op_version=2,
        keys_strings=[str(text) for text in texts],
        values_int64s=[int(place) for place in places],
        default_int64=otherwise,
    )


def _add_node(scope: Any, container: Any, kind: str, inputs: list[str], **attributes: Any) -> str:
    """Add a node; return the name of its only output."""
    output: str = scope.get_unique_variable_name(kind.lower())
    name = scope.get_unique_operator_name(kind)
    container.add_node(kind, inputs, output, name=name, **attributes)
    return output


def _concatenate(scope: Any, operator: Any, container: Any, parts: list[str]) -> None:
    from skl2onnx.common._apply_operation import apply_concat

    apply_concat(scope, parts, operator.outputs[0].full_name, container, axis=1)
