"""MLflow's client made quiet and quick to fail, with exceptions translated at one point.

Importing MLflow takes seconds, so everything here imports it when it is first needed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from dagster import get_dagster_logger

T = TypeVar("T")

PROBE_TIMEOUT: Final = 3.0
"""Seconds for the server to answer its health page before a call is attempted."""
RETRIES: Final = 2
BACKOFF: Final = 1
REQUEST_TIMEOUT: Final = 30
"""Seconds without any byte in a request; an upload that makes progress may take longer."""
PATIENCE: Final = 600.0
"""Seconds that an open run waits for an unavailable server: hours of work depend on it."""
_LONGEST_PAUSE: Final = 10.0

_UNAVAILABLE_STATUS: Final = frozenset({429, 502, 503, 504})
_import_lock = threading.Lock()


class RegistryError(Exception):
    """A call to MLflow failed; the message says which one and why."""


class MlflowUnavailable(RegistryError):
    """MLflow does not answer; the same call may succeed later."""


class RegistryNotFound(RegistryError):
    """MLflow answered that the run, version or artifact does not exist."""


def open_client(tracking_uri: str) -> Any:
    """Return an `MlflowClient`; call `probe` first to see if the server answers."""
    mlflow = import_mlflow()
    return mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def import_mlflow() -> Any:
    """Import MLflow without telemetry and progress bars, and with retries that end in seconds.

    Our values become MLflow's defaults in this process only: the environment stays unchanged,
    and a variable set by the user still wins.
    """
    with _import_lock:
        with _without_telemetry():
            import mlflow
        with _without_feast():
            import mlflow.tracking.request_header.registry
        from mlflow import environment_variables as variables

        variables.MLFLOW_DISABLE_TELEMETRY.default = True
        variables.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.default = False
        variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = RETRIES
        variables.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.default = BACKOFF
        variables.MLFLOW_HTTP_REQUEST_TIMEOUT.default = REQUEST_TIMEOUT
        # The "Run X at: URL" lines on stdout say less than the links in our metadata.
        variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.default = True
        for chatty in ("mlflow.store.model_registry", "mlflow.utils.requirements_utils"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
    return mlflow


@contextmanager
def _without_telemetry() -> Iterator[None]:
    # MLflow decides at import, from the environment alone, whether to start its telemetry thread.
    name = "MLFLOW_DISABLE_TELEMETRY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextmanager
def _without_feast() -> Iterator[None]:
    """Skip Feast's request headers for its own data sources, which we do not use.

    With its first request MLflow loads the packages that register headers, here all of Feast:
    three seconds of CPU time and 46 MiB in each process that only looks up a version.
    """
    from mlflow.utils import plugins

    everything = plugins._get_entry_points
    plugins._get_entry_points = lambda group: [
        entry for entry in everything(group) if not entry.value.startswith("feast.")
    ]
    try:
        yield
    finally:
        plugins._get_entry_points = everything


def probe(tracking_uri: str) -> None:
    """Return if the server answers its health page.

    Raises:
        MlflowUnavailable: no answer within `PROBE_TIMEOUT` seconds, or an error page.
        RegistryError: the address is not an http(s) address, or holds credentials.
    """
    # Neither address is repeated: a database's address contains a password, too.
    scheme = tracking_uri.partition(":")[0]
    if scheme.lower() not in {"http", "https"}:
        raise RegistryError(
            f"the MLflow address, which begins with {scheme[:12]!r}, is no http(s) address: give "
            "the address of an MLflow server"
        )
    if "@" in tracking_uri:
        raise RegistryError(
            "the MLflow address has a user or a password in it, which would appear in every link: "
            "give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    url = f"{tracking_uri.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT):  # noqa: S310 # the scheme was checked above
            return
    except urllib.error.HTTPError as exc:
        # Any other status means that a server answers. A proxy that needs credentials, for
        # example, gets them from the client later.
        if exc.code >= 500:
            raise MlflowUnavailable(
                f"MLflow at {tracking_uri} answers {exc.code} {exc.reason}"
            ) from exc
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        raise MlflowUnavailable(f"MLflow at {tracking_uri} does not answer: {reason}") from exc


def retry_while_unavailable(call: Callable[[], T], patience_s: float) -> T:
    """Return the result of `call`, retried for `patience_s` seconds while MLflow is unavailable."""
    deadline, pause = time.monotonic() + patience_s, 0.5
    while True:
        try:
            return call()
        except MlflowUnavailable as exc:
            if time.monotonic() + pause > deadline:
                raise
            get_dagster_logger().warning("%s; trying again in %.1f s", exc, pause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def fetch_all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """Return all results of a paged search; `search` gets the token of a page."""
    results: list[Any] = []
    token = None
    while True:
        page = search(token)
        results += page
        token = page.token
        if not token:
            return results


@contextmanager
def ignore_existing() -> Iterator[None]:
    """Ignore the error in the block that an object already exists in MLflow."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def artifact_repository(location: str, client: Any) -> Any:
    """Return MLflow's repository of the artifacts at an address, such as `runs:/<run_id>`."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(location, tracking_uri=client.tracking_uri)


@contextmanager
def translate_mlflow_errors(doing: str) -> Iterator[None]:
    """Turn the exceptions of MLflow and its HTTP client into `RegistryError`.

    `doing` is the call in words, such as "register version of best_model".
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except MlflowException as exc:
        raise _translate(exc, doing) from exc
    except RequestException as exc:
        raise MlflowUnavailable(f"MLflow stopped answering while it was to {doing}") from exc
    except OSError as exc:  # mostly of a temporary file
        raise RegistryError(f"this machine cannot {doing}: {exc.strerror or exc}") from exc


def _translate(exc: Any, doing: str) -> RegistryError:
    from requests.exceptions import RequestException

    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, RequestException):
            return MlflowUnavailable(f"MLflow stopped answering while it was to {doing}")
        cause = cause.__cause__ or cause.__context__
    if exc.get_http_status_code() in _UNAVAILABLE_STATUS:
        return MlflowUnavailable(f"MLflow is not available to {doing}: {exc.message}")
    if exc.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
        return RegistryNotFound(f"MLflow cannot {doing}: {exc.message}")
    return RegistryError(f"MLflow refused to {doing}: {exc.message}")
