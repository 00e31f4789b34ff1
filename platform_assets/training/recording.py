"""Log a training to MLflow: its rows, its evidence, the model and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from platform_assets.model_spec import Label, ModelSpec
from platform_assets.resources.environment import ENVIRONMENT_TAG, numeric_environment
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.resources.mlflow_runs import Dataset, RunLog
from platform_assets.resources.records import EvaluationSet
from platform_assets.resources.reference import REFERENCE_ARTIFACT, write_reference
from platform_assets.training.rows import Rows
from platform_assets.training.selection import Evaluated
from serving_gateway.contract import Signature

if TYPE_CHECKING:
    from platform_assets.features.records import FeatureData

_PARAMETER_LENGTH: Final = 5000
"""Characters kept of a parameter; MLflow takes 6000."""
_EXAMPLE_ROWS: Final = 3


@dataclass(frozen=True)
class FittedModel:
    """The best candidate, fitted to the training rows."""

    candidate: str
    estimator: Any
    parameters: Mapping[str, object]
    scores: Mapping[str, float]
    """Scores of the cross-validation."""
    evaluated: Evaluated
    threshold: float | None = None
    """Probability from which the second of two classes is answered."""


def record_training(
    run: RunLog,
    fitted: FittedModel,
    training: Rows,
    evaluation: Rows,
    pictures: Mapping[str, bytes],
    data: FeatureData,
    spec: ModelSpec,
    signature: Signature,
) -> None:
    """Log a fitted model with everything that later steps and people need from its run."""
    run.artifact(EVALUATION_ARTIFACT, _evaluation_file(evaluation, fitted, signature.classes))
    run.artifact(REFERENCE_ARTIFACT, write_reference(training.features, training.groups))
    for name, picture in pictures.items():
        run.artifact(f"evaluation/{name}.png", picture)
    datasets = [
        Dataset(
            name=f"{data.name} {context} rows",
            context=context,
            source=data.source,
            fingerprint=data.data_fingerprint,
            rows=len(rows),
            entities=len(np.unique(rows.groups)),
        )
        for context, rows in (("training", training), ("evaluation", evaluation))
    ]
    run.log_datasets(datasets, signature)
    params = {
        "candidate": fitted.candidate,
        "features": ",".join(spec.feature_names)[:_PARAMETER_LENGTH],
        "seed": spec.evaluation.seed,
        "training_rows": len(training),
        "evaluation_rows": len(evaluation),
        **({} if fitted.threshold is None else {"threshold": fitted.threshold}),
        **fitted.parameters,
    }
    example = evaluation.features.head(_EXAMPLE_ROWS)
    model_id = run.sklearn_model(
        fitted.estimator, spec.model_name, signature, params=params, example=example
    )
    run.record(params=params, tags={ENVIRONMENT_TAG: numeric_environment()})
    # MLflow's UI compares models by their metrics on a dataset.
    learned, held_out = datasets
    scores = {name: value for name, value in fitted.scores.items() if name.startswith("cv_")}
    run.record(metrics=scores, model_id=model_id, dataset=learned)
    run.record(metrics=fitted.evaluated.metrics, model_id=model_id, dataset=held_out)


def _evaluation_file(rows: Rows, fitted: FittedModel, classes: Sequence[Label]) -> bytes:
    answers = fitted.evaluated.answers
    true, labels = answers.label_true, answers.labels
    if classes and all(isinstance(label, bool) for label in classes):
        true, labels = true.astype(bool), labels.astype(bool)
    stated, times = answers.probabilities, rows.times
    return write_evaluation(
        EvaluationSet(rows.features, true, labels, stated, rows.groups, times, fitted.threshold)
    )
