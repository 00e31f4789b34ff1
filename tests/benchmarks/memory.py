"""Resident memory of a gateway after load: one model, ten models, everything enabled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from serving_gateway.contract import DEFAULT_MODEL
from tests.benchmarks.cases import PREDICT
from tests.benchmarks.environment import start_gateway
from tests.benchmarks.wrk import BenchmarkError, Case, run
from tests.support.gateway_harness import RunningGateway
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import RunningTriton, run_triton

MODELS = 10


def measure_memory(home: Path, *, seconds: int = 5) -> dict[str, float]:
    """MiB resident after `seconds` of load from 64 connections, by set-up.

    Raises:
        BenchmarkError: a reload or a prediction failed.
    """
    names = [DEFAULT_MODEL, *(f"model_{number}" for number in range(2, MODELS + 1))]
    repository = home / "repository"
    for name in names:
        write_entry(repository, name, {1: telltale(1)})
    with run_triton(repository, home) as triton:
        return {
            "one model": _after_load(home / "one", triton, names[:1], seconds, light=True),
            "ten models": _after_load(home / "ten", triton, names, seconds, light=True),
            "one model, samples and Feast": _after_load(
                home / "all", triton, names[:1], seconds, light=False
            ),
        }


def _after_load(
    home: Path, triton: RunningTriton, names: list[str], seconds: int, *, light: bool
) -> float:
    sys.stderr.write(f"memory: {len(names)} models\n")
    with start_gateway(home, triton.http_url, light=light) as gateway:
        for name in names:
            _reload(gateway, name)
            url = f"{gateway.url}/models/{name}/predict"
            run(Case(name, url, PREDICT), 64, max(1, seconds // len(names)), home)
        return resident_mib(gateway)


def _reload(gateway: RunningGateway, name: str) -> None:
    body: dict[str, Any] = {"version": 1, "run_id": "run-1"}
    answer = gateway.client.post(f"/models/{name}/variant/A/reload", json=body)
    if answer.status_code != 200:
        raise BenchmarkError(f"reload of {name}: {answer.text}")


def resident_mib(gateway: RunningGateway) -> float:
    """MiB resident of a gateway's process."""
    return round(gateway.process.server.memory_info().rss / 2**20, 1)
