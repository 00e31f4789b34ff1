"""Measure one day of a model, beside each version's estimate from its held-out rows."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from platform_assets.features.sources.reader import Log
from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.quality.log_files import LogFiles
from platform_assets.quality.matching import match
from platform_assets.quality.measuring import matured_versions, measure
from platform_assets.quality.records import (
    CONFIDENCE,
    OfflineEstimate,
    QualityReport,
    VersionQuality,
)
from platform_assets.quality.source_outcomes import copy_source_outcomes
from platform_assets.resources.mlflow import MlflowResource, MlflowUnavailable, RegistryError
from platform_assets.resources.source import SourceResource
from platform_assets.training.floor import estimate_metric
from platform_assets.training.metrics import Answers, chosen_metric


def measure_day(
    spec: ModelSpec,
    mlflow: MlflowResource,
    source: SourceResource,
    root: Path,
    day: datetime,
    log: Log,
) -> QualityReport:
    """Copy the source's outcomes, join those of a day (given by its start, UTC), measure them.

    Raises:
        QualityError, SourceError, OSError: the log, the source or the copy cannot be used.
        MlflowUnavailable: the versions that answered cannot be looked up now.
    """
    copied = copy_source_outcomes(spec, source, LogFiles(root, spec.model_name), log)
    if spec.outcome_table is not None:
        log(f"{copied:,} outcomes of the source")
    until, metric = day + timedelta(days=1), chosen_metric(spec.evaluation)
    versions: list[VersionQuality] = []
    offline: dict[int, OfflineEstimate | str] = {}
    with match(root, spec, since=day, until=until, now=datetime.now(UTC)) as matched:
        counts = matched.counts()
        for version in matured_versions(matched):
            classes, estimate = _offline_estimate(mlflow, spec, version)
            scale = estimate.scale if isinstance(estimate, OfflineEstimate) else 0.0
            versions.append(measure(matched, spec, version, classes=classes, scale=scale))
            offline[version] = estimate
    return QualityReport(
        model_name=spec.model_name,
        day=day.date().isoformat(),
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        floor=spec.gates.metric_floor,
        counts=counts,
        versions=tuple(versions),
        offline=offline,
    )


def _offline_estimate(
    mlflow: MlflowResource, spec: ModelSpec, version: int
) -> tuple[tuple[Label, ...], OfflineEstimate | str]:
    """Return the classes of a version, and its offline estimate or why there is none.

    Where MLflow no longer has the version, the classes are those of the model file.

    Raises:
        MlflowUnavailable: the version cannot be looked up now.
    """
    target = spec.target
    classes: tuple[Label, ...] = target.class_names or target.classes
    try:
        registered = mlflow.version(spec.model_name, version)
        classes = registered.signature.classes or classes
        held_out = mlflow.evaluation_set(registered.run_id)
    except MlflowUnavailable:
        raise
    except (RegistryError, ValueError, KeyError) as error:
        return classes, f"the run of version {version} cannot be read ({error})"
    answers = Answers(held_out.label_true, held_out.labels, held_out.probabilities, classes)
    estimate = estimate_metric(chosen_metric(spec.evaluation), answers, held_out.groups, CONFIDENCE)
    scale = math.nan
    if spec.task is Task.REGRESSION and len(held_out.label_true):
        scale = float(np.ptp(held_out.label_true))
    return classes, OfflineEstimate(estimate.value, estimate.low, estimate.high, scale)
