"""A metric on slices of the evaluation rows by column values, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import Gates
from platform_assets.resources.records import Estimate, SliceEstimate
from platform_assets.training.floor import estimate_metric
from platform_assets.training.metrics import Answers, Metric

if TYPE_CHECKING:
    import pandas as pd

_MOST_VALUES: Final = 20
"""Most frequent values of a column that are slices of their own; the rest is one slice."""
_MISSING: Final = "(missing)"
_OTHERS: Final = "(others)"


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows of one value of a column; `rows` is a mask, shape (rows,)."""

    column: str
    value: str
    rows: NDArray[np.bool_]


class SliceVerdict(StrEnum):
    """What the rows of a slice show about its floor."""

    KEPT = "keeps the floor"
    MISSED = "misses the floor"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class SliceFloor:
    """A slice compared with the floor; `p` is Holm's, None if the slice was not judged."""

    measured: SliceEstimate
    verdict: SliceVerdict
    p: float | None = None


def slices_of(features: pd.DataFrame, columns: Sequence[str]) -> Iterator[Slice]:
    """Yield the slices of rows in tensor form by column, then by value, most frequent first."""
    import pandas as pd

    for column in columns:
        places, values = pd.factorize(features[column])
        counts = np.bincount(places[places >= 0], minlength=len(values))
        order = np.argsort(-counts, kind="stable")
        for place in order[:_MOST_VALUES]:
            value = str(values[place])
            yield Slice(column, value or _MISSING, places == place)
        others = np.isin(places, order[_MOST_VALUES:]) | (places < 0)
        if others.any():
            yield Slice(column, _OTHERS, others)


def estimate_slices(
    metric: Metric,
    answers: Answers,
    features: pd.DataFrame,
    entities: NDArray[Any],
    gates: Gates,
) -> tuple[SliceEstimate, ...]:
    """Return the metric on each slice of `gates.slices`, with its interval.

    `entities` holds the entity of each row, shape (rows,).
    """
    return tuple(
        SliceEstimate(
            slice_.column,
            slice_.value,
            int(slice_.rows.sum()),
            estimate_metric(
                metric, answers.take(slice_.rows), entities[slice_.rows], gates.confidence
            ),
        )
        for slice_ in slices_of(features, gates.slices)
    )


def judge_slices(
    metric: Metric, measured: Sequence[SliceEstimate], floor: float, gates: Gates
) -> list[SliceFloor]:
    """Compare each slice with the worst value that passes.

    A slice misses the floor if its rows show that. If all slices meet it, the probability that
    any is said to miss it is at most half of 1 - confidence (2.5 % at 95 %), however many there
    are (Holm 1979). A slice whose measured value meets the floor meets it; the rest, and any with
    fewer than `gates.min_rows` rows, is inconclusive.
    """
    sign = 1 if metric.higher_is_better else -1
    corrected = holm(
        [
            p_below(estimate.estimate, floor, sign)
            if is_judged(estimate.rows, estimate.estimate, gates)
            else None
            for estimate in measured
        ]
    )
    return [
        _judge(metric, estimate, floor, p, gates)
        for estimate, p in zip(measured, corrected, strict=True)
    ]


def _judge(
    metric: Metric, estimate: SliceEstimate, floor: float, p: float | None, gates: Gates
) -> SliceFloor:
    if p is None:
        return SliceFloor(estimate, SliceVerdict.INCONCLUSIVE)
    if metric.meets(estimate.estimate.value, floor):
        return SliceFloor(estimate, SliceVerdict.KEPT, p)
    missed = p <= error_rate(gates)
    return SliceFloor(estimate, SliceVerdict.MISSED if missed else SliceVerdict.INCONCLUSIVE, p)


def is_judged(rows: int, estimate: Estimate, gates: Gates) -> bool:
    """Whether a slice has enough rows, and the statistic is determined on them."""
    return rows >= gates.min_rows and math.isfinite(estimate.value)


def error_rate(gates: Gates) -> float:
    """Return the allowed probability that any slice is called bad although none is."""
    return (1 - gates.confidence) / 2


def p_below(estimate: Estimate, bound: float, sign: int = 1) -> float:
    """Return the p-value of an estimate this far below a bound if its true value is the bound.

    With `sign` -1, this far above it.
    """
    from scipy.stats import t

    distance = sign * (estimate.value - bound)
    if not estimate.degrees:
        return 1.0
    if not estimate.error:
        return 0.0 if distance < 0 else 1.0
    return float(t.cdf(distance / estimate.error, estimate.degrees))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number by Holm's step-down method, in their order.

    None stands for what is not tested.
    """
    ascending = sorted((value, place) for place, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, place) in enumerate(ascending):
        largest = max(largest, min(1.0, (len(ascending) - rank) * value))
        corrected[place] = largest
    return corrected


def describe_floor(metric: Metric, slice_floor: SliceFloor, floor: float) -> str:
    """Describe the result of a slice in a sentence."""
    slice_, estimate = slice_floor.measured, slice_floor.measured.estimate
    side = "below the floor" if metric.higher_is_better else "above the ceiling"
    return (
        f"{slice_.column} {slice_.value!r} ({slice_.rows} rows): {metric.name} "
        f"{estimate.value:.4g} is {side} {floor:.4g}"
    )


def floor_row(slice_floor: SliceFloor) -> dict[str, str | int | float | None]:
    """Return a slice as a table row; undetermined values are None."""
    slice_, estimate = slice_floor.measured, slice_floor.measured.estimate
    return {
        "column": slice_.column,
        "value": slice_.value,
        "rows": slice_.rows,
        "metric": finite(estimate.value),
        "low": finite(estimate.low),
        "high": finite(estimate.high),
        "p (Holm)": finite(slice_floor.p),
        "floor": slice_floor.verdict.value,
    }


def finite(value: float | None) -> float | None:
    """Return a number for a table; None if undetermined."""
    return None if value is None or not math.isfinite(value) else round(value, 4)
