"""Queries of the local stack to Dagster's webserver, and what it answers."""

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


Message = dict[str, Any]
"""An error of GraphQL, of which the `message` counts."""
AssetKey = dict[str, tuple[str, ...]]


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """A part of an answer; fields that were not asked for are ignored.

    What has one field of one type is a mapping, by Dagster's name of the field.
    """


class _Kind(_Part, frozen=True, kw_only=True):
    """A part that is one of several kinds, by its type in Dagster's schema."""

    typename: str = msgspec.field(name="__typename")
    message: str = ""


class QueryAnswer(_Part, frozen=True):
    """The answer to a query, with data of the query's own shape."""

    data: dict[str, Any] | None = None
    errors: tuple[Message, ...] = ()
    """Why it was refused."""


class LaunchOutcome(_Kind, frozen=True):
    """A run that was launched, or why none was."""

    run: dict[str, str] | None = None


class LocationOutcome(_Kind, frozen=True):
    """A code location that was loaded, or why it was not."""

    location_or_load_error: LocationOutcome | None = None


class EvaluatedCheck(_Part, frozen=True):
    """What a check found."""

    check_name: str
    success: bool
    severity: str
    asset_key: AssetKey
    description: str | None = None


class StepError(_Part, frozen=True):
    """An error that ended a step, with the errors that led to it."""

    message: str = ""
    class_name: str | None = None
    causes: tuple[Message, ...] = ()


class RunEvent(_Kind, frozen=True):
    """An event of a run."""

    step_key: str | None = None
    asset_key: AssetKey | None = None
    evaluation: EvaluatedCheck | None = None
    error: StepError | None = None
    failure_metadata: dict[str, str | None] | None = None
    """What the step says of its failure."""


class RunLogs(_Kind, frozen=True):
    """Events of a run from a cursor on, or why they cannot be read."""

    cursor: str | None = None
    events: tuple[RunEvent, ...] = ()


class FollowAnswer(_Part, frozen=True):
    """All data of the query that follows a run."""

    logs_for_run: RunLogs
    run_or_error: dict[str, str]
    """How the run stands; empty when there is no such run."""


Jobs = dict[str, tuple[dict[str, str], ...]]
"""The jobs of the code location; empty when it is not loaded."""
LocationEntry = dict[str, LocationOutcome | None]
"""A code location of the workspace; None while it loads."""


class DaemonStatus(_Part, frozen=True):
    """How a daemon is."""

    required: bool
    healthy: bool | None = None
    last_heartbeat_time: float | None = None
