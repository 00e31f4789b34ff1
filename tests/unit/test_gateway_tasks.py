"""Background tasks: started again when they fail or end, and ended when cancelled."""

from __future__ import annotations

import asyncio

import pytest

from serving_gateway import tasks
from serving_gateway.tasks import TaskSupervisor


async def settles(task: asyncio.Task[None]) -> None:
    await asyncio.wait_for(asyncio.wait([task]), 5)


async def test_a_task_that_fails_or_ends_is_logged_counted_and_started_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_FIRST_PAUSE_SECONDS", 0.001)
    restarts: list[str] = []
    supervisor = TaskSupervisor(restarts.append)
    running = asyncio.Event()
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise EOFError("closed in the middle of a reply")
        if starts == 2:
            return
        running.set()
        await asyncio.Event().wait()

    supervisor.start("subscription", work)
    await asyncio.wait_for(running.wait(), 5)
    assert restarts == ["subscription"] * 2
    assert "a background task failed" in caplog.text
    assert "a background task ended" in caplog.text
    assert "closed in the middle" in caplog.text
    await asyncio.wait_for(supervisor.aclose(), 5)


async def test_a_task_that_may_end_is_not_started_again() -> None:
    restarts: list[str] = []
    supervisor = TaskSupervisor(restarts.append)

    async def work() -> None:
        await asyncio.sleep(0)

    task = supervisor.start("feature store", work, may_end=True)
    await settles(task)
    assert restarts == []


async def test_a_task_that_swallows_its_cancellation_as_an_error_ends() -> None:
    restarts: list[str] = []
    supervisor = TaskSupervisor(restarts.append)
    running = asyncio.Event()

    async def work() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("made of a cancellation") from None

    task = supervisor.start("watcher", work)
    await running.wait()
    await asyncio.wait_for(supervisor.aclose(), 5)
    assert task.done()
    assert restarts == []


async def test_failures_in_a_row_are_tried_again_ever_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()
    give_way = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(round(seconds, 6))
        if len(pauses) == 9:
            enough.set()
        await give_way(0)

    async def work() -> None:
        raise RuntimeError("again")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    supervisor = TaskSupervisor(lambda _: None)
    supervisor.start("watcher", work)
    await asyncio.wait_for(enough.wait(), 5)
    await supervisor.aclose()
    assert pauses[:9] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
