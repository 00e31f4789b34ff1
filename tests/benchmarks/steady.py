"""The open loop: a steady rate, while production is switched back and forth."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.cases import PREDICT
from tests.benchmarks.wrk import BenchmarkError
from tests.support.gateway_harness import RunningGateway
from tests.support.servers import ROOT

NOOP_RUN = "no-op uvicorn application"
STEADY_RUN = "gateway"
SWITCHED_RUN = "gateway, switched meanwhile"
SWITCH_SECONDS = 0.1
_MARGIN_SECONDS = 0.5
"""Load before the first switch, and after the last one."""


def run_open_loop(
    url: str, rate: float, seconds: float, meanwhile: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Load /predict of a server from a process of its own; the figures.

    Args:
        url: of the server.
        rate: requests per second.
        seconds: how long.
        meanwhile: called once the load is under way.

    Raises:
        BenchmarkError: the generator failed.
    """
    argv = [sys.executable, "-m", "tests.benchmarks.open_loop", f"{url}/predict"]
    argv += ["--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--body", PREDICT.decode()]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as generator:
        try:
            time.sleep(_MARGIN_SECONDS)
            if meanwhile is not None:
                meanwhile()
            text, _ = generator.communicate(timeout=seconds + 60)
        except BaseException:
            generator.kill()
            raise
    if not text:
        raise BenchmarkError(f"the load on {url} ended with {generator.returncode}")
    figures: dict[str, Any] = json.loads(text)
    return {"rate": round(rate, 1), **figures}


def switch(gateway: RunningGateway, switches: int, seconds: float) -> int:
    """Move A between versions 2 and 1, one switch each tenth of a second; how many were made.

    Args:
        gateway: which one.
        switches: the most.
        seconds: after which no further one begins, so that all happen under load.

    Raises:
        BenchmarkError: a switch was refused.
    """
    started = time.monotonic()
    for number in range(switches):
        if time.monotonic() - started > seconds:
            return number
        version = 2 - number % 2
        answer = gateway.reload(version=version, run_id=f"run-{version}")
        if answer.status_code != 200:
            raise BenchmarkError(f"switch {number + 1} was refused: {answer.text}")
        time.sleep(max(0.0, started + (number + 1) * SWITCH_SECONDS - time.monotonic()))
    return switches


def measure_steady(
    gateway: RunningGateway, noop: str, rate: float, switches: int
) -> dict[str, dict[str, Any]]:
    """The same load on the no-op application, on the gateway, and on the gateway with switches.

    The first says what the machine and the generator contribute.
    """
    seconds = switches * SWITCH_SECONDS + 2 * _MARGIN_SECONDS
    made = 0

    def work() -> None:
        nonlocal made
        made = switch(gateway, switches, seconds - _MARGIN_SECONDS)

    found = {}
    for name, url, meanwhile in (
        (NOOP_RUN, noop, None),
        (STEADY_RUN, gateway.url, None),
        (SWITCHED_RUN, gateway.url, work),
    ):
        sys.stderr.write(f"open loop: {name}, {rate:,.0f} requests/s\n")
        found[name] = run_open_loop(url, rate, seconds, meanwhile)
    found[SWITCHED_RUN]["switches"] = made
    return found
