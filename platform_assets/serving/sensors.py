"""Sensors that watch what is served, for all models at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import dagster as dg

from platform_assets.export.triton_config import ConfigError
from platform_assets.intervals import sensor_seconds
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import is_transient
from platform_assets.resources.gateway import GatewayClientError, GatewayResource
from platform_assets.resources.mlflow import PRODUCTION_ALIAS, MlflowResource, RegistryError
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import TritonError, TritonResource, TritonUnreachable
from platform_assets.run_tags import MODEL_TAG
from platform_assets.serving.checks import compare_alias
from platform_assets.serving.ledger_backfill import backfill_ledger
from platform_assets.serving.ledger_entries import LedgerWriter
from platform_assets.serving.reconcile import observed_drift, versions_in_use
from platform_assets.serving.switching import PRODUCTION
from platform_assets.serving.turns import CHANGE, LEASE, busy_models

_ASK_AGAIN_AFTER_S = 600


def serving_drift_sensor(
    specs: Sequence[ModelSpec], jobs: Sequence[dg.JobDefinition]
) -> dg.SensorDefinition:
    """Build the sensor that starts a model's reconcile job when Triton serves other versions."""

    @dg.sensor(
        name="serving_drift",
        jobs=jobs,
        minimum_interval_seconds=sensor_seconds(30),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Starts a model's reconcile job when Triton serves other versions of it than those "
            "that were verified. Running from the start: it only restores what was lost."
        ),
    )
    def serving_drift(
        context: dg.SensorEvaluationContext,
        triton: TritonResource,
        model_repository: ModelRepository,
        gateway: GatewayResource,
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        busy = busy_models(context.instance, CHANGE)
        reasons: list[str] = []
        drifted = False
        for spec, job in zip(specs, jobs, strict=True):
            if spec.model_name in busy:
                reasons.append(f"{spec.model_name}: a run is changing what is served")
                continue
            try:
                drift = observed_drift(spec.model_name, triton, model_repository)
                if drift and drift.gained:
                    routed = versions_in_use(spec.model_name, gateway)
                    drift = observed_drift(spec.model_name, triton, model_repository, routed)
            except TritonUnreachable as error:
                reasons.append(f"Triton cannot be asked: {error}")
                break
            except (TritonError, RepositoryError, ConfigError, OSError) as error:
                reasons.append(f"{spec.model_name}: {error}")
                continue
            if not drift:
                continue
            # The same drift within ten minutes means that the last run did not help.
            period = int(time.time() // _ASK_AGAIN_AFTER_S)
            drifted = True
            yield dg.RunRequest(
                job_name=job.name,
                run_key=f"{spec.model_name} lost {drift.lost} gained {drift.gained} in {period}",
                tags={
                    MODEL_TAG: spec.model_name,
                    "serving/lost": str(drift.lost),
                    "serving/gained": str(drift.gained),
                },
            )
        if not drifted:
            yield dg.SkipReason("; ".join(reasons) or "Triton serves exactly the verified versions")

    return serving_drift


def production_watch_sensor(specs: Sequence[ModelSpec]) -> dg.SensorDefinition:
    """Build the sensor that completes the ledger and notices a manually moved alias."""

    @dg.sensor(
        name="production_watch",
        minimum_interval_seconds=sensor_seconds(30),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Records switches made outside a run in the deployment ledger, and "
            "evaluates registry_alias when MLflow and production start or stop agreeing. It "
            "changes nothing that is served."
        ),
    )
    def production_watch(
        context: dg.SensorEvaluationContext,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        model_repository: ModelRepository,
        ledger: LedgerFolder,
    ) -> dg.SensorResult:
        known: dict[str, str] = json.loads(context.cursor or "{}")
        notes: list[str] = []
        registry_answers = True
        for spec in specs:
            try:
                statuses = gateway.model_statuses(spec.model_name)
            except GatewayClientError as error:
                notes.append(f"{spec.model_name}: {error}")
                if is_transient(error):
                    break  # a timeout per model would outlast the tick
                continue
            if all(PRODUCTION not in status.effective for status in statuses):
                continue
            # After the gateway: a run whose switch it shows still has its turn or has recorded it.
            if spec.model_name in busy_models(context.instance, CHANGE, LEASE):
                continue
            notes += [
                f"{spec.model_name}: version {switch.version}, generation {switch.generation}, "
                "entered into the ledger"
                for switch in backfill_ledger(
                    spec, statuses, context.instance, ledger, model_repository
                )
            ]
            notes += [
                f"{spec.model_name}: {line}"
                for line in LedgerWriter(spec, ledger, context.instance).enter_missing()
            ]
            if registry_answers:
                try:
                    alias = mlflow.alias_version(spec.model_name, PRODUCTION_ALIAS)
                except RegistryError as error:
                    notes.append(f"{spec.model_name}: {error}")
                    registry_answers = not is_transient(error)
                    continue
                notes += _report_alias(spec, compare_alias(alias, statuses), context, known)
        return dg.SensorResult(
            skip_reason="; ".join(notes) or "nothing new", cursor=json.dumps(known)
        )

    return production_watch


def _report_alias(
    spec: ModelSpec,
    result: dg.AssetCheckResult,
    context: dg.SensorEvaluationContext,
    known: dict[str, str],
) -> list[str]:
    """Report `registry_alias` when its verdict differs from the last one."""
    verdict = f"{result.passed}: {result.description}"
    if known.get(spec.model_name) == verdict:
        return []
    known[spec.model_name] = verdict
    context.instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(spec.key("gateway_reload")),
            check_name="registry_alias",
            passed=result.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=result.description,
            metadata=result.metadata,
        )
    )
    return [f"{spec.model_name}: registry_alias {'passed' if result.passed else 'failed'}"]
