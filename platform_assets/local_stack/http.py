"""Small HTTP calls to the stack's own loopback addresses."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, TypeVar

import msgspec

from platform_assets.local_stack.dagster_answers import QueryAnswer

Body = TypeVar("Body")

# A proxy of the user's environment must not intercept calls to our own loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers_ok(url: str, timeout_s: float = 2.0) -> bool:
    """Whether `url` answers 200 within `timeout_s` seconds."""
    try:
        with _OPENER.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def get(url: str | urllib.request.Request, kind: type[Body], timeout_s: float = 10.0) -> Body:
    """Return the JSON body of the answer to a request, or to a GET of an address.

    Raises:
        OSError: no answer, or one that is not 2xx.
        ValueError: the answer is not a body of type `kind`.
    """
    try:
        with _OPENER.open(url, timeout=timeout_s) as answer:
            data = answer.read()
    except HTTPException as error:  # such as an incomplete answer of a killed process
        raise ConnectionError(f"the answer broke off: {error!r}") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the answer cannot be read: {error}") from error


def post(url: str, body: Mapping[str, Any], kind: type[Body], timeout_s: float = 10.0) -> Body:
    """Post a JSON object and return the body of the answer; raises as `get` does."""
    request = urllib.request.Request(  # noqa: S310 # our own loopback address
        url, data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    return get(request, kind, timeout_s)


def graphql(
    dagster_url: str, query: str, kind: type[Body], *path: str, timeout_s: float, **variables: Any
) -> Body:
    """Query a Dagster webserver and return its data at `path`; raises as `get` does."""
    body = {"query": query, "variables": variables}
    answer = post(f"{dagster_url}/graphql", body, QueryAnswer, timeout_s)
    if answer.errors or answer.data is None:
        raise ValueError("; ".join(error.message for error in answer.errors) or "there is no data")
    data: Any = answer.data
    try:
        for name in path:
            data = data[name]
        return msgspec.convert(data, kind)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise ValueError(f"the answer cannot be read: {error}") from error
