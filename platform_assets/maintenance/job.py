"""The maintenance job and its daily schedule."""

# No postponed annotations here: Dagster reads them.
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg

from platform_assets.maintenance.cleaner import JOB, Cleaner
from platform_assets.maintenance.limits import Limits
from platform_assets.maintenance.usage import Servers
from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.resources.failures import as_failure, failure
from platform_assets.resources.folders import DriftReports, PredictionsFolder, ProofFolder
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.metadata import table
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.triton import TritonResource
from serving_gateway.contract import OUTCOMES_FOLDER

OP: Final = "delete_old_records"
SCHEDULE_VARIABLE: Final = "MAINTENANCE_SCHEDULE"
"""Environment variable: the job's cron schedule in UTC; read when definitions are loaded."""


def maintenance_job(
    specs: Sequence[ModelSpec], tables: Sequence[FeatureTableSpec] = ()
) -> dg.JobDefinition:
    """Build the job that keeps the records of all models and tables within their limits."""

    @dg.op(
        name=OP,
        description="Deletes records that are older than their limit and not in use, and merges "
        "the small files of the prediction log.",
    )
    def delete_old_records(
        context: dg.OpExecutionContext,
        gateway: GatewayResource,
        triton: TritonResource,
        model_repository: ModelRepository,
        mlflow: MlflowResource,
        proof_folder: ProofFolder,
        samples: SamplesFolder,
        drift_reports: DriftReports,
        predictions: PredictionsFolder,
    ) -> None:
        with as_failure("nothing was deleted", "correct that variable", ValueError):
            limits = Limits.from_environment(os.environ)
        cleaner = Cleaner(
            context.instance,
            Servers(gateway, triton, model_repository, mlflow),
            {
                "proof": proof_folder.folder,
                "sample": samples.folder,
                "outcome": lambda name: samples.folder(name) / OUTCOMES_FOLDER,
                "report": drift_reports.folder,
                "prediction": predictions.folder,
            },
            limits,
            datetime.now(UTC),
            context.log.info,
        )
        for spec in specs:
            cleaner.clean_model(spec)
            cleaner.merge_log(spec.model_name, samples.folder(spec.model_name))
        for one in tables:
            cleaner.add_table(one)
        cleaner.clean_runs()
        _conclude(cleaner, context)

    @dg.job(
        name=JOB,
        description="Keeps Dagster runs, MLflow runs, proofs, samples, drift reports and batch "
        "predictions within their limits (MAINTENANCE_*), and merges the prediction log's small "
        "files. What is served, on disk, in the ledger or new stays.",
    )
    def job() -> None:
        delete_old_records()

    return job


def _conclude(cleaner: Cleaner, context: dg.OpExecutionContext) -> None:
    """Report what was done, and fail if anything was left alone."""
    rows = cleaner.rows()
    merged = [{"model": name, **log._asdict()} for name, log in cleaner.merged.items()]
    context.add_output_metadata(
        {
            "deleted": table(rows) if rows else "nothing",
            "merged": table(merged) if merged else "nothing",
        }
    )
    if cleaner.stopped:
        causes = "; ".join(f"{name}: {why}" for name, why in cleaner.stopped.items())
        raise failure(
            f"the maintenance is not complete: {causes}",
            "correct that; the next maintenance continues from there",
            still_true="Everything that is in use is still there.",
        )


def maintenance_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Build the schedule of the maintenance."""
    return dg.ScheduleDefinition(
        name=f"{JOB}_schedule",
        job=job,
        cron_schedule=os.environ.get(SCHEDULE_VARIABLE) or "0 4 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes old records. Running from the start: it never touches what is in use.",
    )
