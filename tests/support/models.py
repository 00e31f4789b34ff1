"""Model specifications for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from platform_assets.model_spec import (
    CandidateSpec,
    Evaluation,
    EventTime,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from serving_gateway.contract import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

IRIS = ModelSpec(
    model_name=DEFAULT_MODEL,
    task=Task.MULTICLASS,
    source=Source("${SOURCE_PATH}"),
    features=(
        FeatureSpec("sepal_length", minimum=1.0, maximum=12.0),
        FeatureSpec("sepal_width", minimum=0.5, maximum=8.0),
        FeatureSpec("petal_length", minimum=0.1, maximum=12.0),
        FeatureSpec("petal_width", minimum=0.01, maximum=6.0),
    ),
    target=Target(
        "species",
        classes=("setosa", "versicolor", "virginica"),
    ),
    candidates=(
        CandidateSpec("logistic_regression"),
        CandidateSpec("linear_discriminant"),
        CandidateSpec("random_forest"),
        CandidateSpec("gradient_boosting"),
    ),
    gates=Gates(metric_floor=0.9),
    join_key=JoinKey("entity_id"),
    evaluation=Evaluation(metric="accuracy", split=Split.ENTITY),
    event_time=EventTime("event_timestamp"),
)
"""The shipped model, without its file."""

QUICK_IRIS = replace(
    IRIS,
    candidates=(CandidateSpec("logistic_regression"), CandidateSpec("decision_tree")),
    evaluation=replace(IRIS.evaluation, folds=2),
    # A machine that runs other tests beside is slow, which the tests of the gate alone mind.
    gates=replace(IRIS.gates, latency_ms=10_000.0),
)
"""The same, trained in less time: for tests of what comes after the training."""


def other_species(labels: Iterable[Any]) -> NDArray[Any]:
    """A wrong species for each of these, which is one of the model's all the same."""
    import numpy as np

    names = IRIS.target.classes
    return np.array([names[(names.index(one) + 1) % 3] for one in labels], dtype=object)
