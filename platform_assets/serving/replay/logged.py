"""What the log says of replayed rows beside their features: earlier answers and true values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import ModelSpec
from platform_assets.serving.replay.comparison import ComparedAnswers
from serving_gateway.contract import (
    LOG_ID,
    LOG_PREDICTION,
    LOG_ROW,
    LOG_SCORE,
    LOG_TIME,
    LOG_VERSION,
    Signature,
)

if TYPE_CHECKING:
    import pyarrow as pa

OutcomeLookup = Callable[[Path, ModelSpec, datetime], Mapping[tuple[str, int], str | float]]
"""Returns the matured outcomes of what a model answered since a time, by `sample_id` and
`sample_row`: texts of a classifier, numbers of a regression. The path is the log of all models;
it raises `SamplesError`."""
Lookup = Callable[[datetime], Mapping[tuple[str, int], str | float]]
"""`OutcomeLookup` of one model."""
_SAME: Final = 1e-3
"""Difference, in spreads, up to which a logged prediction is the one that is answered now."""


def outdated_answers(
    table: pa.Table, compared: ComparedAnswers, production: int
) -> tuple[int, int]:
    """Count production's logged answers that it does not give now, and those that are logged."""
    logged = _column(table, LOG_SCORE if compared.is_regression else LOG_PREDICTION)[compared.rows]
    known = np.array([one is not None for one in logged], dtype=np.bool_)
    known &= (_column(table, LOG_VERSION) == production)[compared.rows]
    if compared.is_regression:
        distance = logged[known].astype(np.float64) - compared.production_scores[known, 0]
        differs = np.abs(distance) > _SAME * compared.spread[0]
    else:
        now = [_as_text(one) for one in compared.production_labels[known]]
        differs = np.array([_as_text(one) for one in logged[known]], object) != np.array(
            now, object
        )
    return int(np.sum(differs)), int(known.sum())


def true_values(
    table: pa.Table, compared: ComparedAnswers, new: Signature, lookup: Lookup
) -> NDArray[np.object_] | None:
    """Return the matured outcomes of the compared rows as the model's labels or numbers.

    None where a row has none; None instead of all where rows cannot be told apart, for older
    files have no `sample_id`. Errors are those of `lookup`, which is asked from the oldest row on.
    """
    if LOG_ID not in table.column_names or LOG_ROW not in table.column_names:
        return None
    outcomes = lookup(min(table[LOG_TIME].to_pylist()))
    keys = zip(_column(table, LOG_ID), _column(table, LOG_ROW), strict=True)
    known = [outcomes.get(key) for key in keys]
    values = np.full(len(compared.rows), None, dtype=object)
    labels = {_as_text(label): label for label in new.classes}
    for place, row in enumerate(compared.rows.tolist()):
        outcome = known[row]
        # A class that the model never answers is one that both versions have wrong.
        values[place] = labels.get(str(outcome), outcome) if new.classes else outcome
    return values


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    values = np.full(table.num_rows, None, dtype=object)
    if name in table.column_names:
        values[:] = table[name].to_pylist()
    return values


def _as_text(label: object) -> str:
    """A label as the log has it, whose booleans older gateways wrote as Python does."""
    text = str(label)
    return text.lower() if text in {"True", "False"} else text
