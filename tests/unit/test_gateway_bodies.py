"""Bodies: limits, compression, and errors that echo what a client sent."""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from serving_gateway.contract import ErrorResponse
from serving_gateway.errors import (
    ClientGone,
    InvalidInput,
    MalformedRequest,
    TooLarge,
    UnsupportedMediaType,
)
from serving_gateway.http.bodies import decompress, read_body
from serving_gateway.http.raw import error_body
from serving_gateway.telemetry.logs import JsonFormatter

PACKED = gzip.compress(b'{"data": [[1, 2, 3, 4]]}', mtime=0)
BODY = b'{"data": [[1, 2, 3, 4]]}'
LIMIT = 1_000


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (None, BODY),
        (b"identity", BODY),
        (b"gzip", PACKED),
        (b" GZip ", PACKED),
        (b"x-gzip", PACKED),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", raw_deflate(BODY)),
    ],
)
def test_bodies_are_read_in_every_encoding(encoding: bytes | None, body: bytes) -> None:
    assert decompress(body, encoding, LIMIT) == BODY


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 100_000_000])
def test_body_unpacks_up_to_the_limit(size: int) -> None:
    packed = gzip.compress(b"a" * size)
    if size == LIMIT:
        assert decompress(packed, b"gzip", LIMIT) == b"a" * LIMIT
    else:
        with pytest.raises(TooLarge, match="more than 1000 bytes"):
            decompress(packed, b"gzip", LIMIT)


@pytest.mark.parametrize(
    "body",
    [b"", BODY, PACKED[:-1], PACKED + b"x", PACKED * 2],
    ids=["empty", "plain", "cut short", "trailing byte", "two members"],
)
def test_damaged_body_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match="gzip"):
        decompress(body, b"gzip", LIMIT)


def test_unknown_encoding_is_unsupported() -> None:
    for encoding in (b"br", b"gzip, gzip", b"\xff" * 10_000):
        with pytest.raises(UnsupportedMediaType) as caught:
            decompress(BODY, encoding, LIMIT)
        assert len(caught.value.message) < 200


def receiver(*messages: dict[str, Any]) -> Any:
    left: Iterator[dict[str, Any]] = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(left)

    return receive


async def test_body_in_pieces_is_limited_and_may_be_abandoned() -> None:
    pieces = [{"type": "http.request", "body": b"a" * 400, "more_body": True}] * 3
    end = {"type": "http.request", "body": b"b", "more_body": False}
    with pytest.raises(TooLarge):
        await read_body(receiver(*pieces, end), [], LIMIT)
    assert await read_body(receiver(pieces[0], end), [], LIMIT) == b"a" * 400 + b"b"
    with pytest.raises(ClientGone):
        await read_body(receiver(pieces[0], {"type": "http.disconnect"}), [], LIMIT)
    with pytest.raises(TooLarge):
        await read_body(receiver(), [(b"content-length", b"1" * 4_000)], LIMIT)


def test_error_survives_lone_surrogates_and_bounds_what_it_echoes() -> None:
    error = InvalidInput("\ud800 is unknown: " + "x" * 1_000_000, field="\udfff" * 1_000_000)
    body, _ = error_body(error, b"id", {"A": 1})
    assert len(body) < 10_000
    found = msgspec.json.decode(body, type=ErrorResponse)
    assert found.error.startswith(r"\ud800 is unknown")


def test_log_line_survives_lone_surrogates() -> None:
    record = logging.LogRecord("n", logging.INFO, "", 0, "\ud800", (), None)
    record.reason = "\udfff"
    line = json.loads(JsonFormatter().format(record))
    assert set(line) >= {"message", "reason"}
