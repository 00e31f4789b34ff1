"""The clients of all Triton servers in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from serving_gateway.triton.client import Triton

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing


class TritonClientPool:
    """The clients of all Triton servers in use, one for each address.

    Args:
        connections: most connections kept to one of them.
        connect_seconds: limit for opening one.
        servers: address -> every server behind it, where there are several.
        tracing: makes spans of inferences; None where that is switched off.
    """

    def __init__(
        self,
        *,
        connections: int,
        connect_seconds: float,
        servers: Mapping[str, str | None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._servers = servers or {}
        self._connections = connections
        self._connect_seconds = connect_seconds
        self._clients: dict[str, Triton] = {}

    def of(self, url: str) -> Triton:
        """The client of the Triton at an address."""
        if url not in self._clients:
            self._clients[url] = Triton(
                url,
                connections=self._connections,
                connect_seconds=self._connect_seconds,
                servers_url=self._servers.get(url),
                tracing=self._tracing,
            )
        return self._clients[url]

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()
