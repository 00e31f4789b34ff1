"""From the tensor form of a row to the matrix that an estimator reads; part of the estimator.

Everything is made of scikit-learn's and NumPy's own parts, so the model that MLflow keeps
loads without this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from serving_gateway.contract import DType, Feature

COLUMNS_STEP: Final = "columns"
MODEL_STEP: Final = "model"
LARGEST: Final = 1e30
"""What is beyond it, infinities too, counts as this.

Far from the largest number of single precision, since scikit-learn adds up whole matrices.
"""


def pipeline(features: Sequence[Feature], model: Any, *, scaled: bool) -> Any:
    """Return an unfitted pipeline over a frame in tensor form.

    Numbers become single precision, as trees and runtimes read them; a missing one becomes
    the median of its column, a missing boolean the more frequent value. A text becomes one
    column per category that was seen; the empty text is a category, one never seen is none of
    them.

    Args:
        features: the columns, as the signature has them.
        model: the estimator behind the preprocessing, unfitted.
        scaled: centre and scale the numbers, in double precision: for linear models. Trees
            need none, and stay exact without.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    groups: dict[tuple[DType, bool], list[str]] = {}
    for one in features:
        groups.setdefault((one.dtype, one.nullable), []).append(one.name)
    parts = [
        (f"{dtype.value.lower()}{'_nullable' if nullable else ''}",
         _texts() if dtype is DType.BYTES else _numbers(dtype, nullable=nullable, scaled=scaled),
         names)
        for (dtype, nullable), names in sorted(groups.items())
    ]  # fmt: skip
    columns = ColumnTransformer(parts, sparse_threshold=0.0, verbose_feature_names_out=False)
    return Pipeline([(COLUMNS_STEP, columns), (MODEL_STEP, model)])


def _texts() -> Any:
    import numpy as np
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(handle_unknown="ignore", dtype=np.float32, sparse_output=False)


def _numbers(dtype: DType, *, nullable: bool, scaled: bool) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps: list[Any] = []
    if dtype in {DType.FP32, DType.FP64}:
        # A 64-bit number is cut before it is shortened: it would become infinite otherwise.
        steps += [_as("float64" if dtype is DType.FP64 else "float32"), _cut()]
    steps.append(_as("float32"))
    if nullable:
        strategy = "most_frequent" if dtype is DType.BOOL else "median"
        steps.append(SimpleImputer(strategy=strategy, keep_empty_features=True))
    if scaled:
        steps += [_as("float64"), StandardScaler()]
    return make_pipeline(*steps)


def _as(dtype: str) -> Any:
    import numpy as np
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(np.asarray, kw_args={"dtype": dtype}, feature_names_out="one-to-one")


def _cut() -> Any:
    import numpy as np
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(
        np.clip, kw_args={"a_min": -LARGEST, "a_max": LARGEST}, feature_names_out="one-to-one"
    )
