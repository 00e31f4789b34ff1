"""Registration of onnxmltools' converters of LightGBM and XGBoost."""

from __future__ import annotations

import sys
from typing import Final

from platform_assets.export.inspection import ExportError

_LEARNERS: Final = {
    "LGBMClassifier": ("lightgbm", "LightGbmLGBMClassifier"),
    "LGBMRegressor": ("lightgbm", "LightGbmLGBMRegressor"),
    "XGBClassifier": ("xgboost", "XGBoostXGBClassifier"),
    "XGBRegressor": ("xgboost", "XGBoostXGBRegressor"),
}
"""Class -> its library, and its alias for skl2onnx."""


def register() -> None:
    """Register converters with skl2onnx for the learners of the imported libraries.

    There can be no estimator of a library that is not imported.

    Raises:
        ExportError: such a library is imported, but onnxmltools is not installed.
    """
    used = {library for library, _ in _LEARNERS.values() if library in sys.modules}
    if not used:
        return
    try:
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    except ImportError as error:
        raise ExportError(
            f"onnxmltools converts {' and '.join(sorted(used))}, and cannot be imported here: "
            f"install the extra `boosting` ({error})"
        ) from error
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    converters = {"lightgbm": convert_lightgbm, "xgboost": convert_xgboost}
    for name, (library, alias) in _LEARNERS.items():
        if library not in used:
            continue
        classifier = name.endswith("Classifier")
        update_registered_converter(
            getattr(sys.modules[library], name),
            alias,
            calculate_linear_classifier_output_shapes
            if classifier
            else calculate_linear_regressor_output_shapes,
            converters[library],
            options={"zipmap": [True, False], "nocl": [True, False]} if classifier else None,
        )
