"""Gateways that look features up: the iris features in a Feast online store, by entity id."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
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
from tests.benchmarks.environment import start_gateway
from tests.benchmarks.wrk import BenchmarkError
from tests.support.chain import FEATURE_ASSETS, Chain, new_chain
from tests.support.gateway_harness import RunningGateway
from tests.support.servers import RunningTriton, run_redis, wait_until

ENTITIES = 150
"""Ids 1 to 150 are in the store."""
_OPEN_SECONDS = 120.0


def route_to(state_dir: Path, chain: Chain, variants: Mapping[str, int] | None = None) -> None:
    """Write the routing record of a gateway to come, with the signature of the chain's model.

    Args:
        state_dir: of the gateway.
        chain: whose features are read.
        variants: version by alias; by default A on version 1.
    """
    signature = Signature(
        tuple(Feature(name, DType.FP32) for name in chain.spec.feature_names),
        packed_input="features",
        classes=(0, 1, 2),
        feature_service=chain.spec.feature_service,
    )
    slots = {
        alias: Slot(version, f"run-{version}", "registry", Mode.SSOT, signature)
        for alias, version in (variants or {"A": 1}).items()
    }
    record = RoutingRecord(model_name=DEFAULT_MODEL, generation=1, variants=slots)
    asyncio.run(FileStore(state_dir).replace(RoutingRecord(DEFAULT_MODEL), record))


@contextlib.contextmanager
def start_entities(home: Path, triton: RunningTriton, store: str) -> Iterator[RunningGateway]:
    """A gateway on a filled online store, `sqlite` or `redis`, with A and B on two versions.

    Raises:
        BenchmarkError: the store could not be filled.
        TimeoutError: the gateway does not find its entities.
    """
    home.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run_redis(home / "redis")).url if store == "redis" else ""
        chain = new_chain(home, redis=redis)
        _fill(chain, store)
        route_to(home / "gateway", chain, {"A": 1, "B": 2})
        # A look-up that a saturated machine delays must not become an answer without features.
        env = {"GATEWAY_FEAST_DIR": str(chain.feast.home), "GATEWAY_FEATURE_SECONDS": "1"}
        gateway = stack.enter_context(start_gateway(home, triton.http_url, env=env))
        gateway.wait_ready()
        # A start does not wait for the store, which may take longer than the start itself.
        wait_until(lambda: _knows_entities(gateway), _OPEN_SECONDS, f"{store} is open")
        yield gateway


def _knows_entities(gateway: RunningGateway) -> bool:
    return gateway.client.post("/predict", json={"entity_id": ENTITIES}).status_code == 200


def _fill(chain: Chain, store: str) -> None:
    # Dagster logs each event of a run, whatever level its logger has.
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            failures = chain.run(*FEATURE_ASSETS).failures
    finally:
        logging.disable(logging.NOTSET)
    if failures:
        raise BenchmarkError(f"{store} was not filled: {failures}")
