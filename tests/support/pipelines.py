"""Functions that model files of tests name as pipelines, over the columns of `tabular`."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)

NUMBERS = ["weight", "age", "income", "visits", "speed", "distance"]


class Strange(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Changes nothing, and no library converts it."""

    def fit(self, rows: Any, labels: Any = None) -> Strange:
        return self

    def transform(self, rows: Any) -> Any:
        return rows


class Demanding(SimpleImputer):  # type: ignore[misc] # scikit-learn is untyped
    """Fails on the few rows of a trial."""

    def fit(self, rows: Any, labels: Any = None) -> Any:
        if len(rows) < 500:
            raise ValueError("too few rows for me")
        return super().fit(rows, labels)


def _numbers(*more: Any) -> Any:
    return make_pipeline(SimpleImputer(), *more, StandardScaler())


def _texts() -> Any:
    return OneHotEncoder(handle_unknown="ignore")


def _with(model: Any, *parts: Any, **options: Any) -> Any:
    return Pipeline([("prepare", ColumnTransformer([*parts], **options)), ("model", model)])


def of_all_types() -> Any:
    columns = [*NUMBERS, "member", "insured"]
    prepare = ("numbers", _numbers(), columns), ("texts", _texts(), ["city", "colour"])
    return _with(LogisticRegression(max_iter=1000), *prepare)


def by_selector() -> Any:
    return _with(
        RandomForestClassifier(20),
        ("numbers", _numbers(), make_column_selector(dtype_include=np.number)),
        ("texts", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), [1, 6]),
    )


def of_codes() -> Any:
    """Whole numbers as categories and as a number, and a column that is passed on."""
    return _with(
        LogisticRegression(max_iter=1000),
        ("codes", _texts(), ["age"]),
        ("places", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["age"]),
        ("number", StandardScaler(), ["age", "weight"]),
        ("as it is", "passthrough", ["member"]),
        ("logarithm", _numbers(FunctionTransformer(np.log1p)), ["income"]),
        ("gaps", SimpleImputer(add_indicator=True), ["speed", "visits"]),
    )


def nested() -> Any:
    prepare = _with(None, ("numbers", SimpleImputer(), ["weight", "speed"]))[:-1]
    inside = Pipeline([("scale", MaxAbsScaler()), ("model", LogisticRegression())])
    return Pipeline([("outer", prepare), ("inner", inside)])


def without_columns() -> Any:
    return make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())


def boosted() -> Any:
    single = FunctionTransformer(np.asarray, kw_args={"dtype": "float32"})
    prepare = ("numbers", _numbers(single), NUMBERS), ("texts", _texts(), ["city"])
    return _with(LGBMRegressor(n_estimators=20, verbosity=-1), *prepare)


def boosted_classes() -> Any:
    prepare = ("numbers", _numbers(), NUMBERS), ("texts", _texts(), ["city"])
    return _with(LGBMClassifier(n_estimators=5, verbosity=-1), *prepare)


def of_known_texts() -> Any:
    """Refuses a text that it never saw."""
    return _with(LogisticRegression(), ("texts", OneHotEncoder(), ["city"]))


def of_known_colours() -> Any:
    """The same of a column that is never empty."""
    return _with(LogisticRegression(), ("texts", OneHotEncoder(), ["colour"]))


def beyond_single_precision() -> Any:
    columns = ["distance", "income"]
    return _with(HistGradientBoostingClassifier(), ("all", "passthrough", columns))


def strange() -> Any:
    return _with(LogisticRegression(), ("numbers", _numbers(Strange()), ["weight"]))


def demanding_and_strange() -> Any:
    steps = make_pipeline(Demanding(), Strange())
    return _with(LogisticRegression(), ("numbers", steps, ["weight"]))


def of_a_lambda() -> Any:
    double = FunctionTransformer(lambda rows: rows * 2)
    return _with(LogisticRegression(), ("numbers", double, ["weight"]))


def sparse_bins() -> Any:
    bins = KBinsDiscretizer(4, quantile_method="averaged_inverted_cdf")
    return _with(LogisticRegression(), ("number", _numbers(), ["weight"]), ("bins", bins, ["age"]))


def of_texts_and_numbers() -> Any:
    return _with(LogisticRegression(), ("both", _texts(), ["city", "age"]))


class Mute(LogisticRegression):  # type: ignore[misc] # scikit-learn is untyped
    """Learns, and has no answer."""

    def predict(self, rows: Any) -> Any:
        raise RuntimeError("no answer")


def mute() -> Any:
    return _with(Mute(), ("numbers", _numbers(), ["weight"]))


def only_an_estimator() -> Any:
    return LogisticRegression()
