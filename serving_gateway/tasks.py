"""Background tasks: supervised, and ended when they are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
_SOUND_SECONDS: Final = 60.0
"""Runtime after which a failure counts as the first one again."""


def is_being_cancelled() -> bool:
    """Whether the current task was cancelled, even if a library turned that into an error.

    Seen with a store in Redis: at a bad moment, its client turns a cancellation into an ordinary
    error. A loop that continues after errors would then never end, and neither would the process.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, or until the time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class TaskSupervisor:
    """Restarts endless coroutines that end after all, and then calls `on_restart`."""

    def __init__(self, on_restart: Callable[[str], None]) -> None:
        self._on_restart = on_restart
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Work, *, may_end: bool = False) -> asyncio.Task[None]:
        """Run what `work` makes until cancelled; with `may_end`, it may also end without error."""
        task = asyncio.create_task(self._run(name, work, may_end), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, name: str, work: Work, may_end: bool) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            problem: Exception | None = None
            try:
                await work()
            except Exception as error:
                problem = error
            if is_being_cancelled() or (may_end and problem is None):
                return
            log.error(
                "a background task %s; it is started again",
                "ended" if problem is None else "failed",
                extra={"task": name},
                exc_info=problem,
            )
            self._on_restart(name)
            if time.monotonic() - started > _SOUND_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
