"""Our own converters for the NumPy functions and encoders of `training.preprocessing`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from platform_assets.export.category_converters import (
    convert_one_hot,
    convert_target,
    one_hot_shape,
    target_shape,
)
from platform_assets.export.inspection import ExportError

_UNARY: Final = {np.abs: "Abs", np.exp: "Exp", np.log: "Log", np.log1p: "Log", np.sqrt: "Sqrt"}
"""Unary functions -> ONNX operators."""

_INT64: Final = 7
"""ONNX's number for the type."""


def converter_options() -> dict[str, Any]:
    """Return skl2onnx arguments that register our converters.

    skl2onnx cannot convert a transformer with a function. Supported here are `numpy.asarray` to a
    floating-point type, `numpy.clip`, unary functions (`_UNARY`), and `scipy.sparse.csc_array`,
    which changes no value.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, TargetEncoder

    from platform_assets.export.tree_converters import convert_trees, tree_classes

    return {
        "custom_parsers": {FunctionTransformer: _parse},
        "custom_shape_calculators": {
            FunctionTransformer: _shape,
            SimpleImputer: imputer_shape,
            OneHotEncoder: one_hot_shape,
            TargetEncoder: target_shape,
        },
        "custom_conversion_functions": {
            FunctionTransformer: _convert,
            SimpleImputer: convert_imputer,
            OneHotEncoder: convert_one_hot,
            TargetEncoder: convert_target,
            **dict.fromkeys(tree_classes(), convert_trees),
        },
    }


def has_converter(step: Any, *, inherited: bool) -> bool:
    """Whether skl2onnx or we have a converter for an estimator's class, or for a base class."""
    from scipy.sparse import csc_array
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from sklearn.preprocessing import FunctionTransformer

    if isinstance(step, FunctionTransformer):
        return step.func in {None, np.asarray, np.clip, csc_array, *_UNARY}
    kinds = type(step).__mro__ if inherited else (type(step),)
    return any(kind in sklearn_operator_name_map for kind in kinds)


def _parse(scope: Any, step: Any, inputs: list[Any], **_: Any) -> list[Any]:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    operator = scope.declare_local_operator("SklearnFunctionTransformer", step)
    operator.inputs = inputs
    kinds = {"float32": FloatTensorType, "float64": DoubleTensorType}
    kind = kinds.get(str((step.kw_args or {}).get("dtype")), type(inputs[0].type))
    operator.outputs.append(scope.declare_local_variable("number", kind()))
    return list(operator.outputs)


def _shape(operator: Any) -> None:
    operator.outputs[0].type.shape = list(operator.inputs[0].type.shape)


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from scipy.sparse import csc_array
    from skl2onnx.common._apply_operation import apply_cast, apply_identity

    step = operator.raw_operator
    value, output = operator.inputs[0].full_name, operator.outputs[0]
    if step.func is np.asarray:
        kind = output.type.to_onnx_type().tensor_type.elem_type
        apply_cast(scope, value, output.full_name, container, to=kind)
    elif step.func is np.clip:
        _clip(scope, value, output, container, **step.kw_args)
    elif step.func is csc_array or step.func is None:
        apply_identity(scope, value, output.full_name, container)
    elif step.func in _UNARY:
        _unary(scope, value, output, container, step.func)
    else:
        raise ExportError(f"FunctionTransformer({step.func!r}) has no ONNX converter")


def _clip(scope: Any, value: str, output: Any, container: Any, a_min: float, a_max: float) -> None:
    """Clip by comparisons: a NaN has to stay one, and runtimes differ in ONNX's Clip."""
    kind = output.type.to_onnx_type().tensor_type.elem_type
    for operator, bound in (("Less", a_min), ("Greater", a_max)):
        limit, beyond = (scope.get_unique_variable_name(name) for name in ("limit", "beyond"))
        last = operator == "Greater"
        cut = output.full_name if last else scope.get_unique_variable_name("cut")
        container.add_initializer(limit, kind, [], [bound])
        container.add_node(operator, [value, limit], beyond)
        container.add_node("Where", [beyond, limit, value], cut)
        value = cut


def _unary(scope: Any, value: str, output: Any, container: Any, function: Any) -> None:
    if function is np.log1p:
        kind = output.type.to_onnx_type().tensor_type.elem_type
        one, more = (scope.get_unique_variable_name(name) for name in ("one", "more"))
        container.add_initializer(one, kind, [], [1.0])
        container.add_node("Add", [value, one], more)
        value = more
    container.add_node(_UNARY[function], [value], output.full_name)


def imputer_shape(operator: Any) -> None:
    """Tell skl2onnx the width of an imputer's result."""
    step, value = operator.raw_operator, operator.inputs[0].type
    width = len(step.get_feature_names_out())
    operator.outputs[0].type = type(value)([value.shape[0], width])


def convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a `SimpleImputer`: skl2onnx's for single precision and texts, else ours."""
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.operator_converters.imputer_op import convert_sklearn_imputer

    step = operator.raw_operator
    if not (isinstance(operator.inputs[0].type, DoubleTensorType) or step.add_indicator):
        convert_sklearn_imputer(scope, operator, container)
        return
    if not (isinstance(step.missing_values, float) and np.isnan(step.missing_values)):
        raise ExportError(f"SimpleImputer of {step.missing_values!r} has no ONNX converter")
    _fill(scope, operator, container)


def _fill(scope: Any, operator: Any, container: Any) -> None:
    """Replace NaN by the column's statistic, with indicator columns if requested."""
    step, output = operator.raw_operator, operator.outputs[0]
    statistics_ = np.asarray(step.statistics_, np.float64)  # a constant makes objects of them
    if len(operator.inputs) > 1 or np.isnan(statistics_).any():
        raise ExportError("SimpleImputer over a column without any value has no ONNX converter")
    kind = output.type.to_onnx_type().tensor_type.elem_type
    value = operator.inputs[0].full_name
    statistics, missing = (scope.get_unique_variable_name(n) for n in ("statistics", "missing"))
    container.add_initializer(statistics, kind, [len(statistics_)], statistics_.tolist())
    container.add_node("IsNaN", [value], missing)
    filled = scope.get_unique_variable_name("filled") if step.add_indicator else output.full_name
    container.add_node("Where", [missing, statistics, value], filled)
    if step.add_indicator:
        places, chosen, flags = (
            scope.get_unique_variable_name(n) for n in ("places", "chosen", "flags")
        )
        indicated = step.indicator_.features_.tolist()
        container.add_initializer(places, _INT64, [len(indicated)], indicated)
        container.add_node("Gather", [missing, places], chosen, axis=1)
        container.add_node("Cast", [chosen], flags, to=kind)
        container.add_node("Concat", [filled, flags], output.full_name, axis=1)
