"""From rows in tensor form to the matrix that an estimator reads; part of the model.

It consists of scikit-learn's and NumPy's own parts, so the model stored in MLflow loads without
this package. The export knows each step (`export.steps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from platform_assets.export.custom_step import CUSTOM_STEP
from platform_assets.model_spec import FeatureSpec, ModelSpec, Task, TextEncoding
from serving_gateway.contract import DType

COLUMNS_STEP: Final = "columns"
MODEL_STEP: Final = "model"
LARGEST: Final = 1e30
"""Values beyond this, infinities too, are clipped to it.

Far below the largest number of single precision, since scikit-learn adds up whole matrices.
"""

TARGET_PARTS: Final = 5
"""Folds of the rows of a fit, each target-encoded by the others, where entities allow none."""
_MOSTLY_ZEROS: Final = 0.3
"""Density from which a sparse matrix saves nothing."""


class Texts(Enum):
    """How an estimator reads texts. The empty text is a category like any other."""

    COLUMNS = auto()
    """One column per category seen; an unseen one is 0 in all of them."""
    SPARSE_COLUMNS = auto()
    """The same, as a sparse matrix if it is mostly zeros, in a tenth of the memory."""
    PLACES = auto()
    """One column: the category's position in their order; an unseen one counts as the most
    frequent. For boosted trees, which split a column as often as they need; forests, whose trees
    see a few columns per split, do better with one column per category."""
    CODES = auto()
    """The same, but an unseen one is missing, for estimators that read missing values."""


def pipeline(
    features: Sequence[FeatureSpec],
    model: Any,
    spec: ModelSpec,
    *,
    scale: bool,
    texts: Texts,
    impute: bool = True,
) -> Any:
    """Return an unfitted pipeline that reads the columns `features` of a frame in tensor form.

    Numbers become single precision, as trees and runtimes read them, 64-bit ones after
    subtraction of their median; a missing number becomes the median of its column, a missing
    boolean the more frequent value, or both stay missing without `impute`. `scale` centres and
    scales all numbers in double precision, for linear models. Texts are encoded as `texts` or the
    feature says.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    sparse = texts is Texts.SPARSE_COLUMNS
    parts = []
    for number, (reading, names) in enumerate(_groups(features)):
        if reading.dtype is not DType.BYTES:
            steps = _numbers(reading.dtype, scale=scale, sparse=sparse, impute=impute)
        elif reading.encoding is not None:
            steps = _target_encoder(spec, scale=scale, sparse=sparse)
        else:
            steps = _texts(texts, reading.min_frequency, reading.max_categories)
        is_plain = reading == _Reading(reading.dtype)
        parts.append((reading.dtype.value.lower() if is_plain else f"texts_{number}", steps, names))
    columns = ColumnTransformer(
        parts,
        sparse_threshold=_MOSTLY_ZEROS if sparse else 0.0,
        verbose_feature_names_out=False,
    )
    return Pipeline([(COLUMNS_STEP, columns), (MODEL_STEP, model)])


def target_encoders(pipeline: Any) -> list[Any]:
    """Return the target encoders of a pipeline from `pipeline`, fitted ones too."""
    from sklearn.preprocessing import TargetEncoder

    columns = pipeline.steps[0][1]
    parts = [*getattr(columns, "transformers", ()), *getattr(columns, "transformers_", ())]
    firsts = [steps[0] for _, steps, _ in parts if is_pipeline(steps)]
    return [first for first in firsts if isinstance(first, TargetEncoder)]


def custom_pipeline(model: Any) -> Any:
    """Return a pipeline that leaves preprocessing to a user's pipeline."""
    from sklearn.pipeline import Pipeline

    return Pipeline([(CUSTOM_STEP, model)])


def is_pipeline(model: Any) -> bool:
    """Whether a model is a scikit-learn pipeline."""
    from sklearn.pipeline import Pipeline

    return isinstance(model, Pipeline)


def final_estimator(pipeline: Any) -> Any:
    """Return the final estimator of a pipeline, through nested ones."""
    return final_estimator(pipeline.steps[-1][1]) if is_pipeline(pipeline) else pipeline


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a group of columns that share the same steps is read."""

    dtype: DType
    encoding: TextEncoding | None = None
    min_frequency: float | None = None
    max_categories: int | None = None


def _groups(features: Sequence[FeatureSpec]) -> list[tuple[_Reading, list[str]]]:
    """Return the features of each kind, in their order in the matrix.

    First those read by their type alone, then grouped texts, then encoded ones.
    """
    groups: dict[_Reading, list[str]] = {}
    for feature in features:
        reading = _Reading(
            feature.dtype, feature.encoding, feature.min_frequency, feature.max_categories
        )
        groups.setdefault(reading, []).append(feature.name)

    def order(group: tuple[_Reading, list[str]]) -> tuple[bool, bool, str]:
        reading, _ = group
        return reading.encoding is not None, reading != _Reading(reading.dtype), reading.dtype

    return sorted(groups.items(), key=order)


def text_columns(features: Sequence[FeatureSpec]) -> list[int]:
    """Return the positions of texts as codes in the matrix, if each of them is one column."""
    kinds = [reading for reading, names in _groups(features) for _ in names]
    return [
        place
        for place, kind in enumerate(kinds)
        if kind.dtype is DType.BYTES and kind.encoding is None
    ]


def _texts(how: Texts, min_frequency: float | None, max_categories: int | None) -> Any:
    import numpy as np
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    if how in {Texts.PLACES, Texts.CODES}:
        encoder = OrdinalEncoder(
            handle_unknown="use_encoded_value",
            unknown_value=np.nan,
            dtype=np.float32,
            min_frequency=min_frequency,
            max_categories=max_categories,
        )
        fill = [SimpleImputer(strategy="most_frequent")] if how is Texts.PLACES else []
        return make_pipeline(encoder, *fill)
    sparse = how is Texts.SPARSE_COLUMNS
    grouped = min_frequency is not None or max_categories is not None
    encoder = OneHotEncoder(
        handle_unknown="infrequent_if_exist" if grouped else "ignore",
        dtype=np.float32,
        sparse_output=sparse,
        min_frequency=min_frequency,
        max_categories=max_categories,
    )
    return make_pipeline(encoder, *_by_column(sparse=sparse))


def _target_encoder(spec: ModelSpec, *, scale: bool, sparse: bool) -> Any:
    """Encode each text as the mean target; in a fit, without the row's own fold."""
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler, TargetEncoder

    encoder = TargetEncoder(
        # A target of integers would be taken for classes.
        target_type="continuous" if spec.task is Task.REGRESSION else "auto",
        cv=KFold(TARGET_PARTS, shuffle=True, random_state=spec.evaluation.seed),
    )
    steps = [encoder, _cast("float32")]
    if scale:
        steps += [_cast("float64"), StandardScaler(copy=False), _cast("float32"), _cast("float64")]
    return make_pipeline(*steps, *_by_column(sparse=sparse))


def _numbers(dtype: DType, *, scale: bool, sparse: bool, impute: bool) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler, StandardScaler

    # Clip before the conversion to single precision, or they would become infinite.
    long = scale or dtype in {DType.FP64, DType.INT64}
    steps = [_cast("float64" if long else "float32"), _clip()]
    if scale:
        steps += [StandardScaler(copy=False), _clip()]
    elif long:
        # Single precision cannot distinguish seconds since 1970, but does from the median.
        steps.append(RobustScaler(with_scaling=False, copy=False))
    steps.append(_cast("float32"))
    if impute:
        strategy = "most_frequent" if dtype is DType.BOOL else "median"
        steps.append(SimpleImputer(strategy=strategy, keep_empty_features=True, copy=False))
    if scale:
        steps.append(_cast("float64"))
    return make_pipeline(*steps, *_by_column(sparse=sparse))


def _by_column(*, sparse: bool) -> list[Any]:
    """Return the step that converts a sparse matrix to column-major layout.

    These are concatenated as they are; others would be held in memory three times.
    """
    from scipy.sparse import csc_array
    from sklearn.preprocessing import FunctionTransformer

    step = FunctionTransformer(csc_array, accept_sparse=True, feature_names_out="one-to-one")
    return [step] if sparse else []


def _cast(dtype: str) -> Any:
    import numpy as np
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(np.asarray, kw_args={"dtype": dtype}, feature_names_out="one-to-one")


def _clip() -> Any:
    import numpy as np
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(
        np.clip, kw_args={"a_min": -LARGEST, "a_max": LARGEST}, feature_names_out="one-to-one"
    )
