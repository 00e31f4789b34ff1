"""Statuses of models as a gateway answers them, for tests that need no gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving_gateway.contract import (
    DEFAULT_MODEL,
    EffectiveVersion,
    LiveReplica,
    ModelStatus,
    ReplicaStatus,
    RoutingStatus,
    Slot,
    Ssot,
    Switch,
    Traffic,
)

AT = "2026-01-02T03:04:05.000Z"


def effective_version(
    version: int, *, ready: bool = True, mode: str = "ssot", model_name: str = DEFAULT_MODEL
) -> EffectiveVersion:
    return EffectiveVersion(
        model_name=model_name,
        version=version,
        run_id=f"run-{version}",
        run_id_source="registry",
        mode=mode,
        ready=ready,
        triton_url="http://triton:8000",
    )


def live_replica(
    name: str, generation: int, *, ready: bool = True, reasons: tuple[str, ...] = ()
) -> LiveReplica:
    return LiveReplica(
        id=name,
        host="host",
        pid=1,
        started_at=AT,
        generation=generation,
        ready=ready,
        reasons=reasons,
        age_seconds=0.0,
    )


def model_status(
    effective: Mapping[str, EffectiveVersion] | None = None,
    *,
    model_name: str = DEFAULT_MODEL,
    models: tuple[str, ...] = (DEFAULT_MODEL,),
    generation: int = 1,
    previous: Mapping[str, tuple[Slot, ...]] | None = None,
    switches: Mapping[str, tuple[Switch, ...]] | None = None,
    changed_at: str = AT,
    changed_by: str | None = "token:operator",
    reason: str | None = None,
    reasons: tuple[str, ...] = (),
    replicas: Sequence[LiveReplica] = (),
    replicas_problem: str | None = None,
) -> ModelStatus:
    """What one replica answers to `GET /models/{model_name}`."""
    return ModelStatus(
        models=models,
        ssot=Ssot(
            model_name=model_name,
            served_versions=(),
            prod_triton_url="http://triton:8000",
            triton_reachable=True,
            observed_at=AT,
        ),
        effective=dict(effective or {}),
        active={},
        routing=RoutingStatus(
            generation=generation,
            traffic=Traffic(),
            previous=dict(previous or {}),
            switches=dict(switches or {}),
            changed_at=changed_at,
            changed_by=changed_by,
            reason=reason,
        ),
        replica=ReplicaStatus("r0", "host", 1, AT, generation, not reasons, reasons),
        replicas=tuple(replicas),
        in_sync=True,
        replicas_problem=replicas_problem,
    )
