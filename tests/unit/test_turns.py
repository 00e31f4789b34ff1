"""Turns: one run at a time changes what is served of a model, and none waits for the dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from platform_assets.serving import turns
from platform_assets.serving.turns import CHANGE, LEASE, acquire_turn, busy_models, hold_turn
from tests.support.servers import wait_until

FIRST, LAST = "0" * 8, "f" * 8


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "POLL_S", 0.01)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, as processes share it."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def started(instance: dg.DagsterInstance, run_id: str, **fields: Any) -> Any:
    """What a step of a run under way has for a context."""
    run = dg.DagsterRun(job_name="any", run_id=run_id, status=dg.DagsterRunStatus.STARTED, **fields)
    instance.add_run(run)
    said: list[str] = []
    return SimpleNamespace(
        run=run, instance=instance, said=said, log=SimpleNamespace(info=said.append)
    )


@pytest.mark.parametrize(("holder", "other"), [(FIRST, LAST), (LAST, FIRST)])
def test_a_run_waits_for_the_one_that_has_the_turn_and_names_it(
    instance: dg.DagsterInstance, holder: str, other: str
) -> None:
    has, waits = started(instance, holder), started(instance, other)
    with ThreadPoolExecutor() as pool:
        with hold_turn(CHANGE, "cars", has):
            waiting = pool.submit(acquire_turn, CHANGE, "cars", waits)
            wait_until(lambda: waits.said != [], 10, "it to say so")
            acquire_turn(CHANGE, "cars", has)  # its own is none in its way
            assert not waiting.done()
        waiting.result(10)
    assert holder in waits.said[0]


def end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_run_failed(run)


def delete(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.delete_run(run.run_id)


@pytest.mark.parametrize("goes", [end, delete])
def test_a_turn_ends_with_its_run_however_that_ends(
    instance: dg.DagsterInstance, goes: Callable[[dg.DagsterInstance, dg.DagsterRun], None]
) -> None:
    dead, waits = started(instance, FIRST), started(instance, LAST)
    acquire_turn(LEASE, "cars", dead)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(acquire_turn, LEASE, "cars", waits)
        wait_until(lambda: waits.said != [], 10, "it to wait")
        goes(instance, dead.run)
        waiting.result(10)
    assert busy_models(instance, LEASE) == {"cars"}


def test_turns_of_other_models_and_kinds_do_not_block(
    instance: dg.DagsterInstance,
) -> None:
    chain, rollback, other = (started(instance, f"{n}" * 8) for n in range(3))
    acquire_turn(LEASE, "cars", chain)
    acquire_turn(CHANGE, "cars", rollback)
    acquire_turn(LEASE, "iris", other)
    assert busy_models(instance, LEASE) == {"cars", "iris"}
    assert busy_models(instance, CHANGE) == {"cars"}


def test_a_run_that_inherits_the_tags_of_another_has_no_turn_by_them(
    instance: dg.DagsterInstance,
) -> None:
    dead = started(instance, FIRST)
    acquire_turn(CHANGE, "cars", dead)
    instance.report_run_failed(dead.run)
    there = instance.get_run_by_id(FIRST)
    assert there is not None
    started(instance, LAST, tags=there.tags)
    assert busy_models(instance, CHANGE) == set()


@pytest.mark.slow
def test_of_many_runs_at_once_one_has_the_turn(instance: dg.DagsterInstance) -> None:
    inside: list[str] = []
    most: list[int] = []
    lock = threading.Lock()

    def go(context: Any) -> None:
        for _ in range(4):
            with hold_turn(CHANGE, "cars", context):
                with lock:
                    inside.append(context.run.run_id)
                    most.append(len(inside))
                time.sleep(0.005)
                with lock:
                    inside.remove(context.run.run_id)

    contexts = [started(instance, f"{n}" * 8) for n in range(6)]
    with ThreadPoolExecutor(len(contexts)) as pool:
        list(pool.map(go, contexts))
    assert most == [1] * (4 * len(contexts))
    assert busy_models(instance, CHANGE) == set()
