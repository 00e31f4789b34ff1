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
            while not holds():  # noqa: ASYNC110 -- plain numbers signal nothing
                await asyncio.sleep(0.002)
    except TimeoutError as error:
        raise TimeoutError(what) from error
