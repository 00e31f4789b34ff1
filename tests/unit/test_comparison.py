"""A candidate against production on the same rows: three verdicts, with known error rates.

The rates are simulated, by more runs in the long form (`FAULTS=long`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from platform_assets.model_spec import Gates, WhenInconclusive
from platform_assets.resources.records import Estimate
from platform_assets.serving.comparison import Comparison, ComparisonVerdict, compare
from platform_assets.serving.pictures import comparison_picture
from platform_assets.training.floor import estimate_metric, judge_floor
from platform_assets.training.metrics import METRICS, Answers
from platform_assets.training.uncertainty import jackknife
from tests.faults.scale import scale

Pair = tuple[Answers, Answers]
"""Answers of a candidate and of production."""

ACCURACY = METRICS["accuracy"]
CLASSES = (0, 1)


def right(shares: Any, labels: Any = None) -> Answers:
    """Answers that are right where `shares` is true."""
    mask = np.asarray(shares, dtype=bool)
    true = np.zeros(len(mask), np.int64) if labels is None else labels
    return Answers(true, np.where(mask, true, 1 - true), None, CLASSES)


def first(share: float, rows: int = 200) -> NDArray[np.bool_]:
    return np.arange(rows) < share * rows


def fought(new: Answers, old: Answers, entities: Any = None, **options: Any) -> Comparison:
    rows = len(new.label_true)
    return compare(
        options.pop("metric", ACCURACY),
        new,
        old,
        np.arange(rows) if entities is None else entities,
        **{"tolerance": 0.02, "confidence": 0.95, **options},
    )


def test_a_clear_loss_is_worse_and_a_clear_gain_is_not_inferior() -> None:
    lost = fought(right(first(0.7)), right(first(0.9)))
    assert lost.gain.value == pytest.approx(-0.2)
    assert lost.gain.low < -0.2 < lost.gain.high < 0
    assert lost.verdict is ComparisonVerdict.WORSE
    assert fought(right(first(0.9)), right(first(0.7))).verdict is ComparisonVerdict.NON_INFERIOR


def test_equal_answers_on_few_rows_prove_nothing_and_on_many_they_do() -> None:
    few = fought(right(first(0.9, 80)), right(first(0.9, 80)))
    assert few.gain.value == 0
    assert few.verdict is ComparisonVerdict.INCONCLUSIVE
    assert few.entities_needed is not None
    assert few.entities_needed > 80
    many = right(first(0.9, 5_000))
    assert fought(many, many).verdict is ComparisonVerdict.NON_INFERIOR


def test_a_loss_within_the_margin_is_not_inferior_however_certain_it_is() -> None:
    """A loss of half a point among 20,000 rows is certain, and the model file tolerates two."""
    old = first(0.9, 20_000)
    new = old.copy()
    new[:100] = False
    result = fought(right(new), right(old))
    assert result.gain.high < 0
    assert result.verdict is ComparisonVerdict.NON_INFERIOR


def test_without_a_margin_no_number_of_rows_would_do() -> None:
    result = fought(right(first(0.9)), right(first(0.9)), tolerance=0.0)
    assert result.entities_needed is None


def test_the_margin_of_an_error_is_a_part_of_productions() -> None:
    true = np.random.default_rng(1).normal(size=500) * 1e-3
    old = Answers(true, true + 3e-4)
    error = METRICS["mean_absolute_error"]
    result = fought(Answers(true, true + 3.03e-4), old, metric=error)
    assert result.margin == pytest.approx(6e-6)
    assert result.verdict is ComparisonVerdict.NON_INFERIOR
    tenfold = fought(Answers(true, true + 3e-3), old, metric=error)
    assert tenfold.gain.value < 0
    assert tenfold.verdict is ComparisonVerdict.WORSE


def test_rows_of_an_entity_count_once() -> None:
    """Ten rows of each of 40 entities are all answered alike: 400 rows know as much as 40."""
    new, old = first(0.85, 400), first(0.9, 400)
    by_row = fought(right(new), right(old))
    by_entity = fought(right(new), right(old), np.arange(400) // 10)
    assert by_entity.gain.entities == 40
    width = by_row.gain.high - by_row.gain.low
    assert by_entity.gain.high - by_entity.gain.low > 2.5 * width


def test_the_order_of_the_rows_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(3_000)
    new, old = right(first(0.88, 3_000)), right(first(0.9, 3_000))
    result = fought(new, old)
    shuffled = fought(new.take(order), old.take(order), np.arange(3_000)[order])
    assert (result.gain.low, result.gain.high) == pytest.approx(
        (shuffled.gain.low, shuffled.gain.high)
    )


def test_a_metric_that_rows_do_not_determine_has_no_interval() -> None:
    estimate = jackknife(
        lambda rows: 0.5 if rows is None else math.nan, np.arange(5), confidence=0.95
    )
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("gain", [0.0, 1e6])
@pytest.mark.parametrize("width", [0.0, 1e-9, 0.3, math.inf])
def test_every_comparison_has_a_picture(gain: float, width: float) -> None:
    estimate = Estimate(gain, gain - width, gain + width, 0.95, 10)
    result = Comparison(0.9, 0.8, estimate, 0.02)
    assert comparison_picture(result, "accuracy", 2, 1).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("share", "rows", "passed", "proven", "said"),
    [
        (0.95, 2_000, True, True, ""),
        (0.95, 40, True, False, "cannot rule out"),
        (0.85, 2_000, False, False, "is below the floor 0.9"),
        (1.0, 9, False, False, "gates.min_rows wants 10"),
    ],
)
def test_a_floor_is_judged_by_the_bound(
    share: float, rows: int, passed: bool, proven: bool, said: str
) -> None:
    estimate = estimate_metric(ACCURACY, right(first(share, rows)), np.arange(rows), 0.95)
    verdict = judge_floor(ACCURACY, estimate, 0.9, rows, Gates(metric_floor=0.9))
    assert (verdict.passed, verdict.proven) == (passed, proven)
    assert said in verdict.reason
    strict = Gates(metric_floor=0.9, when_inconclusive=WhenInconclusive.BLOCK)
    assert judge_floor(ACCURACY, estimate, 0.9, rows, strict).passed is proven


# Error rates. A candidate differs from production on 6 % of the rows; losses are in points of
# accuracy, or in per cent of the error.


def classifiers(random: np.random.Generator, rows: int, loss: float) -> Pair:
    labels = random.integers(0, 2, rows)
    old = random.random(rows) < 0.9
    chance = random.random(rows)
    new = np.where(old, chance > (0.06 + loss) / 2 / 0.9, chance < (0.06 - loss) / 2 / 0.1)
    return right(new, labels), right(old, labels)


def regressions(random: np.random.Generator, rows: int, loss: float) -> Pair:
    true = random.normal(size=rows) * 3
    shared = random.standard_t(5, rows)
    new, old = (true + shared * (1 + part) + random.normal(size=rows) * 0.3 for part in (loss, 0.0))
    return Answers(true, new), Answers(true, old)


def rankings(random: np.random.Generator, rows: int, loss: float) -> Pair:
    labels = random.integers(0, 2, rows)
    score = random.normal(size=rows) + (2 * labels - 1) * 1.3
    new, old = (score + random.normal(size=rows) * (0.3 + noise) for noise in (loss, 0.0))

    def answers(scores: NDArray[np.float64]) -> Answers:
        stated = 1 / (1 + np.exp(-2 * scores))
        return Answers(labels, (scores > 0).astype(int), np.c_[1 - stated, stated], CLASSES)

    return answers(new), answers(old)


def rates(
    metric: str, pairs: Callable[..., Pair], rows: int, loss: float, runs: int
) -> dict[ComparisonVerdict, float]:
    random = np.random.default_rng([rows, runs, round(loss * 1000)])
    counts = dict.fromkeys(ComparisonVerdict, 0)
    for _ in range(runs):
        new, old = pairs(random, rows, loss)
        counts[fought(new, old, metric=METRICS[metric]).verdict] += 1
    return {verdict: count / runs for verdict, count in counts.items()}


def most(rate: float, runs: int) -> float:
    """A rate that a simulation of a true `rate` exceeds once in a thousand cases."""
    return rate + 3.1 * math.sqrt(rate * (1 - rate) / runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "pairs", "rows", "runs"),
    [
        ("accuracy", classifiers, 80, scale(400, 1_000)),
        ("accuracy", classifiers, 1_000, scale(100, 300)),
        ("accuracy", classifiers, 20_000, scale(20, 40)),
        ("balanced_accuracy", classifiers, 80, 100),
        ("balanced_accuracy", classifiers, 1_000, 40),
        ("roc_auc", rankings, 80, 100),
        ("roc_auc", rankings, 1_000, 30),
        ("mean_absolute_error", regressions, 80, scale(400, 1_000)),
        ("mean_absolute_error", regressions, 1_000, scale(100, 300)),
        ("mean_absolute_error", regressions, 20_000, scale(20, 40)),
    ],
)
def test_an_equal_candidate_is_hardly_ever_called_worse(
    metric: str, pairs: Callable[..., Pair], rows: int, runs: int
) -> None:
    found = rates(metric, pairs, rows, 0.0, runs)
    assert found[ComparisonVerdict.WORSE] <= most(0.025, runs)


def stated_rates() -> list[tuple[int, float, dict[ComparisonVerdict, float]]]:
    """The table of the gates' page: rows, loss, and how often each verdict is given."""
    page = (files("platform_assets.serving") / "README.md").read_text()
    table = page.partition("<!-- gate simulations -->")[2].partition("<!-- end -->")[0]
    order = (
        ComparisonVerdict.NON_INFERIOR,
        ComparisonVerdict.INCONCLUSIVE,
        ComparisonVerdict.WORSE,
    )
    found = []
    for line in table.strip().splitlines()[2:]:
        rows, loss, *shares = (float(cell.replace(",", "")) for cell in line.strip("| ").split("|"))
        by_verdict = {verdict: share / 100 for verdict, share in zip(order, shares, strict=True)}
        found.append((int(rows), loss / 100, by_verdict))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "loss", "stated"), stated_rates())
def test_verdicts_are_given_as_often_as_the_page_states(
    rows: int, loss: float, stated: dict[ComparisonVerdict, float]
) -> None:
    runs = {80: scale(200, 400), 1_000: scale(60, 150), 20_000: scale(10, 20)}[rows]
    for verdict, share in rates("accuracy", classifiers, rows, loss, runs).items():
        assert share == pytest.approx(
            stated[verdict], abs=most(stated[verdict], runs) + 0.02 - stated[verdict]
        ), verdict


def test_the_page_states_the_error_rates_that_the_verdict_promises() -> None:
    by_loss = {(rows, loss): shares for rows, loss, shares in stated_rates()}
    assert {rows for rows, _ in by_loss} == {80, 1_000, 20_000}
    for rows in (80, 1_000, 20_000):
        assert by_loss[rows, 0.0][ComparisonVerdict.WORSE] <= 0.025
        # The share itself was simulated.
        assert by_loss[rows, 0.02][ComparisonVerdict.NON_INFERIOR] <= most(0.025, 2_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "runs"), [(80, scale(400, 1_000)), (1_000, scale(100, 300)), (20_000, scale(20, 40))]
)
def test_a_version_at_the_floor_is_hardly_ever_called_proven(rows: int, runs: int) -> None:
    random, gates, proven = np.random.default_rng(rows), Gates(metric_floor=0.9), 0
    for _ in range(runs):
        answers = right(random.random(rows) < 0.9)
        estimate = estimate_metric(ACCURACY, answers, np.arange(rows), 0.95)
        proven += judge_floor(ACCURACY, estimate, 0.9, rows, gates).proven
    assert proven / runs <= most(0.05, runs)


def test_statistic_of_one_entity_has_no_bounds() -> None:
    """Without it no rows are left, of which many metrics cannot be computed."""

    def statistic(chosen: Any) -> float:
        if chosen is not None and not chosen.any():
            raise ValueError("no rows")
        return 0.5

    estimate = jackknife(statistic, np.array(["a", "a"]), confidence=0.95)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, -math.inf, math.inf)
