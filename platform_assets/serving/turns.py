"""Turns: which run may change what a model serves, decided by tags of the runs themselves.

A tag counts only while its run is under way and only if it names that run, so a turn ends with
its run however that ends, and a run does not inherit a turn with the tag.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

UNDER_WAY: Final = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""States of a run that has not ended."""
LEASE: Final = "serving/lease"
"""Turn from the load of a version to the end of its run; rollbacks do not wait for it."""
CHANGE: Final = "serving/change"
"""Turn for one change in Triton or one switch: seconds, except while a version loads."""
POLL_S: Final = 1.0
_WANTS: Final = "wants"
_HAS: Final = "has"

Context = dg.AssetExecutionContext | dg.OpExecutionContext


def busy_models(instance: dg.DagsterInstance, *turns: str) -> set[str]:
    """Return the models for which a run under way has one of these turns."""
    runs = instance.get_runs(dg.RunsFilter(statuses=list(UNDER_WAY)))
    return {_read(run, turn)[0] for run in runs for turn in turns} - {""}


def acquire_turn(turn: str, model_name: str, context: Context) -> None:
    """Wait until no other run has the turn, then keep it until this run ends.

    The algorithm of Burns and Lamport: of two runs, the one that wrote its tag last sees the
    other's, and the one with the greater run id yields.
    """
    own, wants, is_logged = context.run.run_id, False, False
    while True:
        marks = _marks(turn, model_name, context.instance)
        others = marks.keys() - {own}
        if marks.get(own) == _HAS:
            return
        if wants and not others:
            _write(turn, context, model_name, _HAS)
            return
        if wants == any(other < own for other in others):
            wants = not wants
            _write(turn, context, *([model_name, _WANTS] if wants else []))
            if wants:
                continue
        if not is_logged:
            is_logged = True
            context.log.info(f"waiting for {turn} of {model_name}: run {', '.join(others)} has it")
        time.sleep(POLL_S)


@contextmanager
def hold_turn(turn: str, model_name: str, context: Context) -> Iterator[None]:
    """Acquire the turn for the duration of the block."""
    acquire_turn(turn, model_name, context)
    try:
        yield
    finally:
        _write(turn, context)


def _marks(turn: str, model_name: str, instance: dg.DagsterInstance) -> dict[str, str]:
    """Return the mark that each run under way wrote for the turn, by run id."""
    runs = instance.get_runs(dg.RunsFilter(statuses=list(UNDER_WAY)))
    marks = {run.run_id: _read(run, turn) for run in runs}
    return {run_id: mark for run_id, (model, mark) in marks.items() if model == model_name}


def _write(turn: str, context: Context, *words: str) -> None:
    run_id = context.run.run_id
    context.instance.add_run_tags(run_id, {turn: " ".join([run_id, *words])})


def _read(run: dg.DagsterRun, turn: str) -> tuple[str, str]:
    run_id, model_name, mark, *_ = [*run.tags.get(turn, "").split(" "), "", ""]
    return (model_name, mark) if run_id == run.run_id else ("", "")
