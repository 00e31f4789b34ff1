"""What is known about the gateway processes that serve; pure, except for naming this one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from serving_gateway.contract import LiveReplica, ReplicaIdentity, ReplicaStatus, RoutingRecord
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.records import digest, format_time, same_content

_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class ModelReport(msgspec.Struct, frozen=True, array_like=True):
    """What a replica reports about a model, as in `ReplicaStatus`; compact: there may be many."""

    generation: int
    digest: str | None
    ready: bool
    reasons: tuple[str, ...] = ()
    traffic: tuple[str, ...] = ()


_NOT_HOSTED: Final = ModelReport(
    0, None, ready=False, reasons=("this replica does not host the model yet",)
)


class ReplicaList(msgspec.Struct, frozen=True):
    """All live replicas, as far as the store can tell; fields as in `ModelStatus`."""

    replicas: tuple[LiveReplica, ...]
    in_sync: bool
    problem: str | None


def now() -> str:
    """This moment in UTC, as RFC 3339."""
    return format_time(datetime.now(UTC))


def this_process() -> ReplicaIdentity:
    """The identity of this process from now on; another one at each call."""
    host = socket.gethostname()
    name = f"{host}-{os.getpid()}-{os.urandom(3).hex()}"
    return ReplicaIdentity(name, host, os.getpid(), now())


def status_of(replica: ReplicaIdentity, report: ModelReport | None) -> ReplicaStatus:
    """A replica with its report of one model."""
    fields = msgspec.structs.asdict(replica) | msgspec.structs.asdict(report or _NOT_HOSTED)
    return ReplicaStatus(**fields)


def with_age(replica: ReplicaStatus, age_seconds: float) -> LiveReplica:
    """The replica with the age of its report."""
    return LiveReplica(**msgspec.structs.asdict(replica), age_seconds=round(age_seconds, 3))


def decode_report(data: bytes, kind: type[_Kind], where: str) -> _Kind:
    """Read a replica's report, or `StoreUnavailable`: skipping it would hide a replica."""
    try:
        return msgspec.json.decode(data, type=kind)
    except ValueError as error:
        raise StoreUnavailable(f"A replica in {where} cannot be read: {error}.") from error


def replica_list(
    own: ReplicaStatus, found: Iterable[LiveReplica], stored: RoutingRecord
) -> ReplicaList:
    """Combine what the store knows with what this replica knows better: itself."""
    others = [replica for replica in found if replica.id != own.id]
    replicas = sorted([with_age(own, 0.0), *others], key=lambda replica: replica.id)
    content = digest(stored)
    in_sync = all(
        replica.generation == stored.generation and same_content(replica.digest, content)
        for replica in replicas
    )
    return ReplicaList(tuple(replicas), in_sync, None)
