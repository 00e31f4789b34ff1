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
    aligned_answers,
    labeled_answers,
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
    """A slice of the candidate compared with production's; `p` is Holm's, None if not judged."""

    column: str
    value: str
    rows: int
    result: Comparison
    verdict: ComparisonVerdict
    p: float | None


def with_slices(
    candidate: LoadedVersion, config: RegressionConfig, verdict: dg.AssetCheckResult
) -> dg.AssetCheckResult:
    """Add the verdicts on the slices of `gates.slices`, if any, to the verdict on all rows.

    A slice that misses the floor, or is worse than production's, blocks. An inconclusive one is a
    warning, or blocks where the model file says so.
    """
    gates = candidate.spec.gates
    if not gates.slices:
        return verdict
    try:
        answers = labeled_answers(candidate, candidate.answers[0])
    except TritonError:  # which the verdict says
        return verdict
    metric = chosen_metric(candidate.spec.evaluation)
    floor = gates.metric_floor if config.metric_floor is None else config.metric_floor
    rows = candidate.evaluation
    measured = estimate_slices(metric, answers, rows.features, rows.groups, gates)
    floors = judge_slices(metric, measured, floor, gates)
    compared = _compare_slices(candidate, config, metric, answers)
    return _combine_verdicts(verdict, metric, floor, floors, compared, gates)


def _compare_slices(
    candidate: LoadedVersion, config: RegressionConfig, metric: Metric, answers: Answers
) -> list[ComparedSlice]:
    """Compare the slices with production's; none if it cannot answer, as the verdict says."""
    gates = candidate.spec.gates
    try:
        production = candidate.production_version
        if production is None or candidate.has_graph_of(production):
            return []
        recorded = candidate.version_record(production)
        unseen, _ = unseen_rows(candidate, recorded)
        old_answers = aligned_answers(candidate, recorded)
    except (NotComparableError, ProductionUnknown):
        return []
    tolerance = gates.regression_tolerance if config.tolerance is None else config.tolerance
    evaluation = candidate.evaluation
    parts = [
        (part.column, part.value, part.rows & unseen)
        for part in slices_of(evaluation.features, gates.slices)
    ]
    results = [
        (column, value, int(rows.sum()), compare(
            metric, answers.take(rows), old_answers.take(rows), evaluation.groups[rows],
            tolerance=tolerance, confidence=gates.confidence,
        ))
        for column, value, rows in parts
        if rows.any()
    ]  # fmt: skip
    return judge_comparisons(results, gates)


def judge_comparisons(
    results: list[tuple[str, str, int, Comparison]], gates: Gates
) -> list[ComparedSlice]:
    """Judge each slice, given as column, value, rows and comparison.

    If all slices are as good as production's, the probability that any is called worse is at most
    half of 1 - confidence, however many there are. The probability that all are called
    non-inferior although one is worse by its margin has the same bound, without a correction.
    """
    corrected = holm(
        [
            p_below(result.gain, 0.0) if is_judged(rows, result.gain, gates) else None
            for _, _, rows, result in results
        ]
    )
    return [
        ComparedSlice(*result_, _verdict(result_[3], p, gates), p)
        for result_, p in zip(results, corrected, strict=True)
    ]


def _verdict(result: Comparison, p: float | None, gates: Gates) -> ComparisonVerdict:
    if p is None:
        return ComparisonVerdict.INCONCLUSIVE
    if result.verdict is ComparisonVerdict.NON_INFERIOR:
        return ComparisonVerdict.NON_INFERIOR
    return ComparisonVerdict.WORSE if p <= error_rate(gates) else ComparisonVerdict.INCONCLUSIVE


def _combine_verdicts(
    verdict: dg.AssetCheckResult,
    metric: Metric,
    floor: float,
    floors: list[SliceFloor],
    compared: list[ComparedSlice],
    gates: Gates,
) -> dg.AssetCheckResult:
    bad = [describe_floor(metric, slice_, floor) for slice_ in floors
           if slice_.verdict is SliceVerdict.MISSED]  # fmt: skip
    bad += [
        f"{slice_.column} {slice_.value!r} ({slice_.rows} rows) is worse than production by "
        f"{-slice_.result.gain.value:.4g}"
        for slice_ in compared
        if slice_.verdict is ComparisonVerdict.WORSE
    ]
    open_ones = {(slice_.measured.column, slice_.measured.value) for slice_ in floors
                 if slice_.verdict is SliceVerdict.INCONCLUSIVE}  # fmt: skip
    open_ones |= {(slice_.column, slice_.value) for slice_ in compared
                  if slice_.verdict is ComparisonVerdict.INCONCLUSIVE}  # fmt: skip
    severity = verdict.severity
    if bad or (open_ones and gates.when_inconclusive is WhenInconclusive.BLOCK):
        severity = dg.AssetCheckSeverity.ERROR
    elif open_ones and verdict.passed:
        severity = dg.AssetCheckSeverity.WARN
    sentences = [verdict.description, *bad[:_SHOWN]]
    if open_ones:
        names = ", ".join(f"{column} {value!r}" for column, value in sorted(open_ones)[:_SHOWN])
        sentences.append(f"inconclusive for {len(open_ones)} of {len(floors)} slices ({names})")
    return dg.AssetCheckResult(
        passed=bool(verdict.passed) and not bad and not open_ones,
        severity=severity,
        description="; ".join(filter(None, sentences)) or None,
        metadata={**verdict.metadata, SLICES: table(_rows(floors, compared))},
    )


def _rows(floors: list[SliceFloor], compared: list[ComparedSlice]) -> list[dict[str, Any]]:
    by_slice = {(floor.column, floor.value): floor for floor in compared}
    lines = []
    for floor in floors:
        comparison = by_slice.get((floor.measured.column, floor.measured.value))
        gain = comparison.result.gain if comparison else None
        lines.append(
            {
                **floor_row(floor),
                "production": finite(comparison.result.production) if comparison else None,
                "gain": finite(gain.value) if gain else None,
                "gain low": finite(gain.low) if gain else None,
                "gain high": finite(gain.high) if gain else None,
                "p worse (Holm)": finite(comparison.p) if comparison else None,
                "comparison": comparison.verdict.value if comparison else "not compared",
            }
        )
    return lines
