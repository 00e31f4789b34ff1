"""A circuit breaker: what failed several times in a row is left alone for a moment.

Pure but for its clock; it neither waits nor calls anything.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import StrEnum

log = logging.getLogger(__name__)


class CircuitState(StrEnum):
    """What is let through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing."""
    HALF_OPEN = "half-open"
    """One call, which decides."""


class CircuitBreaker:
    """Counts failures in a row, and decides whether the next call makes sense.

    Args:
        name: what is guarded, for the log.
        failures: so many in a row open it.
        open_seconds: how long nothing is let through then.
        probe_seconds: how long the one call that is let through next may take to be decided;
            when its outcome is never reported (its caller left), another follows.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int,
        open_seconds: float,
        probe_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._limit = failures
        self._open_seconds = open_seconds
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._in_a_row = 0
        self._next_probe = 0.0
        self.state = CircuitState.CLOSED
        self.reason = ""
        """Why it opened last."""
        self.opened = 0
        """How often it opened since the start; a failed probe does not count again."""

    def admit(self) -> bool:
        """Whether a call may be made now; when half-open, this is the one that decides."""
        if self.state is CircuitState.CLOSED:
            return True
        now = self._clock()
        if now < self._next_probe:
            return False
        self.state = CircuitState.HALF_OPEN
        self._next_probe = now + self._probe_seconds
        return True

    def succeeded(self) -> None:
        """Record an answer in time. One to a call from before it opened does not close it."""
        self._in_a_row = 0
        if self.state is CircuitState.HALF_OPEN:
            self.state = CircuitState.CLOSED
            log.info("%s answers again", self._name)

    def failed(self, reason: str) -> None:
        """Record a call that failed or is overdue."""
        self._in_a_row += 1
        if self.state is CircuitState.OPEN:
            return
        if self.state is CircuitState.CLOSED:
            if self._in_a_row < self._limit:
                return
            self.opened += 1
            log.warning(
                "%s is not read for now",
                self._name,
                extra={"reason": reason, "failures": self._in_a_row},
            )
        self.reason = reason
        self.state = CircuitState.OPEN
        self._next_probe = self._clock() + self._open_seconds
