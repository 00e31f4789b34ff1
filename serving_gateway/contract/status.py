"""What a gateway says of itself: `GET /models`, `/shadow`, `/health` and `/ready`.

Replicas and their clients are upgraded one after the other: what another release may not send has
a default, and unknown fields are ignored. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec

from serving_gateway.contract.release import Release
from serving_gateway.contract.routing import Slot, Switch
from serving_gateway.contract.signature import Signature
from serving_gateway.contract.struct import Struct
from serving_gateway.contract.traffic import Traffic


class ReplicaIdentity(Struct, frozen=True):
    """A gateway process."""

    id: str
    host: str
    pid: int
    started_at: str


class ReplicaStatus(ReplicaIdentity, frozen=True):
    """What a gateway process reports of one model that it hosts."""

    generation: int
    ready: bool
    reasons: tuple[str, ...] = ()
    digest: str | None = None
    """Of the routing record; null before there was one."""
    traffic: tuple[str, ...] = ()
    """Variants that had requests within the last minute."""


class LiveReplica(ReplicaStatus, frozen=True, kw_only=True):
    """A replica that reported `age_seconds` ago."""

    age_seconds: float


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
    """Digest of the features that the version reads; null, like `signature`, when that is not
    recorded."""
    signature: Signature | None = None


class Ssot(Struct, frozen=True, kw_only=True):
    """What Triton says at this moment."""

    model_name: str
    served_versions: tuple[int, ...]
    """All READY ones; empty when Triton cannot be reached."""
    prod_served_version: int | None = None
    """The one that A routes to; null unless it is READY."""
    shadow_served_version: int | None = None
    prod_triton_url: str
    shadow_triton_url: str | None = None
    triton_reachable: bool
    reason: str | None = None
    observed_at: str


class RoutedVersion(Struct, frozen=True):
    """A version that is routed to, in short; one side of a pairing."""

    model_name: str
    version: int
    run_id: str


class RoutingStatus(Struct, frozen=True, kw_only=True):
    """What this replica routes by, as in `RoutingRecord`."""

    generation: int
    traffic: Traffic
    previous: dict[str, tuple[Slot, ...]] = msgspec.field(default_factory=dict)
    switches: dict[str, tuple[Switch, ...]] = msgspec.field(default_factory=dict)
    changed_at: str | None = None
    changed_by: str | None = None
    reason: str | None = None
    store_problem: str | None = None
    release: Release | None = None


class ModelStatus(Struct, frozen=True, kw_only=True):
    """Body of `GET /models/{model_name}`, and of `GET /models` for the default model.

    `models` are all that this replica hosts; `replicas` all live ones, with `replica` itself.
    """

    models: tuple[str, ...]
    ssot: Ssot
    effective: dict[str, EffectiveVersion]
    active: dict[str, RoutedVersion]
    routing: RoutingStatus
    replica: ReplicaStatus
    replicas: tuple[LiveReplica, ...]
    in_sync: bool
    """Whether all live replicas are known to route by the stored record."""
    mlflow_ui_url: str | None = None
    """Where people find MLflow's pages; null where the gateway is not given it."""
    replicas_problem: str | None
    """Why others than this replica may be missing. Without a default: an answer that does not say
    so is no evidence that the list is complete."""


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
    models: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Of the replica's own `/ready`: models that cannot answer, and why. They answer 503 for
    themselves, and do not make the replica unready."""


Pairing = tuple[RoutedVersion, RoutedVersion]
"""A's side, B's side."""


class Proportion(Struct, frozen=True):
    """A share of the rows, with bounds as in `ShadowReport`."""

    value: float
    low: float
    high: float


class MeanDifference(Struct, frozen=True):
    """A mean with bounds as in `ShadowReport`, and the largest value."""

    value: float
    low: float
    high: float
    largest: float


class QuantileBounds(Struct, frozen=True):
    """Bounds of a quantile as in `ShadowReport`; null where no bucket of the histogram ends."""

    low: float | None
    high: float | None


class Disagreement(Struct, frozen=True):
    """A row that the two versions label differently."""

    row: Any
    prediction_a: Any
    prediction_b: Any
    probabilities_a: list[float] | None
    probabilities_b: list[float] | None


class ShadowReport(Struct, frozen=True):
    """Body of `GET /shadow`: this replica's comparisons of the present pairing.

    Of the copies, B answered `requests`, could not answer `failed`, and was not asked `dropped`.
    Each pair of bounds is of a 95 % confidence sequence: of 100 pairings that are watched from
    the first copy to the last, it excludes the truth at any time in at most 5. It takes rows and
    requests as independent; rows of one request that resemble each other make it too narrow.
    """

    replica: str
    a: RoutedVersion | None
    b: RoutedVersion | None
    since: str | None
    """Time of the pairing's first copy."""
    requests: int
    rows: int
    rows_agreed: int
    failed: int
    dropped: int
    agreement: Proportion | None
    probability_difference: MeanDifference | None
    """Per row, the largest difference of a class's probability; null without probabilities."""
    latency_difference_seconds: MeanDifference | None
    """Per request, B's latency minus A's. Its bounds know of latencies only that a request's
    deadline ends them, so they are wide for the first 10,000 requests."""
    examples: tuple[Disagreement, ...]
    examples_withheld: bool = False
    """Whether this caller may not see the examples: they hold clients' data."""
    latency_difference_median_seconds: QuantileBounds | None = None
    """Of the same differences, within buckets: narrow after some hundred requests."""
