"""A circuit breaker: what failed several times in a row is left alone for a moment."""

from __future__ import annotations

import logging
from time import monotonic

log = logging.getLogger(__name__)


class CircuitBreaker:
    """Counts failures in a row, and decides whether the next call makes sense.

    So many `failures` open it: then nothing is let through for `open_seconds`, and one call after
    that decides. If its outcome is not reported within `probe_seconds`, another follows.
    """

    def __init__(
        self, name: str, *, failures: int, open_seconds: float, probe_seconds: float
    ) -> None:
        self._name = name
        self._limit = failures
        self._open_seconds = open_seconds
        self._probe_seconds = probe_seconds
        self._in_a_row = 0
        self._next_probe = 0.0
        self._is_half_open = False
        self.is_closed = True
        self.reason = ""
        """Why it opened last."""

    def admit(self) -> bool:
        """Whether a call may be made now; when half-open, this is the one that decides."""
        if self.is_closed:
            return True
        now = monotonic()
        if now < self._next_probe:
            return False
        self._is_half_open = True
        self._next_probe = now + self._probe_seconds
        return True

    def succeeded(self) -> None:
        """Record an answer in time. One to a call from before it opened does not close it."""
        self._in_a_row = 0
        if self._is_half_open:
            self._is_half_open = False
            self.is_closed = True
            log.info("%s answers again", self._name)

    def failed(self, reason: str) -> None:
        """Record a call that failed or is overdue."""
        self._in_a_row += 1
        if self.is_closed:
            if self._in_a_row < self._limit:
                return
            extra = {"reason": reason, "failures": self._in_a_row}
            log.warning("%s is not read for now", self._name, extra=extra)
        elif not self._is_half_open:
            return
        self.reason = reason
        self.is_closed = self._is_half_open = False
        self._next_probe = monotonic() + self._open_seconds
