"""The closed loop: all cases in turns, round after round, so that noise hits all alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import PREDICTIONS, RAW, Step
from tests.benchmarks.environment import set_policy
from tests.benchmarks.stage import Stage
from tests.benchmarks.summary import Rounds, summarize
from tests.benchmarks.wrk import BenchmarkError, Measurement, run


def measure_rounds(
    stage: Stage, *, rounds: int, seconds: int, connections: Sequence[int], folder: Path
) -> list[dict[tuple[str, int], Measurement]]:
    """Load every case with every number of connections, in every round.

    Raises:
        BenchmarkError: an answer was not 2xx.
    """
    for step in stage.steps:
        _run(stage, step, 8, 1, folder)
    measured = []
    for number in range(rounds):
        found: dict[tuple[str, int], Measurement] = {}
        for clients in connections:
            for step in stage.steps:
                found[step.case.name, clients] = _run(stage, step, clients, seconds, folder)
        measured.append(found)
        sys.stderr.write(f"throughput: round {number + 1} of {rounds}\n")
    set_policy(stage.gateway, "off", 0.0)
    return measured


def _run(stage: Stage, step: Step, connections: int, seconds: int, folder: Path) -> Measurement:
    if step.policy is not None:
        set_policy(stage.gateway, *step.policy)
    try:
        return run(step.case, connections, seconds, folder)
    except BenchmarkError as error:
        raise BenchmarkError(f"{error}\n{stage.log_tails()}") from error


def figures(rounds: Rounds) -> dict[str, Any]:
    """What the report shows, and every single measurement."""
    return {
        "rows": summarize(rounds, RAW),
        "measurements": [
            [
                {"case": case, "connections": connections, **asdict(measurement)}
                for (case, connections), measurement in found.items()
            ]
            for found in rounds
        ],
    }


def peak_per_second(rows: Sequence[dict[str, Any]]) -> float:
    """The highest throughput of /predict."""
    return max(float(row["per_second"]) for row in rows if row["case"] == PREDICTIONS)
