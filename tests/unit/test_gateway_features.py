"""Look-ups of features: merged, bounded in time and number, and isolated by feature service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest

from serving_gateway.errors import FeaturesUnavailable, GatewayError, InvalidInput
from serving_gateway.features import lookup_queue
from serving_gateway.features.circuit_breaker import CircuitBreaker
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import (
    EntityKey,
    EntityOutcome,
    InvalidEntityIds,
    LookupRequest,
    LookupResult,
    ReadDone,
    ServiceUnusable,
    Status,
)
from tests.support.feature_lookups import look_up
from tests.support.waiting import eventually

NAMES = ("b", "a")


def found(one: EntityKey) -> LookupResult:
    return LookupResult(Status.FOUND, [f"b of {one}", f"a of {one}"])


class FakeStore:
    """Answers once its gate is open, and remembers what was read."""

    def __init__(self) -> None:
        self.asked: list[list[EntityKey]] = []
        self.nullable: list[frozenset[str]] = []
        self.names: list[tuple[str, ...]] = []
        self.keys: list[tuple[str, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.hanging: set[str] = set()
        self.fails: GatewayError | None = None
        self.wrong: tuple[object, ...] = ()
        self.closed = False
        self.prepared: list[tuple[str, ...]] = []
        self._reads: set[asyncio.Task[None]] = set()

    async def prepare(self, *services: str) -> None:
        self.prepared.append(services)
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails

    def read(self, request: LookupRequest, done: ReadDone) -> None:
        self.nullable.append(request.nullable)
        self.asked.append([*request.ids])
        self.names.append(request.names)
        self.keys.append(request.keys)
        if request.service not in self.hanging:
            task = asyncio.create_task(self._answer(request, done, self.gate))
            self._reads.add(task)
            task.add_done_callback(self._reads.discard)

    async def _answer(self, request: LookupRequest, done: ReadDone, gate: asyncio.Event) -> None:
        await gate.wait()
        done(self.fails or [self._outcome(one, request.names) for one in request.ids])

    def _outcome(self, one: EntityKey, names: tuple[str, ...]) -> EntityOutcome:
        if one in self.wrong:
            return InvalidEntityIds(0, "is wrong.", "flower")
        return LookupResult(Status.UNKNOWN, None, names) if one == 404 else found(one)

    async def aclose(self) -> None:
        self.closed = True
        for task in self._reads:
            task.cancel()


Limits = Callable[..., None]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Sets the bounds of the look-ups of one set of features."""

    def set_limits(**limits: int) -> None:
        for name, limit in limits.items():
            monkeypatch.setattr(lookup_queue, name.upper(), limit)

    return set_limits


@pytest.fixture
async def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def reader(store: FakeStore, limits: Limits) -> AsyncIterator[FeatureReader]:
    limits(max_rows=4, max_queued=3)
    one = FeatureReader(store, limit_seconds=5, failures=3)
    yield one
    await one.aclose()


def ask(reader: FeatureReader, *ids: int | str) -> asyncio.Task[list[LookupResult]]:
    return asyncio.create_task(look_up(reader, "s", NAMES, ids))


async def test_idle_store_is_read_at_once(store: FakeStore, reader: FeatureReader) -> None:
    assert await look_up(reader, "s", NAMES, [7, "7"]) == [found(7), found("7")]
    assert store.asked == [[7, "7"]]
    assert store.names == [NAMES]


async def test_look_ups_during_a_read_share_the_next_one(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=5)
    store.gate.clear()
    first = ask(reader, 1)
    await eventually(lambda: store.asked == [[1]], "the first read")
    others = [ask(reader, 2, 3), ask(reader, 3, 2, 3), ask(reader, 4)]
    await asyncio.sleep(0)
    store.gate.set()
    assert await first == [found(1)]
    assert await others[0] == [found(2), found(3)]
    assert await others[1] == [found(3), found(2), found(3)]
    assert await others[2] == [found(4)]
    assert store.asked == [[1], [2, 3, 4]], "merged, and each id once"
    assert (reader.counts.look_ups, reader.counts.reads, reader.counts.rows_read) == (4, 2, 4)
    await reader.aclose()


async def test_prepare_is_bounded_and_does_not_fail(store: FakeStore) -> None:
    reader = FeatureReader(store, prepare_seconds=0.05)
    store.gate.clear()
    await reader.prepare("hangs")
    started = time.monotonic()
    for _ in range(20):
        await reader.prepare("again")
    assert time.monotonic() - started < 0.5, "one that is overdue delays no further reload"
    reader.expect({"later"})
    await eventually(lambda: ("later",) in store.prepared, "prepared in the background")
    store.fails = FeaturesUnavailable("gone")
    store.gate.set()
    await eventually(lambda: not reader._preparing, "the end of what was overdue")
    await reader.prepare("fails")
    assert store.prepared[-1] == ("fails",)
    await reader.aclose()


async def test_read_is_bounded(store: FakeStore, reader: FeatureReader) -> None:
    ids = list(range(10))
    assert await look_up(reader, "s", NAMES, ids) == [found(one) for one in ids]
    assert store.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_different_features_are_read_at_the_same_time(
    store: FakeStore, reader: FeatureReader
) -> None:
    store.gate.clear()
    tasks = [
        asyncio.create_task(look_up(reader, service, names, [1], frozenset(nullable)))
        for service, names, nullable in (
            *(("s", NAMES, ""), ("s", NAMES, "a")),
            *(("s", ("a",), ""), ("t", NAMES, "")),
        )
    ]
    await eventually(lambda: len(store.asked) == 4, "none waits for another")
    assert store.nullable[:2] == [frozenset(), frozenset("a")]
    store.gate.set()
    await asyncio.gather(*tasks)


async def test_entities_of_several_keys_share_a_read_with_others_of_the_same_keys(
    store: FakeStore, reader: FeatureReader
) -> None:
    async def asked(keys: tuple[str, ...], *ids: tuple[int, ...]) -> None:
        assert await look_up(reader, "s", NAMES, ids, keys=keys) == [found(one) for one in ids]

    store.gate.clear()
    first = asyncio.create_task(asked(("c", "m"), (1, 1)))
    await eventually(lambda: store.asked == [[(1, 1)]], "the first read")
    tasks = [
        asyncio.create_task(asked(keys, *ids))
        for keys, *ids in (
            *((("c", "m"), (1, 2), (2, 1)), (("c", "m"), (2, 1), (1, 2))),
            (("m", "c"), (1, 2)),
        )
    ]
    await eventually(lambda: len(store.asked) == 2, "other keys do not wait")
    store.gate.set()
    await asyncio.gather(first, *tasks)
    assert store.asked == [[(1, 1)], [(1, 2)], [(1, 2), (2, 1)]]
    assert store.keys == [("c", "m"), ("m", "c"), ("c", "m")]


async def test_few_queues_of_former_features_are_kept(
    reader: FeatureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_gateway.features.reader._MAX_IDLE_QUEUES", 2)
    for number in range(5):
        await look_up(reader, "s", (f"f{number}",), [1])
    assert len(reader._queues) <= 2


async def test_statuses_are_counted(reader: FeatureReader) -> None:
    answer = await look_up(reader, "s", NAMES, [1, 404])
    assert [one.status for one in answer] == [Status.FOUND, Status.UNKNOWN]
    assert reader.counts.by_status == {Status.FOUND: 1, Status.UNKNOWN: 1}


@pytest.mark.parametrize("ids", [(12,), ("x" * 3_000, 12), ((7, "x" * 3_000),)])
async def test_too_many_waiting_look_ups_are_refused(
    store: FakeStore, limits: Limits, ids: tuple[int]
) -> None:
    """By their number, and by their bytes."""
    large = ids != (12,)
    limits(max_queued=99 if large else 2, max_bytes=3_000 if large else 9_999)
    reader = FeatureReader(store, limit_seconds=5)
    store.gate.clear()
    first = ask(reader, 0)
    await eventually(lambda: store.asked == [[0]], "the first read")
    waiting = [ask(reader, 1), ask(reader, 2)]
    await asyncio.sleep(0)
    with pytest.raises(FeaturesUnavailable) as caught:
        await look_up(reader, "s", NAMES, ids)
    assert caught.value.code == "too_many_look_ups"
    assert caught.value.retry_after == 1
    assert reader.counts.refused == 1
    assert reader.skipped_services == []
    other = asyncio.create_task(look_up(reader, "t", NAMES, ids))
    await eventually(lambda: store.asked[-1] == [*ids], "another service is not affected")
    store.gate.set()
    await asyncio.gather(first, other, *waiting)
    assert await look_up(reader, "s", NAMES, ids) == [found(one) for one in ids]
    await reader.aclose()


async def test_part_of_a_large_look_up_that_is_refused_fails_it_once(
    store: FakeStore, limits: Limits
) -> None:
    limits(max_rows=1, max_queued=1)
    reader = FeatureReader(store, limit_seconds=5)
    outcomes: list[object] = []
    reader.look_up("s", NAMES, [1, 2, 3], frozenset(), outcomes.append)
    await eventually(lambda: len(outcomes) == 1, "the refusal")
    assert await look_up(reader, "s", NAMES, [4]) == [found(4)]
    await asyncio.sleep(0.01)
    assert [getattr(one, "code", one) for one in outcomes] == ["too_many_look_ups"]
    await reader.aclose()


async def test_callback_that_fails_does_not_affect_others(
    store: FakeStore, reader: FeatureReader, caplog: pytest.LogCaptureFixture
) -> None:
    store.gate.clear()
    first = ask(reader, 0)
    await eventually(lambda: store.asked == [[0]], "the first read")

    def broken(_: object) -> None:
        raise RuntimeError("a fault of the caller")

    reader.look_up("s", NAMES, [1], frozenset(), broken)
    other = ask(reader, 2)
    await asyncio.sleep(0)
    store.gate.set()
    await first
    assert await other == [found(2)]
    assert store.asked == [[0], [1, 2]]
    assert "the caller of a look-up failed" in caplog.text


async def test_invalid_id_fails_its_own_look_up_only(
    store: FakeStore, reader: FeatureReader
) -> None:
    store.wrong = ("x", "y")
    store.gate.clear()
    first = ask(reader, 1)
    await eventually(lambda: store.asked == [[1]], "a read")
    good, bad = ask(reader, 2), ask(reader, 3, "x")
    large = asyncio.create_task(look_up(reader, "t", NAMES, [4, 5, 6, 7, 8, "y"]))
    await asyncio.sleep(0)
    store.gate.set()
    await first
    assert await good == [found(2)]
    for task, field in ((bad, "entity_ids[1]"), (large, "entity_ids[5]")):
        with pytest.raises(InvalidEntityIds) as caught:
            await task
        assert caught.value.field == field
        assert caught.value.message == f"{field} is wrong."
        assert caught.value.key == "flower"
    assert reader.skipped_services == []
    assert reader.counts.failed_reads == 0
    assert [2, 3, "x"] in store.asked, "one read served both"


async def test_slow_store_is_not_waited_for(store: FakeStore) -> None:
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
            await look_up(reader, "s", NAMES, [1])
    assert len(store.asked) == 1, "a store that hangs holds one thread"
    store.gate.set()
    assert await look_up(reader, "s", NAMES, [1]) == [found(1)]
    assert store.asked[1:] == [[1]], "overdue look-ups are not read"
    await reader.aclose()


async def test_service_that_hangs_does_not_affect_others(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=0.02, failures=3, open_seconds=60)
    store.hanging = {"slow"}
    with pytest.raises(FeaturesUnavailable):
        await look_up(reader, "slow", NAMES, [1])
    await eventually(lambda: reader.skipped_services == ["slow"], "its circuit breaker is open")
    with pytest.raises(FeaturesUnavailable, match="slow is not read for now"):
        await look_up(reader, "slow", NAMES, [1])
    assert await look_up(reader, "fast", NAMES, [1]) == [found(1)]
    await reader.aclose()


async def test_store_that_hangs_for_ever_opens_the_breaker_and_recovers(
    store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reader = FeatureReader(store, limit_seconds=0.02, failures=3, open_seconds=0.05)
    store.gate.clear()
    with pytest.raises(FeaturesUnavailable):
        await look_up(reader, "s", NAMES, [1])
    await eventually(lambda: reader.skipped_services == ["s"], "open without another look-up")
    with pytest.raises(FeaturesUnavailable, match="not read for now: It did not answer"):
        await look_up(reader, "s", NAMES, [1])
    assert reader.counts.refused == 1
    await asyncio.sleep(0.06)
    with pytest.raises(FeaturesUnavailable, match="within"):
        await look_up(reader, "s", NAMES, [1])
    assert len(store.asked) == 1
    store.gate.set()
    deadline = time.monotonic() + 5
    while reader.skipped_services:
        assert time.monotonic() < deadline
        try:
            assert await look_up(reader, "s", NAMES, [1]) == [found(1)]
        except FeaturesUnavailable:
            await asyncio.sleep(0.01)
    logged = [one.getMessage() for one in caplog.records if one.name.endswith("breaker")]
    assert logged == ["feature service s is not read for now", "feature service s answers again"]
    await reader.aclose()


async def test_late_answer_does_not_count_as_success(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=0.02, failures=2, open_seconds=60)
    for expected in ([], ["s"]):
        store.gate.clear()
        with pytest.raises(FeaturesUnavailable):
            await look_up(reader, "s", NAMES, [1])
        await eventually(lambda: reader.counts.failed_reads == len(store.asked), "the read is late")
        store.gate.set()
        await eventually(lambda: all(one.is_idle for one in reader._queues.values()), "its return")
        assert reader.skipped_services == expected
    await reader.aclose()


async def test_failures_open_half_open_and_close(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=1, failures=2, open_seconds=0.05)
    store.fails = FeaturesUnavailable("gone")
    for _ in range(2):
        with pytest.raises(FeaturesUnavailable, match=r"^gone$"):
            await look_up(reader, "s", NAMES, [1])
    assert reader.skipped_services == ["s"]
    with pytest.raises(FeaturesUnavailable, match="not read for now: gone"):
        await look_up(reader, "s", NAMES, [1])
    assert len(store.asked) == 2
    await asyncio.sleep(0.06)
    with pytest.raises(FeaturesUnavailable, match=r"^gone$"):
        await look_up(reader, "s", NAMES, [1])
    assert reader.skipped_services == ["s"], "the probe failed"
    store.fails = None
    store.gate.clear()
    await asyncio.sleep(0.06)
    probe = ask(reader, 1)
    await eventually(lambda: len(store.asked) == 4, "the probe")
    with pytest.raises(FeaturesUnavailable, match="not read for now"):
        await look_up(reader, "s", NAMES, [2])
    store.gate.set()
    assert await probe == [found(1)]
    assert reader.skipped_services == []
    assert await look_up(reader, "s", NAMES, [2]) == [found(2)]
    await reader.aclose()


@pytest.mark.parametrize("error", [ServiceUnusable("no such"), InvalidInput("no c")])
async def test_errors_of_the_request_do_not_open_the_breaker(
    store: FakeStore, reader: FeatureReader, error: GatewayError
) -> None:
    store.fails = error
    for _ in range(4):
        with pytest.raises(type(error)):
            await look_up(reader, "s", NAMES, [1])
    assert reader.skipped_services == []


async def test_close_fails_what_waits(store: FakeStore) -> None:
    reader = FeatureReader(store, limit_seconds=60)
    store.gate.clear()
    under_way = ask(reader, 1)
    await eventually(lambda: store.asked == [[1]], "a read")
    waiting = ask(reader, 2)
    await asyncio.sleep(0)
    await reader.aclose()
    for task in (under_way, waiting):
        with pytest.raises(FeaturesUnavailable, match="ending"):
            await task
    assert store.closed


def test_breaker_counts_consecutive_failures_only() -> None:
    breaker = CircuitBreaker("x", failures=2, open_seconds=1, probe_seconds=1)
    for _ in range(5):
        breaker.record_failure("no")
        breaker.record_success()
    assert breaker.admit()
    assert breaker.is_closed


def test_probe_without_an_outcome_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr("serving_gateway.features.circuit_breaker.monotonic", lambda: now)
    breaker = CircuitBreaker("x", failures=1, open_seconds=2, probe_seconds=1)
    breaker.record_failure("no")
    assert not breaker.admit()
    now = 2.0
    assert [breaker.admit(), breaker.admit()] == [True, False]
    now = 3.0
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.record_failure("still not")
    now = 4.9
    assert not breaker.admit()
    assert len(caplog.records) == 1, "it opened once: it never closed"
