"""What the pods run, run here: each rendered command with its variables, asked by its own probes.

Folders, ports and addresses are of this machine; Postgres is SQLite. All else is as rendered.
"""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import sqlalchemy
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from platform_assets.local_stack.triton_server import (
    Listen,
    remove_stale_shared_memory,
    triton_arguments,
)
from serving_gateway.contract import DEFAULT_MODEL
from tests.manifests.commands import CONTROL_KEY, SECRETS, Runnable, runnable, triton_image
from tests.manifests.rendering import Manifests, load, rendered
from tests.onnx_models import telltale, write_config, write_entry
from tests.servers import (
    LOOPBACK,
    RunningProcess,
    RunningRedis,
    RunningTriton,
    answers_ok,
    free_port,
    run_process,
    wait_until,
)


@pytest.fixture(scope="module")
def production() -> Manifests:
    return load(rendered("overlays/production"))


def run(
    argv: list[str], environ: dict[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env=environ, check=False, capture_output=True, text=True, timeout=60, **options
    )


def status(url: str, **options: Any) -> int:
    return httpx.get(url, timeout=10, trust_env=False, **options).status_code


def path_of(container: dict[str, Any], kind: str) -> str:
    return str(container[f"{kind}Probe"]["httpGet"]["path"])


# Triton


@pytest.fixture
def triton(production: Manifests, tmp_path: Path) -> Runnable:
    return runnable(production, "Deployment/triton", tmp_path)


def test_triton_gets_the_options_of_the_local_stack(triton: Runnable, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("best_model", "cars"):
        (models / name).mkdir()
        (models / name / "config.pbtxt").write_text("")
    (models / "unverified" / "1").mkdir(parents=True)
    program = tmp_path / "tritonserver"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    done = run(triton.argv(), triton.environ({"PATH": f"{tmp_path}:/usr/bin:/bin"}))
    ours = triton_arguments(
        repository=models,
        models=["best_model", "cars"],
        control_key=CONTROL_KEY,
        listen=Listen(address="0.0.0.0", http_port=8000, grpc_port=8001, metrics_port=8002),
        exit_timeout_s=30,
    )
    assert sorted(done.stdout.splitlines()) == sorted(ours), done.stderr


@pytest.mark.parametrize("key", ["", "short", "0123456789abcdef,0123", "0123456789 abcdef"])
def test_triton_does_not_start_with_a_key_that_locks_nothing(triton: Runnable, key: str) -> None:
    done = run(triton.argv(), triton.environ({"TRITON_CONTROL_KEY": key}))
    assert done.returncode == 2
    assert "TRITON_CONTROL_KEY" in done.stderr


def test_triton_serves_by_version_and_its_probes_say_so(triton: Runnable, tmp_path: Path) -> None:
    models = {1: telltale(1), 2: telltale(2)}
    write_entry(tmp_path / "models", DEFAULT_MODEL, models)
    http, grpc_port, metrics = free_port(), free_port(), free_port()
    image = triton_image(tmp_path)
    ports = {"HTTP": http, "GRPC": grpc_port, "METRICS": metrics}
    environ = triton.environ(image | {f"TRITON_{n}_PORT": str(p) for n, p in ports.items()})
    before = run(triton.probe("startup"), environ)
    assert before.returncode == 1
    assert "does not answer" in before.stdout

    with ExitStack() as stack:
        stack.callback(remove_stale_shared_memory, tmp_path)
        server = stack.enter_context(
            run_process(
                triton.argv(),
                ready=lambda: run(triton.probe("startup"), environ).returncode == 0,
                log=tmp_path / "triton.log",
                env=environ,
                grace_s=60,
            )
        )
        url = f"http://{LOOPBACK}:{http}"
        assert run(triton.probe("readiness"), environ).returncode == 0
        assert status(url + path_of(triton.container, "liveness")) == 200
        assert status(f"http://{LOOPBACK}:{metrics}/metrics") == 200
        index = f"{url}/v2/repository/index"
        assert httpx.post(index, trust_env=False).status_code == 403
        with_key = {"triton-control-key": CONTROL_KEY}
        assert httpx.post(index, headers=with_key, trust_env=False).status_code == 200
        # A configuration names what was verified; a server without it is not ready.
        config = (tmp_path / "models" / DEFAULT_MODEL / "config.pbtxt").read_text()
        write_config(tmp_path / "models", DEFAULT_MODEL, config.replace("1, 2", "1, 2, 3"))
        after = run(triton.probe("readiness"), environ)
        assert (after.returncode, after.stdout) == (1, f"not READY: {DEFAULT_MODEL} version 3\n")
        assert server.stop() == 0


# The gateway


@pytest.fixture
def gateway(production: Manifests, tmp_path: Path) -> Runnable:
    return runnable(production, "Deployment/gateway", tmp_path)


def test_a_gateway_lives_before_it_is_ready_and_the_smoke_job_knows_why(
    production: Manifests,
    gateway: Runnable,
    shared_triton: RunningTriton,
    redis: RunningRedis,
    tmp_path: Path,
) -> None:
    url = f"http://{LOOPBACK}:{free_port()}"
    environ = gateway.environ(
        {
            "GATEWAY_HOST": LOOPBACK,
            "GATEWAY_PORT": url.rpartition(":")[2],
            "GATEWAY_TRITON_URL": shared_triton.http_url,
            "GATEWAY_MLFLOW_URL": f"http://{LOOPBACK}:{free_port()}",
            "GATEWAY_REDIS_URL": redis.url,
        }
    )
    smoke = runnable(production, "Job/smoke", tmp_path)
    asking = smoke.environ({"GATEWAY": url, "SMOKE_SECONDS": "1"})
    assert run(smoke.argv(), asking).returncode == 1
    startup, readiness = (url + path_of(gateway.container, k) for k in ("startup", "readiness"))
    with run_process(
        gateway.argv(), ready=lambda: answers_ok(startup), log=tmp_path / "log", env=environ
    ) as process:
        assert status(readiness) == 503
        assert run(smoke.argv(), asking).returncode == 0
        token = SECRETS["gateway-control", "token"]
        answer = httpx.post(
            f"{url}/variant/A/reload",
            headers={"authorization": f"Bearer {token}"},
            json={"version": 2, "run_id": "a-run"},
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        assert status(readiness) == 200
        assert run(smoke.argv(), asking).returncode == 0
        process.signal(signal.SIGTERM)
        assert process.wait() in {0, 128 + signal.SIGTERM}


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

    probe = code.container["readinessProbe"]["grpc"]
    url = f"http://{LOOPBACK}:{web_port}"
    with ExitStack() as stack:

        def start(pod: Runnable, log: str, **words: str) -> RunningProcess:
            process = RunningProcess(
                argv=pod.argv(words | {"0.0.0.0": LOOPBACK}),
                ready=lambda: True,
                timeout_s=60,
                env=pod.environ({}) | {"PYTHONPATH": str(Path.cwd())},
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


def test_the_gateways_init_container_makes_the_folders_that_are_mounted_after_it(
    production: Manifests, tmp_path: Path
) -> None:
    spec = production.get("Deployment/gateway")["spec"]["template"]["spec"]
    command = [
        word.replace("/state", str(tmp_path)) for word in spec["initContainers"][0]["command"]
    ]
    assert run(command, {"PATH": "/usr/bin:/bin"}).returncode == 0
    wanted = {m["subPath"] for m in spec["containers"][0]["volumeMounts"] if "subPath" in m}
    assert {path.name for path in tmp_path.iterdir()} == wanted
