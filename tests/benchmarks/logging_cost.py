"""`python -m tests.benchmarks logging`: what logging every request costs in throughput.

Two gateways in front of the same Triton, one without a prediction log and one that logs every
request, are loaded in turns. On a busy machine the best pair is the one that was disturbed least.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.cases import PREDICT
from tests.benchmarks.environment import start_gateway, start_triton
from tests.benchmarks.wrk import Case, run
from tests.support.gateway_harness import RunningGateway

CONNECTIONS = 64
PAIRS = 7
_CASES = ("off", "every request")


def measure_logging(home: Path, *, pairs: int = PAIRS, seconds: int = 3) -> dict[str, Any]:
    """Requests/s of both by pair, their ratios, and rows that were not logged.

    Raises:
        BenchmarkError: a prediction failed.
    """
    with contextlib.ExitStack() as stack:
        triton = stack.enter_context(start_triton(home))
        gateways: dict[str, RunningGateway] = {}
        for name in _CASES:
            folder = home / name.replace(" ", "-")
            log = {"GATEWAY_SAMPLE_DIR": str(folder / "log"), "GATEWAY_SAMPLE_FRACTION": "1"}
            env = {} if name == "off" else log
            one = start_gateway(folder, triton.http_url, env=env, light=True)
            gateways[name] = stack.enter_context(one)
            gateways[name].routed(1)
            _load(gateways[name], 1, home)
        found = []
        for number in range(pairs):
            # The order alternates, so that what changes with time disturbs both alike.
            order = _CASES if number % 2 else _CASES[::-1]
            found.append({name: _measured(gateways[name], seconds, home) for name in order})
            sys.stderr.write(f"logging: {found[-1]}\n")
        lost = _rows(gateways["every request"], "dropped") + _rows(
            gateways["every request"], "failed"
        )
    rates = [pair["every request"]["per_second"] / pair["off"]["per_second"] for pair in found]
    cpu = [pair["off"]["cpu_us"] / pair["every request"]["cpu_us"] for pair in found]
    return {
        "pairs": found,
        "ratios": [round(one, 3) for one in rates],
        "best_ratio": round(max(rates), 3),
        "median_ratio": round(median(rates), 3),
        "cpu_ratios": [round(one, 3) for one in cpu],
        "cpu_median_ratio": round(median(cpu), 3),
        "rows_lost": lost,
    }


def _measured(gateway: RunningGateway, seconds: int, folder: Path) -> dict[str, float]:
    """Requests/s, and CPU of the gateway by request, which other load disturbs less."""
    before = _cpu_seconds(gateway)
    per_second = _load(gateway, seconds, folder)
    spent = (_cpu_seconds(gateway) - before) / (per_second * seconds)
    return {"per_second": per_second, "cpu_us": round(1e6 * spent, 2)}


def _cpu_seconds(gateway: RunningGateway) -> float:
    spent = gateway.process.server.cpu_times()
    return float(spent.user + spent.system)


def _rows(gateway: RunningGateway, outcome: str) -> int:
    return int(gateway.metric("gateway_sample_rows_total", outcome=outcome))


def _load(gateway: RunningGateway, seconds: int, folder: Path) -> float:
    case = Case("logging", f"{gateway.url}/predict", PREDICT)
    return run(case, CONNECTIONS, seconds, folder).per_second
