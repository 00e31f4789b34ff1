"""A pipeline with a fault that no training row reveals: its cities are hard-coded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from platform_assets.local_stack.release_demo.deliveries import CITIES

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


_MISSING: Final = ""


def build() -> Pipeline:
    """Return the pipeline; an unknown city is an error, in scikit-learn and in ONNX."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    cities = [[_MISSING, *CITIES]]
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["distance", "weight", "hour"]),
            ("city", OneHotEncoder(categories=cities, handle_unknown="error"), ["city"]),
        ]
    )
    return Pipeline([("columns", columns), ("model", LogisticRegression())])
