"""Tasks in the background: supervised, and ended when they are cancelled."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
_SOUND_SECONDS: Final = 60.0
"""After which a failure counts as the first one again."""


def is_being_cancelled() -> bool:
    """Whether the present task was cancelled, also when a library made an error of that.

    Seen with a store in Redis: at a bad moment a cancellation comes out of the client as an error
    like any other. A loop that goes on after errors would then never end, nor would the process.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class TaskSupervisor:
    """Runs coroutines that are not meant to end, and starts them again when they do.

    Args:
        on_restart: called with the name of a task that is started again, to count it.
        first_pause_seconds: before that; twice as long after each failure in a row.
    """

    def __init__(
        self,
        on_restart: Callable[[str], None] | None = None,
        *,
        first_pause_seconds: float = _FIRST_PAUSE_SECONDS,
    ) -> None:
        self._on_restart = on_restart
        self._first_pause = first_pause_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Work, *, may_end: bool = False) -> asyncio.Task[None]:
        """Run `work` until it is cancelled.

        Args:
            name: what it does, for logs and metrics.
            work: makes the coroutine; called again after each end.
            may_end: whether it is done when it ends without an error.

        Returns:
            The task, for `stop`.
        """
        task = asyncio.create_task(self._run(name, work, may_end), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self, *tasks: asyncio.Task[None]) -> None:
        """Cancel these tasks and wait for their end."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end."""
        await self.stop(*self._tasks)

    async def _run(self, name: str, work: Work, may_end: bool) -> None:
        pause = self._first_pause
        while not is_being_cancelled():
            started = time.monotonic()
            try:
                await work()
            except Exception:
                log.exception("a background task failed; it is started again", extra={"task": name})
            else:
                if may_end:
                    return
                if not is_being_cancelled():
                    log.error("a background task ended; it is started again", extra={"task": name})
            if is_being_cancelled():
                return
            if self._on_restart is not None:
                self._on_restart(name)
            if time.monotonic() - started > _SOUND_SECONDS:
                pause = self._first_pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
