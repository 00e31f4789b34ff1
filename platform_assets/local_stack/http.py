"""Small HTTP calls to the stack's own loopback addresses."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

# A proxy of the user's environment must not stand between us and our own loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers_ok(url: str, timeout_s: float = 2.0) -> bool:
    """Whether `url` answers 200 within `timeout_s` seconds."""
    try:
        with _OPENER.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def get_json(url: str, timeout_s: float = 10.0) -> dict[str, Any]:
    """Return the JSON object at `url`.

    Raises:
        OSError: no answer, or one that is not 2xx.
        ValueError: the answer is no JSON.
    """
    with _OPENER.open(url, timeout=timeout_s) as answer:
        return dict(json.load(answer))


def post_json(url: str, body: Mapping[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
    """Post a JSON object and return the one that is answered; raises as `get_json` does."""
    request = urllib.request.Request(  # noqa: S310 # our own loopback address
        url, data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    with _OPENER.open(request, timeout=timeout_s) as answer:
        return dict(json.load(answer))
