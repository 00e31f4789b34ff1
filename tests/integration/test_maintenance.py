"""The maintenance on the real servers: old records go, and production never notices."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from platform_assets.maintenance.cleaner import Cleaner
from platform_assets.maintenance.limits import Limits
from platform_assets.maintenance.usage import Servers
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_client import open_client
from platform_assets.resources.triton import TritonResource
from platform_assets.run_tags import MODEL_TAG
from platform_assets.serving.ledger import read_ledger
from tests.support.full_platform import TOKEN, Platform
from tests.support.servers import LOOPBACK, free_port

UNREACHABLE = f"http://{LOOPBACK}:{free_port()}"
AWAY: dict[str, Any] = {
    "gateway": GatewayResource(urls=UNREACHABLE, control_token=TOKEN),
    "triton": TritonResource(url=UNREACHABLE, control_key="k"),
    "mlflow": MlflowResource(tracking_uri=UNREACHABLE),
}


def servers(platform: Platform) -> Servers:
    there = platform.resources
    return Servers(there["gateway"], there["triton"], platform.repository, there["mlflow"])


def clean(platform: Platform, who: Servers) -> Cleaner:
    """Clean as in 400 days, when everything is old, and keep the newest three of each kind."""
    one = Cleaner(
        platform.instance,
        who,
        {"proof": lambda name: platform.home / "proof" / name},
        Limits(keep=3),
        datetime.now(UTC) + timedelta(days=400),
        lambda _line: None,
    )
    one.clean_model(platform.spec)
    one.clean_runs()
    return one


def left_behind(platform: Platform) -> tuple[list[str], str]:
    """Two MLflow runs of a training that came to nothing, the second one's logged model."""
    from sklearn.linear_model import LogisticRegression

    mlflow = platform.resources["mlflow"]
    tags = mlflow.owner_tags(platform.spec.model_name, "a Dagster run")
    with mlflow.run(platform.spec.model_name, "train", tags=tags) as parent:
        estimator = LogisticRegression().fit([[0.0] * 4, [1.0] * 4], [0, 1])
        signature = platform.spec.signature((0, 1))
        uri = parent.sklearn_model(estimator, "unused", signature)
        with mlflow.run(platform.spec.model_name, "one", parent=parent, tags=tags) as child:
            pass
    return [parent.run_id, child.run_id], uri.removeprefix("models:/")


def old_runs(platform: Platform) -> list[str]:
    """Failed runs of a chain, oldest first."""
    runs = [
        dg.DagsterRun(
            job_name="best_model_chain",
            status=dg.DagsterRunStatus.FAILURE,
            tags={MODEL_TAG: platform.spec.model_name},
        )
        for _ in range(5)
    ]
    for run in runs:
        platform.instance.add_run(run)
    return [run.run_id for run in runs]


def test_old_records_go_and_everything_in_use_goes_on(platform: Platform) -> None:
    from mlflow.entities import ViewType

    if not platform.settled():
        platform.promote()
    client, name = open_client(platform.mlflow.url), platform.spec.model_name
    production, ledger = platform.production(), read_ledger(platform.instance, platform.spec)
    mlflow_runs, model_id = left_behind(platform)
    runs = old_runs(platform)

    cleaned = clean(platform, servers(platform))

    assert cleaned.stopped == {}
    for run_id in mlflow_runs:
        assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    experiment = client.get_experiment_by_name(name).experiment_id
    assert model_id not in [m.model_id for m in client.search_logged_models([experiment])]
    there = [platform.instance.has_run(run_id) for run_id in runs]
    assert there == [False, False, True, True, True]
    rows = {row["kind"]: str(row["names"]) for row in cleaned.rows()}
    assert set(mlflow_runs) <= set(rows["MLflow run"].split(", "))
    assert set(runs[:2]) <= set(rows["Dagster run"].split(", "))

    version = client.get_model_version(name, str(production))
    kept = client.get_run(version.run_id).info
    assert kept.lifecycle_stage == "active"
    candidates = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{version.run_id}'", ViewType.ALL
    )
    assert {one.info.lifecycle_stage for one in candidates} == {"active"}
    assert read_ledger(platform.instance, platform.spec) == ledger
    assert (platform.home / "proof" / name / "latest" / "reload_variant_A.json").is_file()
    assert platform.answering_version() == production
    again = platform.run("gateway_reload", "serving_proof")
    assert again.success, again.failures
    assert platform.check("triton_serving_state", "no_regression").passed


@pytest.mark.parametrize("away", AWAY)
def test_while_a_server_is_away_nothing_of_the_model_goes(platform: Platform, away: str) -> None:
    mlflow_runs, _ = left_behind(platform)
    runs = old_runs(platform)
    cleaned = clean(platform, replace(servers(platform), **{away: AWAY[away]}))
    assert UNREACHABLE in cleaned.stopped[platform.spec.model_name]
    assert cleaned.rows() == []
    assert all(map(platform.instance.has_run, runs))
    client = open_client(platform.mlflow.url)
    for run_id in mlflow_runs:
        assert client.get_run(run_id).info.lifecycle_stage == "active"


def test_the_job_fails_and_names_a_model_that_it_left_alone(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINTENANCE_KEEP", "1")
    predictions = platform.home / "predictions" / platform.spec.model_name
    predictions.mkdir(parents=True, exist_ok=True)
    for name in ("old-v1.parquet", "newest-v1.parquet"):
        (predictions / name).touch()
    os.utime(predictions / "old-v1.parquet", (1_000_000_000,) * 2)
    assert platform.execute("maintenance") == {}
    assert not (predictions / "old-v1.parquet").exists()
    assert (predictions / "newest-v1.parquet").is_file()
    away = replace(platform, resources={**platform.resources, **AWAY})
    [said] = away.execute("maintenance").values()
    assert "the maintenance is not complete: best_model: " in said.lower()
    assert "Everything that is in use is still there" in said
    monkeypatch.setenv("MAINTENANCE_RUN_DAYS", "ninety")
    [said] = platform.execute("maintenance").values()
    assert "MAINTENANCE_RUN_DAYS='ninety': give a whole number" in said
