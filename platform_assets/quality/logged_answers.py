"""Answers of the prediction log in the form that metrics take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.training.metrics import Answers, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray


def logged_answers(
    columns: Mapping[str, Any], spec: ModelSpec, metric: Metric, classes: Sequence[Label]
) -> tuple[Answers, NDArray[Any]]:
    """Return the answers, and the entity or request of each row.

    `columns`: `answer`, `outcome`, `probabilities` and `unit`, shape (rows,). Rows of another
    class than `classes`, or without the probabilities that the metric needs, are left out.
    """
    units = np.asarray(columns["unit"], dtype=object)
    if spec.task is Task.REGRESSION:
        true, given = (np.asarray(columns[one], np.float64) for one in ("outcome", "answer"))
        return Answers(true, given), units
    by_text = {_text(one): one for one in classes}
    usable = np.isin(columns["outcome"], [*by_text]) & np.isin(columns["answer"], [*by_text])
    needs_probabilities = metric.largest_steps is None
    if needs_probabilities:
        # Of an answer without probabilities it is the shape of a null.
        of_classes = [np.shape(row) == (len(classes),) for row in columns["probabilities"]]
        usable &= np.array(of_classes, dtype=bool)
    probabilities = None
    if needs_probabilities and usable.any():
        rows = columns["probabilities"][usable]
        probabilities = np.stack([np.asarray(row, np.float64) for row in rows])
    true, labels = (
        _labels([by_text[text] for text in columns[one][usable]]) for one in ("outcome", "answer")
    )
    return Answers(true, labels, probabilities, tuple(classes)), units[usable]


def _labels(labels: list[Label]) -> NDArray[Any]:
    if all(isinstance(one, str) for one in labels):
        return np.array(labels, dtype=object)
    return np.array(labels)


def _text(label: Label) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)
