"""`python -m tests.benchmarks.releases`: good and bad candidates on real servers, and 200 stops.

Two gateways on Redis behind HAProxy, one Triton, clients at a steady rate, and the pilot in short
steps. The exit code is 1 when a bad candidate was promoted or a good one was not, a request
failed, a client outside of a step's share met a candidate, or stops took too long.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.faults.candidates import equals_production
from tests.faults.release_trials import BAD, GOOD, attempt_all
from tests.faults.release_world import World, run_world
from tests.support.release_stops import measure_stops

MOST_STOP_SECONDS: Final = 0.1
"""Target: the 99th percentile from the call of a stop to the last request that B answered."""


def stops(world: World, times: int) -> dict[str, Any]:
    """Stop a release so many times."""
    version = world.package(equals_production())
    assert world.load(version)
    took = sorted(measure_stops(world.gateways, times, version))
    return {
        "stops": len(took),
        "p50_ms": round(took[len(took) // 2] * 1e3, 1),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1e3, 1),
        "longest_ms": round(took[-1] * 1e3, 1),
    }


def main() -> int:
    """Run it once and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.releases")
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--only", default="", help="candidates whose name contains this")
    arguments = parser.parse_args()
    trials = [one for one in (*BAD, *GOOD) if arguments.only in one.name]
    with tempfile.TemporaryDirectory() as folder, run_world(Path(folder)) as world:
        courses = []
        for course in attempt_all(world, trials):
            courses.append(course)
            sys.stderr.write(json.dumps(course.summary()) + "\n")
        stopped = stops(world, arguments.stops) if arguments.stops else {"p99_ms": 0.0}
    problems = sum(bool(one.problems) for one in courses)
    figures = {
        "bad": sum(one.trial in BAD for one in courses),
        "good": sum(one.trial in GOOD for one in courses),
        "with_problems": problems,
        "requests": sum(len(one.answers) for one in courses),
        "failed": sum(len(one.failed) for one in courses if not one.trial.fails_clients),
        "stops": stopped,
        "candidates": [one.summary() for one in courses],
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 1 if problems or stopped["p99_ms"] > MOST_STOP_SECONDS * 1e3 else 0


if __name__ == "__main__":
    sys.exit(main())
