"""Runs the real gateway as a process, for tests that talk to it over HTTP."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from platform_assets.resources.triton_api import CONTROL_HEADER
from platform_assets.resources.triton_endpoint import TritonEndpoint
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.servers import (
    LOOPBACK,
    NO_ROOTS,
    RunningProcess,
    RunningTriton,
    answers_ok,
    free_port,
    run_process,
    wait_until,
)

ROW = [5.1, 3.5, 1.4, 0.2]


_ALL_KEPT: Final = httpx.Limits(
    max_connections=None, max_keepalive_connections=None, keepalive_expiry=None
)
"""Threads share a client: of a bounded pool, one may close a connection that another just took."""


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway process and a client for it."""

    url: str
    process: RunningProcess
    client: httpx.Client
    state_dir: Path
    control_token: str

    def reload(self, alias: str = "A", **body: Any) -> httpx.Response:
        """Reload; without arguments without a body."""
        path = f"/variant/{alias}/reload"
        return self.client.post(path, json=body) if body else self.client.post(path)

    def routed(self, version: int, alias: str = "A") -> None:
        """Route a variant to a version; fails the test when that is refused."""
        answer = self.reload(alias, version=version, run_id=f"run-{version}")
        assert answer.status_code == 200, answer.text

    def predict(self, *rows: Sequence[Any], **body: Any) -> httpx.Response:
        """Predict for rows; one good row when none is given."""
        return self.client.post("/predict", json={"data": rows or [ROW], **body})

    def traffic(self, strategy: str, percent: float, **body: Any) -> httpx.Response:
        """Set the traffic policy."""
        policy = {"strategy": strategy, "percent": percent, **body}
        return self.client.put("/traffic", json=policy)

    def models(self) -> Any:
        """`GET /models`."""
        return self.client.get("/models").json()

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 when it is not there yet."""
        for line in self.client.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(
                f'{key}="{wanted}"' in series for key, wanted in labels.items()
            ):
                return float(value)
        return 0.0

    def ready(self) -> bool:
        """Whether the default model can answer, which a replica's own /ready does not say."""
        return bool(self.client.get("/health").json()["ready"])

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Wait until the default model can answer."""
        wait_until(self.ready, timeout_s, "gateway ready")


@contextlib.contextmanager
def run_gateway(
    state_dir: Path,
    triton_url: str,
    *,
    env: Mapping[str, str] | None = None,
    name: str = "gateway",
    program: Sequence[str] = ("serving_gateway",),
) -> Iterator[RunningGateway]:
    """Run a gateway on a free port; `env` is added to its environment.

    `program` is the module that is one, with its arguments.
    """
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    environ = {
        "GATEWAY_PORT": str(port),
        "GATEWAY_TRITON_URL": triton_url,
        "GATEWAY_STATE_DIR": str(state_dir / "gateway"),
        **(env or {}),
    }
    with (
        run_process(
            [sys.executable, "-m", *program],
            ready=lambda: answers_ok(f"{url}/health"),
            log=state_dir / "logs" / f"{name}.log",
            timeout_s=120,
            env=environ,
        ) as process,
        httpx.Client(
            base_url=url, timeout=20, trust_env=False, verify=NO_ROOTS, limits=_ALL_KEPT
        ) as client,
    ):
        token = environ.get("GATEWAY_CONTROL_TOKEN")
        if token is None:
            token = control_token(Path(environ["GATEWAY_STATE_DIR"]))
            client.auth = ControlAuth(token)
        yield RunningGateway(url, process, client, state_dir / "gateway", token)


@contextlib.contextmanager
def run_routed_gateway(
    state_dir: Path, triton_url: str, env: Mapping[str, str], routes: Mapping[str, int]
) -> Iterator[RunningGateway]:
    """Run a gateway that routes to these versions by variant; a token in `env` is sent with all."""
    with run_gateway(state_dir, triton_url, env=env) as gateway:
        if "GATEWAY_CONTROL_TOKEN" in env:
            gateway.client.headers["authorization"] = f"Bearer {env['GATEWAY_CONTROL_TOKEN']}"
        for alias, version in routes.items():
            gateway.routed(version, alias)
        yield gateway


def control_token(state_dir: Path) -> str:
    """The token that a gateway generated because none was configured."""
    return (state_dir / "control-token").read_text(encoding="utf-8").strip()


class ControlAuth(httpx.Auth):
    """Sends the control token with calls that change what is served, and with no others."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        path = request.url.path
        is_change = request.method != "GET" and path.rsplit("/", 1)[-1] != "predict"
        if is_change and "/v2/" not in path:
            request.headers.setdefault("authorization", f"Bearer {self._token}")
        yield request


class Client(threading.Thread):
    """Predicts in a loop, and keeps every answer."""

    def __init__(self, url: str, pause_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[int, int | None]] = []
        self.seconds: list[float] = []
        self._url = url
        self._pause_s = pause_s
        self._stop_it = threading.Event()

    def run(self) -> None:
        with httpx.Client(
            base_url=self._url, timeout=20, trust_env=False, verify=NO_ROOTS
        ) as client:
            while not self._stop_it.is_set():
                started = time.monotonic()
                answer = client.post("/predict", json={"data": [ROW]})
                self.seconds.append(time.monotonic() - started)
                version = answer.json().get("version")
                if answer.status_code == 200:
                    # The model itself tells which version it is.
                    assert answer.json()["predictions"] == [version]
                self.answers.append((answer.status_code, version))
                self._stop_it.wait(self._pause_s)

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_it.set()
        self.join(30)

    def waits_for(self, what: Callable[[tuple[int, int | None]], bool]) -> None:
        """Wait until an answer of some kind comes."""
        seen = len(self.answers)
        wait_until(lambda: any(map(what, self.answers[seen:])), 20, "an answer")


def serve_versions(triton: RunningTriton, *versions: int, model_name: str = DEFAULT_MODEL) -> None:
    """Have Triton serve exactly these versions, as the pipeline does: by a `config` override.

    Over gRPC, as there too: during a load over HTTP, every connection of a client that belongs
    to the same thread of Triton waits for it, on a busy machine past a request's deadline.

    Raises:
        TritonRefused: a version does not load; those that were READY still are.
    """
    endpoint = TritonEndpoint(
        triton.http_url, triton.grpc_url, triton.control_key, timeout_s=60, load_timeout_s=120
    )
    config = httpx.get(
        f"{triton.http_url}/v2/models/{model_name}/config",
        headers={CONTROL_HEADER: triton.control_key},
        timeout=60,
        trust_env=False,
        verify=NO_ROOTS,
    )
    assert config.status_code == 200, config.text
    policy = {"specific": {"versions": list(versions)}}
    endpoint.load(model_name, {**config.json(), "version_policy": policy})
