"""`python -m platform_assets.local_stack.mlflow_server --home DIR --port PORT`: an MLflow server.

The application that `mlflow server` starts, with tracking, registry and artifacts below one
folder. That command imports all of MLflow, and then starts a process that does so again.
"""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_HOST: Final = "127.0.0.1"
_ARTIFACTS: Final = "mlflow-artifacts:/"
"""Clients read and write artifacts through the server."""


def serve(home: Path, port: int) -> None:
    """Serve on loopback until a signal comes; bring the database up to date before."""
    database = f"sqlite:///{home}/mlflow.db"
    # How the command tells its process; read when MLflow's modules are imported.
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": _ARTIFACTS,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(home / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    # There is no garbage among what is being imported: looking for it takes a tenth of the start.
    gc.disable()
    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, _ARTIFACTS)
    gc.enable()
    uvicorn.run(app, host=_HOST, port=port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve what the arguments name."""
    parser = argparse.ArgumentParser(prog="mlflow_server", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder of database and artifacts")
    parser.add_argument("--port", type=int, required=True, help="TCP port on loopback")
    options = parser.parse_args(arguments)
    serve(options.home, options.port)


if __name__ == "__main__":
    main()
