"""Medians and ratios of the rounds of the closed loop: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tests.benchmarks.wrk import Measurement

Rounds = Sequence[Mapping[tuple[str, int], Measurement]]
"""By round: (case, connections) -> what was measured."""


def throughput_ratios(
    rounds: Rounds, case: str, bases: Sequence[str], connections: int
) -> list[float]:
    """By round, requests/s of a case to those of the best of `bases` in the same round.

    Within the round, so that a slow moment of the machine weighs on both sides.
    """
    return [
        found[case, connections].per_second
        / max(found[base, connections].per_second for base in bases)
        for found in rounds
    ]


def latency_ratios(rounds: Rounds, case: str, base: str, connections: int) -> list[float]:
    """By round, p50 of a case to that of `base` in the same round."""
    return [found[case, connections].p50_ms / found[base, connections].p50_ms for found in rounds]


def summarize(rounds: Rounds, raw: Sequence[str]) -> list[dict[str, Any]]:
    """Medians over the rounds by case and connections, with the ratio to the better `raw` case."""
    rows: list[dict[str, Any]] = []
    for name, connections in rounds[0]:
        here = [found[name, connections] for found in rounds]
        ratios = throughput_ratios(rounds, name, raw, connections)
        rows.append(
            {
                "case": name,
                "connections": connections,
                "per_second": round(median(m.per_second for m in here), 1),
                "ratio": round(median(ratios), 3),
                "ratio_lowest": round(min(ratios), 3),
                "ratio_highest": round(max(ratios), 3),
                "p50_ms": round(median(m.p50_ms for m in here), 3),
                "p99_ms": round(median(m.p99_ms for m in here), 3),
            }
        )
    return rows
