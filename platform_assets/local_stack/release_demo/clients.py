"""The clients of the demo: they send requests at a constant rate, and count the answers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import httpx

from platform_assets.local_stack.release_demo.deliveries import MODEL, NEW_CITY, Row, requests

CLIENTS: Final = 1_000
FROM_NEW_CITY: Final = 50
"""Once the new city is open, one in this many clients orders from it."""
_CONNECTIONS: Final = 16
_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Clients:
    """Send `per_second` requests to the gateway at `url`, from a separate thread."""

    url: str
    per_second: int = 100
    answered: Counter[int] = field(default_factory=Counter)
    """Number of answers by version."""
    failed: list[str] = field(default_factory=list)
    """Requests that failed, with the reason."""
    has_new_city: bool = False

    @property
    def sent(self) -> int:
        """Requests that were answered or failed."""
        return self.answered.total() + len(self.failed)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Send requests until the block ends."""
        over = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._send_all(over)), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    async def _send_all(self, over: threading.Event) -> None:
        # Each task keeps its own connection; no proxy is used for loopback.
        limits = httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_TIMEOUT_S)
        async with (
            httpx.AsyncClient(
                base_url=self.url, limits=limits, timeout=_TIMEOUT_S, trust_env=False
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(_CONNECTIONS):
                group.create_task(self._send_steadily(client, number, over))

    async def _send_steadily(
        self, client: httpx.AsyncClient, number: int, over: threading.Event
    ) -> None:
        """Send over one connection, at times that do not depend on the answers."""
        period = _CONNECTIONS / self.per_second
        due = time.monotonic() + period * number / _CONNECTIONS
        for turn, row in enumerate(requests(seed=1000 + number)):
            if over.is_set():
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += period
            await self._exchange(client, (turn * _CONNECTIONS + number) % CLIENTS, row)

    async def _exchange(self, client: httpx.AsyncClient, sender: int, row: Row) -> None:
        is_from_new_city = self.has_new_city and sender % FROM_NEW_CITY == 0
        instance = {**row, "city": NEW_CITY} if is_from_new_city else row
        body = {"instances": [instance], "client_id": f"client-{sender}"}
        try:
            answer = await client.post(f"/models/{MODEL}/predict", json=body)
        except httpx.HTTPError as error:
            self.failed.append(f"client-{sender}: {error!r}")
            return
        if answer.status_code == HTTPStatus.OK:
            self.answered[answer.json()["version"]] += 1
        else:
            self.failed.append(f"client-{sender}: {answer.status_code} {answer.text}")
