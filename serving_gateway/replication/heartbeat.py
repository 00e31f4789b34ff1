"""Who else serves: each replica tells the store that it lives, and lists those that do."""

from __future__ import annotations

import logging

from serving_gateway.contract import ReplicaIdentity, ReplicaStatus
from serving_gateway.errors import StoreUnavailable
from serving_gateway.inference.router import Router
from serving_gateway.replication.replicas import (
    ReplicaList,
    live,
    replica_list,
    replicas_not_hosting,
)
from serving_gateway.replication.store import RoutingStore

log = logging.getLogger(__name__)


class Heartbeat:
    """This process among the replicas.

    Args:
        router: what it routes by.
        store: where the replicas meet.
        identity: which process this is.
        everybody: where the replicas meet that may not host this model yet: the default model's
            store, since every replica hosts that; None for the default model itself.
        keep_seconds: for how long a replica that tells nothing more counts as live.
    """

    def __init__(
        self,
        router: Router,
        store: RoutingStore,
        identity: ReplicaIdentity,
        *,
        keep_seconds: float,
        everybody: RoutingStore | None = None,
    ) -> None:
        self._router = router
        self._store = store
        self._identity = identity
        self._keep_seconds = keep_seconds
        self._everybody = everybody

    def own(self) -> ReplicaStatus:
        """This process at this moment."""
        found = self._router.readiness()
        return ReplicaStatus(
            id=self._identity.id,
            host=self._identity.host,
            pid=self._identity.pid,
            started_at=self._identity.started_at,
            generation=self._router.table.record.generation,
            ready=found.ready,
            reasons=found.reasons,
        )

    async def beat(self) -> None:
        """Tell that this process lives.

        Raises:
            StoreUnavailable: nobody can be told.
        """
        await self._store.beat(self.own(), self._keep_seconds)

    async def leave(self) -> None:
        """Tell that it ends; where nobody can be told, it expires."""
        try:
            await self._store.leave(self._identity.id)
        except StoreUnavailable as error:
            log.warning("the end was not told", extra={"reason": error.message})

    async def replica_list(self) -> ReplicaList:
        """All live replicas, asked now."""
        try:
            record = await self._store.read()
            found = await self._store.replicas(self._keep_seconds)
            if self._everybody is not None:
                found += replicas_not_hosting(
                    found, await self._everybody.replicas(self._keep_seconds)
                )
        except StoreUnavailable as error:
            return ReplicaList((live(self.own(), 0.0),), in_sync=False, problem=error.message)
        return replica_list(self.own(), found, record.generation)
