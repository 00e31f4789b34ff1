"""The one converter of our own: for the NumPy functions of `training.preprocessing`."""

from __future__ import annotations

from typing import Any

import numpy as np

from platform_assets.export.inspection import ExportError


def converter_options() -> dict[str, Any]:
    """Return the arguments by which skl2onnx converts a `FunctionTransformer`.

    It has no converter for one with a function. Known are `numpy.asarray` to a floating-point
    type, `numpy.clip`, and `scipy.sparse.csc_array`, which changes no value.
    """
    from sklearn.preprocessing import FunctionTransformer

    return {
        "custom_parsers": {FunctionTransformer: _parse},
        "custom_shape_calculators": {FunctionTransformer: _shape},
        "custom_conversion_functions": {FunctionTransformer: _convert},
    }


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
    else:
        raise ExportError(f"FunctionTransformer({step.func!r}) has no ONNX converter")


def _clip(scope: Any, value: str, output: Any, container: Any, a_min: float, a_max: float) -> None:
    """Cut by comparisons: a NaN has to stay one, and runtimes differ in ONNX's Clip."""
    kind = output.type.to_onnx_type().tensor_type.elem_type
    for operator, bound in (("Less", a_min), ("Greater", a_max)):
        limit, beyond = (scope.get_unique_variable_name(name) for name in ("limit", "beyond"))
        last = operator == "Greater"
        cut = output.full_name if last else scope.get_unique_variable_name("cut")
        container.add_initializer(limit, kind, [], [bound])
        container.add_node(operator, [value, limit], beyond)
        container.add_node("Where", [beyond, limit, value], cut)
        value = cut
