"""The Dagster code location on Kubernetes: the same definitions, each step in a pod of its own.

The run launcher (`dagster.yaml`) gives all pods what they share. This module adds what a step
gets beyond that: compute by the model file, and the volumes and secrets of the resources it uses.
Training code has no key to Triton, and only steps that change the model repository can write it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import dagster as dg
from dagster_k8s import k8s_job_executor

from platform_assets.definitions import model_parts, models
from platform_assets.maintenance.job import OP as MAINTENANCE_OP
from platform_assets.model_spec import ComputeResources, FeatureTableSpec, Kubernetes, ModelSpec
from platform_assets.shared_definitions import resources

_LIGHT: Final = ComputeResources(cpu="250m", memory="1Gi")
"""Steps that call servers and move files; most of the memory is for the imports."""
_HEAVY: Final = ComputeResources(cpu="1", memory="2Gi")
"""Steps that hold all rows in memory, or score them."""
_DEFAULTS: Final = dict.fromkeys(
    (
        *("features", "online_features", "trained_model", "onnx_model"),
        *("drift_report", "batch_predictions", "live_quality"),
    ),
    _HEAVY,
)
_LEAST_CPU_LIMIT: Final = 1000
"""Thousandths of a core that every step may use: with less, the imports alone take a minute."""

_ACCOUNT: Final = "dagster-step"
"""Account without any rights: a step reports to Dagster's storage, and only the run that starts it
calls Kubernetes. It has a token, because Dagster looks for one wherever it opens its instance."""

_STATE: Final = "platform-state"
_REPOSITORY: Final = "model-repository"


def _secret(variable: str, name: str, key: str, **more: bool) -> dict[str, Any]:
    reference = {"name": name, "key": key, **more}
    return {"name": variable, "value_from": {"secret_key_ref": reference}}


# By name of the Dagster resource. The variables are empty in the common environment, because
# Dagster resolves those of all resources in every pod of a job.
_SECRETS: Final = {
    "triton": _secret("TRITON_CONTROL_KEY", "triton-control", "key"),
    "gateway": _secret("GATEWAY_CONTROL_TOKEN", "gateway-control", "token"),
    "feast": _secret("FEAST_REDIS", "redis-credentials", "url"),
    # Without it the ledger is chained, but not signed.
    "ledger": _secret("LEDGER_KEY", "ledger-key", "pem", optional=True),
}
_SOURCE_SECRETS: Final = {"secret_ref": {"name": "model-sources", "optional": True}}
"""Secret values of `${SOURCE_NAME}` in the sources of model files."""


def step_config(
    uses: Iterable[str], asked: ComputeResources, *, changes_repository: bool
) -> dict[str, Any]:
    """Return the configuration of a step's pod beyond what the run launcher gives to all.

    `uses` names the Dagster resources that the step uses. Its limits equal its requests, except
    that every step may use a core.
    """
    used = frozenset(uses)
    # Steps pass their values on through /state.
    mounts: list[dict[str, Any]] = [{"name": _STATE, "mount_path": "/state"}]
    if "model_repository" in used:
        protected = {} if changes_repository else {"read_only": True}
        mounts.append({"name": _REPOSITORY, "mount_path": "/models", **protected})
    claims = [mount["name"] for mount in mounts]
    requests = {"cpu": asked.cpu, "memory": asked.memory}
    container = {
        "resources": {"requests": requests, "limits": requests | {"cpu": _cpu_limit(asked.cpu)}},
        "env": [secret for resource, secret in _SECRETS.items() if resource in used],
        "env_from": [_SOURCE_SECRETS] if "source" in used else [],
        "volume_mounts": mounts,
    }
    volumes = [{"name": n, "persistent_volume_claim": {"claim_name": n}} for n in claims]
    return {
        "container_config": container,
        "pod_spec_config": {"volumes": volumes, "service_account_name": _ACCOUNT},
    }


def _cpu_limit(cpu: str | None) -> str | None:
    thousandths = float(cpu[:-1]) if cpu and cpu.endswith("m") else float(cpu or 0) * 1000
    return cpu if thousandths > _LEAST_CPU_LIMIT else "1"


def step_configs(
    definitions: dg.Definitions, specs: Iterable[ModelSpec | FeatureTableSpec]
) -> dict[str, Any]:
    """Return `step_config` of every step that `definitions` can run, by the name of its op."""
    by_name = {spec.name: spec for spec in specs}
    configs = {}
    for assets in (*(definitions.assets or ()), *(definitions.asset_checks or ())):
        if not isinstance(assets, dg.AssetsDefinition):  # the placeholder of a broken file
            continue
        op = assets.op
        checked = isinstance(assets, dg.AssetChecksDefinition)
        key = next(iter(assets.check_keys)).asset_key if checked else assets.key
        model_name, asset = key.path
        configs[op.name] = step_config(
            op.required_resource_keys,
            _compute(by_name[model_name].kubernetes, asset),
            changes_repository=not checked,
        )
    for op in _ops_of_jobs(definitions):
        configs[op.name] = step_config(
            op.required_resource_keys, _LIGHT, changes_repository=op.name != MAINTENANCE_OP
        )
    return configs


def _compute(settings: Kubernetes, asset: str) -> ComputeResources:
    """Return a model file's requests for an asset and its checks, completed by defaults."""
    requests, default = settings.resources.get(asset), _DEFAULTS.get(asset, _LIGHT)
    if requests is None:
        return default
    return ComputeResources(requests.cpu or default.cpu, requests.memory or default.memory)


def _ops_of_jobs(definitions: dg.Definitions) -> Iterator[dg.OpDefinition]:
    """Yield the steps of jobs without assets: rollback, reconciliation, maintenance."""
    for job in definitions.jobs or ():
        if isinstance(job, dg.JobDefinition):
            yield from (node for node in job.graph.node_defs if isinstance(node, dg.OpDefinition))


def _executor() -> dg.ExecutorDefinition:
    configured: dg.ExecutorDefinition = k8s_job_executor.configured(
        {
            # More pods of one run at a time would only wait for each other's memory.
            "max_concurrent": 4,
            "per_step_k8s_config": step_configs(
                model_parts(), [*models().specs.values(), *models().tables.values()]
            ),
        },
        name="k8s",
    )
    return configured


defs = dg.Definitions.merge(model_parts(), resources(_executor()))
