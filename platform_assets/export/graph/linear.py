"""Linear models in double precision: a sum of large terms that cancel stays what it is."""

from __future__ import annotations

from typing import Any

from platform_assets.export.graph.answers import Scores, from_raw
from platform_assets.export.graph.builder import Graph, Value
from serving_gateway.contract import DType


def is_linear(estimator: Any) -> bool:
    """Whether `linear_scores` knows this kind of estimator."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge

    return isinstance(
        estimator,
        (LogisticRegression, LinearDiscriminantAnalysis, LinearRegression, Ridge, ElasticNet),
    )


def linear_scores(graph: Graph, estimator: Any, matrix: Value) -> Scores:
    """Add the nodes of a fitted linear model over `matrix`, [rows, width]."""
    import numpy as np

    exact = graph.cast(matrix, DType.FP64)
    weights = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64)).T
    offset = np.atleast_1d(np.asarray(estimator.intercept_, dtype=np.float64))
    product = graph.add("MatMul", exact.name, graph.constant(np.ascontiguousarray(weights)))
    raw = graph.add("Add", product, graph.constant(offset))
    return from_raw(graph, raw, weights.shape[1], classifier=hasattr(estimator, "classes_"))
