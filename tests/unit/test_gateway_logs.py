"""Logs: every line is JSON, a burst is a few lines, and a stalled reader stalls no request."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serving_gateway.telemetry.logs import DescriptorHandler, JsonFormatter, RepeatedWarning
from tests.support.servers import wait_until


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("cannot be printed")

    __repr__ = __str__


def record(message: str = "m", *args: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("gateway", logging.WARNING, __file__, 1, message, args, None)
    vars(made).update(extra)
    return made


def with_key(key: str) -> logging.LogRecord:
    made = record()
    vars(made)[key] = 1
    return made


def loop() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize(
    "value",
    [
        *("\ud800", {"\udfff": "\ud800"}, ["a\udc00b"], 2**70, float("nan"), b"\xff", object()),
        *({(1, 2): 3}, Unprintable(), [Unprintable()], loop(), {1, 2}, ValueError("\ud800")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_formatter_writes_one_json_object_for_any_extra_value(value: object) -> None:
    line = JsonFormatter().format(record(reason=value, code="c"))
    found = json.loads(line.encode())
    assert found["message"] == "m"
    assert found["code"] == "c", "what can be written is not lost with what cannot"
    assert "reason" in found


def test_formatter_survives_messages_names_and_keys_that_cannot_be_encoded() -> None:
    formatter = JsonFormatter()
    for broken in (
        record("surrogate \ud800"),
        record("two %s %s", 1),
        record("%s", Unprintable()),
        with_key("\ud800"),
    ):
        assert json.loads(formatter.format(broken).encode())["level"] == "warning"


def test_formatter_keeps_own_fields_and_exceptions() -> None:
    error = ValueError("\ud800")
    failed = record(time="mine")
    failed.exc_info = (ValueError, error, None)
    found = json.loads(JsonFormatter().format(failed).encode())
    assert found["time"].endswith("Z")
    assert "ValueError" in found["exception"]


class Pipe:
    """A pipe that holds little, and a logger that writes to it."""

    def __init__(self, max_bytes: int = 1_000_000) -> None:
        self.reader, self.writer = os.pipe()
        self.handler = DescriptorHandler(self.writer, max_bytes)
        self.handler.setFormatter(JsonFormatter())
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.handler)
        self.read = b""

    def lines(self) -> list[Any]:
        """What came through so far."""
        os.set_blocking(self.reader, False)
        try:
            while part := os.read(self.reader, 65_536):
                self.read += part
        except BlockingIOError:
            pass
        return [json.loads(line) for line in self.read.split(b"\n")[:-1]]

    def close(self) -> None:
        os.close(self.reader)
        self.handler.flush()
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_line_is_out_when_the_call_returns(pipe: Pipe) -> None:
    pipe.logger.warning("one")
    assert [line["message"] for line in pipe.lines()] == ["one"]


def test_reader_that_stalls_delays_no_caller_and_gets_every_line_in_order(pipe: Pipe) -> None:
    longest = 0.0
    for number in range(1000):
        started = time.thread_time()
        pipe.logger.warning("m", extra={"number": number, "padding": "x" * 500})
        longest = max(longest, time.thread_time() - started)
    assert longest < 0.02
    wait_until(lambda: len(pipe.lines()) == 1000, 10, "all lines")
    assert [line["number"] for line in pipe.lines()] == [*range(1000)]


def test_long_lines_arrive_whole(pipe: Pipe) -> None:
    pipe.logger.warning("m", extra={"padding": "x" * 300_000})
    pipe.logger.warning("after")
    wait_until(lambda: len(pipe.lines()) == 2, 10, "both lines")
    assert len(pipe.lines()[0]["padding"]) == 300_000


def test_lines_beyond_the_bound_are_dropped_and_counted() -> None:
    pipe = Pipe(max_bytes=10_000)
    for _ in range(1000):
        pipe.logger.warning("m", extra={"padding": "x" * 500})
    wait_until(lambda: any("count" in line for line in pipe.lines()), 10, "a count")
    wait_until(lambda: pipe.handler._waiting == 0, 10, "an empty queue")
    *written, last = pipe.lines()
    assert len(written) + last["count"] == 1000
    assert last["message"].startswith("log lines were dropped")
    pipe.close()


def test_closed_standard_error_ends_nothing() -> None:
    pipe = Pipe()
    os.close(pipe.reader)
    pipe.logger.warning("one")
    pipe.logger.warning("long", extra={"padding": "x" * 10_000})
    pipe.handler.flush()
    os.close(pipe.writer)


async def test_repeated_warning_is_one_line_and_then_a_count_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warning = RepeatedWarning(logging.getLogger("test"), "a request was not answered")
    for number in range(10_000):
        warning.log("overloaded", request_id=str(number))
    warning.log("triton_unavailable", request_id="other")
    first, other = caplog.records
    assert vars(first)["request_id"] == "0"
    assert vars(other)["code"] == "triton_unavailable"
    async with asyncio.timeout(5):
        # Both timers have run: that of the other code is about to end, too.
        while len(caplog.records) < 3 or "triton_unavailable" in warning._repeated:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    summary = vars(caplog.records[2])
    assert (summary["code"], summary["count"]) == ("overloaded", 9_999)
    assert summary["request_id"] == "9999", "the last one is the example"
    warning.log("triton_unavailable", request_id="later")
    assert vars(caplog.records[3])["request_id"] == "later", "a new outage is logged at once"


async def test_repeated_warning_costs_the_loop_microseconds() -> None:
    warning = RepeatedWarning(logging.getLogger("test"), "a request was not answered")
    warning.log("overloaded")
    started = time.thread_time()
    for _ in range(10_000):
        warning.log("overloaded", request_id="r", reason="full")
    assert time.thread_time() - started < 0.1, "10 microseconds each"


async def test_repeated_bug_has_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test")
    bugs = RepeatedWarning(log, "a request failed because of a bug", logging.ERROR)
    for _ in range(3):
        bugs.log("KeyError", exception=KeyError("k"), request_id="r")
    (found,) = caplog.records
    assert found.levelno == logging.ERROR
    assert "KeyError" in JsonFormatter().format(found)
