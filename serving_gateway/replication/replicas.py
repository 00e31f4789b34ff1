"""What is known of the gateway processes that serve: pure, but for naming this one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from serving_gateway.contract import LiveReplica, ReplicaIdentity, ReplicaStatus
from serving_gateway.errors import StoreUnavailable


def this_process() -> ReplicaIdentity:
    """The identity of this process from now on; another one at each call."""
    host = socket.gethostname()
    name = f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
    return ReplicaIdentity(name, host, os.getpid(), now())


class ReplicaList(msgspec.Struct, frozen=True):
    """All live replicas, as far as the store can tell."""

    replicas: tuple[LiveReplica, ...]
    in_sync: bool
    """Whether all of them route by the newest generation; false where nobody can tell."""
    problem: str | None
    """Why others than this replica may be missing."""


def now() -> str:
    """This moment in UTC, as RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def live(replica: ReplicaStatus, age_seconds: float) -> LiveReplica:
    """The replica with its age."""
    return LiveReplica(**msgspec.structs.asdict(replica), age_seconds=round(age_seconds, 3))


def decode_replica(data: bytes, where: str) -> ReplicaStatus:
    """Read what a replica told of itself.

    Raises:
        StoreUnavailable: it cannot be read; to leave it out would hide a replica.
    """
    try:
        return msgspec.json.decode(data, type=ReplicaStatus)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(f"A replica in {where} cannot be read: {error}.") from error


def replica_list(
    own: ReplicaStatus, found: Iterable[LiveReplica], stored_generation: int
) -> ReplicaList:
    """Put together what the store knows and what this replica knows better: itself."""
    others = [replica for replica in found if replica.id != own.id]
    replicas = sorted([live(own, 0.0), *others], key=lambda replica: replica.id)
    newest = max(stored_generation, *(replica.generation for replica in replicas), 0)
    in_sync = all(replica.generation == newest for replica in replicas)
    return ReplicaList(tuple(replicas), in_sync, None)


def replicas_not_hosting(
    found: Iterable[LiveReplica], everybody: Iterable[LiveReplica]
) -> list[LiveReplica]:
    """Live replicas that do not host the model of `found`: they answer none of its requests."""
    known = {replica.id for replica in found}
    return [
        msgspec.structs.replace(
            replica, generation=0, ready=False, reasons=("it does not host this model yet",)
        )
        for replica in everybody
        if replica.id not in known
    ]
