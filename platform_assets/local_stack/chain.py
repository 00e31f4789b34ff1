"""Launch the chain in the running Dagster and follow it, as in the UI."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from platform_assets.local_stack.dagster_answers import (
    FOLLOW,
    JOBS,
    LAUNCH,
    RELOAD,
    FollowAnswer,
    Jobs,
    LaunchOutcome,
    LocationOutcome,
)
from platform_assets.local_stack.http import Body, graphql
from platform_assets.local_stack.run_progress import ChainEvent, RunProgress
from platform_assets.local_stack.settings import StackError

LOCATION: Final = "platform"
REPOSITORY: Final = "__repository__"

_CHAIN: Final = "_chain"
_POLL_S: Final = 1.0
_SILENCE_S: Final = 1800.0
_RESTART_S: Final = 60.0
_ANSWER_S: Final = 60.0
_RELOAD_S: Final = 150.0
"""Longer than `code_servers.reload_timeout` of `dagster.yaml`, so that Dagster reports the timeout
itself."""
_UNREACHABLE: Final = "Could not reach user code server"
"""Dagster's message while the process that holds the definitions restarts."""
_ENDED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})


@dataclass(frozen=True, slots=True)
class ChainResult:
    """The result of a run."""

    run_id: str
    status: str
    """Dagster's status: `SUCCESS`, `FAILURE` or `CANCELED`."""

    @property
    def succeeded(self) -> bool:
        """Whether every step of the run succeeded."""
        return self.status == "SUCCESS"


def chain_job_name(model_name: str) -> str:
    """Return the name of the job that takes a model from its source to production."""
    return f"{model_name.replace('-', '_')}{_CHAIN}"


def models_with_chain(dagster_url: str) -> list[str]:
    """Return the models whose files Dagster has read, named as in their jobs."""
    selector = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
    jobs = _query(dagster_url, JOBS, Jobs, "repositoryOrError", selector=selector).jobs
    return sorted(job.name.removesuffix(_CHAIN) for job in jobs if job.name.endswith(_CHAIN))


def run_page(dagster_url: str, run_id: str) -> str:
    """Return the address of a run's page in Dagster."""
    return f"{dagster_url}/runs/{run_id}"


def reload_definitions(dagster_url: str, patience_s: float = _RESTART_S) -> None:
    """Make Dagster read the model files again, as its UI's Reload does.

    Raises:
        StackError: they do not load, or the process that reads them did not restart in time.
    """
    deadline = time.monotonic() + patience_s
    while problem := _load_problem(dagster_url):
        if _UNREACHABLE not in problem or time.monotonic() >= deadline:
            raise StackError(f"the definitions do not load: {problem}")
        time.sleep(_POLL_S)


def _load_problem(dagster_url: str) -> str:
    place = "reloadRepositoryLocation"
    outcome = _query(
        dagster_url, RELOAD, LocationOutcome, place, timeout_s=_RELOAD_S, location=LOCATION
    )
    loaded = outcome.location_or_load_error or outcome
    is_loaded = loaded.typename == "RepositoryLocation"
    return "" if is_loaded else loaded.message or loaded.typename


def run_chain(dagster_url: str, job: str, on_event: Callable[[ChainEvent], None]) -> ChainResult:
    """Launch `job` through the webserver and return when the run has ended.

    Raises:
        StackError: Dagster refused the launch, stopped answering, or reported nothing of the run
            for half an hour (it goes on; the UI shows it).
    """
    run_id = _launch(dagster_url, job)
    cursor: str | None = None
    on_event(ChainEvent("launched", job, run_page(dagster_url, run_id)))
    last_news = time.monotonic()
    progress = RunProgress(job, last_news)
    while (now := time.monotonic()) - last_news < _SILENCE_S:
        answer = _query(dagster_url, FOLLOW, FollowAnswer, runId=run_id, cursor=cursor)
        status, logs = answer.run_or_error.status, answer.logs_for_run
        cursor = logs.cursor
        if logs.events:
            last_news = now
        elif status in _ENDED:
            return ChainResult(run_id, status)
        for event in progress.read(logs.events, now):
            on_event(event)
        if (waiting := progress.heartbeat(status, now)) is not None:
            on_event(waiting)
        time.sleep(_POLL_S)
    raise StackError(
        f"run {run_id} of {job} reported nothing for {_SILENCE_S:.0f} s; it continues, see "
        f"{run_page(dagster_url, run_id)}"
    )


def _launch(dagster_url: str, job: str) -> str:
    """Launch a job and return the id of its run."""
    selector = {
        "repositoryLocationName": LOCATION,
        "repositoryName": REPOSITORY,
        "pipelineName": job,
    }
    launched = _query(dagster_url, LAUNCH, LaunchOutcome, "launchRun", selector=selector)
    if launched.typename == "PipelineNotFoundError":
        raise StackError(
            f"Dagster has no job {job}, so the definitions of that model cannot be built: the "
            f"description of its asset model_file says why, see {dagster_url}/assets"
        )
    if launched.run is None:
        reason = launched.message or launched.typename
        raise StackError(f"Dagster did not launch {job}: {reason}")
    return launched.run.run_id


def _query(
    dagster_url: str,
    query: str,
    kind: type[Body],
    *path: str,
    timeout_s: float = _ANSWER_S,
    **variables: Any,
) -> Body:
    try:
        return graphql(dagster_url, query, kind, *path, timeout_s=timeout_s, **variables)
    except OSError as error:
        raise StackError(
            f"Dagster at {dagster_url} does not answer ({error}): start it with `make up`, or "
            "give the DAGSTER_PORT that it was started with"
        ) from error
    except ValueError as error:
        raise StackError(f"Dagster at {dagster_url} refused a query: {error}") from error
