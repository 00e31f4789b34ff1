"""MLflow that is not there is known within seconds, and the environment stays as it was."""

from __future__ import annotations

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.mlflow_client import (
    MlflowUnavailable,
    RegistryError,
    RegistryNotFound,
    import_mlflow,
    probe,
    translate_mlflow_errors,
)


@contextmanager
def _answering(status: int) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # its name there
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_refuses_is_unavailable_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(MlflowUnavailable, match="does not answer"):
            MlflowResource(tracking_uri=url).version("best_model", 1)


def test_a_server_that_accepts_and_never_answers_is_unavailable_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(MlflowUnavailable, match="does not answer"):
            MlflowResource(tracking_uri=url).set_alias("best_model", "production", 1)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_in_trouble_is_unavailable(status: int) -> None:
    with _answering(status) as url, pytest.raises(MlflowUnavailable, match=str(status)):
        probe(url)


@pytest.mark.parametrize("status", [200, 401, 404])
def test_any_other_answer_means_that_a_server_is_there(status: int) -> None:
    with _answering(status) as url:
        probe(url)


@pytest.mark.parametrize("address", ["sqlite:///x.db", "", "file:///etc", "databricks"])
def test_an_address_that_is_not_a_server_is_refused(address: str) -> None:
    with pytest.raises(RegistryError, match=r"no http\(s\) address"):
        probe(address)


@pytest.mark.parametrize(
    "address", ["http://me:s3cret@127.0.0.1", "http://me:s3cret@h:9", "postgresql://me:s3cret@h/db"]
)
def test_an_address_with_a_password_is_refused_without_it(address: str) -> None:
    with pytest.raises(RegistryError) as refused:
        probe(address)
    assert "s3cret" not in str(refused.value)


def test_importing_mlflow_leaves_the_environment_as_it_was() -> None:
    before = {k: v for k, v in os.environ.items() if k.startswith("MLFLOW")}
    variables: Any = import_mlflow().environment_variables

    assert {k: v for k, v in os.environ.items() if k.startswith("MLFLOW")} == before
    assert variables.MLFLOW_DISABLE_TELEMETRY.get() is True
    assert variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() <= 3


def _raise(exc: BaseException) -> None:
    with translate_mlflow_errors("do it"):
        raise exc


def test_every_kind_of_foreign_error_is_translated_once_with_its_cause() -> None:
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import ConnectionError as RequestsConnectionError
    from requests.exceptions import ReadTimeout

    made: Any = RestException

    def rest(code: str) -> Any:
        return made({"error_code": code, "message": "because"})

    wrapped = MlflowException("API request failed")
    wrapped.__cause__ = RequestsConnectionError("gone")
    cases = [
        (RequestsConnectionError("gone"), MlflowUnavailable),
        (ReadTimeout("late"), MlflowUnavailable),
        (wrapped, MlflowUnavailable),
        (rest("TEMPORARILY_UNAVAILABLE"), MlflowUnavailable),
        (rest("RESOURCE_DOES_NOT_EXIST"), RegistryNotFound),
        (rest("INVALID_PARAMETER_VALUE"), RegistryError),
        (rest("PERMISSION_DENIED"), RegistryError),
    ]
    for foreign, ours in cases:
        with pytest.raises(RegistryError, match="do it") as caught:
            _raise(foreign)
        assert type(caught.value) is ours, foreign
        assert caught.value.__cause__ is foreign


def test_pages_for_people_use_the_public_address() -> None:
    inside = MlflowResource(tracking_uri="http://mlflow:5000/")
    outside = MlflowResource(tracking_uri="http://mlflow:5000", ui_url="https://m.example/x/")
    assert inside.run_url("ab") == "http://mlflow:5000/#/runs/ab"
    assert outside.version_url("best_model", 3) == (
        "https://m.example/x/#/models/best_model/versions/3"
    )
