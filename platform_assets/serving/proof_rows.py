"""Which rows of the evaluation set a proof shows, and how."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.decimals import shortest_decimal
from platform_assets.serving.answers import json_rows
from serving_gateway.contract import DType, Signature

if TYPE_CHECKING:
    from platform_assets.resources.records import EvaluationSet

_SHOWN: Final = 5


def proof_rows(
    signature: Signature, evaluation: EvaluationSet, answered: NDArray[Any]
) -> Iterator[dict[str, str]]:
    """Yield a few rows with the gateway's answers, shape (rows,), beside scikit-learn's."""
    chosen = varied_rows(evaluation.labels, _SHOWN)
    written = json_rows(signature, evaluation.features.iloc[chosen])
    is_short = [feature.dtype is DType.FP32 for feature in signature.features]
    for position, values in zip(chosen, written, strict=True):
        row = [
            shortest_decimal(value) if short and value is not None else value
            for value, short in zip(values, is_short, strict=True)
        ]
        yield {
            "row": str(position),
            "features": str(row),
            "gateway": str(answered[position]),
            "scikit-learn": str(evaluation.labels[position]),
        }


def varied_rows(labels: NDArray[Any], count: int) -> list[int]:
    """Return `count` positions, ascending: the first ones, with as many different labels as fit."""
    import pandas as pd

    column = pd.Series(labels)
    repetition = column.groupby(column, sort=False).cumcount().to_numpy()
    return sorted(np.argsort(repetition, kind="stable")[:count].tolist())
