"""A model with features of every kind, its training rows, and samples of what it answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from platform_assets.model_spec import (
    AutomationSpec,
    CandidateSpec,
    Evaluation,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.monitoring.assets import drift_assets
from platform_assets.monitoring.checks import drift_check_key, drift_checks
from platform_assets.resources.folders import DriftReports
from platform_assets.resources.mlflow import MlflowResource, MlflowUnavailable, RegistryNotFound
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.reference import REFERENCE_ARTIFACT, write_reference
from platform_assets.resources.samples import SamplesFolder
from serving_gateway.contract import LOG_PREDICTION, LOG_SCORE, LOG_TIME, LOG_VERSION, DType

PRODUCTION = 7
RUN_ID = "a" * 32
VISITORS = ModelSpec(
    model_name="visitors",
    task=Task.BINARY,
    source=Source("unused"),
    features=(
        FeatureSpec("age", nullable=True),
        FeatureSpec("visits", dtype=DType.INT64),
        FeatureSpec("country", dtype=DType.BYTES, nullable=True),
        FeatureSpec("member", dtype=DType.BOOL),
    ),
    target=Target("bought", DType.BOOL, classes=(False, True)),
    candidates=(CandidateSpec("logistic_regression"),),
    gates=Gates(metric_floor=0.5),
    join_key=JoinKey("entity_id"),
    evaluation=Evaluation(metric="accuracy", split=Split.ENTITY),
    automation=AutomationSpec(on_drift=True, drift_schedule="0 4 * * *"),
)


class StubMlflow(MlflowResource):
    """An MLflow that knows one version; it may be `down`, or the version's run `gone`."""

    tracking_uri: str = "http://127.0.0.1:9"
    down: bool = False
    gone: bool = False
    logged_to: str = ""

    def version(self, model_name: str, version: int) -> RegisteredVersion:
        if self.down:
            raise MlflowUnavailable("MLflow at http://127.0.0.1:9 does not answer")
        signature = VISITORS.signature((False, True))
        return RegisteredVersion(model_name, version, RUN_ID, "f" * 64, signature)

    def artifact_bytes(self, run_id: str, path: str) -> bytes:
        kept = Path(self.logged_to) / run_id / path
        if self.gone or not kept.is_file():
            raise RegistryNotFound(f"MLflow has no file {path} with run {run_id}")
        return kept.read_bytes()

    def evaluation_set(self, run_id: str) -> EvaluationSet:
        assert run_id == RUN_ID
        if self.gone:
            raise RegistryNotFound(f"MLflow cannot fetch anything of run {run_id}")
        labels: Any = np.arange(400) % 2 == 0
        high = np.random.default_rng(5).uniform(0.6, 0.9, 400)
        probabilities = np.stack([high, 1 - high], 1)
        return EvaluationSet(rows(400).iloc[:, :4], labels, labels, probabilities, np.arange(400))

    def log_artifact_bytes(self, run_id: str, path: str, data: bytes) -> None:
        target = Path(self.logged_to) / run_id / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def rows(count: int, seed: int = 0) -> pd.DataFrame:
    """Feature rows in logical types, from one distribution."""
    random = np.random.default_rng(seed)
    age = random.normal(40, 10, count).astype(np.float32)
    age[random.random(count) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "visits": random.poisson(3, count),
            "country": pd.Series(random.choice(["de", "fr", ""], count, p=[0.5, 0.4, 0.1])).replace(
                "", None
            ),
            "member": random.random(count) < 0.3,
        }
    )


def in_tensor_form(features: pd.DataFrame) -> pd.DataFrame:
    """Rows as training has them: a missing text is empty."""
    return features.assign(country=features["country"].fillna(""))


def answered(features: pd.DataFrame, *, version: int = PRODUCTION, days_ago: float = 0) -> Any:
    """The samples that a gateway writes of rows that it answered, half of them `true`."""
    count = len(features)
    newest = datetime.now(UTC) - timedelta(days=days_ago)
    samples = features.copy()
    samples[LOG_TIME] = [newest - timedelta(milliseconds=count - i) for i in range(count)]
    samples[LOG_VERSION] = np.int64(version)
    samples["sample_variant"] = "A"
    samples[LOG_PREDICTION] = np.where(np.arange(count) % 2 == 0, "true", "false")
    samples[LOG_SCORE] = np.random.default_rng(6).uniform(0.6, 0.9, count)
    return samples


@dataclass(frozen=True)
class Place:
    """Folders of a test, and the resources on them."""

    home: Path
    spec: ModelSpec = VISITORS

    @property
    def samples(self) -> Path:
        return self.home / "samples" / self.spec.model_name

    def train_on(self, features: pd.DataFrame) -> None:
        """Keep with the run of the version in production what it was trained on."""
        target = self.home / "mlflow" / RUN_ID / REFERENCE_ARTIFACT
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(write_reference(in_tensor_form(features), np.arange(len(features))))

    def sample(self, samples: pd.DataFrame, name: str = "one") -> Path:
        path = self.samples / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples.to_parquet(path, index=False, coerce_timestamps="us")
        return path

    def report(
        self,
        instance: dg.DagsterInstance,
        *,
        mlflow_down: bool = False,
        run_gone: bool = False,
        **config: Any,
    ) -> dg.ExecuteInProcessResult:
        kept = str(self.home / "mlflow")
        mlflow = StubMlflow(down=mlflow_down, gone=run_gone, logged_to=kept)
        return dg.materialize(
            [*drift_assets(self.spec), *drift_checks(self.spec)],
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {f"{self.spec.model_name}__drift_report": {"config": config}}},
            resources={
                "mlflow": mlflow,
                "samples": SamplesFolder(root=str(self.home / "samples")),
                "drift_reports": DriftReports(root=str(self.home / "reports")),
            },
        )


def put_in_production(instance: dg.DagsterInstance, version: int = PRODUCTION) -> None:
    """Say in Dagster that a version is in production, as the switch does."""
    key = dg.AssetKey(VISITORS.key("gateway_reload"))
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"version": version}))


def verdict(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    """The evaluation of the drift check."""
    [evaluation] = result.get_asset_check_evaluations()
    assert evaluation.asset_check_key == drift_check_key(VISITORS)
    return evaluation


def without_automation() -> ModelSpec:
    """The same model, of which nothing runs by itself."""
    return replace(VISITORS, automation=AutomationSpec())
