"""Who else serves: each replica tells the store that it lives, and lists those that do."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from serving_gateway.errors import StoreUnavailable

if TYPE_CHECKING:
    from serving_gateway.serving import Serving
    from serving_gateway.store import RoutingStore

log = logging.getLogger(__name__)


class Identity(msgspec.Struct, frozen=True):
    """Which gateway process this is, whatever models it hosts."""

    id: str
    host: str
    pid: int
    started_at: str


def this_process() -> Identity:
    """The identity of this process from now on; another one at each call."""
    host = socket.gethostname()
    name = f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
    return Identity(name, host, os.getpid(), now())


class Replica(Identity, frozen=True):
    """What a gateway process tells of one model that it hosts."""

    generation: int
    """The one that it routes by."""
    ready: bool
    reasons: tuple[str, ...]
    """Why it is not ready."""


class LiveReplica(Replica, frozen=True):
    """A replica that told of itself a moment ago."""

    age_seconds: float
    """Time since it did."""


class Roster(msgspec.Struct, frozen=True):
    """All live replicas, as far as the store can tell."""

    replicas: tuple[LiveReplica, ...]
    in_sync: bool
    """Whether all of them route by the newest generation; false where nobody can tell."""
    problem: str | None
    """Why others than this replica may be missing."""


def now() -> str:
    """This moment in UTC, as RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def live(replica: Replica, age_seconds: float) -> LiveReplica:
    """The replica with its age."""
    return LiveReplica(**msgspec.structs.asdict(replica), age_seconds=round(age_seconds, 3))


def decode_replica(data: bytes, where: str) -> Replica:
    """Read what a replica told of itself.

    Raises:
        StoreUnavailable: it cannot be read; to leave it out would hide a replica.
    """
    try:
        return msgspec.json.decode(data, type=Replica)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(f"A replica in {where} cannot be read: {error}.") from error


def roster(own: Replica, found: Iterable[LiveReplica], stored_generation: int) -> Roster:
    """Put together what the store knows and what this replica knows better: itself."""
    others = [replica for replica in found if replica.id != own.id]
    replicas = sorted([live(own, 0.0), *others], key=lambda replica: replica.id)
    newest = max(stored_generation, *(replica.generation for replica in replicas), 0)
    in_sync = all(replica.generation == newest for replica in replicas)
    return Roster(tuple(replicas), in_sync, None)


def strangers(found: Iterable[LiveReplica], everybody: Iterable[LiveReplica]) -> list[LiveReplica]:
    """Live replicas that do not host the model of `found`: they answer none of its requests."""
    known = {replica.id for replica in found}
    return [
        msgspec.structs.replace(
            replica, generation=0, ready=False, reasons=("it does not host this model yet",)
        )
        for replica in everybody
        if replica.id not in known
    ]


class Presence:
    """This process among the replicas.

    Args:
        serving: what it routes by.
        store: where the replicas meet.
        identity: which process this is.
        everybody: where the replicas meet that may not host this model yet: the default model's
            store, since every replica hosts that; None for the default model itself.
        keep_seconds: for how long a replica that tells nothing more counts as live.
    """

    def __init__(
        self,
        serving: Serving,
        store: RoutingStore,
        identity: Identity,
        *,
        keep_seconds: float,
        everybody: RoutingStore | None = None,
    ) -> None:
        self._serving = serving
        self._store = store
        self._identity = identity
        self._keep_seconds = keep_seconds
        self._everybody = everybody

    def own(self) -> Replica:
        """This process at this moment."""
        found = self._serving.readiness()
        return Replica(
            id=self._identity.id,
            host=self._identity.host,
            pid=self._identity.pid,
            started_at=self._identity.started_at,
            generation=self._serving.table.record.generation,
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

    async def roster(self) -> Roster:
        """All live replicas, asked now."""
        try:
            record = await self._store.read()
            found = await self._store.replicas(self._keep_seconds)
            if self._everybody is not None:
                found += strangers(found, await self._everybody.replicas(self._keep_seconds))
        except StoreUnavailable as error:
            return Roster((live(self.own(), 0.0),), in_sync=False, problem=error.message)
        return roster(self.own(), found, record.generation)
