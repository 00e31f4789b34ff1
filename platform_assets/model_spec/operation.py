"""How a model is served, and when its chain runs automatically."""

from __future__ import annotations

from dataclasses import field
from datetime import timedelta
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass

from platform_assets.model_spec.fields import (
    CONFIG,
    Count,
    Duration,
    TimeZone,
    as_yaml,
    full_match,
    suggestion,
)
from serving_gateway.contract import MAX_BATCH_SIZE

CHAIN: Final = (
    "features",
    "online_features",
    "trained_model",
    "registered_model",
    "onnx_model",
    "triton_model_entry",
    "triton_serving_state",
    "gateway_reload",
    "serving_proof",
)
"""The assets from raw data to production, in order."""
ASSETS: Final = (*CHAIN, "drift_report", "batch_predictions", "live_quality")
"""All assets of a model."""

MAX_INSTANCES: Final = 1024
"""Maximum number of concurrent copies of a model."""


@dataclass(frozen=True, config=CONFIG)
class ServingSpec:
    """How Triton runs the model, and how many versions are kept."""

    max_batch_size: Annotated[StrictInt, Field(ge=1, le=MAX_BATCH_SIZE)] = MAX_BATCH_SIZE
    """Maximum rows of one inference, and of one request to the gateway."""
    dynamic_batching: StrictBool = False
    """Let Triton combine requests."""
    instances: Annotated[StrictInt, Field(ge=1, le=MAX_INSTANCES)] = 1
    """Copies of the model that run concurrently."""
    retention: Count = 2
    """READY versions to keep, production included; with 2 a rollback is instant."""
    keep_versions: Annotated[Count, Field(validate_default=True)] = 5
    """Version directories to keep on disk. Those that are READY, routed to, among the last of the
    ledger, or the best one that was ever in production always stay."""
    warm_up_rows: Annotated[StrictInt, Field(ge=0)] = 16
    """Evaluation rows that a version answers before it is judged."""

    @field_validator("keep_versions")
    @classmethod
    def _check_retention(cls, kept: int, info: ValidationInfo) -> int:
        retention = info.data.get("retention", 0)
        if kept < retention:
            raise ValueError(
                f"{kept} directories cannot hold {retention} READY versions: keep at least as "
                "many as `retention`"
            )
        return kept


def _cron(text: str) -> str:
    import dagster as dg  # here, because few models have a schedule

    try:
        dg.ScheduleDefinition(name="cron", job_name="cron", cron_schedule=text)
    except dg.DagsterInvalidDefinitionError:
        raise ValueError(
            f"{as_yaml(text)} is not a cron string that ever fires: write five fields, minute "
            "first, such as 0 3 * * *"
        ) from None
    return text


def _a_minute_at_least(length: timedelta) -> timedelta:
    if length < timedelta(minutes=1):
        raise ValueError(f"{length} is too short: use at least a minute")
    return length


Cron = Annotated[StrictStr, AfterValidator(_cron)]


@dataclass(frozen=True, config=CONFIG)
class AutomationSpec:
    """When the chain runs automatically; by default never."""

    schedule: Annotated[Cron, Field(examples=["0 3 * * *"])] | None = None
    """When to run the whole chain, as a cron string. Initially stopped; switch it on in Dagster."""
    drift_schedule: Annotated[Cron, Field(examples=["0 * * * *"])] | None = None
    """When to compare answered requests with the training set, as a cron string."""
    timezone: TimeZone = "UTC"
    """Time zone of both schedules, such as Europe/Zurich."""
    on_new_data: StrictBool = False
    """Run the whole chain when the source's content has changed."""
    on_drift: StrictBool = False
    """Run the whole chain when a drift report warns and there is something new to train on; needs
    `drift_schedule`."""
    freshness: Annotated[Duration, AfterValidator(_a_minute_at_least)] | None = None
    """Age of `features` at which the UI calls the asset stale; at least a minute."""

    @field_validator("on_drift")
    @classmethod
    def _check_drift_schedule(cls, on_drift: bool, info: ValidationInfo) -> bool:
        if on_drift and info.data.get("drift_schedule", "") is None:
            raise ValueError("needs `drift_schedule`: nothing else measures drift")
        return on_drift


def _cores(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    return value


@dataclass(frozen=True, config=CONFIG)
class ComputeResources:
    """What the pod of a step asks for, as Kubernetes writes quantities."""

    cpu: (
        Annotated[
            StrictStr,
            full_match(
                r"(?=.*[1-9])(\d{1,4}(\.\d{1,3})?|\d{1,7}m)",
                "not a number of cores: write 2, 0.5 or 500m (thousandths)",
            ),
            BeforeValidator(_cores, json_schema_input_type=str | int | float),
            Field(examples=["2", "500m"]),
        ]
        | None
    ) = None
    """Cores, or thousandths of a core (500m)."""
    memory: (
        Annotated[
            StrictStr,
            # Less than a megabyte must be a mistake in the unit.
            full_match(
                r"(?=.*[1-9])\d{1,7}(\.\d{1,3})?[MGT]i?",
                "not a size of memory: write a number and its unit, as 512Mi or 4Gi",
            ),
            Field(examples=["4Gi", "512Mi"]),
        ]
        | None
    ) = None
    """Memory with its unit; also the limit, above which a step is killed."""


def _asset(name: str) -> str:
    if name not in ASSETS:
        hint = suggestion(name, ASSETS)
        raise ValueError(f"is not an asset of a model.{hint} They are {', '.join(ASSETS)}")
    return name


@dataclass(frozen=True, config=CONFIG)
class Kubernetes:
    """How the model's steps run on Kubernetes; without effect elsewhere."""

    resources: Annotated[
        dict[Annotated[StrictStr, AfterValidator(_asset)], ComputeResources],
        Field(examples=[{"trained_model": {"cpu": "2", "memory": "4Gi"}}]),
    ] = field(default_factory=dict)
    """Asset -> what the pods of its step and checks request; by default 250m and 1Gi, or a core and
    2Gi where all rows are in memory. Every step may use one core."""
