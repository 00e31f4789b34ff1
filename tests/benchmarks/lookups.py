"""`python -m tests.benchmarks.lookups`: CPU and time of features by several keys, on a real Redis.

As `in_process`, but one request names the entity of one view, and the other those of three views
by three keys and request features. The look-up of many entities is timed without a prediction.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from platform_assets.resources.feast import FeastResource
from serving_gateway.contract import DType, Feature, Mode, RoutingRecord, Signature, Slot
from serving_gateway.features.feast_store import FeastStore
from serving_gateway.features.reader import FeatureReader
from serving_gateway.replication.file_store import FileStore
from tests.benchmarks.in_process import BATCH, batch, prepare, wait_quiet, wait_ready
from tests.benchmarks.memory_network import MemoryClient, MemoryLoop, gateway_config, serving
from tests.benchmarks.open_loop import post
from tests.benchmarks.wrk import BenchmarkError
from tests.support.feature_lookups import look_up
from tests.support.servers import run_redis

ENTITIES = 64
KEYS = ("customer_id", "merchant_id", "card_id")
VIEWS = ("customers", "merchants", "cards")
WIDTH = 4
"""Features by view."""
REQUEST = ("amount", "hour")
STORED = {name: tuple(f"{name}_{at}" for at in range(WIDTH)) for name in VIEWS}
ALL_STORED = tuple(name for view in VIEWS for name in STORED[view])
_GATEWAY_PORT = 8080
_URL = f"http://127.0.0.1:{_GATEWAY_PORT}/models/{{model}}/predict"
_ONE = post(_URL.format(model="one"), b'{"entity_id":17,"client_id":"customer-17"}')
_SEVERAL = post(
    _URL.format(model="several"),
    b'{"entities":{"customer_id":17,"merchant_id":9,"card_id":40},'
    b'"request":{"amount":12.5,"hour":23},"client_id":"customer-17"}',
)


def fill(home: Path, redis: str) -> None:
    """Three views by three keys, with entities 1 to `ENTITIES` in each."""
    import pandas as pd
    from feast import (
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        ValueType,
    )
    from feast.types import Float32

    feast = FeastResource(state_dir=str(home), online_store="redis", redis=redis)
    views: list[Any] = []
    for view, key in zip(VIEWS, KEYS, strict=True):
        entity = Entity(name=key, join_keys=[key], value_type=ValueType.INT64)
        source = FileSource(name=view, path=f"{view}.parquet", timestamp_field="event_timestamp")
        schema = [Field(name=name, dtype=Float32) for name in STORED[view]]
        views.append(
            FeatureView(
                name=view, entities=[entity], ttl=timedelta(days=1), schema=schema, source=source
            )
        )
        feast.apply([entity, source, views[-1]])
    feast.apply(
        [
            FeatureService(name="one", features=[views[0]]),
            FeatureService(name="several", features=views),
        ]
    )
    store = FeatureStore(repo_path=str(feast.home), fs_yaml_file=feast.render())
    ids = range(1, ENTITIES + 1)
    for view, key in zip(VIEWS, KEYS, strict=True):
        rows = pd.DataFrame({key: ids, "event_timestamp": datetime.now(UTC)})
        rows[[*STORED[view]]] = 0.5
        store.write_to_online_store(view, rows)


def route(state_dir: Path) -> None:
    """Write the routing records of a model that reads one view, and of one that reads three."""
    several = signature_of("several", (*ALL_STORED, *REQUEST), KEYS, REQUEST)
    one = signature_of("one", STORED[VIEWS[0]], KEYS[:1])
    for name, signature in (("one", one), ("several", several)):
        slot = Slot(1, "run-1", "registry", Mode.SSOT, signature)
        record = RoutingRecord(model_name=name, generation=1, variants={"A": slot})
        asyncio.run(FileStore(state_dir).replace(RoutingRecord(name), record))


def signature_of(
    service: str, names: tuple[str, ...], keys: tuple[str, ...], request: tuple[str, ...] = ()
) -> Signature:
    """The signature of a version that reads these features."""
    features = tuple(Feature(name, DType.FP32) for name in names)
    return Signature(features, "features", feature_service=service, join_keys=keys, request=request)


async def measure(home: Path, batches: int) -> dict[str, Any]:
    """Microseconds of CPU by prediction, and milliseconds of a look-up of `ENTITIES`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MemoryLoop)
    spent: dict[bytes, list[float]] = {_ONE: [], _SEVERAL: []}
    async with serving(gateway_config()):
        client = MemoryClient(loop, _GATEWAY_PORT)
        await wait_ready(client)
        await wait_quiet()
        client = MemoryClient(loop, _GATEWAY_PORT)
        for request in spent:
            await batch(client, 3 * BATCH, request)
        gc.collect()
        gc.freeze()
        for _ in range(batches):
            for request, found in spent.items():
                found.append(await batch(client, BATCH, request))
        client.close()
    times = await time_look_ups(home, batches)
    ratios = [several / one for one, several in zip(*spent.values(), strict=True)]
    return {
        "one_view_us": round(min(spent[_ONE]), 1),
        "three_views_us": round(min(spent[_SEVERAL]), 1),
        "ratio": round(min(spent[_SEVERAL]) / min(spent[_ONE]), 2),
        "ratio_median": round(median(ratios), 2),
        "entities": ENTITIES,
        "look_up_ms": round(min(times), 2),
        "look_up_median_ms": round(median(times), 2),
    }


async def time_look_ups(home: Path, times: int) -> list[float]:
    """Milliseconds of look-ups of `ENTITIES` by three keys, one after the other."""
    store = FeastStore(home)
    reader = FeatureReader(store, limit_seconds=5)
    ids = [(one, 1 + one * 7 % ENTITIES, 1 + one * 5 % ENTITIES) for one in range(1, ENTITIES + 1)]
    found = []
    try:
        await store.prepare("several")
        for _ in range(times):
            started = time.perf_counter()
            results = await look_up(reader, "several", ALL_STORED, ids, keys=KEYS)
            found.append((time.perf_counter() - started) * 1e3)
            if any(one.values is None for one in results):
                raise BenchmarkError(f"entities were not found: {results}")
    finally:
        await reader.aclose()
    return found


def main() -> int:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.lookups")
    parser.add_argument("--batches", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, run_redis(Path(folder) / "redis") as redis:
        home = Path(folder)
        fill(home / "feast", redis.url)
        prepare(home)
        os.environ["GATEWAY_FEAST_DIR"] = str(home / "feast")
        os.environ["GATEWAY_FEATURE_SECONDS"] = "5"
        route(home / "gateway")
        with asyncio.Runner(loop_factory=lambda: MemoryLoop({redis.port})) as runner:
            try:
                figures = runner.run(measure(home / "feast", arguments.batches))
            except BenchmarkError as error:
                sys.stderr.write(f"{error}\n")
                return 1
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
