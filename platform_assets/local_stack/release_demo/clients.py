"""The clients of the demo: they ask at a steady rate, and count what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

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
        async with asyncio.TaskGroup() as group:
            for number in range(_CONNECTIONS):
                group.create_task(self._ask(number, over))

    async def _ask(self, number: int, over: threading.Event) -> None:
        """Ask over one connection, at times that do not depend on the answers."""
        period = _CONNECTIONS / self.per_second
        due = time.monotonic() + period * number / _CONNECTIONS
        connection = ClientConnection(self.url)
        for turn, row in enumerate(requests(seed=1000 + number)):
            if over.is_set():
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += period
            await self._exchange(connection, (turn * _CONNECTIONS + number) % CLIENTS, row)
        await connection.close()

    async def _exchange(self, connection: ClientConnection, client: int, row: Row) -> None:
        is_from_new_city = self.has_new_city and client % FROM_NEW_CITY == 0
        asked = {**row, "city": NEW_CITY} if is_from_new_city else row
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, body = await connection.ask(
                    {"instances": [asked], "client_id": f"client-{client}"}
                )
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            await connection.close()
            self.failed.append(f"client-{client}: {error!r}")
            return
        if status == 200:
            self.answered[json.loads(body)["version"]] += 1
        else:
            self.failed.append(f"client-{client}: {status} {body.decode(errors='replace')}")


class ClientConnection:
    """A connection to the gateway that is kept."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = address.hostname, address.port
        self._head = f"POST /models/{MODEL}/predict HTTP/1.1\r\nhost: {address.netloc}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Return the status and the body of an answer.

        Raises:
            OSError, EOFError, ValueError: there is none.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        content = json.dumps(body).encode()
        headers = f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(f"{self._head}{headers}".encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if b"connection: close" in head:
            await self.close()
        return int(head.split(b" ", 2)[1]), answer

    async def close(self) -> None:
        """Close it; the next question opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None
