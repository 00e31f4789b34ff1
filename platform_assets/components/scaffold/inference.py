"""Infer a model from the profile of its table, without I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from platform_assets.components.scaffold import draft as parts
from platform_assets.components.scaffold.draft import Draft
from platform_assets.components.scaffold.features import infer_features
from platform_assets.components.scaffold.keys import infer_key, infer_time
from platform_assets.components.scaffold.profile import ColumnProfile, ModelRequest, TableProfile
from platform_assets.components.scaffold.targets import describe_target, find_target, infer_task
from platform_assets.model_spec import CandidateSpec, Gates, ModelSpec, Source, Task
from platform_assets.model_spec.feature_source import DEFAULT_TTL
from platform_assets.model_spec.training import estimators

_WIDE: Final = 500
_DEFAULT: Final = 3
"""Number of a task's estimators that compete by default: its first ones."""
_LONGEST_TTL: Final = timedelta(days=36_500)


def infer(table: TableProfile, request: ModelRequest, now: datetime) -> Draft:
    """Return the model for a table, without its floor.

    Raises:
        ScaffoldError: the target, the task or the features cannot be inferred.
    """
    target_column = find_target(table, request)
    task, why_task, type_ = infer_task(target_column, request)
    target, why_target = describe_target(target_column, type_)
    others = tuple(one for one in table.columns if one is not target_column)
    time = infer_time(others, request, now)
    key = infer_key(others, time.column, table, request)
    features = infer_features(others, key, time, table, target.name, request)
    ttl, why_ttl = _ttl(time.column, now)
    candidates, why_candidates = _candidates(task, len(features.specs))
    reasons = {
        parts.KEY: key.why,
        parts.TIME: time.why,
        parts.TTL: why_ttl,
        parts.TARGET: why_target,
        parts.TASK: why_task,
        parts.CANDIDATES: why_candidates,
    }
    spec = ModelSpec(
        model_name=request.model_name,
        task=task,
        source=Source(file=str(request.path), separator=request.separator),
        join_key=key.spec,
        event_time=time.spec,
        ttl=ttl,
        target=target,
        features=features.specs,
        candidates=candidates,
        gates=Gates(metric_floor=0.0),
    )
    return Draft(
        spec,
        reasons={part: why for part, why in reasons.items() if why},
        feature_reasons=features.reasons,
        left_out=features.left_out,
    )


def _candidates(task: Task, features: int) -> tuple[tuple[CandidateSpec, ...], str]:
    """Return the candidates, and why; () for the default."""
    if features <= _WIDE:
        return (), ""
    names = [name for name in estimators(task)[:_DEFAULT] if "boosting" not in name]
    why = f"{features:,} columns: boosting would take long to try them all"
    return tuple(map(CandidateSpec, names)), why


def _ttl(time: ColumnProfile | None, now: datetime) -> tuple[timedelta, str]:
    if time is None or time.earliest is None:
        return DEFAULT_TTL, ""
    age = now - time.earliest.replace(tzinfo=UTC)
    if age < DEFAULT_TTL:
        return DEFAULT_TTL, ""
    years = age.days // 365
    if age > _LONGEST_TTL:
        return _LONGEST_TTL, f"the oldest row is {years} years old, and counts as expired"
    return _LONGEST_TTL, f"the oldest row is {years} years old, and must not count as expired"
