"""The services of the stack: their commands, environment and readiness."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from platform_assets.local_stack.dagster_answers import DaemonStatus, LocationEntry
from platform_assets.local_stack.http import Body, answers_ok, graphql
from platform_assets.local_stack.settings import CODE_SOCKET, LOOPBACK, ROOT, StackSettings

TRITON: Final = "triton"
MLFLOW: Final = "mlflow"
GATEWAY: Final = "gateway"
CODE_SERVER: Final = "dagster-code-server"
WEBSERVER: Final = "dagster-webserver"
DAEMON: Final = "dagster-daemon"

TRITON_KEY: Final = "TRITON_CONTROL_KEY"
GATEWAY_TOKEN: Final = "GATEWAY_CONTROL_TOKEN"  # noqa: S105 # a variable's name
"""The pipeline's own token, which it sends to the gateway."""
GATEWAY_TOKENS: Final = "GATEWAY_CONTROL_TOKENS"
"""Every token that the gateway accepts, by name."""
LEDGER_KEY: Final = "LEDGER_KEY"
"""Path of the key that signs the ledger."""
SECRETS: Final = frozenset({TRITON_KEY, GATEWAY_TOKEN, GATEWAY_TOKENS, LEDGER_KEY})
"""Variables that only those services get that need them."""
GRPC_TIMEOUT: Final = "DAGSTER_GRPC_TIMEOUT_SECONDS"
"""Dagster's own variable: seconds in which its code server must answer."""
_PIPELINE_SECRETS: Final = frozenset({TRITON_KEY, GATEWAY_TOKEN, LEDGER_KEY})
SOURCE_PATH: Final = "SOURCE_PATH"
"""Variable: path of the rows of the model that ships."""
_WORKSPACE: Final = str(Path(__file__).with_name("workspace.yaml"))


@dataclass(frozen=True, slots=True)
class Service:
    """One supervised process.

    `wave` orders the start: services of one wave start together, the next wave follows when
    all of them are ready. Waves end from the last to the first; `stop_wave` is that of a service
    that ends before others of its wave. `ready` asks the service itself; `address` is displayed.
    """

    name: str
    wave: int
    argv: tuple[str, ...]
    address: str
    ready: Callable[[], bool]
    grace_s: int = 15
    stop_wave: int | None = None
    secrets: frozenset[str] = frozenset()
    """Those of `SECRETS` that its process gets."""


def services(settings: StackSettings, since: float = 0.0) -> tuple[Service, ...]:
    """Return the services that the stack starts, in start order.

    `since` (Unix time in seconds) keeps the heartbeat of an earlier start from counting.
    """
    triton = (_triton(settings),) if settings.external_triton is None else ()
    return (
        *triton,
        _mlflow(settings),
        _code_server(settings),
        _gateway(settings),
        _webserver(settings),
        _daemon(settings, since),
    )


def _triton(settings: StackSettings) -> Service:
    ports = settings.ports
    command = (
        *(str(settings.python), "-m", "platform_assets.local_stack.triton_server"),
        *("--env", str(settings.triton_env)),
        *("--repository", str(settings.model_repository)),
        *("--state-dir", str(settings.state_dir)),
        *("--http-port", str(ports.triton_http)),
        *("--grpc-port", str(ports.triton_grpc)),
        *("--metrics-port", str(ports.triton_metrics)),
    )
    ready = partial(answers_ok, f"{settings.triton_url}/v2/health/ready")
    return Service(TRITON, 0, command, settings.triton_url, ready)


def _mlflow(settings: StackSettings) -> Service:
    home = settings.state_dir / "mlflow"
    command = (
        *(str(settings.python), "-m", "mlflow", "server"),
        *("--host", LOOPBACK, "--port", str(settings.ports.mlflow)),
        *("--backend-store-uri", f"sqlite:///{home}/mlflow.db"),
        *("--artifacts-destination", str(home / "artifacts")),
        *("--serve-artifacts", "--workers", "1"),
    )
    ready = partial(answers_ok, f"{settings.mlflow_url}/health")
    return Service(MLFLOW, 0, command, settings.mlflow_url, ready)


def _gateway(settings: StackSettings) -> Service:
    command = (str(settings.python), "-m", "serving_gateway")
    # Not /health: the version in production is queried right after the start.
    ready = partial(answers_ok, f"{settings.gateway_url}/ready")
    secrets = frozenset({GATEWAY_TOKENS})
    return Service(GATEWAY, 1, command, settings.gateway_url, ready, secrets=secrets)


def _code_server(settings: StackSettings) -> Service:
    command = (str(settings.python), "-m", "platform_assets.local_stack.code_server")
    ready = partial(_accepts_connections, settings)
    address = "a socket of the webserver and the daemon"
    # It imports while MLflow does, and ends before what its runs use.
    return Service(CODE_SERVER, 0, command, address, ready, stop_wave=1, secrets=_PIPELINE_SECRETS)


def _webserver(settings: StackSettings) -> Service:
    command = (
        *(str(settings.python), "-m", "dagster_webserver"),
        *("--host", LOOPBACK, "--port", str(settings.ports.dagster)),
        *("--workspace", _WORKSPACE),
    )
    url = settings.dagster_url
    ready = partial(definitions_loaded, url)
    return Service(WEBSERVER, 1, command, url, ready, stop_wave=2)


def _daemon(settings: StackSettings, since: float) -> Service:
    command = (
        *(str(settings.python), "-m", "dagster._daemon", "run"),
        *("--workspace", _WORKSPACE),
    )
    address = "heartbeats, as the webserver reports them"
    ready = partial(daemon_healthy, settings.dagster_url, since)
    return Service(DAEMON, 1, command, address, ready, stop_wave=2)


def _accepts_connections(settings: StackSettings) -> bool:
    """Whether the code server accepts connections; the webserver reports whether it has loaded."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(settings.code_socket))
        return True
    return False


def definitions_loaded(dagster_url: str) -> bool:
    """Whether the webserver answers and has the code location without an error."""
    query = (
        "{workspaceOrError {... on Workspace {locationEntries {locationOrLoadError {__typename}}}}}"
    )
    entries = _query(dagster_url, query, list[LocationEntry], "workspaceOrError", "locationEntries")
    outcomes = [entry.location_or_load_error for entry in entries or ()]
    return [outcome and outcome.typename for outcome in outcomes] == ["RepositoryLocation"]


def daemon_healthy(dagster_url: str, since: float) -> bool:
    """Whether every required Dagster daemon had a recent heartbeat, according to the webserver."""
    query = "{instance {daemonHealth {allDaemonStatuses {required healthy lastHeartbeatTime}}}}"
    place = "instance", "daemonHealth", "allDaemonStatuses"
    statuses = _query(dagster_url, query, list[DaemonStatus], *place)
    required = [status for status in statuses or () if status.required]
    return bool(required) and all(
        status.healthy and (status.last_heartbeat_time or 0.0) >= since for status in required
    )


def _query(dagster_url: str, query: str, kind: type[Body], *path: str) -> Body | None:
    try:
        return graphql(dagster_url, query, kind, *path, timeout_s=5)
    except (OSError, ValueError):
        return None


def environment(
    settings: StackSettings, inherited: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of every service.

    The names are those that the Dagster resources and the gateway's settings document.
    `secrets` are added last; they reach the services by environment, never by argument.
    """
    return {
        **inherited,
        # A proxy of the user's environment must not intercept calls between our own services.
        **{name: _with_loopback(inherited.get(name, "")) for name in ("NO_PROXY", "no_proxy")},
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(settings.temporary.resolve()),
        "DAGSTER_HOME": str(settings.dagster_home),
        # A run launched right after a reload waits until the process from which it is forked has
        # imported its libraries: on a busy machine this exceeds Dagster's own limit of a minute.
        GRPC_TIMEOUT: inherited.get(GRPC_TIMEOUT, "180"),
        CODE_SOCKET: str(settings.code_socket),
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # The stack submits no jobs to MLflow; their runners would delay the start by half a minute.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "FEAST_USAGE": "False",
        "FEAST_STATE_DIR": str(settings.state_dir / "feast"),
        "FEAST_ONLINE_STORE": inherited.get("FEAST_ONLINE_STORE", "sqlite"),
        "FEAST_REDIS": inherited.get("FEAST_REDIS", ""),
        SOURCE_PATH: str(settings.source_path),
        "TRITON_URL": settings.triton_url,
        "TRITON_GRPC_URL": settings.triton_grpc_url,
        "MODEL_REPOSITORY": str(settings.model_repository),
        "PROOF_DIR": str(settings.proof_dir),
        "LEDGER_DIR": str(settings.ledger_dir),
        "SAMPLES_DIR": str(settings.state_dir / "samples"),
        "REPORTS_DIR": str(settings.state_dir / "reports"),
        "PREDICTIONS_DIR": inherited.get("PREDICTIONS_DIR")
        or str(settings.state_dir / "predictions"),
        "NOTIFY_WEBHOOK_URL": inherited.get("NOTIFY_WEBHOOK_URL", ""),
        "DAGSTER_UI_URL": settings.dagster_url,
        "GATEWAY_URLS": settings.gateway_url,
        "GATEWAY_HOST": LOOPBACK,
        "GATEWAY_PORT": str(settings.ports.gateway),
        "GATEWAY_TRITON_URL": settings.triton_url,
        "GATEWAY_MLFLOW_URL": settings.mlflow_url,
        "GATEWAY_MLFLOW_UI_URL": settings.mlflow_url,
        "GATEWAY_STATE_DIR": str(settings.state_dir / "gateway"),
        "GATEWAY_FEAST_DIR": str(settings.state_dir / "feast"),
        "GATEWAY_SAMPLE_DIR": str(settings.state_dir / "samples"),
        **secrets,
    }


def own_environment(service: Service, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a service, with its own secrets only."""
    withheld = SECRETS - service.secrets
    return {name: value for name, value in environ.items() if name not in withheld}


def _with_loopback(exceptions: str) -> str:
    return ",".join(filter(None, (exceptions, LOOPBACK, "localhost")))
