"""A circuit breaker: what failed several times in a row is skipped for a while."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class CircuitBreaker:
    """Counts failures in a row, and decides whether the next call makes sense.

    After `failures` in a row it opens: nothing is let through for `open_seconds`, and the next call
    after that decides. If its outcome is not reported within `probe_seconds`, another call follows.
    """

    name: str
    failures: int
    open_seconds: float
    probe_seconds: float
    is_closed: bool = True
    reason: str = ""
    """Why it opened last."""
    _in_a_row: int = 0
    _next_probe: float = 0.0
    _is_half_open: bool = False

    def admit(self) -> bool:
        """Whether a call may be made now; when half-open, this is the one that decides."""
        if self.is_closed:
            return True
        now = monotonic()
        if now < self._next_probe:
            return False
        self._is_half_open = True
        self._next_probe = now + self.probe_seconds
        return True

    def record_success(self) -> None:
        """Record a timely answer; one to a call from before it opened does not close it."""
        self._in_a_row = 0
        if self._is_half_open:
            self._is_half_open = False
            self.is_closed = True
            log.info("%s answers again", self.name)

    def record_failure(self, reason: str) -> None:
        """Record a call that failed or is overdue."""
        self._in_a_row += 1
        if self.is_closed:
            if self._in_a_row < self.failures:
                return
            extra = {"reason": reason, "failures": self._in_a_row}
            log.warning("%s is not read for now", self.name, extra=extra)
        elif not self._is_half_open:
            return
        self.reason = reason
        self.is_closed = self._is_half_open = False
        self._next_probe = monotonic() + self.open_seconds
