"""`python -m serving_gateway`: run the gateway with settings from the environment."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from serving_gateway.http.server import serve
from serving_gateway.main import create_app
from serving_gateway.settings import Settings
from serving_gateway.telemetry import logs


def main() -> int:
    """Run until asked to stop; return 2 when a setting is invalid."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(map(str, problem["loc"])).upper()
            sys.stderr.write(f"GATEWAY_{name}: {problem['msg']}\n")
        return 2
    logs.configure(settings.log_level)
    gateway = create_app(settings, own_signals=True)
    serve(settings, gateway.app, gateway.connections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
