"""Look-ups of features: merged, bounded in time and number, and given up when the store is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from serving_gateway.errors import FeaturesUnavailable, InvalidInput
from serving_gateway.features.breaker import Breaker, State
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import Found, InvalidEntityIds, ServiceUnusable, Status

NAMES = ("b", "a")
Answer = Callable[[Sequence[int | str]], list[Found]]


def found(one: int | str) -> Found:
    return Found(Status.FOUND, [f"b of {one}", f"a of {one}"])


class FakeStore:
    """Answers once its gate is open, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int | str]] = []
        self.nullable: list[frozenset[str]] = []
        self.names: list[tuple[str, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: Exception | None = None
        self.wrong: tuple[object, ...] = ()
        self.closed = False
        self.prepared: list[tuple[str, ...]] = []

    async def prepare(self, *services: str) -> None:
        self.prepared.append(services)
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails

    async def read(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str] = frozenset(),
    ) -> list[Found]:
        self.nullable.append(nullable)
        self.asked.append([*ids])
        self.names.append(names)
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        wrong = {at: "is wrong." for at, one in enumerate(ids) if one in self.wrong}
        if wrong:
            raise InvalidEntityIds(wrong)
        return [Found(Status.UNKNOWN, None, names) if one == 404 else found(one) for one in ids]

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def reader(store: FakeStore) -> AsyncIterator[FeatureReader]:
    one = FeatureReader(store, limit_seconds=5, max_rows=4, max_queued=12, failures=3)
    yield one
    await one.aclose()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.002)


def ask(reader: FeatureReader, *ids: int | str) -> asyncio.Task[list[Found]]:
    return asyncio.create_task(reader.look_up("s", NAMES, ids))


async def test_an_idle_store_is_asked_at_once(store: FakeStore, reader: FeatureReader) -> None:
    assert await reader.look_up("s", NAMES, [7, "7"]) == [found(7), found("7")]
    assert store.asked == [[7, "7"]]
    assert store.names == [NAMES]


async def test_look_ups_during_a_read_leave_together(
    store: FakeStore, reader: FeatureReader
) -> None:
    store.gate.clear()
    first = ask(reader, 1)
    await until(lambda: store.asked == [[1]], "the first read")
    others = [ask(reader, 2, 3), ask(reader, 3, 2, 3), ask(reader, 4)]
    await asyncio.sleep(0)
    store.gate.set()
    assert await first == [found(1)]
    assert await others[0] == [found(2), found(3)]
    assert await others[1] == [found(3), found(2), found(3)]
    assert await others[2] == [found(4)]
    assert store.asked == [[1], [2, 3, 4]], "merged, and each id once"
    assert (reader.counts.look_ups, reader.counts.reads, reader.counts.rows_read) == (4, 2, 4)


async def test_preparing_is_bounded_and_fails_nobody(
    store: FakeStore, reader: FeatureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_gateway.features.reader._PREPARE_SECONDS", 0.02)
    store.gate.clear()
    await reader.prepare("hangs")
    reader.expect({"later"})
    await until(lambda: ("later",) in store.prepared, "prepared without being waited for")
    store.gate.set()
    store.fails = RuntimeError("of a foreign library")
    await reader.prepare("fails")
    assert store.prepared == [("hangs",), ("later",), ("fails",)]


async def test_a_read_is_bounded(store: FakeStore, reader: FeatureReader) -> None:
    ids = list(range(10))
    assert await reader.look_up("s", NAMES, ids) == [found(one) for one in ids]
    assert store.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_other_features_are_another_read(store: FakeStore, reader: FeatureReader) -> None:
    store.gate.clear()
    tasks = [
        asyncio.create_task(reader.look_up(service, names, [1], frozenset(nullable)))
        for service, names, nullable in (
            *(("s", NAMES, ""), ("s", NAMES, "a")),
            *(("s", ("a",), ""), ("t", NAMES, "")),
        )
    ]
    await until(lambda: len(store.asked) == 4, "none waits for another")
    assert store.nullable[:2] == [frozenset(), frozenset("a")]
    store.gate.set()
    await asyncio.gather(*tasks)
    assert reader._batches._lanes == {}, "nothing is kept of features nobody asks for any more"


async def test_statuses_are_counted(store: FakeStore, reader: FeatureReader) -> None:
    answer = await reader.look_up("s", NAMES, [1, 404])
    assert [one.status for one in answer] == [Status.FOUND, Status.UNKNOWN]
    assert reader.counts.by_status == {Status.FOUND: 1, Status.UNKNOWN: 1}
    assert await reader.look_up("s", NAMES, []) == []


async def test_too_many_waiting_are_refused(store: FakeStore, reader: FeatureReader) -> None:
    store.gate.clear()
    first = ask(reader, 0)
    await until(lambda: store.asked == [[0]], "the first read")
    waiting = [ask(reader, 1, 2, 3, 4), ask(reader, 5, 6, 7, 8), ask(reader, 9, 10, 11)]
    await asyncio.sleep(0)
    with pytest.raises(FeaturesUnavailable) as caught:
        await reader.look_up("s", NAMES, [12, 13])
    assert caught.value.code == "too_many_look_ups"
    assert caught.value.retry_after == 1
    assert reader.counts.refused == 1
    assert reader.state is State.CLOSED
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    last = ask(reader, 12, 13)
    store.gate.set()
    assert await last == [found(12), found(13)], "those that left make room"
    assert await first == [found(0)]
    assert store.asked == [[0], [12, 13]], "and are not read"


async def test_one_that_leaves_does_not_hurt_the_others(
    store: FakeStore, reader: FeatureReader
) -> None:
    store.gate.clear()
    staying, leaving = ask(reader, 1), ask(reader, 1)
    await until(lambda: store.asked == [[1]], "a read")
    joined, left = ask(reader, 2), ask(reader, 3)
    await asyncio.sleep(0)
    leaving.cancel()
    left.cancel()
    store.gate.set()
    assert await staying == [found(1)]
    assert await joined == [found(2)]
    assert leaving.cancelled() or leaving.cancelling()
    assert store.asked == [[1], [2]]


async def test_one_may_leave_while_its_batch_is_read(
    store: FakeStore, reader: FeatureReader
) -> None:
    store.gate.clear()
    first = ask(reader, 1)
    await until(lambda: store.asked == [[1]], "a read")
    leaving, staying = ask(reader, 2), ask(reader, 3)
    await asyncio.sleep(0)
    opened, store.gate = store.gate, asyncio.Event()
    opened.set()
    await first
    await until(lambda: store.asked == [[1], [2, 3]], "both in one read")
    leaving.cancel()
    await asyncio.wait([leaving])
    store.gate.set()
    assert await staying == [found(3)]


@pytest.mark.parametrize("wrong", [True, None, 1.5, [1]])
async def test_an_id_of_no_type_is_refused(
    store: FakeStore, reader: FeatureReader, wrong: object
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await reader.look_up("s", NAMES, [1, wrong])  # type: ignore[list-item]
    assert (caught.value.field, caught.value.code) == ("entity_ids[1]", "wrong_type")
    assert store.asked == []


async def test_a_wrong_id_fails_its_own_look_up_alone(
    store: FakeStore, reader: FeatureReader
) -> None:
    store.wrong = ("x", "y")
    store.gate.clear()
    first = ask(reader, 1)
    await until(lambda: store.asked == [[1]], "a read")
    good, bad = ask(reader, 2), ask(reader, 3, "x")
    large = ask(reader, 4, 5, 6, 7, 8, "y")
    await asyncio.sleep(0)
    store.gate.set()
    await first
    assert await good == [found(2)]
    for task, field in ((bad, "entity_ids[1]"), (large, "entity_ids[5]")):
        with pytest.raises(InvalidInput) as caught:
            await task
        assert caught.value.field == field
        assert caught.value.message == f"{field} is wrong."
    assert reader.state is State.CLOSED
    assert reader.counts.failed_reads == 0


async def test_a_slow_store_is_not_waited_for(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=0.05, failures=1000)
    store.gate.clear()
    started = time.monotonic()
    tasks = [ask(reader, 1), ask(reader, 2), ask(reader, *range(600))]
    for task in tasks:
        with pytest.raises(FeaturesUnavailable, match=r"within 0\.05 s"):
            await task
    assert time.monotonic() - started < 1
    assert reader.counts.timed_out == 3
    for _ in range(3):
        with pytest.raises(FeaturesUnavailable):
            await reader.look_up("s", NAMES, [1])
    assert len(store.asked) == 1, "a store that hangs holds one thread"
    store.gate.set()
    assert await reader.look_up("s", NAMES, [1]) == [found(1)]
    assert store.asked[1:] == [[1]], "what was given up is not read"
    await reader.aclose()


async def test_a_store_that_hangs_for_ever_opens_the_breaker_and_heals(
    store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reader = FeatureReader(store, limit_seconds=0.02, failures=3, open_seconds=0.05)
    store.gate.clear()
    with pytest.raises(FeaturesUnavailable):
        await reader.look_up("s", NAMES, [1])
    await until(lambda: reader.state is State.OPEN, "open without another look-up")
    with pytest.raises(FeaturesUnavailable, match="not asked for now: It did not answer"):
        await reader.look_up("s", NAMES, [1])
    assert reader.counts.refused == 1
    await asyncio.sleep(0.06)
    with pytest.raises(FeaturesUnavailable, match="within"):
        await reader.look_up("s", NAMES, [1])
    assert len(store.asked) == 1
    store.gate.set()
    deadline = time.monotonic() + 5
    while reader.state is not State.CLOSED:
        assert time.monotonic() < deadline
        try:
            assert await reader.look_up("s", NAMES, [1]) == [found(1)]
        except FeaturesUnavailable:
            await asyncio.sleep(0.01)
    said = [record.getMessage() for record in caplog.records if record.name.endswith(".breaker")]
    assert said == ["the feature store is not asked for now", "the feature store answers again"]
    assert reader.opened == 1
    await reader.aclose()


async def test_a_late_answer_is_no_success(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=0.02, failures=2, open_seconds=60)
    for expected in (State.CLOSED, State.OPEN):
        store.gate.clear()
        with pytest.raises(FeaturesUnavailable):
            await reader.look_up("s", NAMES, [1])
        store.gate.set()
        await until(lambda: reader._batches._lanes == {}, "the read returned")
        assert reader.state is expected
    await reader.aclose()


async def test_failures_open_half_open_and_close(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=1, failures=2, open_seconds=0.05)
    store.fails = FeaturesUnavailable("gone")
    for _ in range(2):
        with pytest.raises(FeaturesUnavailable, match=r"^gone$"):
            await reader.look_up("s", NAMES, [1])
    assert reader.state is State.OPEN
    with pytest.raises(FeaturesUnavailable, match="not asked for now: gone"):
        await reader.look_up("s", NAMES, [1])
    assert len(store.asked) == 2
    await asyncio.sleep(0.06)
    with pytest.raises(FeaturesUnavailable, match=r"^gone$"):
        await reader.look_up("s", NAMES, [1])
    assert reader.state is State.OPEN, "the probe failed"
    store.fails = None
    store.gate.clear()
    await asyncio.sleep(0.06)
    probe = ask(reader, 1)
    await until(lambda: len(store.asked) == 4, "the probe")
    assert reader.state.value == "half-open"
    with pytest.raises(FeaturesUnavailable, match="not asked for now"):
        await reader.look_up("s", NAMES, [2])
    store.gate.set()
    assert await probe == [found(1)]
    assert reader.state.value == "closed"
    assert await reader.look_up("s", NAMES, [2]) == [found(2)]
    await reader.aclose()


@pytest.mark.parametrize("error", [ServiceUnusable("no such"), InvalidInput("no c"), KeyError("x")])
async def test_what_is_no_failure_of_the_store_does_not_open_the_breaker(
    store: FakeStore, reader: FeatureReader, error: Exception
) -> None:
    store.fails = error
    for _ in range(4):
        with pytest.raises(type(error)):
            await reader.look_up("s", NAMES, [1])
    assert reader.state is State.CLOSED


async def test_the_end_fails_what_waits(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=60)
    store.gate.clear()
    under_way = ask(reader, 1)
    await until(lambda: store.asked == [[1]], "a read")
    waiting = ask(reader, 2)
    await asyncio.sleep(0)
    await reader.aclose()
    for task in (under_way, waiting):
        with pytest.raises(FeaturesUnavailable, match="ending"):
            await task
    assert store.closed


def test_a_breaker_counts_failures_in_a_row_only() -> None:
    breaker = Breaker("x", failures=2, open_seconds=1, probe_seconds=1, clock=lambda: 0.0)
    for _ in range(5):
        breaker.failed("no")
        breaker.succeeded()
    assert breaker.admit()
    assert breaker.opened == 0


def test_a_probe_that_nobody_hears_of_is_followed_by_another() -> None:
    now = 0.0
    breaker = Breaker("x", failures=1, open_seconds=2, probe_seconds=1, clock=lambda: now)
    breaker.failed("no")
    assert not breaker.admit()
    now = 2.0
    assert [breaker.admit(), breaker.admit()] == [True, False]
    now = 3.0
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.failed("still not")
    now = 4.9
    assert not breaker.admit()
    assert breaker.opened == 1, "it never closed"


async def test_what_was_answered_is_let_go_at_once(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=60)
    for one in range(100):
        await reader.look_up("s", NAMES, [one])
    assert len(reader._batches._awaited) == 1
    await reader.aclose()
