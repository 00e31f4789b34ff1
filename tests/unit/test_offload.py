"""The thread for large bodies: what comes first, what is not begun, and its rests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from serving_gateway.batching import ByteBudget
from serving_gateway.errors import DeadlineExceeded, GatewayError, Overloaded
from serving_gateway.inference.offload import LARGE_BYTES, Offload
from tests.support.waiting import eventually

SIZE = LARGE_BYTES + 1


class Bodies:
    """Work for the thread, and what came of it."""

    def __init__(self) -> None:
        self.budget = ByteBudget(10 * SIZE)
        self.offload = Offload(self.budget)
        self.begun: list[str] = []
        self.results: list[str | GatewayError] = []
        self.gate = threading.Event()

    def submit(self, name: str, seconds: float = 60) -> None:
        """Have a body read, unless that cannot begin within `seconds`."""

        def work() -> str:
            self.begun.append(name)
            assert self.gate.wait(10)
            return name

        due = asyncio.get_running_loop().time() + seconds
        self.offload.run(SIZE, work, self.results.append, due)


@pytest.fixture
def bodies() -> Iterator[Bodies]:
    one = Bodies()
    yield one
    one.gate.set()
    one.offload.close()


async def test_newest_body_goes_first(bodies: Bodies) -> None:
    bodies.submit("first")
    await eventually(lambda: bodies.begun)
    for name in "abc":
        bodies.submit(name)
    bodies.gate.set()
    await eventually(lambda: len(bodies.results) == 4)
    assert bodies.results == ["first", "c", "b", "a"]
    assert bodies.budget.held == 0


async def test_body_that_waits_below_newer_ones_ends_at_its_deadline(bodies: Bodies) -> None:
    bodies.submit("first")
    await eventually(lambda: bodies.begun)
    bodies.submit("late", seconds=0.01)
    bodies.submit("newest")
    await eventually(lambda: bodies.results)
    assert isinstance(bodies.results[0], DeadlineExceeded)
    assert bodies.budget.held == 2 * SIZE
    bodies.gate.set()
    await eventually(lambda: len(bodies.results) == 3)
    assert bodies.begun == bodies.results[1:] == ["first", "newest"]
    assert bodies.budget.held == 0


async def test_body_that_is_being_read_outlasts_its_deadline(bodies: Bodies) -> None:
    bodies.submit("begun", seconds=0.01)
    await eventually(lambda: bodies.begun)
    await asyncio.sleep(0.03)
    assert not bodies.results
    bodies.gate.set()
    await eventually(lambda: bodies.results)
    assert bodies.results == ["begun"]


async def test_bodies_that_wait_are_bounded_in_bytes(bodies: Bodies) -> None:
    for number in range(11):
        bodies.submit(str(number))
    await eventually(lambda: bodies.results)
    assert isinstance(bodies.results[0], Overloaded)


async def test_thread_rests_as_long_as_it_worked_while_more_wait(bodies: Bodies) -> None:
    times: list[float] = []

    def work() -> None:
        times.append(time.perf_counter())
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        times.append(time.perf_counter())

    for _ in range(2):
        bodies.offload.run(SIZE, work, lambda _: None, asyncio.get_running_loop().time() + 60)
    await eventually(lambda: len(times) == 4)
    assert times[2] - times[1] > 0.045
