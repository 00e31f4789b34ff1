"""Pictures of a training, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.resources import plots
from platform_assets.training.importance import Importance
from platform_assets.training.metrics import Answers, codes

_BARS: Final = 30

_SIZE: Final = (9.0, 4.0)
_BINS: Final = 10
_NUMBERED: Final = 15
"""Number of classes up to which a confusion matrix has numbers and names."""
_CURVES: Final = 8
_POINTS: Final = 5000


def importance_picture(importances: Sequence[Importance], metric: str) -> bytes:
    """Draw the most important features, the first one on top."""
    return _bars(
        [importance.feature for importance in importances[:_BARS]],
        [importance.mean for importance in importances[:_BARS]],
        [importance.spread for importance in importances[:_BARS]],
        xlabel=f"loss of {metric} when the column is shuffled",
        title="permutation importance",
    )


def candidates_picture(results: Mapping[str, Mapping[str, float]], metric: str) -> bytes:
    """Draw the cross-validated metric of every candidate with its spread over the folds."""
    names = list(results)[:_BARS]
    return _bars(
        names,
        [results[name][f"cv_{metric}"] for name in names],
        [results[name][f"cv_{metric}_std"] for name in names],
        xlabel=metric,
        title="candidates in cross-validation",
    )


def _bars(
    names: Sequence[str],
    values: Sequence[float],
    spreads: Sequence[float],
    *,
    xlabel: str,
    title: str,
) -> bytes:
    figure, axes = plots.canvas(7, max(2.0, 0.9 + 0.28 * len(names)))
    positions = range(len(names))
    axes.barh(positions, values, xerr=spreads, color=plots.ACCENT, ecolor=plots.INK, height=0.6)
    axes.set_yticks(positions, [plots.label(name, 48) for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color=plots.INK, linewidth=0.8)
    axes.set(xlabel=xlabel, title=title)
    return plots.png(figure)


def confusion_picture(
    answers: Answers, names: Sequence[str], threshold: float | None = None
) -> bytes:
    """Draw a classifier's confusion matrix beside the calibration of its probabilities.

    `names` are the display names of the classes, in order; `threshold` is the probability from
    which the second of two is answered, if the answer is not simply the likeliest class.
    """
    figure, (left, right) = plots.canvas(*_SIZE, ratios=(1, 1))
    _confusion(left, answers, names)
    if threshold is not None:
        title = f"{len(answers.labels)} rows, {plots.label(names[1], 14)} from {threshold:.3g}"
        left.set_title(title)
    _calibration(right, answers, names, threshold)
    return plots.png(figure)


def curves_picture(answers: Answers, names: Sequence[str], threshold: float | None = None) -> bytes:
    """Draw ROC and precision-recall curves; each of several classes against the rest.

    The operating point of a threshold is marked on both.
    """
    from sklearn.metrics import auc, precision_recall_curve, roc_curve

    figure, (left, right) = plots.canvas(*_SIZE, ratios=(1, 1))
    true = codes(answers.label_true, answers.classes)
    stated = np.asarray(answers.probabilities)
    drawn = [1] if len(answers.classes) == 2 else list(range(len(answers.classes)))
    drawn = [class_ for class_ in drawn if 0 < np.count_nonzero(true == class_) < len(true)]
    for class_ in drawn[:_CURVES]:
        wrong, right_share, _ = roc_curve(true == class_, stated[:, class_])
        left.plot(wrong, right_share, linewidth=1.4,
                  label=f"{plots.label(names[class_])} {auc(wrong, right_share):.3f}")  # fmt: skip
        precision, recall, _ = precision_recall_curve(true == class_, stated[:, class_])
        right.plot(recall, precision, linewidth=1.4, label=plots.label(names[class_]))
    if threshold is not None and drawn:
        _mark(left, right, true == 1, stated[:, 1] >= threshold, f"threshold {threshold:.3g}")
    left.plot([0, 1], [0, 1], linestyle=":", color=plots.INK, linewidth=1)
    left.set(xlabel="false positives", ylabel="true positives", title="ROC (area)")
    right.set(xlabel="recall", ylabel="precision", title="precision and recall", ylim=(0, 1.03))
    if drawn:
        left.legend(fontsize=7)
        right.legend(fontsize=7)
    return plots.png(figure)


def _mark(
    left: Any, right: Any, true: NDArray[np.bool_], answered: NDArray[np.bool_], label: str
) -> None:
    """Mark the operating point of a threshold on the curves."""
    recall = float(answered[true].mean())
    left.plot(float(answered[~true].mean()), recall, "o", color=plots.BAD, label=label)
    if answered.any():
        right.plot(recall, float(true[answered].mean()), "o", color=plots.BAD, label=label)


def regression_picture(answers: Answers) -> bytes:
    """Draw predicted against true values, and the residuals, of at most `_POINTS` rows."""
    figure, (left, right) = plots.canvas(*_SIZE, ratios=(1, 1))
    step = -(-len(answers.labels) // _POINTS)
    true, predicted = answers.label_true[::step], answers.labels[::step]
    ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    left.plot(ends, ends, linestyle=":", color=plots.INK, linewidth=1)
    left.scatter(true, predicted, s=8, alpha=0.5, color=plots.ACCENT)
    left.set(xlabel="true", ylabel="predicted", title=f"{len(answers.labels)} evaluation rows")
    rest = np.asarray(answers.label_true - answers.labels)
    right.hist(rest, bins=40, range=plots.span(rest), color=plots.ACCENT)
    right.axvline(0, color=plots.INK, linewidth=1)
    right.set(xlabel="true - predicted", ylabel="rows", title="residuals")
    return plots.png(figure)


def _confusion(axes: Any, answers: Answers, names: Sequence[str]) -> None:
    size = len(answers.classes)
    true, predicted = (
        codes(labels, answers.classes) for labels in (answers.label_true, answers.labels)
    )
    counts = np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= _NUMBERED:
        for row, column in np.ndindex(size, size):
            colour = "white" if shares[row, column] > 0.5 else plots.INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
        ticks = [plots.label(name, 14) for name in names]
        axes.set_xticks(range(size), ticks, rotation=0 if size < 5 else 90)
        axes.set_yticks(range(size), ticks)
    axes.set(xlabel="predicted", ylabel="true", title=f"{len(true)} evaluation rows")


def _calibration(
    axes: Any, answers: Answers, names: Sequence[str], threshold: float | None
) -> None:
    probabilities: NDArray[np.float64] = np.asarray(answers.probabilities)
    confidence, right = probabilities.max(axis=1), answers.labels == answers.label_true
    xlabel, ylabel = "stated probability of the answer", "share that is right"
    if threshold is not None:  # the answer need not be the likeliest class
        confidence, right = probabilities[:, 1], codes(answers.label_true, answers.classes) == 1
        label = plots.label(names[1], 14)
        xlabel, ylabel = f"stated probability of {label}", f"share that is {label}"
    bins = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    used = [index for index in range(_BINS) if (bins == index).any()]
    stated = [float(confidence[bins == index].mean()) for index in used]
    true = [float(right[bins == index].mean()) for index in used]
    sizes = [20 + 180 * float((bins == index).mean()) for index in used]
    axes.plot([0, 1], [0, 1], linestyle=":", color=plots.INK, linewidth=1)
    axes.scatter(stated, true, s=sizes, color=plots.ACCENT)
    axes.set(
        xlabel=xlabel,
        ylabel=ylabel,
        title="calibration (size: share of rows)",
        xlim=(0, 1.03),
        ylim=(-0.03, 1.03),
    )
