"""Convert Redis URLs to Feast's form."""

from __future__ import annotations

import json
from typing import Any, Final

from platform_assets.resources.feast_errors import FeatureStoreError

_ANSWER_SECONDS: Final = 3.0
_FULL_WIDTH_COLON: Final = "\N{FULLWIDTH COLON}"


def connection_string(url: str) -> str:
    """Return Feast's form of a `redis://`, `rediss://` or `unix://` URL, with all its options.

    Feast splits at commas and colons, and parses values as JSON where possible.
    """
    options = _parse(url)
    # Resolving a host name normalizes full-width characters to plain ones, also for TLS.
    host = options.pop("host", "localhost").replace(":", _FULL_WIDTH_COLON)
    port = options.pop("port", 6379)
    if "path" in options:
        options["unix_socket_path"] = options.pop("path")
    values = {name: json.dumps(value).replace(",", r"\u002c") for name, value in options.items()}
    return ",".join([f"{host}:{port}", *(f"{name}={value}" for name, value in values.items())])


def require_redis(url: str) -> None:
    """Raise FeatureStoreError if Redis does not answer; Feast's client would wait for minutes."""
    from redis import Redis, RedisError
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    place = _parse(url)
    where = place.get("path") or f"{place.get('host', 'localhost')}:{place.get('port', 6379)}"
    limits: dict[str, Any] = dict.fromkeys(
        ("socket_timeout", "socket_connect_timeout"), _ANSWER_SECONDS
    )
    try:
        with Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits) as client:
            client.ping()
    except (RedisError, OSError, TypeError) as exc:
        raise FeatureStoreError(f"Redis at {where} does not answer: {exc}") from exc


def _parse(url: str) -> dict[str, Any]:
    from redis.connection import SSLConnection, parse_url

    try:
        options: dict[str, Any] = {**parse_url(url)}  # type: ignore[no-untyped-call]
    except ValueError:
        # The cause may quote the password.
        raise FeatureStoreError(
            "the address of Redis must be redis://, rediss:// or unix://, with special characters "
            "of the password percent-encoded"
        ) from None
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return options
