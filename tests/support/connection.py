"""One connection to a gateway, for tests that count what each of them saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self
from urllib.parse import urlsplit


class Connection:
    """One connection to a replica, over which one request follows another."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._host, self._port = address.hostname, address.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.number = 0
        """How often it was made anew."""

    async def ask(self, method: str, path: str, *headers: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of an answer; `OSError` or `EOFError` where there is none."""
        content = b"" if body is None else json.dumps(body).encode()
        return await self.send(method, path, content, *headers)

    async def send(self, method: str, path: str, content: bytes, *headers: str) -> tuple[int, Any]:
        """The same for a body as it is."""
        lines = [f"{method} {path} HTTP/1.1", "host: gateway", "content-type: application/json"]
        head = "\r\n".join([*lines, *headers, f"content-length: {len(content)}", "", ""])
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
                self.number += 1
            reader, writer = self._streams
            writer.write(head.encode() + content)
            answer = await reader.readuntil(b"\r\n\r\n")
            size = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            found = json.loads(await reader.readexactly(size))
        except (OSError, EOFError):
            await self.close()
            raise
        return int(answer.split(b" ", 2)[1]), found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End it; the next request makes a new one."""
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None
