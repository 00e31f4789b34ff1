"""Clusters of one and of two stub servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serving_gateway.settings import Settings
from serving_gateway.triton import cluster as cluster_module
from serving_gateway.triton import version_state as view_module
from serving_gateway.triton.cluster import TritonCluster
from tests.support.cluster_client import (
    ClusterClient,
    MakeCluster,
)
from tests.support.stub_triton import StubTriton, run_stub


@pytest.fixture
async def make() -> AsyncIterator[MakeCluster]:
    made: list[TritonCluster] = []

    def make(*urls: str, servers_url: str | None = None, staleness: float = 3) -> TritonCluster:
        listed = ",".join(urls) if len(urls) > 1 else servers_url
        made.append(TritonCluster(urls[0], Settings(staleness_seconds=staleness), listed))
        return made[-1]

    yield make
    for cluster in made:
        await cluster.aclose()


@pytest.fixture
async def stub() -> AsyncIterator[StubTriton]:
    async with run_stub() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[StubTriton]:
    async with run_stub() as running:
        yield running


@pytest.fixture
async def alone(make: MakeCluster, stub: StubTriton) -> ClusterClient:
    """One server, probed."""
    client = ClusterClient(make(stub.url))
    assert (await client.probe()).ready
    return client


@pytest.fixture
async def pair(make: MakeCluster, stub: StubTriton, other: StubTriton) -> ClusterClient:
    """Two servers, probed."""
    client = ClusterClient(make(stub.url, other.url))
    assert (await client.probe()).ready
    return client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts that a test can afford."""
    monkeypatch.setattr(view_module, "TRIAL_SECONDS", 0.05)
    monkeypatch.setattr(cluster_module, "_RECOVERY_SECONDS", 0.05)
    monkeypatch.setattr(cluster_module, "_REFRESH_SECONDS", 0.05)
