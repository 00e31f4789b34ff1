"""The clients of the demo: they ask at a steady rate, and count what comes back."""

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
"""One client in so many orders from the new city, once it is open."""
_CONNECTIONS: Final = 16
_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Clients:
    """Ask `per_second` predictions of the gateway at `url`, from a thread of their own."""

    url: str
    per_second: int = 100
    answered: Counter[int] = field(default_factory=Counter)
    """Version -> answers."""
    failed: list[str] = field(default_factory=list)
    """What was not answered, with the reason."""
    has_new_city: bool = False

    @property
    def sent(self) -> int:
        """Requests that were answered or failed."""
        return self.answered.total() + len(self.failed)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Ask until the block is left."""
        over = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._ask_all(over)), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    async def _ask_all(self, over: threading.Event) -> None:
        # Each task keeps a connection of its own; a proxy has no business before loopback.
        limits = httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_TIMEOUT_S)
        async with (
            httpx.AsyncClient(
                base_url=self.url, limits=limits, timeout=_TIMEOUT_S, trust_env=False
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(_CONNECTIONS):
                group.create_task(self._ask(client, number, over))

    async def _ask(self, client: httpx.AsyncClient, number: int, over: threading.Event) -> None:
        """Ask over one connection, at times that do not depend on the answers."""
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
        asked = {**row, "city": NEW_CITY} if is_from_new_city else row
        body = {"instances": [asked], "client_id": f"client-{sender}"}
        try:
            answer = await client.post(f"/models/{MODEL}/predict", json=body)
        except httpx.HTTPError as error:
            self.failed.append(f"client-{sender}: {error!r}")
            return
        if answer.status_code == HTTPStatus.OK:
            self.answered[answer.json()["version"]] += 1
        else:
            self.failed.append(f"client-{sender}: {answer.status_code} {answer.text}")
