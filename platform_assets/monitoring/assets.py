"""`drift_report`: the gateway's actual requests and answers against the training data."""

# No postponed annotations here: Dagster reads them.
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from pydantic import Field

from platform_assets.model_spec import ModelSpec
from platform_assets.monitoring.compare import drift_report as compare
from platform_assets.monitoring.compare import reference_features, reference_predictions
from platform_assets.monitoring.page import column_row, drift_page, summary
from platform_assets.monitoring.pictures import drift_picture
from platform_assets.monitoring.records import DriftReport
from platform_assets.monitoring.stability import ComparedRows
from platform_assets.resources import plots
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.folders import DriftReports
from platform_assets.resources.metadata import table
from platform_assets.resources.mlflow import MlflowResource, MlflowUnavailable, RegistryError
from platform_assets.resources.reference import REFERENCE_ARTIFACT
from platform_assets.resources.samples import Samples, SamplesError, SamplesFolder
from platform_assets.serving.ledger import read_ledger
from serving_gateway.contract import LOG_ENTITY, LOG_PREDICTION, LOG_SCORE, LOG_TIME

VERSION_METADATA: Final = "version"
"""Metadata key of `gateway_reload` and of the report: the version concerned."""
_PAGE_ARTIFACT: Final = "drift/report.html"


class DriftConfig(dg.Config):
    """Which samples are compared."""

    days: float = Field(default=7.0, gt=0, description="Age in days of the oldest sample.")
    max_rows: int = Field(default=100_000, ge=2, description="Newest samples that are compared.")
    min_rows: int = Field(
        default=200,
        ge=2,
        description="Number of samples below which nothing is judged, because chance would decide.",
    )
    version: int | None = Field(
        default=None, description="Version whose samples are compared; default: production."
    )


def drift_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """Build the asset `drift_report` of one model."""

    @dg.asset(
        **spec.asset("drift_report"),
        kinds={"parquet"},
        deps=[spec.key("gateway_reload")],
        description=(
            "The answers that the gateway sampled of the version in production, compared "
            "with the rows that it was trained on, which its run keeps: population stability of "
            "features and answers, new and vanished texts."
        ),
    )
    def drift_report(
        context: dg.AssetExecutionContext,
        config: DriftConfig,
        mlflow: MlflowResource,
        samples: SamplesFolder,
        drift_reports: DriftReports,
    ) -> dg.MaterializeResult[DriftReport]:
        version = config.version or production_version(context.instance, spec)
        if version is None:
            raise failure(
                f"no version of {spec.model_name} is in production as far as Dagster knows, so "
                "it is unknown whose samples to compare",
                "take a version to production, or name one as `version` in the configuration",
            )
        todo = (
            "look at that folder and remove the files that other programs or older gateways wrote"
        )
        with as_failure("", todo, SamplesError):
            window = samples.window(
                spec.model_name,
                version,
                since=datetime.now(UTC) - timedelta(days=config.days),
                max_rows=config.max_rows,
                columns=[*spec.feature_names, LOG_PREDICTION, LOG_SCORE, LOG_ENTITY],
            )
        with as_failure(
            f"what version {version} was trained on cannot be fetched",
            "bring MLflow back (see `make status`), then materialize this asset again",
            MlflowUnavailable,
        ):
            run_id, features, predictions = _reference(mlflow, spec, version)
        report = compare(spec, version, window, features, predictions, min_rows=config.min_rows)
        context.log.info(summary(report))
        return _publish(context, report, window, run_id, mlflow, drift_reports)

    return [drift_report]


def production_version(instance: dg.DagsterInstance, spec: ModelSpec) -> int | None:
    """Return the version of the newest switch; None if there never was one."""
    # Not the newest materialization: a missed switch is recorded after those that followed it.
    ledger = read_ledger(instance, spec)
    return ledger[0].version if ledger else None


def _reference(
    mlflow: MlflowResource, spec: ModelSpec, version: int
) -> tuple[str | None, ComparedRows | str, ComparedRows | str]:
    """Return a version's run, its training rows, and its answers to the held-out rows.

    Missing parts, whose run is gone or which an earlier release did not store, are replaced by
    the reason.

    Raises:
        MlflowUnavailable: the version cannot be looked up now.
    """
    try:
        run_id = mlflow.version(spec.model_name, version).run_id
    except MlflowUnavailable:
        raise
    except RegistryError as exc:
        return None, str(exc), str(exc)

    def read(part: Callable[[], ComparedRows]) -> ComparedRows | str:
        try:
            return part()
        except MlflowUnavailable:
            raise
        except (RegistryError, ValueError, KeyError) as exc:
            return f"run {run_id} does not have them any more, or never did ({exc})"

    return (
        run_id,
        read(lambda: reference_features(mlflow.artifact_bytes(run_id, REFERENCE_ARTIFACT), spec)),
        read(lambda: reference_predictions(mlflow.evaluation_set(run_id), spec)),
    )


def _publish(
    context: dg.AssetExecutionContext,
    report: DriftReport,
    window: Samples,
    run_id: str | None,
    mlflow: MlflowResource,
    folder: DriftReports,
) -> dg.MaterializeResult[DriftReport]:
    facts = _facts(report, window, run_id)
    picture = plots.data_url(drift_picture(report)) if report.columns else None
    page = drift_page(report, facts, picture)
    todo = "make room there and let this user write to it, then run again"
    with as_failure(f"the report cannot be written below {folder.root}", todo, OSError):
        path = folder.write(report.model_name, context.run.run_id, page)
    logged = _log_with_run(mlflow, run_id, page)
    shown = {"picture": dg.MetadataValue.md(f"![drift]({picture})")} if picture else {}
    return dg.MaterializeResult(
        value=report,
        metadata={
            VERSION_METADATA: report.version,
            "summary": summary(report),
            **shown,
            "columns": table(map(column_row, report.worst_first))
            if report.columns
            else "none: not enough samples, or nothing to compare them with",
            "not_compared": "\n".join(report.not_compared) or "nothing",
            "page": dg.MetadataValue.path(str(path)),
            "dagster/row_count": report.rows,
            **facts,
            "registry": logged,
        },
    )


def _facts(
    report: DriftReport, window: Samples, run_id: str | None
) -> dict[str, str | int | float]:
    from pyarrow import compute

    facts: dict[str, str | int | float] = {
        "samples": report.rows,
        "entities_or_requests": report.units,
        "files": window.files,
        "training_rows": report.reference_rows,
        "run_id": run_id or "unknown",
        "drift_limit": report.drift_limit,
        "drifted_columns": len(report.drifted),
    }
    if report.rows:
        span = compute.min_max(window.table[LOG_TIME]).as_py()
        facts["oldest_sample"] = span["min"].isoformat(timespec="seconds")
        facts["newest_sample"] = span["max"].isoformat(timespec="seconds")
    return facts


def _log_with_run(mlflow: MlflowResource, run_id: str | None, page: str) -> str:
    if run_id is None:
        return "not logged: MLflow did not say which run made the version"
    try:
        # Only the newest: there may be one every hour for as long as the version serves.
        mlflow.log_artifact_bytes(run_id, _PAGE_ARTIFACT, page.encode())
    except RegistryError as exc:
        return f"not logged: {exc}"
    return f"{_PAGE_ARTIFACT} of run {run_id}"
