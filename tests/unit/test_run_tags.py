"""How many runs go at a time, by what `dagster.yaml` counts and what the jobs say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from platform_assets import automation
from platform_assets.local_stack.settings import ROOT
from platform_assets.serving.reconcile import reconcile_job
from platform_assets.serving.rollback import rollback_job
from tests.support.models import IRIS

INSTANCES = (
    "platform_assets/local_stack/dagster.yaml",
    "k8s/base/dagster/dagster.yaml",
    "tests/manifests/local/dagster.yaml",
)


@pytest.fixture(params=INSTANCES)
def instance(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / Path(request.param)).read_text()))


def counted(instance: dict[str, Any], tags: dict[str, str]) -> list[dict[str, Any]]:
    """The limits that count a run with these tags."""
    return [
        one
        for one in instance["concurrency"]["runs"]["tag_concurrency_limits"]
        if one["key"] in tags
    ]


def test_no_training_keeps_a_rollback_or_a_reconciliation_waiting(
    instance: dict[str, Any],
) -> None:
    assert instance["concurrency"]["runs"]["max_concurrent_runs"] == -1
    assert "pools" not in instance["concurrency"]
    assert counted(instance, dict(rollback_job(IRIS).tags)) == []
    heavy = automation.chain_job(IRIS).tags or {}
    limits = {one["key"] for one in counted(instance, dict(heavy))}
    assert limits
    assert limits.isdisjoint(reconcile_job(IRIS).tags)
    for job in (rollback_job(IRIS), reconcile_job(IRIS)):
        assert int(job.tags["dagster/priority"]) > 0
        assert int(job.tags["dagster/max_runtime"]) > 0
    assert instance["run_queue"]["dequeue_interval_seconds"] <= 1


def test_chains_of_a_model_follow_each_other_and_all_of_them_are_bounded(
    instance: dict[str, Any],
) -> None:
    jobs = [
        make(IRIS)
        for make in (automation.chain_job, automation.serving_job, automation.adoption_job)
    ]
    assert len({str(job.tags) for job in jobs}) == 1
    each, alike = counted(instance, dict(jobs[0].tags or {}))
    assert each["limit"] > 1
    assert "value" not in each
    assert (alike["limit"], alike["value"]) == (1, {"applyLimitPerUniqueValue": True})
    assert counted(instance, dict(automation.drift_job(IRIS).tags or {}))
    assert instance["run_monitoring"]["max_runtime_seconds"] > 0
