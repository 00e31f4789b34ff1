"""The clusters of Triton servers in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_gateway.settings import Settings
from serving_gateway.triton.cluster import TritonCluster

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing


class TritonClientPool:
    """The clusters of Triton servers in use, one for each address."""

    def __init__(self, settings: Settings, tracing: Tracing | None = None) -> None:
        self._settings = settings
        self._tracing = tracing
        self._clusters: dict[str, TritonCluster] = {}

    def of(self, url: str) -> TritonCluster:
        """The servers behind an address."""
        if url not in self._clusters:
            servers_url = self._settings.triton_servers.get(url)
            self._clusters[url] = TritonCluster(url, self._settings, servers_url, self._tracing)
        return self._clusters[url]

    async def aclose(self) -> None:
        """Close all connections."""
        for cluster in self._clusters.values():
            await cluster.aclose()
