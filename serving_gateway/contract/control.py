"""Bodies of the calls that change what is served."""

from __future__ import annotations

from serving_gateway.contract.routing import Mode
from serving_gateway.contract.struct import Struct
from serving_gateway.contract.traffic import Strategy, Traffic


class ReloadRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /variant/{alias}/reload`.

    A named `version` without a `mode` is an operator's choice and pins the variant. The pipeline
    names `mode: ssot`; it is refused (409) while the variant is pinned, unless `unpin` is set.
    """

    version: int | None = None
    run_id: str | None = None
    mode: Mode | None = None
    unpin: bool = False
    reason: str | None = None
    feature_contract: str | None = None
    """Refuse (409) a version whose recorded signature has another digest than this one."""


class ReloadResponse(Struct, frozen=True):
    """Body of a reload that was carried out."""

    status: str
    variant: str
    version: int
    run_id: str
    run_id_source: str
    mode: Mode
    generation: int
    previous_version: int | None
    changed: bool
    """False when the variant already routed to exactly this version in this mode."""
    other_ready_versions: tuple[int, ...] = ()
    """READY in Triton beside the chosen one; listed, never taken."""


class TrafficRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `PUT /traffic`; `percent` and `salt` as in `Traffic`."""

    strategy: Strategy
    percent: float = 0.0
    salt: str | None = None
    expected_generation: int | None = None
    """Refuse (409) unless the record still has this generation."""
    reason: str | None = None


class RollbackRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /variant/{alias}/rollback`."""

    version: int | None = None
    """Any registered one that is READY; None is the version before."""
    reason: str | None = None


class TrafficResponse(Struct, frozen=True):
    """Body of a traffic change that was carried out."""

    status: str
    traffic: Traffic
    generation: int
    changed: bool


class ClearResponse(Struct, frozen=True):
    """Body of `DELETE /variant/B`: the variant has no version any more."""

    status: str
    variant: str
    version: int | None
    generation: int
    changed: bool
    traffic_turned_off: bool
    """Whether the variant had a share of the traffic, which went with it."""
    traffic: Traffic


class RemovalResponse(Struct, frozen=True):
    """Body of `DELETE /models/{model_name}`: no replica hosts the model any more."""

    status: str
    model_name: str
    generation: int
    versions: dict[str, int]
    """What its variants routed to."""
    changed: bool
