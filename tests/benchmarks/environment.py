"""The servers of the benchmark, set up as a user of `make up` has them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from platform_assets.local_stack.processes import environment
from platform_assets.local_stack.settings import Ports, StackSettings
from platform_assets.local_stack.stack import stack_secrets
from serving_gateway.contract import DEFAULT_MODEL, MAX_BATCH_SIZE
from serving_gateway.settings import Settings
from tests.benchmarks.wrk import BenchmarkError
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.onnx_models import iris_classifier, write_entry
from tests.support.servers import (
    LOOPBACK,
    TRITON_ENV,
    RunningProcess,
    RunningTriton,
    answers_ok,
    free_port,
    run_process,
    run_triton,
)

_EXTRAS = ("GATEWAY_FEAST_DIR", "GATEWAY_SAMPLE_DIR")
BATCHED = "best_model_batched"
_ADDRESSES = frozenset({"host", "port", "triton_url", "state_dir", "mlflow_url"})
"""Of the servers here. No MLflow runs: it has no part in a prediction (I8)."""


def user_environment(home: Path) -> dict[str, str]:
    """The gateway's variables that `make up` sets, but for addresses; makes the control token."""
    settings = StackSettings(home, Ports(), TRITON_ENV, Path(sys.executable))
    everything = environment(settings, {}, stack_secrets(settings, {}))
    fields = Settings.model_fields.keys() - _ADDRESSES
    names = {f"GATEWAY_{field.upper()}" for field in fields}
    return {name: value for name, value in everything.items() if name in names}


def control_token(home: Path) -> str:
    """The token that control calls need, where `make up` keeps it."""
    return (home / "secrets" / "gateway-control-token").read_text().strip()


def authorize(gateway: RunningGateway, home: Path) -> None:
    """Send the control token with every call of the gateway's client."""
    gateway.client.headers["authorization"] = f"Bearer {control_token(home)}"


@contextlib.contextmanager
def start_gateway(
    home: Path, triton_url: str, *, env: Mapping[str, str] | None = None, light: bool = False
) -> Iterator[RunningGateway]:
    """A gateway with everything that `make up` enables.

    Args:
        home: its state directory.
        triton_url: its upstream.
        env: variables to add.
        light: without samples and Feast, which need extra packages, and with them more memory
            than the gateway itself.
    """
    variables = {**user_environment(home), **(env or {})}
    extras = {*_EXTRAS} - (env or {}).keys() if light else set()
    kept = {name: value for name, value in variables.items() if name not in extras}
    with run_gateway(home, triton_url, env=kept) as gateway:
        authorize(gateway, home)
        yield gateway


def set_policy(gateway: RunningGateway, strategy: str, percent: float) -> None:
    """Set the traffic policy.

    Raises:
        BenchmarkError: the gateway refused.
    """
    answer = gateway.traffic(strategy, percent)
    if answer.status_code != 200:
        raise BenchmarkError(f"PUT /traffic: {answer.text}")


@contextlib.contextmanager
def start_triton(home: Path) -> Iterator[RunningTriton]:
    """The same iris model twice: without dynamic batching (two versions) and with it."""
    repository = home / "repository"
    model = iris_classifier()
    versions = {1: model, 2: iris_classifier(0.1)}
    write_entry(repository, DEFAULT_MODEL, versions, max_batch_size=MAX_BATCH_SIZE)
    write_entry(
        repository,
        BATCHED,
        {1: model},
        max_batch_size=MAX_BATCH_SIZE,
        extra="dynamic_batching { preferred_batch_size: [8, 16] }",
    )
    with run_triton(repository, home) as triton:
        yield triton


@contextlib.contextmanager
def start_yardstick(home: Path, triton: RunningTriton) -> Iterator[str]:
    """The plain gateway, one worker on the same server, loop and parser; its address."""
    port = free_port()
    argv = [
        *(sys.executable, "-m", "uvicorn", "--factory", "tests.benchmarks.yardstick:app"),
        *("--host", LOOPBACK, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "warning"),
    ]
    env = {"TRITON_URL": triton.http_url, "MODEL_NAME": DEFAULT_MODEL}
    with _serving(argv, port, "/openapi.json", home / "logs" / "yardstick.log", env):
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def start_noop(home: Path) -> Iterator[str]:
    """The uvicorn application that does nothing; its address."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.benchmarks.noop", "--port", str(port)]
    with _serving(argv, port, "/", home / "logs" / "noop.log"):
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def start_instant_triton(home: Path) -> Iterator[str]:
    """A stub that has every model READY; its address."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.benchmarks.instant_triton", "--port", str(port)]
    with _serving(argv, port, "/v2/health/ready", home / "logs" / "stub.log"):
        yield f"http://{LOOPBACK}:{port}"


_PASS_THROUGH = """global
  maxconn 1000
  nbthread 1
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
frontend clients
  bind {loopback}:{port}
  default_backend triton
backend triton
  http-reuse always
  server triton {address}
"""


@contextlib.contextmanager
def start_pass_through(home: Path, triton: RunningTriton) -> Iterator[str]:
    """HAProxy on one thread that passes everything on to Triton; its address."""
    port = free_port()
    config = home / "pass-through.cfg"
    address = triton.http_url.removeprefix("http://")
    config.write_text(_PASS_THROUGH.format(loopback=LOOPBACK, port=port, address=address))
    log = home / "logs" / "pass-through.log"
    with _serving(["haproxy", "-db", "-f", str(config)], port, "/v2/health/ready", log):
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def _serving(
    argv: list[str], port: int, path: str, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[RunningProcess]:
    url = f"http://{LOOPBACK}:{port}{path}"
    with run_process(argv, ready=lambda: answers_ok(url), log=log, env=env) as process:
        yield process
