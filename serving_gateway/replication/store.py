"""What replication needs of a routing store; a file store and a Redis store provide it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from serving_gateway.contract import LiveReplica, ReplicaIdentity, RoutingRecord
from serving_gateway.replication.records import Stored
from serving_gateway.replication.replicas import ModelReport


class RoutingStore(Protocol):
    """Keeps the routing records of all models, and knows which replicas live.

    What reads or writes raises `StoreUnavailable` when that is not possible, and `RecordRefused`
    when the record itself is the reason.
    """

    async def read(self, model_name: str) -> RoutingRecord:
        """A model's record, read now; generation 0 when none was ever written."""

    async def read_all(self, hosted: Collection[str]) -> Mapping[str, Stored]:
        """The records of all models that have one and of those in `hosted`, in bulk.

        Cheap enough for several times a second: from memory for a few seconds while the store can
        tell that nothing was written. A record that did not change is the same object each time.
        """

    async def replace(self, expected: RoutingRecord, record: RoutingRecord) -> None:
        """Write and announce `record` in the place of `expected`; else `GenerationConflict`."""

    async def follow(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with each model that is written, until cancelled; some may be missed."""

    async def beat(
        self, replica: ReplicaIdentity, reports: Mapping[str, ModelReport], keep_seconds: float
    ) -> None:
        """Note that a replica lives, and what it reports of each model that it hosts."""

    async def leave(self, replica_id: str) -> None:
        """Forget a replica that ends."""

    async def replicas(self, model_name: str, keep_seconds: float) -> list[LiveReplica]:
        """All replicas noted within the last `keep_seconds`, with what they report of a model."""

    async def aclose(self) -> None:
        """Close connections."""
