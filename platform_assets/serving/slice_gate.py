"""The part of `no_regression` that judges slices: the floor and the comparison of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from platform_assets.model_spec import Gates, WhenInconclusive
from platform_assets.resources.metadata import table
from platform_assets.resources.triton import TritonError
from platform_assets.serving.comparison import Comparison, ComparisonVerdict, compare
from platform_assets.serving.loaded_version import LoadedVersion, ProductionUnknown
from platform_assets.serving.regression import (
    NotComparableError,
    RegressionConfig,
    answers_by,
    measured_answers,
    unseen_rows,
)
from platform_assets.training.metrics import Answers, Metric, chosen_metric
from platform_assets.training.slices import (
    SliceFloor,
    SliceVerdict,
    describe_floor,
    error_rate,
    estimate_slices,
    finite,
    floor_row,
    holm,
    is_judged,
    judge_slices,
    p_below,
    slices_of,
)

SLICES: Final = "slices"
"""Metadata key of `no_regression`: the table of its slices."""
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class ComparedSlice:
    """A slice of the candidate against production's; `p` is Holm's, None where it is not judged."""

    column: str
    value: str
    rows: int
    result: Comparison
    verdict: ComparisonVerdict
    p: float | None


def with_slices(
    candidate: LoadedVersion, config: RegressionConfig, verdict: dg.AssetCheckResult
) -> dg.AssetCheckResult:
    """Add to the verdict on all rows those on the slices of `gates.slices`, if there are any.

    A slice that misses the floor, or that is worse than production's, blocks. One that shows
    neither is a warning, or blocks where the model file says so.
    """
    gates = candidate.spec.gates
    if not gates.slices:
        return verdict
    try:
        answers = measured_answers(candidate, candidate.answers[0])
    except TritonError:  # which the verdict says
        return verdict
    metric = chosen_metric(candidate.spec.evaluation)
    floor = gates.metric_floor if config.metric_floor is None else config.metric_floor
    rows = candidate.evaluation
    measured = estimate_slices(metric, answers, rows.features, rows.groups, gates)
    floors = judge_slices(metric, measured, floor, gates)
    compared = _compared(candidate, config, metric, answers)
    return _combined(verdict, metric, floor, floors, compared, gates)


def _compared(
    candidate: LoadedVersion, config: RegressionConfig, metric: Metric, answers: Answers
) -> list[ComparedSlice]:
    """The slices against production; none where it cannot be asked, which the verdict says."""
    gates = candidate.spec.gates
    try:
        production = candidate.production_version
        if production is None or candidate.has_graph_of(production):
            return []
        recorded = candidate.recorded(production)
        unseen, _ = unseen_rows(candidate, recorded)
        other = answers_by(candidate, recorded)
    except (NotComparableError, ProductionUnknown):
        return []
    tolerance = gates.regression_tolerance if config.tolerance is None else config.tolerance
    evaluation = candidate.evaluation
    parts = [
        (one.column, one.value, one.rows & unseen)
        for one in slices_of(evaluation.features, gates.slices)
    ]
    results = [
        (column, value, int(rows.sum()), compare(
            metric, answers.take(rows), other.take(rows), evaluation.groups[rows],
            tolerance=tolerance, confidence=gates.confidence,
        ))
        for column, value, rows in parts
        if rows.any()
    ]  # fmt: skip
    return judge_comparisons(results, gates)


def judge_comparisons(
    results: list[tuple[str, str, int, Comparison]], gates: Gates
) -> list[ComparedSlice]:
    """Give the verdict on each slice: column, value, rows, and its comparison.

    Of slices that all are as good as production's, some is called worse with at most half of what
    the confidence leaves, however many they are. All are called non-inferior, although one is
    worse by its margin, with as much at most, for which nothing has to be corrected.
    """
    corrected = holm(
        [
            p_below(result.gain, 0.0) if is_judged(rows, result.gain, gates) else None
            for _, _, rows, result in results
        ]
    )
    return [
        ComparedSlice(*one, _verdict(one[3], p, gates), p)
        for one, p in zip(results, corrected, strict=True)
    ]


def _verdict(result: Comparison, p: float | None, gates: Gates) -> ComparisonVerdict:
    if p is None:
        return ComparisonVerdict.INCONCLUSIVE
    if result.verdict is ComparisonVerdict.NON_INFERIOR:
        return ComparisonVerdict.NON_INFERIOR
    return ComparisonVerdict.WORSE if p <= error_rate(gates) else ComparisonVerdict.INCONCLUSIVE


def _combined(
    verdict: dg.AssetCheckResult,
    metric: Metric,
    floor: float,
    floors: list[SliceFloor],
    compared: list[ComparedSlice],
    gates: Gates,
) -> dg.AssetCheckResult:
    bad = [describe_floor(metric, one, floor) for one in floors
           if one.verdict is SliceVerdict.MISSED]  # fmt: skip
    bad += [
        f"{one.column} {one.value!r} ({one.rows} rows) is worse than production by "
        f"{-one.result.gain.value:.4g}"
        for one in compared
        if one.verdict is ComparisonVerdict.WORSE
    ]
    open_ones = {(one.measured.column, one.measured.value) for one in floors
                 if one.verdict is SliceVerdict.INCONCLUSIVE}  # fmt: skip
    open_ones |= {(one.column, one.value) for one in compared
                  if one.verdict is ComparisonVerdict.INCONCLUSIVE}  # fmt: skip
    severity = verdict.severity
    if bad or (open_ones and gates.when_inconclusive is WhenInconclusive.BLOCK):
        severity = dg.AssetCheckSeverity.ERROR
    elif open_ones and verdict.passed:
        severity = dg.AssetCheckSeverity.WARN
    said = [verdict.description, *bad[:_SHOWN]]
    if open_ones:
        names = ", ".join(f"{column} {value!r}" for column, value in sorted(open_ones)[:_SHOWN])
        said.append(f"inconclusive for {len(open_ones)} of {len(floors)} slices ({names})")
    return dg.AssetCheckResult(
        passed=bool(verdict.passed) and not bad and not open_ones,
        severity=severity,
        description="; ".join(filter(None, said)) or None,
        metadata={**verdict.metadata, SLICES: table(_rows(floors, compared))},
    )


def _rows(floors: list[SliceFloor], compared: list[ComparedSlice]) -> list[dict[str, Any]]:
    by_slice = {(one.column, one.value): one for one in compared}
    lines = []
    for one in floors:
        other = by_slice.get((one.measured.column, one.measured.value))
        gain = other.result.gain if other else None
        lines.append(
            {
                **floor_row(one),
                "production": finite(other.result.production) if other else None,
                "gain": finite(gain.value) if gain else None,
                "gain low": finite(gain.low) if gain else None,
                "gain high": finite(gain.high) if gain else None,
                "p worse (Holm)": finite(other.p) if other else None,
                "comparison": other.verdict.value if other else "not compared",
            }
        )
    return lines
