"""Addresses and folders of the local stack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout, with workspace.yaml, feature_repo and the environments."""

LOOPBACK: Final = "127.0.0.1"
CODE_SOCKET: Final = "DAGSTER_CODE_SOCKET"
"""Variable that gives the socket of Dagster's code server to all Dagster processes."""


class StackError(Exception):
    """The stack cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on loopback, one per listener."""

    dagster: int = 3000
    mlflow: int = 5000
    gateway: int = 8080
    triton_http: int = 8000
    triton_grpc: int = 8001
    triton_metrics: int = 8002

    def named(self) -> dict[str, int]:
        """Return the ports by the environment variable that sets each."""
        return {f"{field.name.upper()}_PORT": getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class StackSettings:
    """Everything that distinguishes one running stack from another on the same machine."""

    state_dir: Path
    ports: Ports
    triton_env: Path
    """Virtual environment that holds the server binary, in place of NVIDIA's container."""
    python: Path
    """Interpreter of the pipeline, the gateway, MLflow and Dagster."""
    external_triton: str | None = None
    """Address of a Triton that runs elsewhere, such as in a container, with this state
    directory's model repository mounted; None starts the embedded one."""
    external_triton_grpc: str = ""
    """HOST:PORT of that Triton's gRPC; if empty, models are loaded over HTTP."""

    @property
    def triton_url(self) -> str:
        """HTTP address of Triton."""
        return self.external_triton or f"http://{LOOPBACK}:{self.ports.triton_http}"

    @property
    def triton_grpc_url(self) -> str:
        """HOST:PORT of Triton's gRPC, over which models are loaded; empty if unknown."""
        if self.external_triton is None:
            return f"{LOOPBACK}:{self.ports.triton_grpc}"
        return self.external_triton_grpc

    @property
    def listening_ports(self) -> dict[str, int]:
        """The ports on which the stack itself listens, by environment variable."""
        named = self.ports.named()
        if self.external_triton is None:
            return named
        return {name: port for name, port in named.items() if not name.startswith("TRITON_")}

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server and its pages."""
        return f"http://{LOOPBACK}:{self.ports.mlflow}"

    @property
    def gateway_url(self) -> str:
        """Address of the gateway."""
        return f"http://{LOOPBACK}:{self.ports.gateway}"

    @property
    def dagster_url(self) -> str:
        """Address of the Dagster webserver."""
        return f"http://{LOOPBACK}:{self.ports.dagster}"

    @property
    def model_repository(self) -> Path:
        """Triton's model repository."""
        return self.state_dir / "model-repository"

    @property
    def source_path(self) -> Path:
        """The CSV file that the chain starts from."""
        return self.state_dir / "source" / "iris.csv"

    @property
    def proof_dir(self) -> Path:
        """Folder in which `serving_proof` keeps its evidence."""
        return self.state_dir / "proof"

    @property
    def secrets(self) -> Path:
        """Keys and tokens of this state directory, readable only by its owner."""
        return self.state_dir / "secrets"

    @property
    def operator_token(self) -> Path:
        """File with the token with which an operator controls the gateway."""
        return self.secrets / "gateway-control-token"

    @property
    def ledger_dir(self) -> Path:
        """Folder of the chains of the deployment ledger."""
        return self.state_dir / "ledger"

    @property
    def ledger_key(self) -> Path:
        """File with the key that signs the ledger."""
        return self.secrets / "ledger-key.pem"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance directory."""
        return self.state_dir / "dagster"

    @property
    def logs(self) -> Path:
        """One log file per service."""
        return self.state_dir / "logs"

    @property
    def run_dir(self) -> Path:
        """Process ids, locks and rendered configuration of the running stack."""
        return self.state_dir / "run"

    @property
    def temporary(self) -> Path:
        """A link to the temporary folder of the running stack.

        The folder itself is elsewhere, because the path of a socket must be short.
        """
        return self.run_dir / "temporary"

    @property
    def code_socket(self) -> Path:
        """Socket on which the running stack's Dagster code server listens."""
        return self.temporary.resolve() / "code.sock"


def stack_settings(environ: Mapping[str, str], *, root: Path = ROOT) -> StackSettings:
    """Read the documented variables (`DAGSTER_PORT`, ..., `STATE_DIR`, `TRITON_URL`).

    Raises StackError for a port that is invalid or claimed by two services.
    """
    claimed: dict[int, str] = {}
    for name, default in Ports().named().items():
        text = environ.get(name) or str(default)
        if not text.isdecimal() or not 0 < int(text) < 65536:
            raise StackError(f"{name}={text!r} is not a port: give a number from 1 to 65535")
        if other := claimed.get(int(text)):
            raise StackError(f"{name} and {other} are both {text}: give each its own port")
        claimed[int(text)] = name
    return StackSettings(
        state_dir=_path(environ, "STATE_DIR", root / ".local"),
        ports=Ports(*claimed),
        triton_env=_path(environ, "TRITON_ENV", root / ".venv-triton"),
        python=Path(sys.executable),
        external_triton=environ.get("TRITON_URL") or None,
        external_triton_grpc=environ.get("TRITON_GRPC_URL", ""),
    )


def _path(environ: Mapping[str, str], name: str, default: Path) -> Path:
    value = environ.get(name)
    try:
        return Path(value).expanduser().absolute() if value else default
    except RuntimeError as error:
        raise StackError(f"{name}={value!r}: {error}") from error
