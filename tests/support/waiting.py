"""Waits for conditions that signal nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def eventually(holds: Callable[[], object], what: str = "", *, seconds: float = 5) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not within `seconds`; with `what` should have happened.
    """
    try:
        async with asyncio.timeout(seconds):
            pause = 0.001
            while not holds():
                await asyncio.sleep(pause)
                # Asked less and less often: to ask may cost more than what is waited for.
                pause = min(pause * 1.3, 0.05)
    except TimeoutError as error:
        raise TimeoutError(what) from error
