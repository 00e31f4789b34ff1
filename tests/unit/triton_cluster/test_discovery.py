"""Servers behind a name."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving_gateway.errors import (
    TritonUnavailable,
)
from serving_gateway.triton import cluster as cluster_module
from serving_gateway.triton.exchange import TritonResponse
from tests.support.cluster_client import (
    LIMIT,
    ClusterClient,
    MakeCluster,
    good,
)
from tests.support.stub_triton import StubTriton
from tests.support.waiting import eventually


class Names:
    """A name service whose answer the test sets."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.hangs = False
        self.lookups = 0

    async def server_urls(self, _: str) -> list[str]:
        self.lookups += 1
        if self.hangs:
            await asyncio.Event().wait()
        if not self.urls:
            raise TritonUnavailable("no address")
        return [*self.urls]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(cluster_module, "server_urls", names.server_urls)
    return names


async def test_servers_behind_a_name_come_and_go(
    make: MakeCluster, stub: StubTriton, other: StubTriton, names: Names, impatient: None
) -> None:
    names.urls = [stub.url]
    client = ClusterClient(make("http://triton.invalid:1", servers_url="http://all.invalid:1"))
    await client.cluster.require_ready("m", 1, 1)
    assert good(await client.many(4))
    names.urls = [stub.url, other.url]
    await eventually(lambda: len(client.state.on_servers) == 2 and len(other.inferences) == 0)
    await eventually(lambda: client.state.on_servers[1].is_usable)
    stub.delay = other.delay = 0.5
    before = len(stub.inferences)
    sent = [client.send() for _ in range(2)]
    await eventually(lambda: len(stub.inferences) == before + 1)
    stub.delay = other.delay = 0
    names.urls = [other.url]
    await eventually(lambda: len(client.state.on_servers) == 1)
    for _, ended in sent:
        outcome = await asyncio.wait_for(ended, 5)
        assert isinstance(outcome, TritonResponse), "what is under way there goes on"
    before = len(stub.inferences)
    assert good(await client.many(10))
    assert len(stub.inferences) == before
    names.urls = []
    lookups = names.lookups
    await eventually(lambda: names.lookups > lookups + 1)
    assert good(await client.many(10)), "what is known stays when the name cannot be looked up"


async def test_a_name_service_that_hangs_delays_no_request(
    make: MakeCluster, stub: StubTriton, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    names.hangs = True
    client = ClusterClient(make(stub.url, servers_url="http://all.invalid:1"))
    await client.probe()
    started = time.monotonic()
    assert good(await client.many(10))
    assert time.monotonic() - started < 0.5
    await client.cluster.require_ready("m", 1, LIMIT)


async def test_a_server_that_gets_the_version_later_is_used(
    pair: ClusterClient, stub: StubTriton, other: StubTriton, impatient: None
) -> None:
    other.ready.clear()
    await pair.probe()
    assert good(await pair.many(4))
    assert other.inferences == []
    other.ready.add(("m", 1))
    await eventually(lambda: pair.state.on_servers[1].is_usable)
    assert good(await pair.many(4))
    assert other.inferences


async def test_a_version_that_no_server_holds_is_forgotten(alone: ClusterClient) -> None:
    alone.cluster.version("m", 2)
    assert ("m", 2) not in alone.cluster._states
    held = alone.cluster.version("m", 2)
    assert alone.cluster.version("m", 2) is held
