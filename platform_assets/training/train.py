"""The competition: every candidate a child run of MLflow, the best one kept by the parent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from platform_assets.features.spec import ModelSpec
from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, write_evaluation
from platform_assets.training.candidates import CANDIDATES, parameters
from platform_assets.training.pictures import evaluation_picture
from platform_assets.training.records import TrainedModel
from platform_assets.training.selection import (
    Evaluated,
    Rows,
    best_candidate,
    cross_validate,
    evaluate,
    fit,
    split_evaluation,
)
from serving_gateway.contract import DATA_FINGERPRINT_TAG

if TYPE_CHECKING:
    from platform_assets.resources.mlflow import MlflowResource
    from platform_assets.resources.mlflow_runs import RunLog


@dataclass(frozen=True)
class Trained:
    """The trained model and what a person wants to see of how it was chosen."""

    model: TrainedModel
    candidate: str
    candidates: dict[str, dict[str, float]]
    """Cross-validation scores and `seconds`, by candidate."""
    training_rows: int
    evaluation_rows: int
    picture: bytes


def train(
    rows: Rows,
    fingerprint: str,
    spec: ModelSpec,
    mlflow: MlflowResource,
    *,
    owner: str,
    say: Callable[[str], object],
) -> Trained:
    """Cross-validate the candidates, refit the best, evaluate it, log everything.

    Args:
        rows: all rows; part of the entities is held out here.
        fingerprint: of the data that the rows come from.
        spec: the model.
        mlflow: where it is logged.
        owner: Dagster run that does this; tagged, so abandoned runs can be told.
        say: gets a line of progress per candidate.

    Raises:
        TrainingError: these rows allow no model.
        RegistryError: MLflow does not take it; the open runs are marked as failed.
    """
    training, evaluation = split_evaluation(rows, spec.training)
    tags = mlflow.owner_tags(spec.model_name, owner) | {DATA_FINGERPRINT_TAG: fingerprint}
    with mlflow.run(spec.model_name, f"train {spec.model_name}", tags=tags) as run:
        results = _compete(training, spec, mlflow, run, tags, say)
        best = best_candidate(results, spec.training.metric)
        say(f"best by cross-validation: {best}")
        estimator = fit(_new(best, spec), training, spec.training)
        evaluated = evaluate(estimator, evaluation)
        picture = evaluation_picture(
            evaluation.labels,
            evaluated.labels,
            evaluated.probabilities,
            spec.classes,
            spec.class_names or tuple(str(label) for label in spec.classes),
        )
        run.record(
            params={
                "candidate": best,
                "features": ",".join(spec.feature_names),
                "seed": spec.training.seed,
                "training_rows": len(training.labels),
                "evaluation_rows": len(evaluation.labels),
                **parameters(estimator),
            },
            metrics={**evaluated.metrics, **_cv(results[best])},
        )
        run.artifact(EVALUATION_ARTIFACT, _evaluation_file(evaluation, evaluated, spec))
        run.artifact("evaluation/evaluation.png", picture)
        run.sklearn_model(estimator, spec.model_name, spec.signature)
    model = TrainedModel(
        model_name=spec.model_name,
        run_id=run.run_id,
        estimator=estimator,
        signature=spec.signature,
        metrics=evaluated.metrics,
        data_fingerprint=fingerprint,
    )
    return Trained(model, best, results, len(training.labels), len(evaluation.labels), picture)


def _compete(
    rows: Rows,
    spec: ModelSpec,
    mlflow: MlflowResource,
    parent: RunLog,
    tags: Mapping[str, str],
    say: Callable[[str], object],
) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {}
    for number, name in enumerate(spec.training.candidates, start=1):
        started = time.monotonic()
        with mlflow.run(spec.model_name, name, parent=parent, tags=tags) as run:
            estimator = _new(name, spec)
            scores = cross_validate(estimator, rows, spec.training)
            run.record(params={"candidate": name, **parameters(estimator)}, metrics=scores)
        seconds = time.monotonic() - started
        results[name] = {**scores, "seconds": seconds}
        say(
            f"candidate {number} of {len(spec.training.candidates)}, {name}: accuracy "
            f"{scores['cv_accuracy']:.4f} ± {scores['cv_accuracy_std']:.4f} ({seconds:.1f} s)"
        )
    return results


def _new(name: str, spec: ModelSpec) -> Any:
    return CANDIDATES[name](spec.training.seed)


def _cv(result: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in result.items() if name.startswith("cv_")}


def _evaluation_file(rows: Rows, evaluated: Evaluated, spec: ModelSpec) -> bytes:
    import pandas as pd

    return write_evaluation(
        pd.DataFrame(rows.values, columns=list(spec.feature_names)),
        rows.labels,
        evaluated.labels,
        evaluated.probabilities,
    )
