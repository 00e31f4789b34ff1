"""Gateways that look features up: the iris features in a Feast online store, by entity id."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

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
from tests.benchmarks.wrk import BenchmarkError
from tests.chain import FEATURE_ASSETS, Chain, new_chain
from tests.integration.gateway_harness import run_gateway
from tests.servers import RunningTriton, run_redis

ENTITIES = 150
"""Ids 1 to 150 are in the store."""


def route_to(state_dir: Path, chain: Chain) -> None:
    """Write the routing record of a gateway to come: A on version 1, with its signature."""
    signature = Signature(
        tuple(Feature(name, DType.FP32) for name in chain.spec.feature_names),
        packed_input="features",
        classes=(0, 1, 2),
        feature_service=chain.spec.feature_service,
    )
    slot = Slot(1, "run-1", "registry", Mode.SSOT, signature)
    record = RoutingRecord(model_name=DEFAULT_MODEL, generation=1, variants={"A": slot})
    asyncio.run(FileStore(state_dir).replace(RoutingRecord(DEFAULT_MODEL), record))


@contextlib.contextmanager
def start_entities(home: Path, triton: RunningTriton, store: str) -> Iterator[str]:
    """A gateway on a filled online store, `sqlite` or `redis`; its address.

    Raises:
        BenchmarkError: the store could not be filled.
    """
    home.mkdir(parents=True)
    logging.getLogger("dagster").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run_redis(home / "redis")).url if store == "redis" else ""
        chain = new_chain(home, redis=redis)
        failures = chain.run(*FEATURE_ASSETS).failures
        if failures:
            raise BenchmarkError(f"{store} was not filled: {failures}")
        route_to(home / "gateway", chain)
        # A saturated machine is no reason here to do without the store.
        env = {"GATEWAY_FEAST_DIR": str(chain.feast.home), "GATEWAY_FEATURE_SECONDS": "1"}
        gateway = stack.enter_context(run_gateway(home, triton.http_url, env=env))
        gateway.wait_ready()
        yield gateway.url
