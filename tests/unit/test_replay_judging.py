"""Verdicts on replayed rows keep their error rate: simulated, as no server is needed for that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from platform_assets.model_spec import ReplayLimits
from platform_assets.serving.replay.comparison import ComparedAnswers
from platform_assets.serving.replay.judging import (
    NOISE_SECONDS,
    Finding,
    ReplayVerdict,
    judge_replay,
    unit_means,
)
from serving_gateway.contract import Guard

RUNS, CONFIDENCE = 300, 0.95
LOOKS = (100, 400, 2_000)
LIMITS = ReplayLimits()


def compared(relabelled: NDArray[Any], shift: NDArray[np.float64]) -> ComparedAnswers:
    """Rows of a binary classifier, some with another label, all with a shift of their score."""
    rows = len(relabelled)
    return ComparedAnswers(
        rows=np.arange(rows),
        labels=relabelled.astype(np.int64),
        production_labels=np.zeros(rows, np.int64),
        scores=shift[:, None],
        production_scores=np.zeros((rows, 1)),
        spread=np.ones(1),
        names=("probability of 1",),
        is_regression=False,
    )


def release(
    random: np.random.Generator, disagreement: float, shift: float, slower: float
) -> list[list[Finding]]:
    """The findings of one candidate at each look; rows of a request share their answers."""
    rows = LOOKS[-1]
    requests = np.cumsum(random.random(rows) < 0.5).astype(np.int64)
    other = (random.random(rows) < disagreement)[requests]
    shifts = (shift + random.normal(scale=0.5, size=rows))[requests]
    truth = np.zeros(rows, dtype=object)
    old, new = random.exponential(0.01, rows), slower * random.exponential(0.01, rows)
    return [
        judge_replay(
            compared(other[:look], shifts[:look]),
            requests[:look],
            (new[:look].tolist(), old[:look].tolist()),
            LIMITS,
            CONFIDENCE,
            truth[:look],
        )
        for look in LOOKS
    ]


def is_broken(looks: list[list[Finding]], *guards: Guard) -> bool:
    return any(
        one.verdict is ReplayVerdict.BROKEN
        for findings in looks
        for one in findings
        if one.guard in guards
    )


@pytest.mark.slow
def test_candidate_at_its_limits_is_broken_in_at_most_five_of_a_hundred_releases() -> None:
    """By disagreement, shift and latency together, and at every look."""
    random = np.random.default_rng(5)
    at_limit = (LIMITS.disagreement, LIMITS.score_shift, LIMITS.latency_p99)
    broken = sum(
        is_broken(
            release(random, *at_limit),
            Guard.DISAGREEMENT, Guard.SCORE_SHIFT, Guard.LATENCY_P99,
        )
        for _ in range(RUNS)
    )  # fmt: skip
    assert broken <= 0.05 * RUNS


@pytest.mark.parametrize(
    ("candidate", "guard"),
    [
        ((0.3, 0.0, 1.0), Guard.DISAGREEMENT),
        ((0.0, 0.4, 1.0), Guard.SCORE_SHIFT),
        ((0.0, -0.4, 1.0), Guard.SCORE_SHIFT),
        ((0.0, 0.0, 6.0), Guard.LATENCY_P99),
        ((0.12, 0.0, 1.0), Guard.OUTCOME),
    ],
)
def test_candidate_beyond_a_limit_is_broken_nearly_always(
    candidate: tuple[float, float, float], guard: Guard
) -> None:
    random = np.random.default_rng(6)
    found = sum(is_broken(release(random, *candidate), guard) for _ in range(20))
    assert found >= 19


def test_rows_of_one_unit_are_one_observation() -> None:
    record = unit_means(np.array([True, True, False, True]), np.array([7, 7, 7, 9]), 0.0, 1.0)
    assert record.count == 2
    assert record.mean == pytest.approx((2 / 3 + 1) / 2)


def test_far_outlier_counts_as_much_as_the_limit_of_a_row() -> None:
    assert unit_means(np.array([1e30, 0.0]), np.arange(2), -4.0, 4.0).mean == 2.0


@pytest.mark.parametrize(("more", "verdict"), [(0.9, "within"), (2.0, "broken")])
def test_latency_within_the_noise_of_a_machine_is_no_matter(more: float, verdict: str) -> None:
    nothing = compared(np.zeros(0), np.zeros(0))
    units = np.zeros(0, np.int64)
    slow = 0.001 + more * NOISE_SECONDS
    [found] = judge_replay(nothing, units, ([slow] * 1000, [0.001] * 1000), LIMITS, CONFIDENCE)
    assert found.verdict.name.lower() == verdict


def test_few_single_rows_decide_nothing_of_the_latency() -> None:
    nothing = compared(np.zeros(0), np.zeros(0))
    units = np.zeros(0, np.int64)
    [found] = judge_replay(nothing, units, ([1.0] * 300, [0.001] * 300), LIMITS, CONFIDENCE)
    assert found.verdict is ReplayVerdict.WITHIN
