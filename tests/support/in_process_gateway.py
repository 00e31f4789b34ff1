"""A whole gateway in the test's own event loop, on a real socket, before a stub Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from serving_gateway.http.connection import GatewayConnection
from serving_gateway.main import create_app
from serving_gateway.settings import Settings
from tests.support.garbage import no_collection
from tests.support.servers import LOOPBACK, free_port
from tests.support.stub_model import StubModel
from tests.support.stub_triton import StubTriton, run_stub

TOKEN = "a-token-for-tests-only"


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """None: signals are the test runner's."""


class InProcessGateway:
    """A gateway that serves; `client` is for it."""

    def __init__(self, port: int, triton: StubTriton, client: httpx.AsyncClient) -> None:
        self.port = port
        self.triton = triton
        self.client = client
        self.model = triton.model or StubModel()

    async def reload(self, model: str = "m", version: int = 1) -> httpx.Response:
        """Route a model's variant A to a version."""
        path = "" if model == "m" else f"/models/{model}"
        return await self.client.post(
            f"{path}/variant/A/reload",
            json={"version": version, "run_id": "r"},
            headers={"authorization": f"Bearer {TOKEN}"},
        )

    async def raw(self, data: bytes, seconds: float = 10) -> bytes:
        """What one connection gets for these bytes until it ends or falls silent."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            writer.write(data)
            received = b""
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while part := await reader.read(65_536):
                        received += part
            return received
        finally:
            writer.close()


@asynccontextmanager
async def run_in_process(
    home: Path, *, reload: bool = True, **settings: Any
) -> AsyncIterator[InProcessGateway]:
    """Run one on a free port; by a `reload`, version 1 of model `m` is in production."""
    async with run_stub() as triton:
        triton.model = StubModel()
        triton.ready = {("m", 1), ("m", 2), ("slow", 1)}
        port = free_port()
        options = {"state_dir": home, "model_name": "m", "port": port, "control_token": TOKEN}
        gateway = create_app(Settings(**{**options, "triton_url": triton.url, **settings}))
        config = uvicorn.Config(
            gateway.app,
            host=LOOPBACK,
            port=port,
            http=GatewayConnection.with_policy(gateway.connections),
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        server = _Server(config)
        serving = asyncio.create_task(server._serve())
        try:
            while not server.started:
                assert not serving.done()
                await asyncio.sleep(0.01)
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=f"http://{LOOPBACK}:{port}", timeout=30, trust_env=False, limits=limits
            ) as client:
                running = InProcessGateway(port, triton, client)
                if reload:
                    answer = await running.reload()
                    assert answer.status_code == 200, answer.text
                yield running
        finally:
            server.should_exit = True
            await serving


class Heartbeat:
    """Measures for how long the event loop did nothing else, at most."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._collecting = ExitStack()

    async def __aenter__(self) -> Heartbeat:
        self._collecting.enter_context(no_collection())
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0.05)
        self.longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._collecting.close()

    async def _beat(self) -> None:
        while True:
            # CPU time: other processes may take the core at any moment. That of all threads, as
            # one that keeps the interpreter stops the loop, too.
            last = time.process_time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.process_time() - last)
