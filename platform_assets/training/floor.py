"""Whether a version is good enough on its own: its metric against the model file's floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from platform_assets.model_spec import Gates, WhenInconclusive
from platform_assets.resources.records import Estimate
from platform_assets.training.metrics import Answers, Metric
from platform_assets.training.uncertainty import jackknife


def estimate_metric(
    metric: Metric, answers: Answers, entities: NDArray[Any], confidence: float
) -> Estimate:
    """Return a metric of a version's answers to the evaluation rows, with its interval.

    `entities` holds the entity of each row, shape (rows,); `confidence` is that of the two-sided
    interval, in (0, 1).
    """
    return jackknife(
        lambda rows: metric.of(answers, rows),
        entities,
        confidence=confidence,
        resolution=metric.resolution(answers),
        added_rows=4,
    )


def describe_metric(metric: Metric, estimate: Estimate, floor: float) -> str:
    """Describe a metric with the relevant bound, beside its floor."""
    if metric.higher_is_better:
        bound = f"at least {estimate.low:.4g}"
    else:
        bound = f"at most {estimate.high:.4g}"
    return f"{metric.name} {estimate.value:.4g} ({bound}); floor {floor:.4g}"


@dataclass(frozen=True, slots=True)
class FloorVerdict:
    """What the evaluation rows show about a metric and its floor."""

    passed: bool
    proven: bool
    """Whether the interval lies on the right side of the floor, on enough rows."""
    reason: str
    """Why the metric did not pass, or is not proven; empty otherwise."""


def judge_floor(
    metric: Metric, estimate: Estimate, floor: float, rows: int, gates: Gates
) -> FloorVerdict:
    """Compare a metric with the worst value that passes.

    A measured value beyond the floor never passes, nor does one on fewer rows than
    `gates.min_rows`. One that meets the floor is proven if the bound of its interval meets it
    too: a version whose true value lies at the floor is called proven with a probability of at
    most 1 - confidence (5 % at 95 %). An unproven value passes, and the verdict says so, unless
    the model file says `when_inconclusive: block`.
    """
    value, bound = estimate.value, estimate.low if metric.higher_is_better else estimate.high
    if not metric.meets(value, floor):
        side = "below the floor" if metric.higher_is_better else "above the ceiling"
        return FloorVerdict(False, False, f"{metric.name} {value:.4g} is {side} {floor:.4g}")
    if rows < gates.min_rows:
        return FloorVerdict(
            False,
            False,
            f"{rows} evaluation rows are too few to judge {metric.name}: gates.min_rows wants "
            f"{gates.min_rows} (a larger evaluation.fraction holds out more)",
        )
    if metric.meets(bound, floor):
        return FloorVerdict(True, True, "")
    return FloorVerdict(
        gates.when_inconclusive is WhenInconclusive.WARN,
        False,
        f"{metric.name} {value:.4g} keeps {floor:.4g}, but {rows} evaluation rows "
        f"cannot rule out {bound:.4g}",
    )
