"""All servers of the closed and the open loop, running together."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.cases import Addresses, Step, steps
from tests.benchmarks.entities import ENTITIES, start_entities
from tests.benchmarks.environment import (
    BATCHED,
    start_noop,
    start_pass_through,
    start_triton,
    start_yardstick,
)
from tests.support.gateway_harness import RunningGateway


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers, and what is measured on them."""

    gateway: RunningGateway
    """With Feast on SQLite."""
    gateway_redis: RunningGateway
    addresses: Addresses
    steps: list[Step]

    def log_tails(self) -> str:
        """The last lines of the gateways, for the report of a failure."""
        return "\n".join(
            gateway.process.log_tail(5) for gateway in (self.gateway, self.gateway_redis)
        )


@contextlib.contextmanager
def run_stage(home: Path) -> Iterator[Stage]:
    """Start everything; A is on version 1 and B on version 2 of each gateway.

    Raises:
        BenchmarkError: a feature store could not be filled.
        ServerError: a server did not start.
    """
    with contextlib.ExitStack() as stack:
        sys.stderr.write("starting the servers and filling the feature stores\n")
        triton = stack.enter_context(start_triton(home))
        gateways = {
            store: stack.enter_context(start_entities(home / store, triton, store))
            for store in ("sqlite", "redis")
        }
        addresses = Addresses(
            triton=triton.http_url,
            yardstick=stack.enter_context(start_yardstick(home, triton)),
            noop=stack.enter_context(start_noop(home)),
            pass_through=stack.enter_context(start_pass_through(home, triton)),
            gateway=gateways["sqlite"].url,
            gateway_redis=gateways["redis"].url,
        )
        yield Stage(
            gateways["sqlite"], gateways["redis"], addresses, steps(addresses, BATCHED, ENTITIES)
        )
