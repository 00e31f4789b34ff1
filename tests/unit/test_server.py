"""What the gateway has uvicorn do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from serving_gateway.http.server import serve
from serving_gateway.settings import Settings


@pytest.mark.parametrize(("seconds", "granted"), [(0.1, 1), (0.9, 1), (1, 1), (2.5, 3)])
def test_requests_under_way_get_at_least_the_time_of_the_setting(
    monkeypatch: pytest.MonkeyPatch, seconds: float, granted: int
) -> None:
    """uvicorn takes whole seconds; 0 would end what is under way at once."""
    options: dict[str, Any] = {}

    class Server:
        started = True

        def __init__(self, config: uvicorn.Config) -> None:
            options["timeout"] = config.timeout_graceful_shutdown

        def run(self) -> None:
            """Serve nothing."""

    monkeypatch.setattr(uvicorn, "Server", Server)
    connections = cast(Any, SimpleNamespace(endpoint=None))
    serve(Settings(shutdown_seconds=seconds), cast(Any, None), connections)
    assert options == {"timeout": granted}
