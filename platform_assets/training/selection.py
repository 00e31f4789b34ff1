"""Cross-validate, choose, fit, evaluate: without I/O, deterministic for given rows and seed."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.memory import release
from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.training.boosting import unwrap_learner
from platform_assets.training.calibration import finalize, set_folds, unwrap_calibration
from platform_assets.training.folds import Fold, scoring_folds
from platform_assets.training.metrics import Answers, chosen_metric, codes, metrics_of, scores
from platform_assets.training.preprocessing import (
    TARGET_PARTS,
    final_estimator,
    target_encoders,
)
from platform_assets.training.rows import EstimatorError, Rows, TrainingError
from platform_assets.training.thresholds import apply_threshold, choose_threshold
from platform_assets.training.weights import fit_arguments

CHOSEN_THRESHOLD: Final = "cv_threshold"
"""Key of the threshold among the results of a cross-validation."""


@dataclass(frozen=True)
class Evaluated:
    """A model's answers to the evaluation rows, and how good they are.

    `answers`: true and predicted labels, probabilities in the order of the classes.
    """

    answers: Answers
    metrics: dict[str, float]
    classes_not_evaluated: tuple[Label, ...]
    """Classes without evaluation rows: how well they are recognized is unknown."""


def fit(pipeline: Any, rows: Rows, spec: ModelSpec) -> tuple[Any, tuple[str, ...]]:
    """Return the fitted pipeline, and the libraries' warnings; EstimatorError if it fails."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # ships no stubs

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with threadpool_limits(limits=spec.evaluation.threads):
                fitted = fit_pipeline(pipeline, rows, spec)
        # Estimators, including the user's, may raise anything.
        except Exception as exc:
            raise _estimator_error(pipeline, "cannot be fitted", exc) from exc
    notes = dict.fromkeys(str(warning.message).strip().split("\n", 1)[0] for warning in caught)
    return fitted, tuple(notes)


def _estimator_error(pipeline: Any, what: str, exc: Exception) -> EstimatorError:
    name = type(unwrap_learner(final_estimator(unwrap_calibration(pipeline.steps[-1][1])))).__name__
    # XGBoost says what is wrong, then adds a stack trace of its binary code.
    reason = str(exc).partition("\nStack trace:")[0]
    return EstimatorError(f"{name} {what}: {reason or type(exc).__name__}")


def answers_of(pipeline: Any, rows: Rows, spec: ModelSpec, classes: Sequence[Label]) -> Answers:
    """Return a fitted pipeline's answers to rows; an unseen class has probability 0.

    Raises:
        EstimatorError: the pipeline fails, for example on an unseen text, or its answers are not
            finite numbers for these rows and classes.
    """
    try:
        labels = np.asarray(pipeline.predict(rows.features))
        if spec.task is Task.REGRESSION:
            predicted = labels.astype(np.float64).reshape(-1)
            return Answers(rows.labels, _require_shape("predictions", predicted, rows.labels.shape))
        probabilities = _probabilities(pipeline, rows, classes)
    # As above.
    except Exception as exc:
        raise _estimator_error(pipeline, "was fitted, but cannot answer", exc) from exc
    return Answers(rows.labels, labels, probabilities, tuple(classes))


def _probabilities(pipeline: Any, rows: Rows, classes: Sequence[Label]) -> NDArray[np.float64]:
    """Return probabilities by row in the order of the classes; ValueError for unusable ones."""
    places = codes(pipeline.classes_, classes)
    if (places < 0).any():
        raise ValueError(f"its classes {pipeline.classes_} are not those of the target")
    stated = np.asarray(pipeline.predict_proba(rows.features), dtype=np.float64)
    probabilities = np.zeros((len(rows.labels), len(classes)))
    probabilities[:, places] = _require_shape(
        "probabilities", stated, (len(probabilities), len(places))
    )
    return probabilities


def _require_shape(
    what: str, numbers: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return numbers of this shape; ValueError for others, which NumPy might broadcast."""
    if numbers.shape != shape:
        raise ValueError(f"its {what} have the shape {numbers.shape}, not {shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"its {what} hold NaN or infinity")
    return numbers


def cross_validate(
    pipeline: Any,
    rows: Rows,
    dealt: Sequence[Fold],
    spec: ModelSpec,
    classes: Sequence[Label],
    done: Callable[[int, float], object] | None = None,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return mean and spread of each metric over the folds, and the warnings.

    `done` is called after each fold with the number of finished ones and the mean of the chosen
    metric over them; an exception from it ends the cross-validation.

    Keys: `cv_folds`, `cv_threshold` where the model file asks for one, and for each metric
    `cv_<metric>` and `cv_<metric>_std`; a metric that no fold determines is left out.

    Raises:
        EstimatorError: the estimator fails on a fold, which the message names.
        TrainingError: no threshold satisfies the model file, or its metric is not determined.
    """
    collected: list[Answers] = []
    notes: dict[str, None] = {}
    for number, fold in enumerate(dealt, start=1):
        try:
            answers, fold_notes = _answers_for(pipeline, rows, fold, spec, classes)
        except EstimatorError as error:
            raise EstimatorError(f"fold {number} of {len(dealt)}: {error}") from error
        collected.append(answers)
        notes |= dict.fromkeys(fold_notes)
        release()
        if done is not None:
            done(number, _metric_so_far(collected, spec))
    summary: dict[str, float] = {"cv_folds": float(len(dealt))}
    if spec.threshold is not None:
        summary[CHOSEN_THRESHOLD] = choose_threshold(spec.threshold, collected)
    answered = _apply_threshold(collected, summary.get(CHOSEN_THRESHOLD))
    results = [scores(spec.task, part, spec.evaluation) for part in answered]
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


def _apply_threshold(answers: Sequence[Answers], threshold: float | None) -> Sequence[Answers]:
    return answers if threshold is None else [apply_threshold(part, threshold) for part in answers]


def _metric_so_far(answers: Sequence[Answers], spec: ModelSpec) -> float:
    """Return the mean of the chosen metric over the finished folds; NaN if undetermined."""
    metric, threshold = chosen_metric(spec.evaluation), None
    if spec.threshold is not None:
        try:
            threshold = choose_threshold(spec.threshold, answers)
        except TrainingError:  # more folds may allow one
            return math.nan
    values = [metric.compute(value) for value in _apply_threshold(answers, threshold)]
    determined = [value for value in values if math.isfinite(value)]
    return float(np.mean(determined)) if determined else math.nan


def _answers_for(
    pipeline: Any, rows: Rows, fold: Fold, spec: ModelSpec, classes: Sequence[Label]
) -> tuple[Answers, tuple[str, ...]]:
    """Fit an estimator to one part of a fold; return its answers to the other, and warnings."""
    from sklearn.base import clone

    learn, test = fold
    fitted, notes = fit(clone(pipeline), rows.take(learn), spec)
    return answers_of(fitted, rows.take(test), spec, classes), notes


def rank(results: Mapping[str, Mapping[str, float]], spec: ModelSpec) -> list[str]:
    """Return the names by mean metric, best first; the task's last metric breaks ties."""
    return sorted(results, key=lambda name: _merit(results[name], spec), reverse=True)


def _merit(result: Mapping[str, float], spec: ModelSpec) -> tuple[float, float]:
    first, second = chosen_metric(spec.evaluation), metrics_of(spec.task)[-1]
    value = result[f"cv_{first.name}"]
    # Means of floats: values that differ only beyond the ninth digit are ties.
    digits = 9 - (math.frexp(value)[1] * 3 // 10 if abs(value) > 1 else 0)
    return (
        first.gain(round(value, digits), 0.0),
        second.gain(result.get(f"cv_{second.name}", math.inf), 0.0),
    )


def evaluate(pipeline: Any, rows: Rows, spec: ModelSpec, classes: Sequence[Label]) -> Evaluated:
    """Return answers to held-out rows and their metrics; TrainingError if none is determined."""
    answers = answers_of(pipeline, rows, spec, classes)
    measured = {name: value for name, value in scores(spec.task, answers, spec.evaluation).items()
                if math.isfinite(value)}  # fmt: skip
    if spec.evaluation.metric not in measured:
        raise TrainingError(
            f"the {len(rows)} evaluation rows do not determine {spec.evaluation.metric}: choose "
            "another evaluation.metric, or a larger evaluation.fraction"
        )
    seen = {*codes(rows.labels, classes).tolist()} if classes else set()
    unseen = tuple(label for number, label in enumerate(classes) if number not in seen)
    return Evaluated(answers, measured, unseen)


def fit_pipeline(pipeline: Any, rows: Rows, spec: ModelSpec) -> Any:
    """Return a pipeline fitted to rows; exceptions of its estimator propagate."""
    set_folds(pipeline.steps[-1][1], rows, spec)
    if encoders := target_encoders(pipeline):
        # A text that an entity's rows share would else be encoded by that entity's own labels.
        with contextlib.suppress(TrainingError):  # too few entities: the encoder's own folds
            folds = scoring_folds(rows, spec)
            for encoder in encoders:
                encoder.cv = folds
    arguments = fit_arguments(pipeline, rows, spec)
    with warnings.catch_warnings():
        # With a calibration, the weights for its estimator have their own name.
        warnings.filterwarnings("ignore", "Since Pipeline does not appear to accept sample_weight")
        fitted = pipeline.fit(rows.features, rows.labels, **arguments)
    finalize(fitted.steps[-1][1], spec)
    for encoder in target_encoders(fitted):
        encoder.cv = TARGET_PARTS  # the folds name rows, which the model must not keep
    return fitted
