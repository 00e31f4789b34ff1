"""What the pod of each step has, by the resources that it uses and by the model file."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import dagster as dg
import pytest

from platform_assets.model_definitions import build
from platform_assets.model_spec import ComputeResources, Kubernetes
from platform_assets.shared_definitions import monitoring_definitions
from tests.support.models import QUICK_IRIS

SPEC = replace(
    QUICK_IRIS,
    kubernetes=Kubernetes(
        {"trained_model": ComputeResources("2500m", "6Gi"), "features": ComputeResources("4")}
    ),
)


@cache
def definitions() -> dg.Definitions:
    return dg.Definitions.merge(build(SPEC), monitoring_definitions([SPEC]))


@cache
def steps() -> dict[str, dict[str, Any]]:
    from platform_assets.kubernetes import step_configs

    return step_configs(definitions(), [SPEC])


def has(op: str) -> tuple[set[str], bool | None]:
    """Secret variables of a step, and whether it may write /models (None: does not see it)."""
    config = steps()[op]["container_config"]
    volumes = {mount["mount_path"]: mount for mount in config["volume_mounts"]}
    models = volumes.get("/models")
    writes = None if models is None else not models.get("read_only", False)
    return {entry["name"] for entry in config["env"]}, writes


def test_every_step_has_the_secrets_and_volumes_of_its_resources_alone() -> None:
    triton, gateway, feast = "TRITON_CONTROL_KEY", "GATEWAY_CONTROL_TOKEN", "FEAST_REDIS"
    ledger = "LEDGER_KEY"
    expected = {
        "best_model__features": ({feast}, None),
        "best_model__trained_model": ({feast}, None),
        "best_model__registered_model": (set(), None),
        "best_model__triton_model_entry": (set(), True),
        "best_model__triton_model_entry_entry_digest": (set(), False),
        "best_model__triton_serving_state": ({triton}, True),
        "best_model__serving_gates": ({triton, gateway, feast}, False),
        "best_model__gateway_reload": ({triton, gateway, feast, ledger}, True),
        "best_model__gateway_reload_predict_parity": ({gateway}, None),
        "best_model__batch_predictions": ({triton, gateway}, None),
        "best_model__batch_predictions_equals_online": ({gateway}, None),
        "roll_back_best_model": ({triton, gateway, ledger}, True),
        "best_model__restore": ({triton, gateway}, True),
        "delete_old_records": ({triton, gateway}, False),
    }
    assert {op: has(op) for op in expected} == expected
    writers = {op for op in steps() if has(op)[1]}
    assert writers == {op for op, (_, writes) in expected.items() if writes}
    sources = [op for op, step in steps().items() if step["container_config"]["env_from"]]
    assert sorted(sources) == ["best_model__features", "best_model__live_quality"]


@pytest.mark.parametrize(
    ("op", "cpu", "memory", "cpu_limit"),
    [
        ("best_model__trained_model", "2500m", "6Gi", "2500m"),
        ("best_model__trained_model_metric_floor", "2500m", "6Gi", "2500m"),
        ("best_model__features", "4", "2Gi", "4"),
        ("best_model__onnx_model", "1", "2Gi", "1"),
        ("best_model__batch_predictions", "1", "2Gi", "1"),
        ("best_model__serving_proof", "250m", "1Gi", "1"),
    ],
)
def test_steps_ask_for_what_the_model_file_says(
    op: str, cpu: str, memory: str, cpu_limit: str
) -> None:
    asked = steps()[op]["container_config"]["resources"]
    assert asked["requests"] == {"cpu": cpu, "memory": memory}
    assert asked["limits"] == {"cpu": cpu_limit, "memory": memory}


def test_no_step_holds_a_slot_that_a_canceled_run_could_keep() -> None:
    jobs = [job for job in definitions().jobs or () if isinstance(job, dg.JobDefinition)]
    ops = [node for job in jobs for node in job.graph.node_defs]
    ops += [one.op for one in definitions().assets or () if isinstance(one, dg.AssetsDefinition)]
    assert len(ops) > len(jobs)
    assert {op.pool for op in ops if isinstance(op, dg.OpDefinition)} == {None}
