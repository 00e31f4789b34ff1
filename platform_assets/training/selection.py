"""Cross-validate, choose, fit, evaluate: no I/O, the same answer for the same rows and seed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.memory import release
from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.training.boosting import learner
from platform_assets.training.calibration import deal, estimator_in, finish
from platform_assets.training.folds import Fold
from platform_assets.training.metrics import Answers, chosen_metric, codes, metrics_of, scores
from platform_assets.training.preprocessing import final_estimator
from platform_assets.training.rows import EstimatorError, Rows, TrainingError
from platform_assets.training.thresholds import choose_threshold, decided
from platform_assets.training.weights import fit_arguments

CHOSEN_THRESHOLD: Final = "cv_threshold"
"""Key of the threshold among the results of a cross-validation."""


@dataclass(frozen=True)
class Evaluated:
    """What a model answers for the evaluation rows, and how good that is.

    `answers`: true and predicted labels, probabilities in the order of the classes.
    """

    answers: Answers
    metrics: dict[str, float]
    classes_not_evaluated: tuple[Label, ...]
    """Classes that no evaluation row has: how well they are recognized is unknown."""


def fit(pipeline: Any, rows: Rows, spec: ModelSpec) -> tuple[Any, tuple[str, ...]]:
    """Return the fitted pipeline, and what the libraries warned of; EstimatorError if it fails."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no stubs

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with threadpool_limits(limits=spec.evaluation.threads):
                fitted = fit_pipeline(pipeline, rows, spec)
        # Estimators, the user's own among them, fail in ways of their own.
        except Exception as exc:
            raise _failed(pipeline, "cannot be fitted", exc) from exc
    notes = dict.fromkeys(str(one.message).strip().split("\n", 1)[0] for one in caught)
    return fitted, tuple(notes)


def _failed(pipeline: Any, what: str, exc: Exception) -> EstimatorError:
    name = type(learner(final_estimator(estimator_in(pipeline.steps[-1][1])))).__name__
    # XGBoost says what is wrong, then where in its binary code that was found.
    reason = str(exc).partition("\nStack trace:")[0]
    return EstimatorError(f"{name} {what}: {reason or type(exc).__name__}")


def answers_of(pipeline: Any, rows: Rows, spec: ModelSpec, classes: Sequence[Label]) -> Answers:
    """Return what a fitted pipeline answers for rows; a class that it never saw has 0.

    Raises:
        EstimatorError: it fails, as one does that refuses a text that it never saw, or its answers
            are no finite numbers for these rows and classes.
    """
    try:
        labels = np.asarray(pipeline.predict(rows.features))
        if spec.task is Task.REGRESSION:
            predicted = labels.astype(np.float64).reshape(-1)
            return Answers(rows.labels, _checked("predictions", predicted, rows.labels.shape))
        probabilities = _probabilities(pipeline, rows, classes)
    # As above.
    except Exception as exc:
        raise _failed(pipeline, "was fitted, but cannot answer", exc) from exc
    return Answers(rows.labels, labels, probabilities, tuple(classes))


def _probabilities(pipeline: Any, rows: Rows, classes: Sequence[Label]) -> NDArray[np.float64]:
    """The probabilities of each row in the order of the classes; ValueError for unusable ones."""
    places = codes(pipeline.classes_, classes)
    if (places < 0).any():
        raise ValueError(f"its classes {pipeline.classes_} are not those of the target")
    stated = np.asarray(pipeline.predict_proba(rows.features), dtype=np.float64)
    found = np.zeros((len(rows.labels), len(classes)))
    found[:, places] = _checked("probabilities", stated, (len(found), len(places)))
    return found


def _checked(what: str, found: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return numbers of this shape; ValueError for others, which NumPy may spread over the rows."""
    if found.shape != shape:
        raise ValueError(f"its {what} have the shape {found.shape}, not {shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"its {what} hold NaN or infinity")
    return found


def cross_validate(
    pipeline: Any,
    rows: Rows,
    dealt: Sequence[Fold],
    spec: ModelSpec,
    classes: Sequence[Label],
    done: Callable[[int, float], object] | None = None,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return mean and spread of each metric over the folds, and what was warned of.

    `done` gets, after each fold, how many are finished and the mean of the chosen metric over
    them; what it raises ends the comparison.

    Keys: `cv_folds`, `cv_threshold` where the model file wants one, and for each metric
    `cv_<metric>` and `cv_<metric>_std`; a metric that no fold determines is left out.

    Raises:
        EstimatorError: the estimator fails on a fold, which the message names.
        TrainingError: no threshold is as the model file wants it, or the metric that it chooses is
            not determined.
    """
    collected: list[Answers] = []
    notes: dict[str, None] = {}
    for number, fold in enumerate(dealt, start=1):
        try:
            answers, said = _answers_for(pipeline, rows, fold, spec, classes)
        except EstimatorError as error:
            raise EstimatorError(f"fold {number} of {len(dealt)}: {error}") from error
        collected.append(answers)
        notes |= dict.fromkeys(said)
        release()
        if done is not None:
            done(number, _metric_so_far(collected, spec))
    summary: dict[str, float] = {"cv_folds": float(len(dealt))}
    if spec.threshold is not None:
        summary[CHOSEN_THRESHOLD] = choose_threshold(spec.threshold, collected)
    answered = _decided(collected, summary.get(CHOSEN_THRESHOLD))
    results = [scores(spec.task, one, spec.evaluation) for one in answered]
    for metric in metrics_of(spec.task):
        values = np.array([result[metric.name] for result in results])
        values = values[np.isfinite(values)]
        if len(values):
            summary[f"cv_{metric.name}"] = float(values.mean())
            summary[f"cv_{metric.name}_std"] = float(values.std())
    if f"cv_{spec.evaluation.metric}" not in summary:
        raise TrainingError(
            f"{spec.evaluation.metric} is not determined by any fold: choose another "
            "evaluation.metric, or add rows"
        )
    return summary, tuple(notes)


def _decided(answers: Sequence[Answers], threshold: float | None) -> Sequence[Answers]:
    return answers if threshold is None else [decided(one, threshold) for one in answers]


def _metric_so_far(answers: Sequence[Answers], spec: ModelSpec) -> float:
    """The mean of the chosen metric over the finished folds; NaN where it is not determined."""
    metric, threshold = chosen_metric(spec.evaluation), None
    if spec.threshold is not None:
        try:
            threshold = choose_threshold(spec.threshold, answers)
        except TrainingError:  # more folds may allow one
            return math.nan
    values = [metric.compute(one) for one in _decided(answers, threshold)]
    determined = [one for one in values if math.isfinite(one)]
    return float(np.mean(determined)) if determined else math.nan


def _answers_for(
    pipeline: Any, rows: Rows, fold: Fold, spec: ModelSpec, classes: Sequence[Label]
) -> tuple[Answers, tuple[str, ...]]:
    """What an estimator, fitted to the one part of a fold, answers for the other."""
    from sklearn.base import clone

    learn, test = fold
    fitted, said = fit(clone(pipeline), rows.take(learn), spec)
    return answers_of(fitted, rows.take(test), spec, classes), said


def ranked(results: Mapping[str, Mapping[str, float]], spec: ModelSpec) -> list[str]:
    """Return the names by mean metric, the best one first; ties go by the task's last metric."""
    return sorted(results, key=lambda name: _merit(results[name], spec), reverse=True)


def _merit(result: Mapping[str, float], spec: ModelSpec) -> tuple[float, float]:
    first, second = chosen_metric(spec.evaluation), metrics_of(spec.task)[-1]
    value = result[f"cv_{first.name}"]
    # Means of floats: what differs beyond the ninth digit is a tie.
    digits = 9 - (math.frexp(value)[1] * 3 // 10 if abs(value) > 1 else 0)
    return (
        first.gain(round(value, digits), 0.0),
        second.gain(result.get(f"cv_{second.name}", math.inf), 0.0),
    )


def evaluate(pipeline: Any, rows: Rows, spec: ModelSpec, classes: Sequence[Label]) -> Evaluated:
    """Return answers and metrics for held-out rows; TrainingError if they determine no metric."""
    answers = answers_of(pipeline, rows, spec, classes)
    measured = {name: value for name, value in scores(spec.task, answers, spec.evaluation).items()
                if math.isfinite(value)}  # fmt: skip
    if spec.evaluation.metric not in measured:
        raise TrainingError(
            f"the {len(rows)} evaluation rows do not determine {spec.evaluation.metric}: choose "
            "another evaluation.metric, or a larger evaluation.fraction"
        )
    seen = {*codes(rows.labels, classes).tolist()} if classes else set()
    unseen = tuple(one for number, one in enumerate(classes) if number not in seen)
    return Evaluated(answers, measured, unseen)


def fit_pipeline(pipeline: Any, rows: Rows, spec: ModelSpec) -> Any:
    """Return a pipeline fitted to rows; what its estimator raises is left as it is."""
    deal(pipeline.steps[-1][1], rows, spec)
    arguments = fit_arguments(pipeline, rows, spec)
    with warnings.catch_warnings():
        # Of a calibration: the weights for its estimator have a name of their own.
        warnings.filterwarnings("ignore", "Since Pipeline does not appear to accept sample_weight")
        fitted = pipeline.fit(rows.features, rows.labels, **arguments)
    finish(fitted.steps[-1][1], spec)
    return fitted
