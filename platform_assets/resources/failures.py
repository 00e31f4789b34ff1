"""Failures for display in the Dagster UI, and the client errors that become failures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from dagster import DagsterInvariantViolationError, Failure, OpExecutionContext, RetryRequested

from platform_assets.intervals import retry_seconds
from platform_assets.resources.feast_errors import FeatureStoreError
from platform_assets.resources.gateway import GatewayUnavailable
from platform_assets.resources.mlflow_client import MlflowUnavailable, RegistryError
from platform_assets.resources.redaction import redact_secrets
from platform_assets.resources.triton_api import TritonUnreachable

STILL_TRUE: Final = (
    "Nothing changed in serving: GET /models of the gateway says what is in production."
)
"""True even for a model that was never served."""
TRANSIENT: Final = "transient"
"""Metadata key of a failure whose cause may go away by itself."""
RETRIES: Final = 3
_AWAY: Final = (MlflowUnavailable, GatewayUnavailable, TritonUnreachable)
_BUSY: Final = frozenset({429, 502, 503, 504})


def failure(
    what: str,
    todo: str,
    *,
    metadata: Mapping[str, str | int | float] | None = None,
    still_true: str = STILL_TRUE,
    allow_retries: bool = False,
) -> Failure:
    """Build the failure of a step: what happened, what is still served, what to do.

    Secrets of the environment are redacted. `allow_retries` says that the cause, such as a server
    that is down, may go away by itself; `metadata` is shown with the failure.

    Raises:
        dagster.RetryRequested: instead of returning, if retries are allowed and the running step
            has some left.
    """
    what, todo = (redact_secrets(text, os.environ).rstrip(". ") for text in (what, todo))
    what = what[:1].upper() + what[1:]
    error = Failure(
        description=f"{what}. {still_true} What to do: {todo}.",
        metadata={
            "what_to_do": todo,
            "still_served": still_true,
            TRANSIENT: allow_retries,
            **(metadata or {}),
        },
        allow_retries=allow_retries,
    )
    if allow_retries:
        request_retry(error)
    return error


def is_transient(error: Exception) -> bool:
    """Whether a server was unavailable or busy, so that the same call may succeed later."""
    return isinstance(error, _AWAY) or getattr(error, "status", None) in _BUSY


def request_retry(cause: Exception) -> None:
    """End this attempt of the running step if it has another one left; return otherwise.

    Raises:
        dagster.RetryRequested: the step is retried, each time after twice as long.
    """
    # Not by a RetryPolicy, which also retries a canceled step, and one that a bug ended after
    # hours of training.
    try:
        attempts = OpExecutionContext.get().retry_number
    except DagsterInvariantViolationError:
        return
    if attempts < RETRIES:
        raise RetryRequested(RETRIES, retry_seconds() * 2**attempts) from cause


@contextmanager
def as_failure(
    what: str, todo: str, *errors: type[Exception], still_true: str = STILL_TRUE
) -> Iterator[None]:
    """Turn `errors` in the block into the failure of a step: `what` happened, and why.

    If `what` is empty, the error alone is shown. The step is retried if a server was unavailable.
    """
    try:
        yield
    except errors as exc:
        raise failure(
            f"{what}: {exc}" if what else str(exc),
            todo,
            still_true=still_true,
            allow_retries=is_transient(exc),
        ) from exc


@contextmanager
def mlflow_failures(step: str) -> Iterator[None]:
    """Turn a `RegistryError` in the block into the failure of the asset `step`."""
    again = f"then run again from {step}"
    back = f"start MLflow (or wait until it answers), {again}: what was made before it is kept"
    with (
        as_failure("", f"solve that in MLflow, {again}", RegistryError),
        as_failure("", back, MlflowUnavailable),
    ):
        yield


@contextmanager
def feast_failures() -> Iterator[None]:
    """Turn the feature store's errors in the block into the failure of the step."""
    try:
        yield
    except (FeatureStoreError, OSError) as exc:
        raise failure(
            str(exc),
            "solve that in the feature store, then run again from online_features",
            allow_retries=True,
        ) from exc
