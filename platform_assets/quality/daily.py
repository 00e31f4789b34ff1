"""Measures one day of a model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from platform_assets.features.sources.reader import Log
from platform_assets.model_spec import ModelSpec
from platform_assets.quality.log_files import LogFiles
from platform_assets.quality.matching import match
from platform_assets.quality.measuring import matured_versions, measure
from platform_assets.quality.offline import offline_estimate
from platform_assets.quality.records import OfflineEstimate, QualityReport, VersionQuality
from platform_assets.quality.source_outcomes import copy_source_outcomes
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.source import SourceResource
from platform_assets.training.metrics import chosen_metric


def measure_day(
    spec: ModelSpec,
    mlflow: MlflowResource,
    source: SourceResource,
    root: Path,
    day: datetime,
    log: Log,
) -> QualityReport:
    """Copy the outcomes of the source, join those of a day (its begin, UTC) and measure them.

    Raises:
        QualityError, SourceError, OSError: the log, the source or the copy cannot be used.
    """
    copied = copy_source_outcomes(spec, source, LogFiles(root, spec.model_name), log)
    if spec.outcome_table is not None:
        log(f"{copied:,} outcomes of the source")
    until, metric = day + timedelta(days=1), chosen_metric(spec.evaluation)
    versions: list[VersionQuality] = []
    offline: dict[int, OfflineEstimate | str] = {}
    with match(root, spec, since=day, until=until, now=datetime.now(UTC)) as found:
        counts = found.counts()
        for version in matured_versions(found):
            classes, estimate = offline_estimate(mlflow, spec, version)
            scale = estimate.scale if isinstance(estimate, OfflineEstimate) else 0.0
            versions.append(measure(found, spec, version, classes=classes, scale=scale))
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
