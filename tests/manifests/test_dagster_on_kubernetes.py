"""Runs and steps as Jobs, made by our instance file and code location against a Kubernetes API."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
import yaml
from dagster._config import process_config
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.storage.dagster_run import DagsterRun

from serving_gateway import __version__
from tests.support.kubernetes_api import FakeKubernetes, Job, run_kubernetes
from tests.support.servers import ROOT, wait_until

BASE = ROOT / "k8s" / "base" / "dagster"
IMAGE = f"readygate/pipeline:{__version__}"
SECRETS = {
    "postgres-credentials": {"username": "postgres-user", "password": "postgres-secret"},
    "triton-control": {"key": "triton-secret"},
    "gateway-control": {"token": "gateway-secret"},
    "redis-credentials": {"url": "redis://:redis-secret@redis:6379/0"},
}
# The executor looks after its steps' Jobs every 20 s; here it need not take that long.
IMPATIENT = """
import sys
from dagster._core.executor.step_delegating import step_delegating_executor as module
init = module.StepDelegatingExecutor.__init__
def impatient(self, *arguments, **options):
    init(self, *arguments, **options, check_step_health_interval_seconds=1)
module.StepDelegatingExecutor.__init__ = impatient
from dagster._cli import main
main()
"""


def environment(home: Path | None = None) -> dict[str, str]:
    """The common environment of the pods; `home` stands for the volumes."""
    lines = (BASE / "pipeline.env").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    if home is not None:
        found = {k: re.sub(r"^/(state|models|tmp)", rf"{home}/\1", v) for k, v in found.items()}
        found["FEAST_ONLINE_STORE"] = "sqlite"
    return found


def instance_file(home: Path) -> None:
    """Our instance file, with SQLite for Postgres, `home` for the volumes, and KUBECONFIG."""
    config = yaml.safe_load((BASE / "dagster.yaml").read_text())
    config["storage"] = {"sqlite": {"base_dir": str(home / "dagster")}}
    config["local_artifact_storage"]["config"]["base_dir"] = str(home / "state" / "dagster")
    launcher = config["run_launcher"]["config"]
    launcher["load_incluster_config"] = False
    launcher["dagster_home"] = str(home / "tmp" / "dagster")
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))


class Cluster:
    """A Dagster instance that launches its runs in a fake cluster."""

    def __init__(self, instance: dg.DagsterInstance, kubernetes: FakeKubernetes) -> None:
        self.instance, self.kubernetes = instance, kubernetes

    def run(self, job_name: str) -> DagsterRun:
        """Launch a run as the daemon does, and wait for its end."""
        from dagster_k8s import K8sRunLauncher

        from platform_assets.kubernetes import defs

        repository = RepositoryPythonOrigin(
            executable_path=sys.executable,
            code_pointer=ModuleCodePointer("platform_assets.kubernetes", "defs", str(ROOT)),
            container_image=IMAGE,
            entry_point=["dagster"],
        )
        run = self.instance.create_run_for_job(
            defs.resolve_job_def(job_name),
            job_code_origin=JobPythonOrigin(job_name=job_name, repository_origin=repository),
        )
        launcher = self.instance.run_launcher
        assert isinstance(launcher, K8sRunLauncher)
        launcher.launch_run(LaunchRunContext(run, workspace=None))

        def now() -> DagsterRun:
            found = self.instance.get_run_by_id(run.run_id)
            assert found is not None
            return found

        wait_until(lambda: now().is_finished, 90, f"run {run.run_id} of {job_name} ends")
        return now()

    def jobs(self, run: DagsterRun) -> list[Job]:
        """The Jobs of a run in the order of their creation: its own, then those of its steps."""
        return [
            job
            for job in self.kubernetes.jobs.values()
            if job["metadata"]["labels"]["dagster/run-id"] == run.run_id
        ]

    def said(self, run: DagsterRun) -> str:
        """What the event log says of the run, with the errors of its steps."""
        lines = [event.message for event in self.instance.all_logs(run.run_id)]
        logs = [f"{log.name}: {log.read_text()}" for log in self.kubernetes.logs.iterdir()]
        return "\n".join([*self.kubernetes.refused, *lines, *logs])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    from kubernetes.config import kube_config

    home = tmp_path_factory.mktemp("cluster")
    for folder in ("state", "models", "tmp", "logs", "dagster"):
        (home / folder).mkdir(parents=True)
    kubernetes = FakeKubernetes(
        configs={"pipeline-environment": environment(home)},
        secrets=SECRETS,
        command=lambda arguments: [sys.executable, "-c", IMPATIENT, *arguments[1:]],
        environment={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        logs=home / "logs",
        may=frozenset({"dagster-daemon", "dagster-run"}),
        breaks=lambda job: job["metadata"]["labels"].get("dagster/op") == "cars__restore",
    )
    with run_kubernetes(kubernetes), pytest.MonkeyPatch.context() as patch:
        # This process plays daemon and code location, which have the same environment.
        for name, value in environment(home).items():
            patch.setenv(name, value)
        own = kubernetes.kubeconfig("dagster-daemon")
        patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(own))
        instance_file(home)
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home))) as instance:
            yield Cluster(instance, kubernetes)


def pod(job: Job) -> dict[str, Any]:
    found = job["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def container(job: Job) -> dict[str, Any]:
    (found,) = pod(job)["containers"]
    assert isinstance(found, dict)
    return found


def mounts(job: Job) -> dict[str, str | None]:
    """Mount path -> the claim behind it; None for an empty directory."""
    volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
    claims = {n: v.get("persistentVolumeClaim", {}).get("claimName") for n, v in volumes.items()}
    return {mount["mountPath"]: claims[mount["name"]] for mount in container(job)["volumeMounts"]}


def secret_variables(job: Job) -> set[str]:
    return {entry["name"] for entry in container(job)["env"] if "valueFrom" in entry}


def is_restricted(job: Job) -> bool:
    """Whether the pod is what the restricted pod security standard admits, and read-only."""
    of_pod, of_container = pod(job)["securityContext"], container(job)["securityContext"]
    return (
        of_pod["runAsNonRoot"]
        and (of_pod["runAsUser"], of_pod["runAsGroup"], of_pod["fsGroup"]) == (10001,) * 3
        and of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        and of_container["capabilities"] == {"drop": ["ALL"]}
        and not of_container["allowPrivilegeEscalation"]
        and of_container["readOnlyRootFilesystem"]
    )


@pytest.fixture(scope="module")
def done(cluster: Cluster) -> tuple[Job, Job]:
    """The Job of a run that succeeded, and the one of its only step."""
    run = cluster.run("best_model_reconcile")
    assert run.status is dg.DagsterRunStatus.SUCCESS, cluster.said(run)
    worker, step = cluster.jobs(run)
    return worker, step


def test_a_run_and_its_steps_are_restricted_jobs_of_the_platform(done: tuple[Job, Job]) -> None:
    for job in done:
        assert job["metadata"]["namespace"] == "serving-platform"
        for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
            assert labels["app.kubernetes.io/part-of"] == "readygate"
            assert labels["app.kubernetes.io/managed-by"] == "dagster"
        assert (job["spec"]["ttlSecondsAfterFinished"], job["spec"]["backoffLimit"]) == (86400, 0)
        assert container(job)["image"] == IMAGE
        assert is_restricted(job)
        assert not any(
            secret in str(job) for value in SECRETS.values() for secret in value.values()
        )
    worker, step = done
    component = "app.kubernetes.io/component"
    assert worker["metadata"]["labels"][component] == "run_worker"
    assert step["metadata"]["labels"][component] == "step_worker"


def test_only_the_run_asks_kubernetes_and_only_steps_have_the_volumes(
    cluster: Cluster, done: tuple[Job, Job]
) -> None:
    worker, step = done
    assert [pod(job)["serviceAccountName"] for job in done] == ["dagster-run", "dagster-step"]
    assert cluster.kubernetes.refused == []
    assert mounts(worker) == {"/tmp": None}
    assert mounts(step) == {"/tmp": None, "/state": "platform-state", "/models": "model-repository"}
    postgres = {"DAGSTER_POSTGRES_USERNAME", "DAGSTER_POSTGRES_PASSWORD"}
    assert secret_variables(worker) == postgres
    secrets = {"TRITON_CONTROL_KEY", "GATEWAY_CONTROL_TOKEN"}
    assert secret_variables(step) == postgres | secrets
    assert container(worker)["resources"]["requests"] == {"cpu": "250m", "memory": "512Mi"}
    assert container(step)["resources"]["requests"] == {"cpu": "250m", "memory": "1Gi"}


def test_a_pod_that_dies_fails_the_run_and_names_its_job(cluster: Cluster) -> None:
    run = cluster.run("cars_reconcile")
    assert run.status is dg.DagsterRunStatus.FAILURE
    worker, step = cluster.jobs(run)
    name = step["metadata"]["name"]
    assert f"Discovered failed Kubernetes job {name} for step cars__restore" in cluster.said(run)
    # The Job of the run fails too: that is what is watched.
    cluster.kubernetes.processes[worker["metadata"]["name"]].wait(30)
    assert "failed" in str(cluster.kubernetes.status(worker["metadata"]["name"]))


def test_every_job_finds_all_variables_in_the_common_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from platform_assets.kubernetes import defs

    common = environment()
    for name in os.environ.keys() - {"PATH", "PYTHONPATH"}:
        monkeypatch.delenv(name)
    for name, value in common.items():
        monkeypatch.setenv(name, value)
    for job in defs.resolve_all_job_defs():
        dg.validate_run_config(job)  # raises where one is missing
    for name in ("TRITON_CONTROL_KEY", "GATEWAY_CONTROL_TOKEN", "FEAST_REDIS"):
        assert common[name] == ""


def test_the_instance_is_that_of_one_machine_but_for_where_it_stores_and_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dagster_postgres.storage import DagsterPostgresStorage
    from dagster_postgres.utils import pg_url_from_config

    ours = yaml.safe_load((BASE / "dagster.yaml").read_text())
    local = yaml.safe_load((ROOT / "platform_assets/local_stack/dagster.yaml").read_text())
    assert ours["concurrency"] == local["concurrency"]
    assert not ours["telemetry"]["enabled"]

    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_POSTGRES_USERNAME", "me")
    monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "p@ss")
    reference = InstanceRef.from_dir(str(BASE))
    storage = reference.storage_data
    schema = DagsterPostgresStorage.config_type()
    assert storage is not None
    checked = process_config(schema, storage.config_dict)
    assert checked.success, checked.errors
    assert checked.value is not None
    url = sqlalchemy.make_url(pg_url_from_config(checked.value))
    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg2://me:p%40ss@postgres:5432/dagster"
    )
    assert url.get_dialect().import_dbapi() is not None
    assert isinstance(reference.run_coordinator, QueuedRunCoordinator)
