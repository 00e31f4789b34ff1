"""The converter of imputers over double precision, which runtimes have no operator for."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from platform_assets.export.inspection import ExportError

_INT64: Final = 7
"""ONNX's number of the type."""


def imputer_shape(operator: Any) -> None:
    """Tell skl2onnx the width of an imputer's result."""
    step, value = operator.raw_operator, operator.inputs[0].type
    width = len(step.get_feature_names_out())
    operator.outputs[0].type = type(value)([value.shape[0], width])


def convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a `SimpleImputer`; skl2onnx's own over single precision and texts."""
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
    """Replace NaN by the statistic of the column, and say where one was if that is asked for."""
    step, output = operator.raw_operator, operator.outputs[0]
    if len(operator.inputs) > 1 or np.isnan(step.statistics_).any():
        raise ExportError("SimpleImputer over a column without any value has no ONNX converter")
    kind = output.type.to_onnx_type().tensor_type.elem_type
    value = operator.inputs[0].full_name
    statistics, missing = (scope.get_unique_variable_name(n) for n in ("statistics", "missing"))
    container.add_initializer(statistics, kind, [len(step.statistics_)], step.statistics_.tolist())
    container.add_node("IsNaN", [value], missing)
    filled = scope.get_unique_variable_name("filled") if step.add_indicator else output.full_name
    container.add_node("Where", [missing, statistics, value], filled)
    if step.add_indicator:
        places, chosen, flags = (
            scope.get_unique_variable_name(n) for n in ("places", "chosen", "flags")
        )
        wanted = step.indicator_.features_.tolist()
        container.add_initializer(places, _INT64, [len(wanted)], wanted)
        container.add_node("Gather", [missing, places], chosen, axis=1)
        container.add_node("Cast", [chosen], flags, to=kind)
        container.add_node("Concat", [filled, flags], output.full_name, axis=1)
