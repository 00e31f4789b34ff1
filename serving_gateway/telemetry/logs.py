"""Structured logs: one JSON object per line, on standard error.

Logging never delays requests: no line waits for a reader that stalls, and what repeats in an
outage is counted instead of written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"}
_MAX_WAITING_BYTES: Final = 4_194_304
"""Most bytes of lines that wait to be written; further lines are dropped and counted."""
_END_SECONDS: Final = 2.0
"""Longest wait for the last lines when the process ends."""
_SUMMARY_SECONDS: Final = 1.0


class JsonFormatter(logging.Formatter):
    """Writes a record with its `extra` as one JSON object; never raises: odd values become text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        try:
            line["message"] = record.getMessage()
        except Exception:
            line["message"] = f"{_text(record.msg)} {_text(record.args)}"
        for key, value in vars(record).items():
            if key not in _STANDARD:
                line.setdefault(key, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return _encode(line)
        except Exception:
            return _encode({_text(key): _encodable(value) for key, value in line.items()})


def _encode(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def _encodable(value: object) -> object:
    """The value, or its text where JSON cannot express it."""
    with suppress(Exception):
        _encode(value)
        return value
    return _text(value)


def _text(value: object) -> str:
    """A text that UTF-8 can express: lone surrogates are escaped."""
    with suppress(Exception):
        return str(value).encode(errors="backslashreplace").decode()
    return f"<{type(value).__name__} that cannot be printed>"


class DescriptorHandler(logging.Handler):
    """Writes lines to a file descriptor without ever waiting for its reader.

    A line that a pipe does not take at once is left to a thread, and so are those that follow;
    lines that would take more than `max_bytes` meanwhile are dropped and counted.
    """

    def __init__(self, descriptor: int, max_bytes: int = _MAX_WAITING_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._waiting = self._dropped = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Write or queue a record's line."""
        line = self.format(record).encode() + b"\n"
        with self._changed:
            # A pipe that is ready takes this much at once.
            if not self._waiting and len(line) <= select.PIPE_BUF and self._poll.poll(0):
                _write(self._descriptor, line)
            elif self._waiting + len(line) > self._max_bytes:
                self._dropped += 1
            else:
                self._waiting += len(line)
                self._lines.append(line)
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait a moment until all is written; called when the process ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0, _END_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
            _write(self._descriptor, self._lines[0])
            with self._changed:
                self._waiting -= len(self._lines.popleft())
                if self._dropped and not self._lines:
                    fields = {"levelname": "WARNING", "name": __name__, "count": self._dropped}
                    self._dropped = 0
                    self.emit(logging.makeLogRecord({"msg": "log lines were dropped", **fields}))
                self._changed.notify_all()


def _write(descriptor: int, line: bytes) -> None:
    # Where standard error is closed, there is nowhere to report that.
    with suppress(OSError):
        while line:
            line = line[os.write(descriptor, line) :]


@dataclass(eq=False)
class RepeatedWarning:
    """A warning that an outage repeats thousands of times a second.

    The first of each code is logged at once; those that follow are counted, and each second one
    line says how many there were, with the last of them as an example.
    """

    logger: logging.Logger
    message: str
    level: int = logging.WARNING
    _repeated: dict[str, tuple[int, dict[str, object]]] = field(default_factory=dict)

    def log(self, code: str, *, exception: BaseException | None = None, **extra: object) -> None:
        """Log or count one of a bounded set of codes; only the first has its traceback."""
        if code in self._repeated:
            self._repeated[code] = (self._repeated[code][0] + 1, extra)
            return
        fields = {"code": code, **extra}
        self.logger.log(self.level, self.message, extra=fields, exc_info=exception)
        self._begin(code)

    def _begin(self, code: str) -> None:
        self._repeated[code] = (0, {})
        asyncio.get_running_loop().call_later(_SUMMARY_SECONDS, self._summarize, code)

    def _summarize(self, code: str) -> None:
        count, extra = self._repeated.pop(code)
        if count:
            fields = {"code": code, "count": count, **extra}
            self.logger.log(self.level, f"{self.message}, repeatedly", extra=fields)
            self._begin(code)


def configure(level: str) -> None:
    """Send all logs of this process, the server's too, through the JSON formatter."""
    handler = DescriptorHandler(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # The library logs MLflow's address for every call; our own lines say what matters.
    logging.getLogger("httpx").setLevel(logging.WARNING)
