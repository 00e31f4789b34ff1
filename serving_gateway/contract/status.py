"""What a gateway says of itself: `GET /models`, `/health` and `/ready`.

Replicas and their clients are upgraded one after the other. What may be unknown therefore has a
default, so that an answer of another release can be read; fields that this one does not know are
ignored.
"""

from __future__ import annotations

import msgspec

from serving_gateway.contract.routing import Slot, Switch, Traffic
from serving_gateway.contract.signature import Signature
from serving_gateway.contract.struct import Struct


class ReplicaIdentity(Struct, frozen=True):
    """Which gateway process this is, whatever models it hosts."""

    id: str
    host: str
    pid: int
    started_at: str


class ReplicaStatus(ReplicaIdentity, frozen=True):
    """What a gateway process reports of one model that it hosts."""

    generation: int
    """The one that it routes by."""
    ready: bool
    reasons: tuple[str, ...] = ()
    """Why it is not ready."""
    digest: str | None = None
    """Digest of the routing record that it routes by; null before there was one."""
    traffic: tuple[str, ...] = ()
    """Variants that had requests within the last minute."""


class LiveReplica(ReplicaStatus, frozen=True, kw_only=True):
    """A replica that reported a moment ago."""

    age_seconds: float
    """Time since it did."""


class EffectiveVersion(Struct, frozen=True, kw_only=True):
    """What a variant routes to, and whether requests to it can be answered."""

    model_name: str
    version: int
    run_id: str
    run_id_source: str
    mode: str
    ready: bool
    reason: str | None = None
    confirmed_seconds_ago: float | None = None
    triton_url: str
    data_fingerprint: str | None = None
    code_version: str | None = None
    dagster_run_id: str | None = None
    onnx_sha256: str | None = None
    feature_contract: str | None = None
    """Digest of the features that the version reads; null when no signature is recorded."""
    signature: Signature | None = None
    """What it reads, and the labels in the order of its probabilities; null as above."""


class Ssot(Struct, frozen=True, kw_only=True):
    """What Triton says at this moment."""

    model_name: str
    served_versions: tuple[int, ...]
    """All READY ones; empty too when Triton cannot be reached."""
    prod_served_version: int | None = None
    """The version A routes to; null unless Triton has it READY now."""
    shadow_served_version: int | None = None
    prod_triton_url: str
    shadow_triton_url: str | None = None
    triton_reachable: bool
    reason: str | None = None
    observed_at: str


class ActiveVersion(Struct, frozen=True):
    """What answers requests, in short."""

    model_name: str
    version: int
    run_id: str


class RoutingStatus(Struct, frozen=True, kw_only=True):
    """The generation that this replica routes by."""

    generation: int
    traffic: Traffic
    previous: dict[str, tuple[Slot, ...]] = msgspec.field(default_factory=dict)
    """Where a rollback of each variant goes, newest first."""
    switches: dict[str, tuple[Switch, ...]] = msgspec.field(default_factory=dict)
    """The last switches of each variant, newest first, rollbacks included."""
    changed_at: str | None = None
    changed_by: str | None = None
    reason: str | None = None
    store_problem: str | None = None


class ModelStatus(Struct, frozen=True, kw_only=True):
    """Body of `GET /models/{model_name}`; of `GET /models` for the default model."""

    models: tuple[str, ...]
    """All models that this replica hosts; each has `/models/{model_name}`."""
    ssot: Ssot
    effective: dict[str, EffectiveVersion]
    active: dict[str, ActiveVersion]
    routing: RoutingStatus
    replica: ReplicaStatus
    """The process that answers."""
    replicas: tuple[LiveReplica, ...]
    """All live ones, this one included."""
    in_sync: bool
    """Whether all live replicas route by the stored record, by generation and content; false
    while that is unknown."""
    replicas_problem: str | None
    """Why others than this replica may be missing from the list. Without a default: an answer
    that does not say so is no evidence that the list is complete."""


class HealthStatus(Struct, frozen=True):
    """Body of `GET /health`."""

    status: str
    loaded_aliases: tuple[str, ...]
    model_name: str
    generation: int
    ready: bool


class ReadyStatus(Struct, frozen=True):
    """Body of `GET /ready` and `GET /models/{model_name}/ready`."""

    status: str
    reasons: tuple[str, ...] = ()
    """Why it is not ready."""
    models: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Of the replica's own `/ready`: hosted models that cannot answer, and why. They answer 503
    for themselves, and do not make the replica unready."""
