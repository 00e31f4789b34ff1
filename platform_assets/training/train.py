"""The competition: every candidate a child run of MLflow, the best one kept by the parent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.sources.reader import Log, Progress
from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.resources.environment import source_tags
from platform_assets.resources.records import TrainedModel
from platform_assets.training.candidates import Candidate, build, expand, parameters
from platform_assets.training.evaluation_pictures import (
    confusion_picture,
    curves_picture,
    regression_picture,
)
from platform_assets.training.floor import estimate_metric
from platform_assets.training.importance import permutation_importance
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.pictures import candidates_picture, importance_picture
from platform_assets.training.probe import probe
from platform_assets.training.recording import FittedModel, record_training
from platform_assets.training.rows import Rows, TrainingError, unseen_texts
from platform_assets.training.selection import (
    Evaluated,
    best_candidate,
    cross_validate,
    evaluate,
    fit,
)
from platform_assets.training.splits import Fold, folds, split_evaluation
from serving_gateway.contract import CODE_VERSION_TAG, DATA_FINGERPRINT_TAG

if TYPE_CHECKING:
    from platform_assets.features.records import FeatureData
    from platform_assets.resources.mlflow import MlflowResource
    from platform_assets.resources.mlflow_runs import RunLog

EVALUATION_PICTURE: Final = "evaluation"


@dataclass(frozen=True)
class Trained:
    """The trained model and what a person wants to see of how it was chosen."""

    model: TrainedModel
    candidate: str
    candidates: dict[str, dict[str, float]]
    """Cross-validation scores and `seconds`, by candidate."""
    failed: dict[str, str]
    """Candidates that could not be fitted to a fold, and why."""
    unseen_texts: dict[str, float]
    """Share of evaluation rows with a text that training never saw, by feature."""
    training_rows: int
    pictures: dict[str, bytes]
    """PNGs by name; `evaluation` is the one that the metric gate shows."""


def train(
    rows: Rows,
    data: FeatureData,
    spec: ModelSpec,
    mlflow: MlflowResource,
    *,
    owner: str,
    say: Log,
) -> Trained:
    """Cross-validate the candidates, refit the best, evaluate it, log everything.

    Of `rows`, which come from `data`, part is held out here. `owner` is the Dagster run that does
    this, tagged, so that abandoned runs can be found; `say` gets a line per candidate.

    Raises:
        TrainingError: these rows or candidates allow no model.
        RegistryError: MLflow does not take it; the open runs are marked as failed.
    """
    candidates, classes = expand(spec), data.classes
    training, evaluation, split = split_evaluation(rows, spec)
    del rows  # of a million rows one copy less
    probe(candidates, training, spec, classes, say)
    say(f"{len(training)} rows to learn from, {len(evaluation)} to evaluate")
    tags = mlflow.owner_tags(spec.model_name, owner) | {
        **source_tags(spec.description),
        DATA_FINGERPRINT_TAG: data.data_fingerprint,
        CODE_VERSION_TAG: spec.code_version,
    }
    with mlflow.run(spec.model_name, f"train {spec.model_name}", tags=tags) as run:
        results, failed = _compete(candidates, training, spec, classes, mlflow, run, tags, say)
        fitted = _fit_best(candidates, results, training, evaluation, spec, classes, say)
        evaluated = fitted.evaluated
        pictures = _pictures(fitted.estimator, evaluation, evaluated, results, spec)
        signature = spec.signature(classes)
        record_training(run, fitted, training, evaluation, pictures, data, spec, signature)
    model = TrainedModel(
        model_name=spec.model_name,
        run_id=run.run_id,
        estimator=fitted.estimator,
        signature=signature,
        metrics=evaluated.metrics,
        data_fingerprint=data.data_fingerprint,
        code_version=spec.code_version,
        dagster_run_id=owner,
        evaluation_rows=len(evaluation),
        metric=estimate_metric(
            chosen_metric(spec.evaluation),
            evaluated.answers,
            evaluation.groups,
            spec.gates.confidence,
        ),
        split=split,
        classes_not_evaluated=evaluated.classes_not_evaluated,
        picture=pictures[EVALUATION_PICTURE],
    )
    unseen = unseen_texts(training, evaluation)
    return Trained(model, fitted.candidate, results, failed, unseen, len(training), pictures)


def _fit_best(
    candidates: Sequence[Candidate],
    results: Mapping[str, Mapping[str, float]],
    training: Rows,
    evaluation: Rows,
    spec: ModelSpec,
    classes: tuple[Label, ...],
    say: Log,
) -> FittedModel:
    """Fit the best of the candidates to all training rows, and evaluate it."""
    best = best_candidate(results, spec)
    say(f"best by cross-validation: {best}")
    unfitted = build(next(one for one in candidates if one.name == best), spec)
    described = parameters(unfitted)
    estimator, notes = fit(unfitted, training, spec)
    _warn(best, notes, say)
    evaluated = evaluate(estimator, evaluation, spec, classes)
    return FittedModel(best, estimator, described, results[best], evaluated)


def _compete(
    candidates: Sequence[Candidate],
    rows: Rows,
    spec: ModelSpec,
    classes: tuple[Label, ...],
    mlflow: MlflowResource,
    parent: RunLog,
    tags: Mapping[str, str],
    say: Log,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the scores of the candidates, and why others have none: their run has FAILED."""
    results: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    dealt: list[Fold] = folds(rows, spec)
    metric = spec.evaluation.metric
    for number, one in enumerate(candidates, start=1):
        started = time.monotonic()
        try:
            with mlflow.run(spec.model_name, one.name, parent=parent, tags=tags) as run:
                pipeline = build(one, spec)
                fold_done = partial(Progress(say).at, one.name, of=len(dealt), what="folds")
                scores, notes = cross_validate(pipeline, rows, dealt, spec, classes, fold_done)
                run.record(params={"candidate": one.name, **parameters(pipeline)}, metrics=scores)
        except TrainingError as error:
            failed[one.name] = str(error)
            say(f"candidate {number} of {len(candidates)}, {one.name}, is out: {error}")
            continue
        seconds = time.monotonic() - started
        results[one.name] = {**scores, "seconds": seconds}
        _warn(one.name, notes, say)
        say(
            f"candidate {number} of {len(candidates)}, {one.name}: {metric} "
            f"{scores[f'cv_{metric}']:.4f} ± {scores[f'cv_{metric}_std']:.4f} ({seconds:.1f} s)"
        )
    if not results:
        raise TrainingError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return results, failed


def _warn(name: str, notes: Sequence[str], say: Log) -> None:
    for note in notes:
        say(f"{name} warned: {note}")


def _pictures(
    estimator: Any,
    rows: Rows,
    evaluated: Evaluated,
    results: Mapping[str, Mapping[str, float]],
    spec: ModelSpec,
) -> dict[str, bytes]:
    answers, metric = evaluated.answers, spec.evaluation.metric
    important = permutation_importance(estimator, rows, spec, answers.classes)
    common = {
        "importance": importance_picture(important, metric),
        "candidates": candidates_picture(results, metric),
    }
    if spec.task is Task.REGRESSION:
        return {EVALUATION_PICTURE: regression_picture(answers), **common}
    names = tuple(str(one) for one in answers.classes)
    return {
        EVALUATION_PICTURE: confusion_picture(answers, names),
        "curves": curves_picture(answers, names),
        **common,
    }
