"""The latency gate keeps its error rates: simulated, as no server is needed for that."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from platform_assets.serving import latency
from platform_assets.serving.latency import CLIENTS, Latencies

RUNS = 500
BUDGET_MS = 10.0
FEWEST, USUAL = 304, 1000


def passes(monkeypatch: pytest.MonkeyPatch, slow: float, requests: int) -> int:
    """In how many of the runs a version passes that is slow in this share of the requests."""
    random = np.random.default_rng(11)

    def measure(*_: object) -> Latencies:
        over = random.random(requests) < slow
        return Latencies(1, tuple(np.where(over, 2 * BUDGET_MS, BUDGET_MS / 2).tolist()))

    monkeypatch.setattr(latency, "measure", measure)
    nothing = cast(Any, None)

    def fits(clients: int) -> bool:
        best = latency._best_round(nothing, {}, clients, BUDGET_MS, nothing)
        return best.p99_bound <= BUDGET_MS

    return sum(all(map(fits, CLIENTS)) for _ in range(RUNS))


@pytest.mark.parametrize("requests", [FEWEST, USUAL])
def test_version_over_its_budget_passes_at_most_once_in_a_hundred_runs(
    monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    assert passes(monkeypatch, 0.02, requests) <= RUNS / 100


@pytest.mark.parametrize("requests", [FEWEST, USUAL])
def test_version_within_its_budget_passes_nearly_always(
    monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    assert passes(monkeypatch, 0.001, requests) >= 0.9 * RUNS


@pytest.mark.parametrize("requests", [FEWEST, USUAL])
def test_bound_lies_above_the_true_percentile_in_95_of_100_measurements(requests: int) -> None:
    random = np.random.default_rng(12)
    true = float(np.log(100))  # the 99th percentile of an exponential distribution
    missed = sum(
        Latencies(1, tuple(random.exponential(size=requests).tolist())).p99_bound < true
        for _ in range(2 * RUNS)
    )
    assert missed <= 0.07 * 2 * RUNS  # 5 %, and three standard errors


def test_too_few_requests_bound_nothing() -> None:
    assert Latencies(1, (1.0,) * 298).p99_bound == float("inf")
    assert Latencies(1, (1.0,) * FEWEST).p99_bound == 1.0
