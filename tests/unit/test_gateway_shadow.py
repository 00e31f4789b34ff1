"""The shadow ledger: agreement with its bounds, differences, examples, one page per pairing."""

from __future__ import annotations

import math

import pytest

from serving_gateway.contract import (
    BoundedMean,
    Interval,
    QuantileBounds,
    RoutedVersion,
    Trials,
)
from serving_gateway.inference.codec import ModelOutput
from serving_gateway.inference.histogram import Histogram, proportion
from serving_gateway.inference.shadow import (
    DELAYS,
    ShadowStatistics,
    largest_difference,
    predictions_agree,
)

A = RoutedVersion("m", 1, "run-1")
B = RoutedVersion("m", 2, "run-2")
C = RoutedVersion("m", 3, "run-3")


def clock() -> str:
    return "2026-01-01T00:00:00.000Z"


def test_all_bounds_are_of_confidence_sequences_at_95_percent() -> None:
    delays = Histogram(DELAYS, -5.0, 5.0)
    for _ in range(400):
        delays.note(0.003)
        delays.note(0.004)
    agreement, mean, median = proportion(392, 400), delays.mean(), delays.median()
    assert agreement is not None
    assert Interval(agreement.low, agreement.high) == Trials(392, 400).bounds(0.05)
    assert mean is not None
    record = BoundedMean(800, 800 * 0.0035, 400 * (0.003**2 + 0.004**2), -5.0, 5.0)
    expected = record.bounds(0.05)
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high))
    assert median == QuantileBounds(0.002, 0.005)
    empty = Histogram(DELAYS, -5.0, 5.0)
    assert (proportion(0, 0), empty.mean(), empty.median()) == (None, None, None)


def test_a_median_beyond_the_histogram_has_no_bound_there() -> None:
    delays = Histogram(DELAYS, -5.0, 5.0)
    for _ in range(50):
        delays.note(2.0)
    assert delays.median() == QuantileBounds(1.0, None)


def test_a_latency_beyond_the_deadline_counts_as_the_deadline() -> None:
    delays = Histogram(DELAYS, -5.0, 5.0)
    delays.note(5.5)
    delays.note(-5.25)
    assert (delays.sum, delays.squares, delays.largest) == (0.0, 50.0, 5.5)
    found = delays.mean()
    assert found is not None
    assert (found.low, found.high) == (-5.0, 5.0)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [(1, 1, True), (1, 2, False), ("a", "a", True), (0.1 + 0.2, 0.3, True), (0.3, 0.31, False)],
)
def test_predictions_agree_when_they_differ_by_rounding_only(
    one: object, other: object, alike: bool
) -> None:
    assert predictions_agree(one, other) is alike


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ([0.2, 0.8], [0.5, 0.5], 0.3),
        ([1.0], [1.0], 0.0),
        ([0.5, 0.5], [1.0], 1.0),
        ([math.nan, 0.5], [0.5, 0.5], 1.0),
    ],
)
def test_the_largest_difference_counts(
    one: list[float], other: list[float], difference: float
) -> None:
    assert largest_difference(one, other) == pytest.approx(difference)


def test_a_page_counts_rows_differences_delays_and_keeps_the_newest_examples() -> None:
    ledger = ShadowStatistics(2, 5.0)
    page = ledger.open((A, B), clock)
    ours = ModelOutput([1, 1, 1], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    theirs = ModelOutput([1, 2, 2], [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    rows = [[1.0], [2.0], [3.0]]
    assert not page.note(ours, theirs, 0.004, rows)
    assert not page.note(ours, theirs, -0.002, rows)
    assert page.note(ours, ours, 0.001, rows)
    found = ledger.summary("r", A, B, examples=True)
    assert (found.requests, found.rows, found.rows_agreed, found.since) == (3, 9, 5, clock())
    assert found.agreement == proportion(5, 9)
    assert found.probability_difference is not None
    assert found.probability_difference.value == pytest.approx(2 * (0 + 0.3 + 0.6) / 9)
    assert found.probability_difference.largest == pytest.approx(0.6)
    delay = found.latency_difference_seconds
    assert delay is not None
    assert delay.low < delay.value < delay.high
    assert delay.value == pytest.approx(0.001)
    assert delay.largest == 0.004
    assert [example.row for example in found.examples] == [[2.0], [3.0]]
    example = found.examples[1]
    assert (example.prediction_a, example.prediction_b) == (1, 2)
    assert (example.probabilities_a, example.probabilities_b) == ([0.7, 0.3], [0.1, 0.9])
    hidden = ledger.summary("r", A, B, examples=False)
    assert (hidden.examples, hidden.examples_withheld) == ((), True)


def test_another_pairing_starts_an_empty_page_and_late_answers_do_not_reach_it() -> None:
    ledger = ShadowStatistics(2, 5.0)
    former = ledger.open((A, B), clock)
    answers = ModelOutput([1], None)
    former.note(answers, answers, 0.0, [[1.0]])
    assert ledger.open((A, B), clock) is former
    assert ledger.summary("r", A, C, examples=True).requests == 0
    page = ledger.open((A, C), clock)
    former.note(answers, answers, 0.0, [[1.0]])
    assert page.requests == 0
    assert ledger.summary("r", A, C, examples=True).agreement is None
    assert ledger.summary("r", A, None, examples=True).b is None
