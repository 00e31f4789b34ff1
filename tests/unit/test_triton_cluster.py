"""All servers behind an address: which is asked, what is tried again, and what outcomes mean."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    Overloaded,
    TritonUnavailable,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.settings import Settings
from serving_gateway.triton import cluster as cluster_module
from serving_gateway.triton import connections as connections_module
from serving_gateway.triton import inference_call as call_module
from serving_gateway.triton import version_state as view_module
from serving_gateway.triton.cluster import TritonCluster
from serving_gateway.triton.exchange import ConnectFailed, TritonResponse
from serving_gateway.triton.inference_call import InferenceCall
from serving_gateway.triton.version_state import VersionState
from tests.support.servers import LOOPBACK, free_port
from tests.support.stub_triton import StubTriton, run_stub

Outcome = TritonResponse | GatewayError
MakeCluster = Callable[..., TritonCluster]
LIMIT = 0.3


def request(body: bytes = b"{}") -> bytes:
    head = b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


class Client:
    """Sends inferences of version 1 of model m to a cluster, and keeps the outcomes."""

    def __init__(self, cluster: TritonCluster) -> None:
        self.cluster = cluster
        self.state: VersionState = cluster.version("m", 1)
        self.outcomes: list[Outcome] = []

    def send(
        self, body: bytes = b"{}", *, repeatable: bool = True
    ) -> tuple[InferenceCall, asyncio.Future[Outcome]]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Outcome] = loop.create_future()

        def done(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            ended.set_result(outcome)

        call = self.cluster.infer(
            self.state, request(body), loop.time() + 5, done, repeatable=repeatable
        )
        assert not ended.done(), "never called back before infer returns"
        return call, ended

    async def infer(self, body: bytes = b"{}", *, repeatable: bool = True) -> Outcome:
        _, ended = self.send(body, repeatable=repeatable)
        return await asyncio.wait_for(ended, 10)

    async def error(self, *, repeatable: bool = True) -> GatewayError:
        outcome = await self.infer(repeatable=repeatable)
        assert isinstance(outcome, GatewayError), outcome
        return outcome

    async def many(self, count: int) -> list[Outcome]:
        return list(await asyncio.gather(*(self.infer() for _ in range(count))))

    @property
    def is_ready(self) -> bool:
        return self.state.ready

    async def probe(self) -> VersionState:
        await self.state.probe(LIMIT)
        return self.state


async def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- plain numbers notify nobody
            await asyncio.sleep(0.002)


def good(outcomes: list[Outcome]) -> bool:
    return all(isinstance(one, TritonResponse) for one in outcomes)


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
async def alone(make: MakeCluster, stub: StubTriton) -> Client:
    """One server, probed."""
    client = Client(make(stub.url))
    assert (await client.probe()).ready
    return client


@pytest.fixture
async def pair(make: MakeCluster, stub: StubTriton, other: StubTriton) -> Client:
    """Two servers, probed."""
    client = Client(make(stub.url, other.url))
    assert (await client.probe()).ready
    return client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts that a test can afford."""
    monkeypatch.setattr(view_module, "TRIAL_SECONDS", 0.05)
    monkeypatch.setattr(cluster_module, "_RECOVERY_SECONDS", 0.05)
    monkeypatch.setattr(cluster_module, "_REFRESH_SECONDS", 0.05)


# one server


async def test_a_version_is_not_ready_before_it_was_asked_for(
    make: MakeCluster, stub: StubTriton
) -> None:
    state = make(stub.url).version("m", 1)
    assert (state.ready, state.confirmed_at) == (False, None)
    assert state.reason == "not yet confirmed with Triton"


async def test_an_answer_confirms_the_version(alone: Client, stub: StubTriton) -> None:
    before = alone.state.confirmed_at
    assert before is not None
    outcome = await alone.infer()
    assert isinstance(outcome, TritonResponse)
    assert outcome.body == stub.body
    assert (alone.state.confirmed_at or 0) > before


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("count", [1, 140, 300])
async def test_a_closed_port_is_reported_at_once(
    make: MakeCluster, count: int, is_listed: bool
) -> None:
    url = f"http://{LOOPBACK}:{free_port()}"
    client = Client(make(url, servers_url=url if is_listed else None))
    started = time.monotonic()
    outcomes = await client.many(count)
    assert {type(one) for one in outcomes} == {ConnectFailed}
    assert time.monotonic() - started < 1 + count / 50  # 5 s when nothing notices


async def test_connections_that_the_server_closed_meanwhile_fail_no_request(
    alone: Client, stub: StubTriton
) -> None:
    for _ in range(20):
        assert good(await alone.many(4))
        stub.close_connections()
    assert good(await alone.many(4))


async def test_connections_that_are_reset_fail_no_request(alone: Client, stub: StubTriton) -> None:
    for _ in range(20):
        assert good(await alone.many(4))
        stub.close_connections(reset=True)
    assert good(await alone.many(4))


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_request_that_kills_the_only_server_is_not_sent_again(
    alone: Client, stub: StubTriton, is_kept: bool
) -> None:
    if is_kept:
        await alone.infer()
    stub.inferences.clear()
    stub.dies = True
    assert isinstance(await alone.error(), TritonUnavailable)
    assert len(stub.inferences) == 1


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_request_that_kills_a_server_reaches_no_other(
    pair: Client, stub: StubTriton, other: StubTriton, is_kept: bool
) -> None:
    if is_kept:
        assert good(await pair.many(4))
    for one in (stub, other):
        one.inferences.clear()
        one.dies = True
    assert isinstance(await pair.error(), TritonUnavailable)
    assert len(stub.inferences) + len(other.inferences) == 1


async def test_a_dying_server_that_still_accepts_connections_spreads_no_request(
    pair: Client, stub: StubTriton, other: StubTriton
) -> None:
    assert good(await pair.many(4))
    for one in (stub, other):
        one.inferences.clear()
        one.hangs_inferences = True
    _, ended = pair.send()
    await eventually(lambda: len(stub.inferences) + len(other.inferences) == 1)
    dying = stub if stub.inferences else other
    dying.drains = True
    dying.close_connections()
    assert isinstance(await ended, TritonUnavailable)
    assert len(stub.inferences) + len(other.inferences) == 1


async def test_a_connection_that_ends_during_the_work_is_not_a_reason_to_repeat_it(
    alone: Client, stub: StubTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "AT_ONCE_SECONDS", 0.01)
    await alone.infer()
    stub.hangs_inferences = True
    _, ended = alone.send()
    await eventually(lambda: len(stub.inferences) == 2)
    await asyncio.sleep(0.02)
    stub.close_connections()
    assert isinstance(await ended, TritonUnavailable)
    assert len(stub.inferences) == 2


@pytest.mark.parametrize(("repeatable", "seen"), [(True, 2), (False, 1)])
async def test_what_may_have_been_executed_is_repeated_only_where_that_is_allowed(
    alone: Client, stub: StubTriton, repeatable: bool, seen: int
) -> None:
    await alone.infer()
    stub.inferences.clear()
    stub.hangs_inferences = True
    _, ended = alone.send(repeatable=repeatable)
    await eventually(lambda: len(stub.inferences) == 1)
    stub.hangs_inferences = False
    # A balancer or an idle limit ended the connection; the server lives.
    stub.close_connections()
    assert isinstance(await ended, TritonResponse) is repeatable
    assert len(stub.inferences) == seen


async def test_a_sequence_is_repeated_when_it_cannot_have_been_read(
    alone: Client, stub: StubTriton
) -> None:
    await alone.infer(repeatable=False)
    stub.close_connections()
    assert isinstance(await alone.infer(repeatable=False), TritonResponse)
    assert len(stub.inferences) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InferenceRefused),
        (429, Overloaded),
        (503, Overloaded),
        (401, BadUpstreamAnswer),
        (403, BadUpstreamAnswer),
        (404, BadUpstreamAnswer),
        (413, BadUpstreamAnswer),
        (500, BadUpstreamAnswer),
        (520, BadUpstreamAnswer),
    ],
)
@pytest.mark.parametrize("body", [b'{"error":"too wide"}', b'{"error":"too wide \xc3"}', b""])
async def test_only_a_bad_request_is_the_clients_fault(
    alone: Client, stub: StubTriton, status: int, error: type[GatewayError], body: bytes
) -> None:
    stub.status, stub.body = status, body
    found = await alone.error()
    assert type(found) is error
    assert ("too wide" in found.message) == bool(body)
    if isinstance(found, Overloaded):
        assert found.retry_after == 1
    assert len(stub.inferences) == 1


async def test_a_refusal_by_a_version_that_is_gone_is_not_the_clients_fault(
    alone: Client, stub: StubTriton
) -> None:
    stub.ready.clear()
    for status in (400, 503):
        stub.status = status
        assert isinstance(await alone.error(), VariantUnavailable)
        assert not alone.is_ready
        assert "READY" in (alone.state.reason or "")


async def test_refusals_at_one_time_share_the_question_about_the_version(
    alone: Client, stub: StubTriton
) -> None:
    stub.status, stub.delay = 400, 0.01
    before = stub.probes
    outcomes = await alone.many(64)
    assert {type(one) for one in outcomes} == {InferenceRefused}
    assert len(stub.inferences) == 64
    assert stub.probes - before <= 8


async def test_an_outage_is_not_multiplied_by_retries(alone: Client, stub: StubTriton) -> None:
    stub.drains = True
    before = stub.opened
    stub.close_connections()
    await alone.many(500)
    assert stub.opened - before <= 500 + 100


async def test_a_callback_that_raises_is_logged_and_hears_of_an_error(
    alone: Client, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Outcome] = []

    def has(count: int) -> bool:
        return len(outcomes) == count

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if isinstance(outcome, TritonResponse):
            raise UnicodeDecodeError("utf-8", b"\xc3", 0, 1, "cut")

    for count in (1, 2):
        alone.cluster.infer(alone.state, request(), asyncio.get_running_loop().time() + 5, done)
        await eventually(partial(has, 2 * count))
        assert isinstance(outcomes[-1], BadUpstreamAnswer)
    assert "could not be processed" in caplog.text
    assert isinstance(await alone.infer(), TritonResponse)


async def test_an_abandoned_inference_calls_nobody(alone: Client, stub: StubTriton) -> None:
    stub.delay = 0.01
    call, ended = alone.send()
    call.abandon()
    await asyncio.sleep(0.05)
    assert not ended.done()
    assert alone.state.on_servers[0].in_flight == 0


async def test_stuck_inferences_delay_neither_others_nor_control_calls(
    alone: Client, stub: StubTriton
) -> None:
    stub.hangs_inferences = True
    stuck = [alone.send() for _ in range(60)]
    await eventually(lambda: len(stub.inferences) == 60)
    stub.hangs_inferences = False
    started = time.monotonic()
    await alone.cluster.require_ready("m", 1, 1)
    assert await alone.cluster.ready_versions("m", 1) == (1,)
    assert isinstance(await alone.infer(), TritonResponse)
    assert time.monotonic() - started < 0.5
    for call, _ in stuck:
        call.abandon()


async def test_control_calls_have_connections_of_their_own(
    alone: Client, stub: StubTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 3)
    stub.hangs_inferences = True
    stuck = [alone.send() for _ in range(3)]
    assert isinstance(await alone.error(), Overloaded)
    await alone.cluster.require_ready("m", 1, 1)
    for call, _ in stuck:
        call.abandon()


async def test_only_a_new_connection_proves_that_a_server_in_trouble_is_well(
    alone: Client, stub: StubTriton
) -> None:
    stub.drains = True
    server = alone.state.on_servers[0].server
    server.note_problem("it drains")
    await alone.probe()
    assert server.problem is not None
    stub.drains = False
    await alone.probe()
    assert alone.is_ready


# hanging


def miss(client: Client, times: int = 1) -> None:
    for _ in range(times):
        call, _ = client.send()
        call.abandon(overdue=True)


async def test_five_missed_deadlines_in_a_row_stop_the_wait_for_a_version(
    alone: Client, stub: StubTriton, impatient: None
) -> None:
    alone.state.probe_request = request(b"[]")
    stub.hangs_inferences = True
    miss(alone, 4)
    assert [one.is_hung for one in alone.state.on_servers] == [False]
    miss(alone)
    assert not alone.is_ready
    assert "deadline" in (alone.state.reason or "")
    started = time.monotonic()
    error = await alone.error()
    assert isinstance(error, VariantUnavailable)
    assert error.retry_after == 1
    assert time.monotonic() - started < 0.5
    # That it says READY does not help.
    assert not (await alone.probe()).ready
    await eventually(lambda: b"[]" in stub.inferences)
    await asyncio.sleep(0.2)  # four times the pause between trials
    assert stub.inferences.count(b"[]") == 1, "one trial at a time"
    stub.hangs_inferences = False
    stub.close_connections()  # the model was restarted
    await eventually(lambda: alone.is_ready)
    assert isinstance(await alone.infer(), TritonResponse)


async def test_answers_in_between_keep_a_slow_version_in_use(
    alone: Client, stub: StubTriton
) -> None:
    for _ in range(3):
        miss(alone, 4)
        assert isinstance(await alone.infer(), TritonResponse)
    assert alone.is_ready


async def test_a_hung_version_without_a_trial_request_is_tried_by_one_request(
    alone: Client, stub: StubTriton, impatient: None
) -> None:
    miss(alone, 5)
    assert not alone.is_ready
    await eventually(lambda: alone.is_ready)
    miss(alone)
    assert not alone.is_ready
    await eventually(lambda: alone.is_ready)
    assert isinstance(await alone.infer(), TritonResponse)


async def test_while_a_version_hangs_on_one_server_the_other_answers(
    pair: Client, stub: StubTriton, other: StubTriton
) -> None:
    stub.hangs_inferences = True
    for _ in range(5):
        at = pair.state.on_servers[0]
        at.in_flight, pair.state.on_servers[1].in_flight = 0, 9
        miss(pair)
    pair.state.on_servers[1].in_flight = 0
    assert pair.state.on_servers[0].is_hung
    assert pair.is_ready
    assert good(await pair.many(10))


async def test_a_stopped_server_is_left_soon_after_it_fell_silent(
    alone: Client, stub: StubTriton
) -> None:
    await alone.infer()
    stub.hangs = True
    call, _ = alone.send()
    started = time.monotonic()
    while alone.is_ready:
        await alone.probe()
    assert time.monotonic() - started < 2
    assert isinstance(await alone.error(), VariantUnavailable)
    call.abandon()
    stub.hangs = False
    assert (await alone.probe()).ready


async def test_an_answer_ends_the_silence_of_a_server(alone: Client, stub: StubTriton) -> None:
    await alone.infer()
    stub.hangs = True
    stub.delay = 0.0
    call, ended = alone.send()
    await eventually(lambda: len(stub.inferences) == 2)
    while alone.is_ready:
        await alone.probe()
    for connection in stub.connections:
        connection.reply(200, stub.body)
    assert isinstance(await ended, TritonResponse)
    assert [one.is_usable for one in alone.state.on_servers] == [True]
    call.abandon()


async def test_a_server_that_answers_inferences_may_be_slow_to_say_that_it_is_ready(
    make: MakeCluster, stub: StubTriton
) -> None:
    client = Client(make(stub.url, staleness=0.5))
    await client.probe()
    stub.hangs = True
    stub.hangs_inferences = False
    until = time.monotonic() + 1.5

    async def answers() -> None:
        while time.monotonic() < until:
            stub.hangs = False
            await client.infer()
            stub.hangs = True
            await asyncio.sleep(0.05)

    async def probes() -> None:
        while time.monotonic() < until:
            assert (await client.probe()).ready

    await asyncio.gather(answers(), probes())


async def test_an_idle_server_that_does_not_answer_is_left_when_its_word_is_stale(
    make: MakeCluster, stub: StubTriton
) -> None:
    client = Client(make(stub.url, staleness=1))
    await client.probe()
    stub.hangs = True
    assert (await client.probe()).ready
    await eventually(lambda: time.monotonic() - (client.state.confirmed_at or 0) > 1)
    assert not (await client.probe()).ready


# several servers


async def test_inferences_go_where_least_are_under_way(
    pair: Client, stub: StubTriton, other: StubTriton
) -> None:
    await pair.many(40)
    assert len(stub.inferences) == len(other.inferences) == 20
    stub.hangs_inferences = True
    calls = [pair.send() for _ in range(4)]
    await eventually(lambda: len(stub.inferences) == len(other.inferences) == 22)
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
    pair: Client, stub: StubTriton, other: StubTriton
) -> None:
    stub.ready.clear()
    for _ in range(3):
        assert (await pair.probe()).ready
        assert good(await pair.many(10))
    assert stub.inferences == []
    assert len(other.inferences) == 30


async def test_a_server_that_lost_the_version_hands_over_to_one_that_has_it(
    pair: Client, stub: StubTriton, other: StubTriton
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
    pair: Client, stub: StubTriton, other: StubTriton
) -> None:
    stub.status = 503
    assert good(await pair.many(4))
    other.status = 503
    assert {type(one) for one in await pair.many(4)} == {Overloaded}


async def test_the_loss_of_one_of_two_servers_fails_no_request(
    pair: Client, stub: StubTriton, other: StubTriton
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
    pair: Client, stub: StubTriton, other: StubTriton, impatient: None
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


async def test_the_end_of_a_drain_that_nobody_noticed_fails_no_request(
    pair: Client, stub: StubTriton
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
    pair: Client,
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
    pair: Client,
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
    pair: Client, stub: StubTriton, other: StubTriton
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


# discovery


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
    client = Client(make("http://triton.invalid:1", servers_url="http://all.invalid:1"))
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
    client = Client(make(stub.url, servers_url="http://all.invalid:1"))
    await client.probe()
    started = time.monotonic()
    assert good(await client.many(10))
    assert time.monotonic() - started < 0.5
    await client.cluster.require_ready("m", 1, LIMIT)


async def test_a_server_that_gets_the_version_later_is_used(
    pair: Client, stub: StubTriton, other: StubTriton, impatient: None
) -> None:
    other.ready.clear()
    await pair.probe()
    assert good(await pair.many(4))
    assert other.inferences == []
    other.ready.add(("m", 1))
    await eventually(lambda: pair.state.on_servers[1].is_usable)
    assert good(await pair.many(4))
    assert other.inferences


async def test_a_version_that_nobody_holds_is_forgotten(alone: Client) -> None:
    alone.cluster.version("m", 2)
    assert ("m", 2) not in alone.cluster._states
    held = alone.cluster.version("m", 2)
    assert alone.cluster.version("m", 2) is held
