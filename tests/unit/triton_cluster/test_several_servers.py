"""Which of several servers is asked, and what holds on all of them."""

from __future__ import annotations

import asyncio

import pytest

from serving_gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    TritonUnavailable,
    VariantUnavailable,
    VersionNotReady,
)
from tests.support.cluster_client import (
    LIMIT,
    ClusterClient,
    good,
)
from tests.support.stub_triton import StubTriton
from tests.support.waiting import eventually


async def test_inferences_go_where_least_are_under_way(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    await pair.many(40)
    assert len(stub.inferences) == len(other.inferences) == 20
    stub.hangs_inferences = True
    calls = [pair.send() for _ in range(4)]
    await eventually(lambda: len(stub.inferences) == len(other.inferences) == 22)
    await eventually(lambda: sum(ended.done() for _, ended in calls) == 2)
    for _ in range(20):
        await pair.infer()
    assert len(other.inferences) == 42
    stub.hangs_inferences = False
    for call, _ in calls:
        call.abandon()
    before = len(stub.inferences), len(other.inferences)
    for _ in range(10):
        await pair.infer()
    # One after the other, they take turns.
    assert (len(stub.inferences), len(other.inferences)) == (before[0] + 5, before[1] + 5)


async def test_only_servers_that_have_the_version_are_asked(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    stub.ready.clear()
    for _ in range(3):
        assert (await pair.probe()).ready
        assert good(await pair.many(10))
    assert stub.inferences == []
    assert len(other.inferences) == 30


async def test_a_server_that_lost_the_version_hands_over_to_one_that_has_it(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    stub.ready.clear()
    stub.status = 400
    assert good(await pair.many(10))
    assert pair.is_ready
    other.ready.clear()
    other.status = 400
    outcomes = await pair.many(10)
    assert {type(one) for one in outcomes} == {VariantUnavailable}
    assert not pair.is_ready


async def test_an_overloaded_server_hands_over(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    stub.status = 503
    assert good(await pair.many(4))
    other.status = 503
    assert {type(one) for one in await pair.many(4)} == {Overloaded}


async def test_the_loss_of_one_of_two_servers_fails_no_request(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    stopping = False

    async def run() -> None:
        while not stopping:
            await pair.infer()
            await asyncio.sleep(0.001)

    runners = [asyncio.create_task(run()) for _ in range(8)]
    for _ in range(5):
        await asyncio.sleep(0.05)
        # Between two requests: nothing that it read is lost with it.
        stub.delay = other.delay = 0
        await eventually(lambda: not pair.state.on_servers[0].in_flight)
        stub.die()
        await asyncio.sleep(0.05)
        await stub.start()
    stopping = True
    await asyncio.gather(*runners)
    assert len(pair.outcomes) > 100
    assert good(pair.outcomes)


async def test_a_server_that_drains_is_left_and_taken_back_when_it_is_well(
    pair: ClusterClient, stub: StubTriton, other: StubTriton, impatient: None
) -> None:
    assert good(await pair.many(10))
    # As a real Triton does after SIGTERM: old connections go on, new ones are closed at once.
    stub.drains = True
    while pair.state.on_servers[0].server.problem is None:
        await pair.probe()
        await asyncio.sleep(0.01)
    await eventually(lambda: not stub.connections)
    before = len(stub.inferences)
    assert good(await pair.many(20))
    assert len(stub.inferences) == before
    stub.die()
    assert good(await pair.many(20))
    stub.drains = False
    await stub.start()
    await eventually(lambda: pair.state.on_servers[0].is_usable)
    assert good(await pair.many(20))
    assert len(stub.inferences) > before


async def test_the_end_of_an_unnoticed_drain_fails_no_request(
    pair: ClusterClient, stub: StubTriton
) -> None:
    assert good(await pair.many(10))
    stub.drains = True
    stub.close_connections()
    assert good(await pair.many(40))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({1, 2}, {1, 2}, (1, 2)),
        ({1, 2}, {2, 3}, (2,)),
        ({1, 2}, set(), ()),
        ({1, 2}, "down", (1, 2)),
        ("down", "down", TritonUnavailable),
        ({1, 2}, "hangs", DeadlineExceeded),
    ],
)
async def test_ready_is_what_every_server_that_can_be_reached_has_ready(
    pair: ClusterClient,
    stub: StubTriton,
    other: StubTriton,
    first: set[int] | str,
    second: set[int] | str,
    expected: tuple[int, ...] | type[GatewayError],
) -> None:
    for one, has in ((stub, first), (other, second)):
        if has == "down":
            one.die()
        elif has == "hangs":
            one.hangs = True
        else:
            one.ready = {("m", int(version)) for version in has}
    if isinstance(expected, tuple):
        assert await pair.cluster.ready_versions("m", LIMIT) == expected
    else:
        with pytest.raises(expected):
            await pair.cluster.ready_versions("m", LIMIT)


@pytest.mark.parametrize(
    ("second", "error"),
    [
        ("well", None),
        ("lacks it", VersionNotReady),
        ("down", None),
        ("hangs", DeadlineExceeded),
        ("both down", TritonUnavailable),
    ],
)
async def test_a_switch_requires_the_version_on_every_server_that_can_be_reached(
    pair: ClusterClient,
    stub: StubTriton,
    other: StubTriton,
    second: str,
    error: type[GatewayError] | None,
) -> None:
    if second == "lacks it":
        other.ready.clear()
    if second in {"down", "both down"}:
        other.die()
    if second == "both down":
        stub.die()
    other.hangs = second == "hangs"
    if error is None:
        await pair.cluster.require_ready("m", 1, LIMIT)
    else:
        with pytest.raises(error):
            await pair.cluster.require_ready("m", 1, LIMIT)


async def test_metadata_come_from_a_server_that_has_them(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    stub.ready.clear()
    found = await pair.cluster.metadata("m", LIMIT, 1)
    assert found is not None
    assert found.versions == ("1",)
    other.ready.clear()
    assert await pair.cluster.metadata("m", LIMIT, 1) is None
    stub.die()
    assert (await pair.cluster.get("/v2/models/x/config", LIMIT)).status == 400
    other.die()
    with pytest.raises(TritonUnavailable):
        await pair.cluster.get("/v2/models/x/config", LIMIT)


async def test_server_that_hangs_leaves_a_description_to_the_others(
    pair: ClusterClient, stub: StubTriton, other: StubTriton
) -> None:
    stub.hangs = True
    assert (await pair.cluster.get("/v2/models/m/versions/1", LIMIT)).status == 200
    assert await pair.cluster.metadata("m", LIMIT, 1) is not None
    other.hangs = True
    with pytest.raises(DeadlineExceeded):
        await pair.cluster.get("/v2/models/m/versions/1", LIMIT)
