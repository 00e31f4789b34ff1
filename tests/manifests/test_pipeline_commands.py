"""What the pods of MLflow and Dagster run, run here, and asked by their own probes.

Folders, ports and addresses are of this machine; Postgres is SQLite. All else is as rendered.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import sqlalchemy
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.manifests.commands import (
    Runnable,
    path_of,
    run,
    runnable,
    status,
)
from tests.manifests.rendering import Manifests
from tests.support.servers import (
    LOOPBACK,
    ROOT,
    RunningProcess,
    answers_ok,
    free_port,
    run_process,
    wait_until,
)

# MLflow


def test_mlflow_answers_its_probe_by_any_name_and_clients_by_its_own(
    production: Manifests, tmp_path: Path
) -> None:
    mlflow = runnable(production, "Deployment/mlflow", tmp_path)
    database = sqlalchemy.make_url(mlflow.environ({})["MLFLOW_BACKEND_STORE_URI"])
    assert database.render_as_string(hide_password=False) == (
        "postgresql+psycopg2://postgres-user:postgres-password@postgres:5432/mlflow"
    )
    assert database.get_dialect().import_dbapi() is not None
    url = f"http://{LOOPBACK}:{free_port()}"
    replaced = {"--host=0.0.0.0": f"--host={LOOPBACK}", "--port=5000": f"--port={url[-5:]}"}
    artifacts = tmp_path / "artifacts"
    here = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    replaced |= {
        "--workers=2": "--workers=1",
        "--artifacts-destination=/artifacts": f"--artifacts-destination={artifacts}",
    }
    migrate = runnable(production, "Job/migrate-mlflow", tmp_path)
    done = run(migrate.argv(), migrate.environ(here))
    assert done.returncode == 0, done.stderr
    health = url + path_of(mlflow.container, "readiness")
    with run_process(
        mlflow.argv(replaced),
        ready=lambda: answers_ok(health),
        log=tmp_path / "log",
        env=mlflow.environ(here),
        timeout_s=120,
    ):
        experiments = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
        for host, expected in {
            "mlflow:5000": 200,
            "mlflow.serving-platform.svc.cluster.local:5000": 200,
            "rebound.example.com": 403,
        }.items():
            assert status(experiments, headers={"host": host}) == expected, host
        assert status(health, headers={"host": "10.1.2.3:5000"}) == 200
        refused = httpx.post(
            f"{url}/api/2.0/mlflow/model-versions/create",
            json={"name": "any", "source": "s3://elsewhere/model"},
            trust_env=False,
        )
        assert (refused.status_code, "source" in refused.text) == (400, True)


# Dagster


def dagster_pod(production: Manifests, workload: str, home: Path, **words: str) -> Runnable:
    """A pod of Dagster, its instance on SQLite and its launcher outside of a cluster."""
    pod = runnable(production, workload, home)
    instance = home / "opt" / "dagster" / "dagster.yaml"
    config = yaml.safe_load(instance.read_text())
    config["storage"] = {"sqlite": {"base_dir": str(home / "storage")}}
    config["local_artifact_storage"]["config"]["base_dir"] = str(home / "state" / "dagster")
    kubeconfig = home / "kubeconfig"
    kubeconfig.write_text(json.dumps(KUBECONFIG))
    config["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
    }
    instance.write_text(yaml.safe_dump(config))
    return pod


KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
}


def serving(port: int, service: str) -> bool:
    """What the kubelet's gRPC probe asks."""
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=2
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def test_dagster_loads_its_code_location_and_every_pod_answers_its_probes(
    production: Manifests, tmp_path: Path
) -> None:
    code_port, web_port = free_port(), free_port()
    code = dagster_pod(production, "Deployment/dagster-code", tmp_path)
    web = dagster_pod(production, "Deployment/dagster-webserver", tmp_path)
    daemon = dagster_pod(production, "Deployment/dagster-daemon", tmp_path)
    migrate = dagster_pod(production, "Job/migrate-dagster", tmp_path)
    workspace = tmp_path / "etc" / "dagster" / "workspace.yaml"
    text = workspace.read_text()
    text = text.replace("dagster-code", LOOPBACK, 1).replace("4000", str(code_port))
    workspace.write_text(text)
    done = run(migrate.argv(), migrate.environ({}))
    assert done.returncode == 0, done.stderr
    before = runnable(production, "Deployment/dagster-code", tmp_path, containers="initContainers")
    done = run(before.argv(), before.environ({"PYTHONPATH": str(ROOT)}))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "state" / "source" / "iris.csv").is_file()

    probe = code.container["readinessProbe"]["grpc"]
    url = f"http://{LOOPBACK}:{web_port}"
    with ExitStack() as stack:

        def start(pod: Runnable, log: str, **words: str) -> RunningProcess:
            process = RunningProcess(
                argv=pod.argv(words | {"0.0.0.0": LOOPBACK}),
                ready=lambda: True,
                timeout_s=60,
                env=pod.environ({}) | {"PYTHONPATH": str(ROOT)},
                log=tmp_path / log,
                grace_s=20,
            )
            process.start()
            stack.callback(process.stop)
            return process

        # All at once, as in a cluster: each waits for the others by itself.
        servers = [
            start(code, "code.log", **{"4000": str(code_port)}),
            start(web, "web.log", **{"3000": str(web_port)}),
            start(daemon, "daemon.log"),
        ]
        try:
            wait_until(
                lambda: serving(code_port, probe["service"]), 90, "the code location answers"
            )
            wait_until(
                lambda: answers_ok(url + path_of(web.container, "readiness")), 60, "web answers"
            )
            wait_until(lambda: loaded(url), 60, "the web server has the code location")
            alive = run(daemon.probe("liveness"), daemon.environ({}))
            assert alive.returncode == 0, alive.stdout + alive.stderr
        except (TimeoutError, AssertionError) as error:
            raise AssertionError(
                "\n".join([str(error), *(s.log_tail() for s in servers)])
            ) from None


def loaded(url: str) -> bool:
    from platform_assets.local_stack.processes import definitions_loaded

    return definitions_loaded(url)
