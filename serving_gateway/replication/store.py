"""What replication needs of a routing store; a file store and a Redis store provide it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from serving_gateway.contract import LiveReplica, ReplicaIdentity, RoutingRecord
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.replicas import ModelReport

Stored = RoutingRecord | StoreUnavailable
"""A model's record, or why it alone cannot be read."""


class RoutingStore(Protocol):
    """Keeps the routing records of all models, and knows which replicas live."""

    async def read(self, model_name: str) -> RoutingRecord:
        """A model's record, read now; generation 0 when none was ever written.

        Raises:
            StoreUnavailable: it cannot be read.
            RecordRefused: it is corrupt, of a newer schema, or of another model.
        """

    async def read_all(self, hosted: Collection[str]) -> Mapping[str, Stored]:
        """The records of all models that have one and of those in `hosted`, in bulk.

        Cheap enough to be called several times a second: a store that can tell that nothing was
        written since the last call may answer from memory for a few seconds. A record that did
        not change is the same object each time.

        Raises:
            StoreUnavailable: none of them can be read.
        """

    async def replace(self, expected: RoutingRecord, record: RoutingRecord) -> None:
        """Write `record` in the place of exactly `expected`, and announce it.

        Raises:
            GenerationConflict: the store has another record; nothing was written.
            StoreUnavailable: it cannot be written, or what is there cannot be read.
        """

    async def follow(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with the name of each model whose record was written, until cancelled.

        A help, not a promise: what is announced meanwhile may be missed, so read as well.
        """

    async def beat(
        self, replica: ReplicaIdentity, reports: Mapping[str, ModelReport], keep_seconds: float
    ) -> None:
        """Note that a replica lives, and what it reports of each model that it hosts.

        To be repeated before `keep_seconds` have passed; only what changed is sent.

        Raises:
            StoreUnavailable: it cannot be noted.
        """

    async def leave(self, replica_id: str) -> None:
        """Forget a replica that ends.

        Raises:
            StoreUnavailable: it cannot be forgotten now; it expires.
        """

    async def replicas(self, model_name: str, keep_seconds: float) -> list[LiveReplica]:
        """The replicas noted within the last `keep_seconds`, with what they report of a model.

        Raises:
            StoreUnavailable: they cannot be listed, or not all of them can be read.
        """

    async def aclose(self) -> None:
        """Close connections."""
