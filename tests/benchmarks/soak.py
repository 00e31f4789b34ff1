"""`python -m tests.benchmarks.soak`: resident memory of one worker over a million requests.

Says how long the gateway took from its start to ready, and samples its memory while it answers.
The exit code is 1 when it took 2 s, reached 120 MiB, or still grew over the last half.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import httpx

from tests.benchmarks.cases import PREDICT
from tests.benchmarks.environment import start_gateway, start_triton
from tests.benchmarks.memory import resident_mib
from tests.benchmarks.wrk import BenchmarkError, Case, run
from tests.support.servers import ServerError, answers_ok

LIMIT_MIB = 120.0
READY_SECONDS = 2.0
GROWTH_MIB = 1.0
"""Between the medians of the last two quarters: a leak of one byte a request would be more."""
_LOAD_SECONDS = 5


def main() -> int:
    """Load, print the samples; exit code 1 when a bound was missed or a request failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            ready, samples = soak(arguments, Path(folder), stack)
    except (BenchmarkError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    memory = [mib for _, mib in samples]
    figures = {
        "start_to_ready_seconds": round(ready, 2),
        "requests": samples[-1][0],
        "start_mib": memory[0],
        "largest_mib": max(memory),
        "growth_of_the_last_half_mib": round(growth(memory), 2),
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    good = ready < READY_SECONDS and max(memory) < LIMIT_MIB and growth(memory) < GROWTH_MIB
    return 0 if good else 1


def soak(
    arguments: argparse.Namespace, home: Path, stack: contextlib.ExitStack
) -> tuple[float, list[tuple[int, float]]]:
    """Seconds from start to ready, and (requests answered, MiB resident) again and again."""
    triton = stack.enter_context(start_triton(home))
    gateway = stack.enter_context(start_gateway(home, triton.http_url, light=True))
    gateway.routed(1)
    url = gateway.url
    gateway.process.stop()
    started = time.monotonic()
    gateway.process.start()
    while not answers_ok(f"{url}/ready"):
        time.sleep(0.01)
    ready = time.monotonic() - started
    case = Case("gateway", f"{url}/predict", PREDICT)
    samples = [(0, resident_mib(gateway))]
    while samples[-1][0] < arguments.requests:
        run(case, arguments.connections, _LOAD_SECONDS, home)
        samples.append((answered(url), resident_mib(gateway)))
        sys.stderr.write(f"{samples[-1][0]:>10,} requests  {samples[-1][1]:6.1f} MiB\n")
    return ready, samples


def growth(memory: Sequence[float]) -> float:
    """Difference between the medians of the last quarter of the samples and the one before."""
    quarter = max(1, len(memory) // 4)
    return median(memory[-quarter:]) - median(memory[-2 * quarter : -quarter])


def answered(url: str) -> int:
    """Predictions that the gateway says it answered."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("gateway_predictions_total{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if '"answered"' in line))


if __name__ == "__main__":
    sys.exit(main())
