"""Runs of the quick iris model as Dagster's run workers do them: by jobs of the code location,
with its own resources, which the environment tells where everything is."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import dagster as dg
from dagster._utils import start_termination_thread
from dagster._utils.interrupts import capture_interrupts

from platform_assets import model_definitions
from platform_assets.shared_definitions import monitoring_definitions, resources
from tests.faults.killing import KillPoint, die
from tests.support.chain import failures_of
from tests.support.models import QUICK_IRIS

SPEC = QUICK_IRIS
_NOTICED_SECONDS: Final = 30.0


def chain() -> dg.JobDefinition:
    """Raw data to production."""
    return _job(f"{SPEC.model_name}_chain")


def serving() -> dg.JobDefinition:
    """The exported version to production."""
    return _job(f"{SPEC.model_name}_serving")


def rollback() -> dg.JobDefinition:
    """Production to a version before."""
    return _job(f"{SPEC.model_name}_rollback")


@functools.cache
def _job(name: str) -> dg.JobDefinition:
    definitions = dg.Definitions.merge(
        model_definitions.build(SPEC), monitoring_definitions([SPEC]), resources()
    )
    return definitions.resolve_job_def(name)


_JOBS = {one.__name__: one for one in (chain, serving, rollback)}


def prepare() -> None:
    """Build the jobs, which a forked process then has."""
    for job in _JOBS.values():
        job()


def execute(
    job: str,
    *,
    parent: str | None = None,
    point: KillPoint | None = None,
    is_canceled: bool = False,
    config: dict[str, Any] | None = None,
) -> int:
    """Execute a run in this process, on the instance of DAGSTER_HOME; return its exit code.

    Args:
        job: `chain` or `serving`.
        parent: run to be executed again from its failure; None launches anew.
        point: where this process is to die.
        is_canceled: whether the run is canceled there instead.
        config: run configuration of a new launch.
    """
    with dg.DagsterInstance.get() as instance, _cancellation(instance) as cancel:
        if point is not None:
            point.arm(cancel if is_canceled else die)
        options = None if parent is None else dg.ReexecutionOptions.from_failure(parent, instance)
        if parent is not None:
            before = instance.get_run_by_id(parent)
            assert before is not None
            config = dict(before.run_config)
        with dg.execute_job(
            dg.reconstructable(_JOBS[job]),
            instance,
            run_config=config,
            reexecution_options=options,
        ) as result:
            for step, said in failures_of(result).items():
                print(f"FAILED {step}: {said}", flush=True)
            return 0 if result.success else 1


@contextlib.contextmanager
def _cancellation(instance: dg.DagsterInstance) -> Iterator[Callable[[], None]]:
    """Yield what cancels this process's run, as Dagster's launcher and its code server do it."""
    is_asked, is_over = multiprocessing.Event(), threading.Event()

    def cancel() -> None:
        (run,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        instance.report_run_canceling(run)
        is_asked.set()
        time.sleep(_NOTICED_SECONDS)  # which the cancellation interrupts

    with capture_interrupts():
        start_termination_thread(is_asked, is_over)  # type: ignore[arg-type] # of multiprocessing
        try:
            yield cancel
        finally:
            is_over.set()
            is_asked.set()
