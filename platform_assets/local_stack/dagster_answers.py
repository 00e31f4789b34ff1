"""The local stack's queries to Dagster's webserver, and the shapes of the answers."""

from __future__ import annotations

from typing import Any, Final

import msgspec

LAUNCH: Final = """
mutation Launch($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, mode: "default"}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""

JOBS: Final = """
query Jobs($selector: RepositorySelector!) {
  repositoryOrError(repositorySelector: $selector) { ... on Repository { jobs { name } } }
}
"""

RELOAD: Final = """
mutation Reload($location: String!) {
  reloadRepositoryLocation(repositoryLocationName: $location) {
    __typename
    ... on WorkspaceLocationEntry {
      locationOrLoadError { __typename ... on PythonError { message } }
    }
    ... on PythonError { message }
  }
}
"""

FOLLOW: Final = """
query Follow($runId: ID!, $cursor: String) {
  logsForRun(runId: $runId, afterCursor: $cursor) {
    __typename
    ... on EventConnection {
      cursor
      events {
        __typename
        ... on MessageEvent { stepKey message }
        ... on AssetCheckEvaluationEvent {
          evaluation { checkName success severity description assetKey { path } }
        }
        ... on MaterializationEvent { assetKey { path } }
        ... on ExecutionStepFailureEvent {
          error { className message causes { message } }
          failureMetadata { description }
        }
      }
    }
  }
  runOrError(runId: $runId) { ... on Run { status } }
}
"""


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """A part of an answer; fields that were not asked for are ignored."""


class _Kind(_Part, frozen=True, kw_only=True):
    """A part that is one of several kinds, by its type in Dagster's schema."""

    typename: str = msgspec.field(name="__typename")
    message: str = ""


class QueryProblem(_Part, frozen=True):
    """Why a query was refused."""

    message: str


class QueryAnswer(_Part, frozen=True):
    """The answer to a query, with data of the query's own shape."""

    data: dict[str, Any] | None = None
    errors: tuple[QueryProblem, ...] = ()


class StartedRun(_Part, frozen=True):
    """A run that was launched."""

    run_id: str


class LaunchOutcome(_Kind, frozen=True):
    """A run that was launched, or why none was."""

    run: StartedRun | None = None


class LocationOutcome(_Kind, frozen=True):
    """A code location that was loaded, or why it was not."""

    location_or_load_error: LocationOutcome | None = None


class AssetPath(_Part, frozen=True):
    """The key of an asset."""

    path: tuple[str, ...]


class EvaluatedCheck(_Part, frozen=True):
    """The result of a check."""

    check_name: str
    success: bool
    severity: str
    asset_key: AssetPath
    description: str | None = None


class StepError(_Part, frozen=True):
    """An error that ended a step, with the errors that led to it."""

    message: str = ""
    class_name: str | None = None
    causes: tuple[QueryProblem, ...] = ()


class FailureNote(_Part, frozen=True):
    """A step's own description of its failure."""

    description: str | None = None


class RunEvent(_Kind, frozen=True):
    """An event of a run."""

    step_key: str | None = None
    asset_key: AssetPath | None = None
    evaluation: EvaluatedCheck | None = None
    error: StepError | None = None
    failure_metadata: FailureNote | None = None


class RunLogs(_Kind, frozen=True):
    """Events of a run from a cursor on, or why they cannot be read."""

    cursor: str | None = None
    events: tuple[RunEvent, ...] = ()


class RunStatus(_Part, frozen=True):
    """The status of a run; empty if there is no such run."""

    status: str = ""


class FollowAnswer(_Part, frozen=True):
    """All data of the query that follows a run."""

    logs_for_run: RunLogs
    run_or_error: RunStatus


class Job(_Part, frozen=True):
    """A job of the code location."""

    name: str


class Jobs(_Part, frozen=True):
    """The jobs of the code location; none when it is not loaded."""

    jobs: tuple[Job, ...] = ()


class LocationEntry(_Part, frozen=True):
    """A code location of the workspace; None while it loads."""

    location_or_load_error: LocationOutcome | None = None


class DaemonStatus(_Part, frozen=True):
    """The health of a daemon."""

    required: bool
    healthy: bool | None = None
    last_heartbeat_time: float | None = None
