"""The clusters of Triton servers in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from serving_gateway.triton.cluster import TritonCluster
from serving_gateway.triton.server import ServerLimits

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing


class TritonClientPool:
    """The clusters of Triton servers in use, one for each address.

    Args:
        connections: most connections kept to one server while they are not in use.
        connect_seconds: limit for opening one.
        staleness_seconds: how long a confirmed READY counts while a server does not answer.
        servers: address -> every server behind it, where there are several.
        tracing: makes spans of inferences; None where that is switched off.
    """

    def __init__(
        self,
        *,
        connections: int,
        connect_seconds: float,
        staleness_seconds: float = 3.0,
        servers: Mapping[str, str | None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._servers = servers or {}
        self._limits = ServerLimits(connections, connect_seconds, staleness_seconds)
        self._clusters: dict[str, TritonCluster] = {}

    def of(self, url: str) -> TritonCluster:
        """The servers behind an address."""
        if url not in self._clusters:
            self._clusters[url] = TritonCluster(
                url, self._limits, servers_url=self._servers.get(url), tracing=self._tracing
            )
        return self._clusters[url]

    async def aclose(self) -> None:
        """Close all connections."""
        for cluster in self._clusters.values():
            await cluster.aclose()
