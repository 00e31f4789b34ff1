"""What the pods of Triton and the gateway run, run here, and asked by their own probes.

Folders, ports and addresses are of this machine; Postgres is SQLite. All else is as rendered.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from platform_assets.local_stack.triton_server import (
    remove_stale_shared_memory,
    triton_arguments,
)
from serving_gateway.contract import DEFAULT_MODEL
from tests.manifests.commands import (
    CONTROL_KEY,
    SECRETS,
    Runnable,
    path_of,
    run,
    runnable,
    status,
    triton_image,
)
from tests.manifests.rendering import Manifests
from tests.support.onnx_models import telltale, write_config, write_entry
from tests.support.servers import (
    LOOPBACK,
    ROOT,
    RunningRedis,
    RunningTriton,
    answers_ok,
    free_port,
    run_process,
    wait_until,
)

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
        ports={"http": 8000, "grpc": 8001, "metrics": 8002},
        address="0.0.0.0",
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


def test_gateway_is_ready_before_the_first_reload_and_the_smoke_job_passes(
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
            "GATEWAY_TRITON_SERVERS_URL": shared_triton.http_url,
            "GATEWAY_MLFLOW_URL": f"http://{LOOPBACK}:{free_port()}",
            "GATEWAY_REDIS_URL": redis.url,
        }
    )
    smoke = runnable(production, "Job/smoke", tmp_path)
    asking = smoke.environ({"GATEWAY": url, "SMOKE_SECONDS": "1", "PYTHONPATH": str(ROOT)})
    assert run(smoke.argv(), asking).returncode == 1
    startup, readiness = (url + path_of(gateway.container, k) for k in ("startup", "readiness"))
    with run_process(
        gateway.argv(), ready=lambda: answers_ok(startup), log=tmp_path / "log", env=environ
    ) as process:
        wait_until(lambda: status(readiness) == 200, 10, "the replica is ready")
        assert status(f"{url}/models/{DEFAULT_MODEL}/ready") == 503
        assert run(smoke.argv(), asking).returncode == 0
        token = SECRETS["gateway-control", "tokens"].rpartition(":")[2]
        answer = httpx.post(
            f"{url}/variant/A/reload",
            headers={"authorization": f"Bearer {token}"},
            json={"version": 2, "run_id": "a-run"},
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        assert status(f"{url}/models/{DEFAULT_MODEL}/ready") == 200
        assert run(smoke.argv(), asking).returncode == 0
        models = httpx.get(f"{url}/models", trust_env=False).json()
        assert models["routing"]["changed_by"] == "token:operator"
        process.signal(signal.SIGTERM)
        assert process.wait() in {0, 128 + signal.SIGTERM}


def test_the_folders_that_a_gateway_mounts_are_made_before(
    production: Manifests, gateway: Runnable, tmp_path: Path
) -> None:
    before = runnable(
        production, "Deployment/gateway", tmp_path / "pod", containers="initContainers"
    )
    assert run(before.argv(), {"PATH": os.defpath}).returncode == 0
    mounts = gateway.container["volumeMounts"]
    wanted = {mount["subPath"] for mount in mounts if "subPath" in mount}
    assert {path.name for path in (tmp_path / "pod" / "state").iterdir()} == wanted
