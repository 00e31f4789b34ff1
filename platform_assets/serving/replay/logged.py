"""What the log holds of replayed rows beside their features: earlier answers and true values."""

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
"""Returns the matured outcomes of a model's answers since a time, by `sample_id` and
`sample_row`: text for a classifier, numbers for a regression. The path is the log of all models.
Raises `SamplesError`."""
Lookup = Callable[[datetime], Mapping[tuple[str, int], str | float]]
"""`OutcomeLookup` of one model."""
_SAME: Final = 1e-3
"""Difference, in spreads, up to which a logged prediction counts as the one answered now."""


def outdated_answers(
    table: pa.Table, compared: ComparedAnswers, production: int
) -> tuple[int, int]:
    """Count production's logged answers that differ from its present ones, and all logged ones."""
    logged = _column(table, LOG_SCORE if compared.is_regression else LOG_PREDICTION)[compared.rows]
    known = np.array([answer is not None for answer in logged], dtype=np.bool_)
    known &= (_column(table, LOG_VERSION) == production)[compared.rows]
    if compared.is_regression:
        distance = logged[known].astype(np.float64) - compared.production_scores[known, 0]
        differs = np.abs(distance) > _SAME * compared.spread[0]
    else:
        now = [_as_text(answer) for answer in compared.production_labels[known]]
        differs = np.array([_as_text(answer) for answer in logged[known]], object) != np.array(
            now, object
        )
    return int(np.sum(differs)), int(known.sum())


def true_values(
    table: pa.Table, compared: ComparedAnswers, new: Signature, lookup: Lookup
) -> NDArray[np.object_] | None:
    """Return the matured outcomes of the compared rows as the model's labels or numbers.

    None where a row has none; None instead of the array where rows cannot be told apart, since
    older files lack `sample_id`. Raises as `lookup` does, which is asked from the oldest row on.
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
        # A class that the model cannot predict counts as wrong for both versions.
        values[place] = labels.get(str(outcome), outcome) if new.classes else outcome
    return values


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    values = np.full(table.num_rows, None, dtype=object)
    if name in table.column_names:
        values[:] = table[name].to_pylist()
    return values


def _as_text(label: object) -> str:
    """Return a label as the log has it; older gateways wrote booleans as Python does."""
    text = str(label)
    return text.lower() if text in {"True", "False"} else text
