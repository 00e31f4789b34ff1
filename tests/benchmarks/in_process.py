"""`python -m tests.benchmarks.in_process`: CPU of one plain /predict, without sockets.

The application that `serving_gateway` serves, wired by itself from the environment, and the no-op
application take turns in one process on connections kept in memory. The best of many batches is
what the code costs; the mean holds collections of garbage and background tasks too.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from serving_gateway.contract import (
    DEFAULT_MODEL,
    DType,
    Feature,
    Mode,
    RoutingRecord,
    Signature,
    Slot,
)
from serving_gateway.replication.file_store import FileStore
from tests.benchmarks.cases import PREDICT
from tests.benchmarks.environment import user_environment
from tests.benchmarks.memory_network import MemoryClient, MemoryLoop, gateway_config, serving
from tests.benchmarks.noop import server_config
from tests.benchmarks.open_loop import post
from tests.benchmarks.wrk import BenchmarkError

BATCH = 100
_GATEWAY_PORT, _NOOP_PORT = 8080, 8081
_REQUEST = post(f"http://127.0.0.1:{_GATEWAY_PORT}/predict", PREDICT)
_READY = b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
_READY_SECONDS = 30.0
_QUIET_SECONDS = 60.0


def prepare(home: Path) -> None:
    """Set this process's environment and the routing record of a gateway to come."""
    os.environ.update(user_environment(home))
    os.environ["GATEWAY_PORT"] = str(_GATEWAY_PORT)
    os.environ["GATEWAY_STATE_DIR"] = str(home / "gateway")
    signature = Signature(
        tuple(Feature(f"feature_{number}", DType.FP32) for number in range(4)),
        packed_input="features",
    )
    variants = {
        alias: Slot(version, f"run-{version}", "registry", Mode.SSOT, signature)
        for alias, version in (("A", 1), ("B", 2))
    }
    record = RoutingRecord(model_name=DEFAULT_MODEL, generation=1, variants=variants)
    asyncio.run(FileStore(home / "gateway").replace(RoutingRecord(DEFAULT_MODEL), record))


async def measure(batches: int, *, profile: bool = False) -> dict[str, Any]:
    """Microseconds of CPU by request, of the gateway and of the no-op application."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MemoryLoop)
    async with serving(gateway_config()), serving(server_config(port=_NOOP_PORT)):
        await wait_ready(MemoryClient(loop, _GATEWAY_PORT))
        await wait_quiet()
        gateway, noop = MemoryClient(loop, _GATEWAY_PORT), MemoryClient(loop, _NOOP_PORT)
        for client in (gateway, noop):
            await batch(client, 3 * BATCH)
        gc.collect()
        gc.freeze()
        spent: dict[str, list[float]] = {"gateway": [], "noop": []}
        for _ in range(batches):
            spent["gateway"].append(await batch(gateway, BATCH))
            spent["noop"].append(await batch(noop, BATCH))
        if profile:
            await _profile(gateway)
        for client in (gateway, noop):
            client.close()
    return summarize(spent)


def summarize(spent: dict[str, list[float]]) -> dict[str, Any]:
    """The figures, from CPU microseconds by request of each batch."""
    ratios = [ours / least for ours, least in zip(spent["gateway"], spent["noop"], strict=True)]
    return {
        **{f"{name}_us": round(min(found), 1) for name, found in spent.items()},
        **{f"{name}_median_us": round(median(found), 1) for name, found in spent.items()},
        **{f"{name}_mean_us": round(mean(found), 1) for name, found in spent.items()},
        "ratio": round(min(spent["gateway"]) / min(spent["noop"]), 2),
        "ratio_median": round(median(ratios), 2),
        "batches": len(ratios),
        "requests_per_batch": BATCH,
    }


async def batch(client: MemoryClient, requests: int, request: bytes = _REQUEST) -> float:
    """CPU microseconds by request, of all threads of this process."""
    started = time.process_time()
    succeeded = await client.send(request, requests)
    spent = time.process_time() - started
    if succeeded != requests:
        raise BenchmarkError(f"in process: {client.answers.decode(errors='replace')}")
    return spent / requests * 1e6


async def wait_ready(client: MemoryClient) -> None:
    """Wait until the gateway is ready, and close the client."""
    deadline = time.monotonic() + _READY_SECONDS
    while not await client.send(_READY):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"not ready: {client.answers.decode(errors='replace')}")
        await asyncio.sleep(0.05)
    client.close()


async def wait_quiet() -> None:
    """Wait until threads that a start leaves behind, as for the import of Feast, have ended."""
    deadline, quiet = time.monotonic() + _QUIET_SECONDS, 0
    while quiet < 3 and time.monotonic() < deadline:
        before = time.process_time()
        await asyncio.sleep(0.2)
        quiet = quiet + 1 if time.process_time() - before < 0.01 else 0


async def _profile(client: MemoryClient) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    await batch(client, 5_000)
    profiler.disable()
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(32)


def main() -> int:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.in_process")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=MemoryLoop) as runner:
        prepare(Path(folder))
        try:
            figures = runner.run(measure(arguments.batches, profile=arguments.profile))
        except BenchmarkError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
