"""From rows to a model: candidates compete, and the best one is fitted, evaluated and logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.reader import Log
from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.resources.environment import source_tags
from platform_assets.resources.records import TrainedModel
from platform_assets.training.candidates import Candidate, build, expand, parameters
from platform_assets.training.competition import Competition, all_failed_error
from platform_assets.training.floor import estimate_metric
from platform_assets.training.importance import permutation_importance
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.pictures import (
    candidates_picture,
    confusion_picture,
    curves_picture,
    importance_picture,
    regression_picture,
)
from platform_assets.training.probe import probe
from platform_assets.training.recording import FittedModel, record_training
from platform_assets.training.rows import EstimatorError, Rows, unseen_texts
from platform_assets.training.search import SearchReport, search
from platform_assets.training.selection import CHOSEN_THRESHOLD, evaluate, fit, rank
from platform_assets.training.slices import estimate_slices
from platform_assets.training.splits import split_evaluation
from platform_assets.training.thresholds import with_threshold
from serving_gateway.contract import CODE_VERSION_TAG, DATA_FINGERPRINT_TAG

if TYPE_CHECKING:
    from platform_assets.features.records import FeatureData
    from platform_assets.resources.mlflow import MlflowResource

EVALUATION_PICTURE: Final = "evaluation"


@dataclass(frozen=True)
class Trained:
    """The trained model, and how it was chosen, for display."""

    model: TrainedModel
    candidate: str
    candidates: dict[str, dict[str, float]]
    """Cross-validation scores and `seconds` by candidate, best first."""
    failed: dict[str, str]
    """Candidates that failed on a fold, and why."""
    unseen_texts: dict[str, float]
    """Share of evaluation rows with a text unseen in training, by feature."""
    training_rows: int
    pictures: dict[str, bytes]
    """PNGs by name; `evaluation` is the one that the metric gate shows."""
    searched: SearchReport | None
    """Report of the search, if the model file asks for one."""


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

    Part of `rows`, which come from `data`, is held out here. `owner` is the Dagster run that does
    this, set as a tag, so that abandoned runs can be found; `say` gets a line per candidate.

    Raises:
        TrainingError: no model can be made from these rows or candidates.
        RegistryError: MLflow rejects a call; the open runs are marked as failed.
    """
    candidates, classes = expand(spec), data.classes
    signature, metric = spec.signature(classes), chosen_metric(spec.evaluation)
    training, evaluation, split = split_evaluation(rows, spec)
    del rows  # saves a copy of a million rows
    probe(candidates, training, spec, classes, say)
    say(f"{len(training)} rows to learn from, {len(evaluation)} to evaluate")
    tags = mlflow.owner_tags(spec.model_name, owner) | {
        **source_tags(spec.description),
        DATA_FINGERPRINT_TAG: data.data_fingerprint,
        CODE_VERSION_TAG: spec.code_version,
    }
    with mlflow.run(spec.model_name, f"train {spec.model_name}", tags=tags) as run:
        open_run = partial(mlflow.run, spec.model_name, parent=run, tags=tags)
        competition = Competition(training, spec, classes, open_run, say)
        searched = _compete(competition, candidates, spec, say)
        fitted = fit_best(competition, training, evaluation, spec, classes, say)
        best_first = {name: competition.results[name] for name in rank(competition.results, spec)}
        pictures = _pictures(fitted, evaluation, best_first, spec)
        record_training(run, fitted, training, evaluation, pictures, data, spec, signature)
    answers, groups = fitted.evaluated.answers, evaluation.groups
    model = TrainedModel(
        model_name=spec.model_name,
        run_id=run.run_id,
        estimator=fitted.estimator,
        signature=signature,
        metrics=fitted.evaluated.metrics,
        data_fingerprint=data.data_fingerprint,
        code_version=spec.code_version,
        dagster_run_id=owner,
        evaluation_rows=len(evaluation),
        metric=estimate_metric(metric, answers, groups, spec.gates.confidence),
        slices=estimate_slices(metric, answers, evaluation.features, groups, spec.gates),
        split=split,
        classes_not_evaluated=fitted.evaluated.classes_not_evaluated,
        picture=pictures[EVALUATION_PICTURE],
        threshold=fitted.threshold,
    )
    return Trained(
        model=model,
        candidate=fitted.candidate,
        candidates=best_first,
        failed=competition.failures,
        unseen_texts=unseen_texts(training, evaluation),
        training_rows=len(training),
        pictures=pictures,
        searched=searched,
    )


def _compete(
    competition: Competition, candidates: Sequence[Candidate], spec: ModelSpec, say: Log
) -> SearchReport | None:
    """Let the candidates compete, then those of a search, whose report is returned."""
    for number, candidate in enumerate(candidates, start=1):
        competition.enter(candidate, f"candidate {number} of {len(candidates)}")
    if spec.search is None:
        return None
    return search(candidates, spec.search, spec, competition.enter, say)


def fit_best(
    competition: Competition,
    training: Rows,
    evaluation: Rows,
    spec: ModelSpec,
    classes: tuple[Label, ...],
    say: Log,
) -> FittedModel:
    """Fit the best of the candidates to all training rows, and evaluate it.

    If it fails now, the next best one takes its place.

    Raises:
        TrainingError: all have failed, or no metric is determined on the evaluation rows.
    """
    for name in rank(competition.results, spec):
        say(f"best by cross-validation: {name}")
        try:
            unfitted = build(competition.candidates[name], spec)
            described = parameters(unfitted)
            estimator, notes = fit(unfitted, training, spec)
            threshold = competition.results[name].get(CHOSEN_THRESHOLD)
            if threshold is not None:
                estimator = with_threshold(estimator, threshold, classes)
                say(f"{name} answers {classes[1]!r} from a probability of {threshold:.4g} on")
            evaluated = evaluate(estimator, evaluation, spec, classes)
        except EstimatorError as error:
            competition.failures[name] = f"all training rows: {error}"
            say(f"{name} is out: {error}")
            continue
        for note in notes:
            say(f"{name} warned: {note}")
        scores = competition.results[name]
        return FittedModel(name, estimator, described, scores, evaluated, threshold)
    raise all_failed_error(competition.failures)


def _pictures(
    fitted: FittedModel,
    rows: Rows,
    results: Mapping[str, Mapping[str, float]],
    spec: ModelSpec,
) -> dict[str, bytes]:
    answers, metric = fitted.evaluated.answers, spec.evaluation.metric
    important = permutation_importance(fitted.estimator, rows, spec, answers.classes)
    common = {
        "importance": importance_picture(important, metric),
        "candidates": candidates_picture(results, metric),
    }
    if spec.task is Task.REGRESSION:
        return {EVALUATION_PICTURE: regression_picture(answers), **common}
    names = tuple(str(class_) for class_ in answers.classes)
    return {
        EVALUATION_PICTURE: confusion_picture(answers, names, fitted.threshold),
        "curves": curves_picture(answers, names, fitted.threshold),
        **common,
    }
