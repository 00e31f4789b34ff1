"""A pipeline with a fault that no training row shows: it refuses cities that it does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def build() -> Pipeline:
    """Return the pipeline; of an unknown city it makes an error, in scikit-learn and in ONNX."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["distance", "weight", "hour"]),
            ("city", OneHotEncoder(handle_unknown="error"), ["city"]),
        ]
    )
    return Pipeline([("columns", columns), ("model", LogisticRegression())])
