"""The micro-batcher: merging, bounds, deadlines, isolation of a bad item."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving_gateway.batching import Batch, Batcher, BatchItem, ByteBudget
from serving_gateway.errors import DeadlineExceeded, GatewayError, InvalidInput, Overloaded
from tests.support.waiting import eventually


class Item(BatchItem):
    """Records how it ended."""

    __slots__ = ("ended", "name")

    def __init__(
        self, name: str, *, key: object = "k", rows: int = 1, size: int = 1, seconds: float = 5
    ) -> None:
        super().__init__(key, rows, size, asyncio.get_running_loop().time() + seconds)
        self.name = name
        self.ended: list[GatewayError | str] = []

    def fail(self, error: GatewayError) -> None:
        self.ended.append(error)


class Destination:
    """Keeps the batches that were started, to be ended by the test."""

    def __init__(self, **limits: float) -> None:
        self.batches: list[Batch[Item]] = []
        self.budget = ByteBudget(int(limits.pop("bytes", 1000)))
        options = {"max_rows": 4, "max_in_flight": 1, "max_queued": 8, **limits}
        self.batcher: Batcher[Item] = Batcher(
            self.start,
            "version 1",
            budget=self.budget,
            **options,  # type: ignore[arg-type]
        )

    def start(self, batch: Batch[Item], _: Batcher[Item]) -> None:
        batch.call = Abandoned()
        self.batches.append(batch)

    def submit(self, *items: Item) -> None:
        for item in items:
            self.batcher.submit(item)

    def names(self) -> list[list[str]]:
        return [[item.name for item in batch.items] for batch in self.batches]

    def answer(self, batch: Batch[Item]) -> None:
        for item in batch.items:
            if not item.is_finished:
                item.is_finished = True
                item.ended.append("done")
        self.batcher.complete(batch)


class Abandoned:
    """A call that remembers how it was abandoned."""

    def __init__(self) -> None:
        self.overdue: list[bool] = []

    def abandon(self, *, overdue: bool = False) -> bool:
        self.overdue.append(overdue)
        return True


async def test_idle_destination_is_called_at_once_and_the_rest_leaves_together() -> None:
    there = Destination()
    there.submit(*map(Item, "abcd"))
    assert there.names() == [["a"]]
    there.answer(there.batches[0])
    assert there.names() == [["a"], ["b", "c", "d"]]
    assert there.batches[1].rows == 3


async def test_items_of_one_moment_leave_together() -> None:
    to, other = Destination(), Destination(bytes=0)
    with Batcher.gather():
        to.submit(*[Item(name) for name in "abcde"])
        other.submit(Item("x"))
        assert to.names() == []
    assert to.names() == [["a", "b", "c", "d"]]
    assert other.names() == [["x"]], "an idle destination needs no budget"
    to.answer(to.batches[0])
    to.answer(to.batches[1])
    to.submit(Item("f"))
    assert to.names()[1:] == [["e"], ["f"]]
    assert to.budget.held == 0


async def test_batch_ends_at_its_rows_at_another_key_and_at_an_item_that_goes_alone() -> None:
    there = Destination()
    there.submit(
        Item("first"),
        Item("b", rows=3),
        Item("c", rows=2),
        Item("d", key="other"),
        Item("e", key=None),
        Item("f", key=None),
    )
    for position in range(6):
        there.answer(there.batches[position])
    assert there.names() == [["first"], ["b"], ["c"], ["d"], ["e"], ["f"]]


async def test_item_larger_than_a_batch_goes_alone() -> None:
    there = Destination()
    there.submit(Item("a"), Item("big", rows=100), Item("c"))
    there.answer(there.batches[0])
    assert there.names()[1] == ["big"]


async def test_queue_is_bounded_in_items_and_in_bytes() -> None:
    there = Destination(max_queued=2, bytes=10)
    there.submit(Item("a"), Item("b", size=4))
    with pytest.raises(Overloaded):
        there.submit(Item("c", size=7))
    there.submit(Item("c", size=6))
    with pytest.raises(Overloaded):
        there.submit(Item("d", size=0))
    there.answer(there.batches[0])
    assert there.budget.held == 0


async def test_cost_of_a_refusal_does_not_grow_with_the_queue() -> None:
    def refusals(waiting: int) -> float:
        there = Destination(max_queued=waiting, bytes=10**9)
        there.submit(*(Item("a") for _ in range(waiting + 1)))
        items = [Item("refused") for _ in range(200)]
        began = time.thread_time()
        for item in items:
            with pytest.raises(Overloaded):
                there.submit(item)
        return time.thread_time() - began

    assert min(refusals(20_000) for _ in range(3)) < 5 * min(refusals(20) for _ in range(3))


async def test_abandoned_items_give_up_their_place_at_once() -> None:
    there = Destination(max_queued=2)
    items = [Item(name) for name in "abc"]
    there.submit(*items)
    items[1].abandon()
    items[2].abandon()
    late = Item("d")
    there.submit(late)
    assert there.budget.held == late.size
    there.answer(there.batches[0])
    assert there.names() == [["a"], ["d"]]


async def test_many_abandoned_items_do_not_stay_in_the_queue() -> None:
    there = Destination(max_queued=100_000, bytes=10**9)
    there.submit(Item("first"))
    for number in range(5_000):
        item = Item(str(number))
        there.submit(item)
        item.abandon()
    assert len(there.batcher._queue) < 200


async def test_refused_batch_is_halved_until_the_bad_item_is_alone() -> None:
    there = Destination(max_rows=64, max_queued=64)
    items = [Item(str(number)) for number in range(33)]
    there.submit(*items)
    there.answer(there.batches[0])
    for batch in there.batches[1:]:
        assert len(batch.items) == 32
    position, refused = 1, InvalidInput("bad")
    while position < len(there.batches):
        batch = there.batches[position]
        if any(item.name == "17" for item in batch.items):
            there.batcher.split(batch, refused)
        else:
            there.answer(batch)
        position += 1
    assert items[17].ended == [refused]
    assert all(item.ended == ["done"] for item in items if item.name != "17")
    assert len(there.batches) <= 2 + 2 * 5


async def test_items_fail_at_their_deadline_and_the_call_counts_as_overdue() -> None:
    there = Destination()
    items = [Item("a", seconds=0.02), Item("b", seconds=0.03), Item("c", seconds=5)]
    there.submit(*items)
    await eventually(lambda: len(there.batches) == 2)
    assert [type(item.ended[0]) for item in items[:1]] == [DeadlineExceeded]
    call = there.batches[0].call
    assert isinstance(call, Abandoned)
    assert call.overdue == [True]
    await eventually(lambda: bool(items[1].ended))
    assert items[2].ended == []


async def test_refusing_what_waits_leaves_what_is_under_way_and_takes_what_comes_later() -> None:
    there = Destination()
    items = [Item(name) for name in "abc"]
    there.submit(*items)
    there.batcher.refuse_waiting(Overloaded("no server answers"))
    assert [len(item.ended) for item in items] == [0, 1, 1]
    assert there.budget.held == 0
    later = Item("later")
    there.submit(later)
    there.answer(there.batches[0])
    there.answer(there.batches[1])
    assert (items[0].ended, later.ended) == (["done"], ["done"])
    assert there.batcher.is_idle


async def test_every_item_ends_once_when_the_batcher_closes() -> None:
    there = Destination()
    items = [Item(name) for name in "abc"]
    there.submit(*items)
    there.batcher.close(Overloaded("ending"))
    assert [len(item.ended) for item in items] == [1, 1, 1]
    assert there.batcher.is_idle
    assert there.budget.held == 0


async def test_gathering_waits_for_company_but_not_beyond_a_full_batch() -> None:
    there = Destination(gather_seconds=0.05)
    there.submit(Item("a"), Item("b"))
    assert there.batches == []
    there.submit(Item("c"), Item("d"))
    assert there.names() == [["a", "b", "c", "d"]]
    there.answer(there.batches[0])
    there.submit(Item("e"))
    await eventually(lambda: len(there.batches) == 2)
    assert there.names()[1] == ["e"]


class Wanderer(Item):
    """Goes to another destination when this one does not answer in time."""

    __slots__ = ("next",)

    def __init__(self, name: str, after: Destination) -> None:
        super().__init__(name, seconds=0.02)
        self.next = after

    def fail(self, error: GatewayError) -> None:
        super().fail(error)
        self.is_finished = False
        self.deadline += 5
        self.next.submit(self)


async def test_item_that_goes_elsewhere_at_its_deadline_is_not_sent_here_later() -> None:
    here, elsewhere = Destination(), Destination()
    here.submit(Item("first"))
    item = Wanderer("second", elsewhere)
    here.submit(item)
    await eventually(lambda: elsewhere.names() == [["second"]])
    here.answer(here.batches[0])
    assert here.names() == [["first"]]
    assert here.budget.held == 0
    elsewhere.answer(elsewhere.batches[0])
    assert item.ended[-1] == "done"
