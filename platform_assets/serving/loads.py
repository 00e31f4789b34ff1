"""The loads of a model's versions, as their materializations record them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.events import materializations
from platform_assets.serving.promotion import LOAD_ID
from platform_assets.serving.records import ServingState

RUN_ID: Final = "run_id"
"""Metadata key: the training run of the version."""
READY: Final = "READY"
"""Value of the metadata `state` for a version that is READY."""
_HISTORY: Final = 100


@dataclass(frozen=True, slots=True)
class RecordedLoad:
    """A load, and when it was recorded (UTC)."""

    state: ServingState
    at: datetime


def newest_load(
    instance: dg.DagsterInstance, spec: ModelSpec, version: int | None = None
) -> RecordedLoad | None:
    """Return the newest load, of one version if given; None where none is recorded."""
    limit = 1 if version is None else _HISTORY
    for event in materializations(instance, spec.key("triton_serving_state"), limit):
        if LOAD_ID in event.metadata and version in (None, event.metadata["version"]):
            return RecordedLoad(_state(spec, event.metadata), event.at)
    return None


def _state(spec: ModelSpec, plain: Mapping[str, Any]) -> ServingState:
    state = str(plain["state"])
    is_ready = state == READY
    version = int(plain["version"])
    return ServingState(
        model_name=spec.model_name,
        version=version,
        run_id=str(plain[RUN_ID]),
        ready=is_ready,
        reason="" if is_ready else state,
        ready_versions=(version,) if is_ready else (),
        load_id=str(plain[LOAD_ID]),
    )
