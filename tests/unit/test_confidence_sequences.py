"""Confidence sequences beside published values and other computations; their records."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_gateway.contract import (
    LATENCY_EDGES,
    BoundedMean,
    BucketCounts,
    ConfidenceSequence,
    EventRate,
    Interval,
    PairedOutcomes,
    Trials,
    proportion_difference,
    quantile_ratio,
)
from serving_gateway.contract.confidence import trials as trials_module
from tests.support import sequences

ALPHA = 0.05
LIMIT = math.log(1 / ALPHA)


def bounded(values: list[float], low: float = -1.0, high: float = 1.0) -> BoundedMean:
    return BoundedMean(len(values), math.fsum(values), math.fsum(x * x for x in values), low, high)


def test_the_martingale_of_trials_has_the_published_value(monkeypatch: pytest.MonkeyPatch) -> None:
    # The reference implementation of Howard et al. (confseq, its unit tests): two-sided
    # beta-binomial mixture, optimal at variance 100 and 5 %, steps of -0.2 and 0.8, at sum 10 and
    # variance 100: 625 trials with probability 0.2, of which 135 succeed. 12.60056 is their
    # published scale of the mixture at this optimum.
    scale = 12.60056 - 0.2 * 0.8
    monkeypatch.setattr(trials_module, "MIXTURE", ((scale / 0.8, scale / 0.2),))
    assert Trials(135, 625).evidence()(0.2) == pytest.approx(-0.6941012, abs=1e-6)


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (3, 400), (81, 263), (980, 1_000), (7, 7)])
def test_bounds_of_a_proportion_are_where_the_martingale_reaches_its_limit(
    hits: int, count: int
) -> None:
    found = Trials(hits, count).bounds(ALPHA)
    for bound, limit in ((found.low, 0.0), (found.high, 1.0)):
        if bound == limit:
            assert hits in (0, count)
        else:
            assert sequences.trials(hits, count, bound) == pytest.approx(LIMIT, abs=1e-6)
    assert found.low <= hits / count <= found.high


def test_bounds_of_a_difference_exclude_every_pair_of_probabilities_beyond() -> None:
    a, b = Trials(3, 900), Trials(30, 600)
    found = proportion_difference(a, b, 0.01)
    grid = np.linspace(1e-5, 0.2, 20_000)
    for bound in (found.low, found.high):
        pairs = grid[(grid + bound > 0) & (grid + bound < 1)]
        evidence = np.add(
            sequences.trials(a.successes, a.trials, pairs),
            sequences.trials(b.successes, b.trials, pairs + bound),
        )
        assert evidence.min() == pytest.approx(math.log(100), abs=1e-3)
    assert found.low < 30 / 600 - 3 / 900 < found.high


def test_bounds_of_paired_outcomes_are_where_the_capital_of_all_bets_reaches_its_limit() -> None:
    losses = np.repeat([1.0, -1.0, 0.0], [25, 8, 967])
    found = PairedOutcomes(25, 8, 967).bounds(ALPHA)
    assert sequences.capital(losses, found.low) == pytest.approx(math.log(2 / ALPHA), abs=1e-6)
    assert sequences.capital(-losses, -found.high) == pytest.approx(math.log(2 / ALPHA), abs=1e-6)


def test_bounds_of_a_mean_are_where_the_bernstein_bound_of_all_bets_reaches_its_limit() -> None:
    values = np.random.default_rng(4).beta(2, 5, 400)
    found = bounded(values.tolist(), 0.0, 1.0).bounds(ALPHA)
    for side, bound in ((values, found.low), (1 - values, 1 - found.high)):
        evidence = sequences.bernstein(side, bound)[-1]
        assert evidence == pytest.approx(math.log(2 / ALPHA), abs=1e-2)
        assert sequences.capital(side * 2 - 1, bound * 2 - 1) >= evidence - 1e-3
    assert found.low < values.mean() < found.high
    assert found.high - found.low < 0.12


def test_values_of_another_unit_have_the_same_bounds_in_it() -> None:
    values = np.random.default_rng(5).beta(1, 9, 200)
    unit = bounded(values.tolist(), 0.0, 1.0).bounds(ALPHA)
    shifted = bounded((values * 10 - 5).tolist(), -5.0, 5.0).bounds(ALPHA)
    assert shifted.low == pytest.approx(unit.low * 10 - 5, abs=1e-9)
    assert shifted.high == pytest.approx(unit.high * 10 - 5, abs=1e-9)


@pytest.mark.parametrize(("events", "exposure"), [(0, 50.0), (5, 1_000.0), (400, 3.0)])
def test_bounds_of_a_rate_are_where_the_martingale_reaches_its_limit(
    events: int, exposure: float
) -> None:
    found = EventRate(events, exposure).bounds(ALPHA)
    for bound in (found.low, found.high) if events else (found.high,):
        assert sequences.rate(events, exposure, bound) == pytest.approx(LIMIT, abs=1e-6)
    assert found.low <= events / exposure < found.high


def test_bounds_of_a_quantile_are_the_edges_of_the_buckets_that_trials_leave() -> None:
    values = np.random.default_rng(6).lognormal(-5, 0.5, 2_000)
    counts = BucketCounts.of(LATENCY_EDGES, values.tolist())
    for order in (0.5, 0.99):
        upto = np.searchsorted(np.sort(values), LATENCY_EDGES, side="right")
        share = [Trials(int(number), 2_000).bounds(ALPHA) for number in upto]
        below = [edge for edge, one in zip(LATENCY_EDGES, share, strict=True) if one.high < order]
        above = [edge for edge, one in zip(LATENCY_EDGES, share, strict=True) if one.low > order]
        assert counts.bounds(ALPHA, order) == Interval(below[-1], above[0])
        true = math.exp(NormalDist(-5, 0.5).inv_cdf(order))
        assert below[-1] < true <= above[0]


def test_a_ratio_of_quantiles_takes_half_of_the_error_rate_for_each() -> None:
    random, edges = np.random.default_rng(11), tuple(np.linspace(0.001, 0.03, 3_000).tolist())
    a, b = (BucketCounts.of(edges, random.lognormal(-5, 0.5, 2_000).tolist()) for _ in range(2))
    first, second = a.bounds(ALPHA / 2), b.bounds(ALPHA / 2)
    assert first != a.bounds(ALPHA)
    assert quantile_ratio(a, b, 0.5, ALPHA) == (
        Interval(second.low / first.high, second.high / first.low)
    )


def test_a_ratio_of_quantiles_has_no_bound_where_no_edge_bounds_them() -> None:
    a = BucketCounts((0.01, 0.02, 0.04), (40, 900, 40, 20))
    b = BucketCounts((0.01, 0.02, 0.04), (0, 40, 900, 60))
    # Beyond the last edge there is no upper bound, below the first one no lower one.
    assert quantile_ratio(a, BucketCounts((0.01, 0.02, 0.04), (0, 0, 0, 99)), 0.5, ALPHA) == (
        Interval(2.0, math.inf)
    )
    assert quantile_ratio(BucketCounts((0.01,), (99, 0)), b, 0.5, ALPHA).high == math.inf


RECORDS: list[tuple[ConfidenceSequence, ConfidenceSequence, ConfidenceSequence]] = [
    (Trials(1, 4), Trials(2, 6), Trials(3, 10)),
    (PairedOutcomes(1, 2, 3), PairedOutcomes(0, 1, 9), PairedOutcomes(1, 3, 12)),
    (EventRate(2, 10.0), EventRate(1, 5.0), EventRate(3, 15.0)),
    (bounded([0.5, -0.5]), bounded([0.25]), bounded([0.5, -0.5, 0.25])),
    (
        BucketCounts((1.0, 2.0), (1, 2, 3)),
        BucketCounts((1.0, 2.0), (0, 1, 0)),
        BucketCounts((1.0, 2.0), (1, 3, 3)),
    ),
]


@pytest.mark.parametrize(("one", "other", "both"), RECORDS)
def test_records_of_replicas_add_up_and_survive_json(
    one: ConfidenceSequence, other: ConfidenceSequence, both: ConfidenceSequence
) -> None:
    assert one + other == other + one == both
    assert msgspec.json.decode(msgspec.json.encode(both), type=type(both)) == both


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.5, -0.1, math.nan])
@pytest.mark.parametrize("record", [one for one, _, _ in RECORDS])
def test_what_is_no_error_rate_is_refused(record: ConfidenceSequence, alpha: float) -> None:
    with pytest.raises(ValueError, match="error rate lies between 0 and 1"):
        record.bounds(alpha)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Trials(-1, 3), "'successes'.*-1 is not a count"),
        (lambda: Trials(1.5, 3), "'successes'.*1.5 is not a count"),  # type: ignore[arg-type]
        (lambda: Trials(4, 3), "3 trials cannot have 4 successes"),
        (lambda: PairedOutcomes(1, 2, -3), "'alike'.*-3"),
        (lambda: EventRate(1, 0.0), "1 events cannot have the exposure 0.0"),
        (lambda: EventRate(0, math.inf), "exposure inf"),
        (lambda: BoundedMean(1, 0.0, 0.0, 1.0, 1.0), "two finite numbers: 1.0, 1.0"),
        (lambda: BoundedMean(1, 0.0, 0.0, 0.0, math.inf), "two finite numbers"),
        (lambda: bounded([2.0]), "cannot have the sum 2.0"),
        (lambda: BoundedMean(2, 0.0, 3.0, -1.0, 1.0), "sum of squares 3.0"),
        (lambda: BoundedMean(2, 1.0, 0.1, -1.0, 1.0), "sum of squares 0.1"),
        (lambda: BoundedMean(1, math.nan, 0.0, -1.0, 1.0), "cannot have the sum nan"),
        (lambda: bounded([0.1]) + bounded([0.1], 0.0), "no common bounds"),
        (lambda: BucketCounts((1.0, 1.0), (0, 0, 0)), "rise"),
        (lambda: BucketCounts((1.0,), (0,)), "1 edges and 1 counts"),
        (lambda: BucketCounts((1.0,), (0, -2)), r"'counts\[1\]'.*-2"),
        (lambda: BucketCounts((), (1,)) + BucketCounts((1.0,), (1, 0)), "different edges"),
        (lambda: BucketCounts((1.0,), (1, 0)).bounds(ALPHA, 1.0), "order.*1.0 does not"),
    ],
)
def test_what_no_observations_can_have_is_refused(
    build: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_without_observations_nothing_is_excluded() -> None:
    assert Trials(0, 0).bounds(ALPHA) == Interval(0, 1)
    assert proportion_difference(Trials(0, 0), Trials(1, 2), ALPHA) == Interval(-1, 1)
    assert PairedOutcomes(0, 0, 0).bounds(ALPHA) == Interval(-1, 1)
    assert BoundedMean(0, 0.0, 0.0, -2.0, 3.0).bounds(ALPHA) == Interval(-2, 3)
    assert EventRate(0, 0.0).bounds(ALPHA) == Interval(0, math.inf)
    assert BucketCounts((1.0,), (0, 0)).bounds(ALPHA) == Interval(-math.inf, math.inf)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_share_lies_within_its_bounds(hits: int, misses: int) -> None:
    found = Trials(hits, hits + misses).bounds(ALPHA)
    share = hits / (hits + misses) if hits + misses else 0.5
    assert 0 <= found.low <= share <= found.high <= 1


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_the_mean_lies_within_its_bounds(values: list[float]) -> None:
    found, mean = bounded(values).bounds(ALPHA), math.fsum(values) / len(values)
    assert -1 <= found.low <= mean + 1e-9
    assert mean - 1e-9 <= found.high <= 1


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_difference_of_paired_outcomes_lies_within_its_bounds(
    only_b: int, only_a: int, alike: int
) -> None:
    found, mean = PairedOutcomes(only_b, only_a, alike).bounds(ALPHA), 0.0
    if rows := only_b + only_a + alike:
        mean = (only_b - only_a) / rows
    assert -1 <= found.low <= mean <= found.high <= 1
