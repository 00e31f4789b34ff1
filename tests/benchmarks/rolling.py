"""`python -m tests.benchmarks.rolling`: roll gateways and Triton again and again under load.

Each round replaces both gateways and Triton as Kubernetes does by the manifests, at 200 requests
a second behind HAProxy. The exit code is 1 when a request failed, or a pod had to be killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.load import Answer, Load
from tests.support.rollout import Cluster, run_cluster

PER_SECOND = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the requests."""

    answers: list[Answer]
    seconds: float

    @property
    def failed(self) -> list[Answer]:
        """Requests that got no answer, or a wrong one: version 1 says so itself."""
        return [one for one in self.answers if one.status != 200 or one.predictions != [1]]

    def summary(self) -> dict[str, Any]:
        """The figures."""
        waits = sorted(answer.seconds for answer in self.answers)
        return {
            "seconds": round(self.seconds, 1),
            "requests": len(waits),
            "per_second": round(len(waits) / self.seconds),
            "failed": len(self.failed),
            "failed_by_status": dict(Counter(answer.status for answer in self.failed)),
            "latency_ms": {
                "p50": round(waits[len(waits) // 2] * 1e3, 1),
                "p99": round(waits[int(len(waits) * 0.99)] * 1e3, 1),
                "highest": round(waits[-1] * 1e3, 1),
            },
        }


def under_load(
    cluster: Cluster, work: Callable[[], None], per_second: float = PER_SECOND
) -> Outcome:
    """Do the work while clients ask, and wait for all deleted pods to be gone."""

    async def run() -> Outcome:
        started = time.monotonic()
        async with Load(cluster.gateways.url, 40, per_second=per_second) as load:
            await asyncio.to_thread(work)
            await asyncio.to_thread(cluster.settle)
        return Outcome(load.answers, time.monotonic() - started)

    return asyncio.run(run())


def main() -> int:
    """Run it once and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rolling")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pace", type=float, default=1.0, help="of the manifests' seconds")
    parser.add_argument("--without-pre-stop", action="store_true")
    arguments = parser.parse_args()

    with (
        tempfile.TemporaryDirectory() as folder,
        run_cluster(Path(folder), pace=arguments.pace) as cluster,
    ):
        cluster.pre_stop = not arguments.without_pre_stop

        def rounds() -> None:
            for number in range(arguments.rounds):
                cluster.replace_gateways()
                cluster.replace_triton()
                cluster.settle()
                sys.stderr.write(f"round {number + 1} of {arguments.rounds}\n")

        outcome = under_load(cluster, rounds)
    figures = {"rounds": arguments.rounds, **outcome.summary(), "killed": cluster.killed}
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    for answer in outcome.failed[:5]:
        sys.stdout.write(f"{answer}\n")
    return 1 if outcome.failed or cluster.killed else 0


if __name__ == "__main__":
    sys.exit(main())
