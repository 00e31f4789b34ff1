"""How a loop in the background learns that it is to end."""

from __future__ import annotations

import asyncio


def is_being_cancelled() -> bool:
    """Whether the present task was cancelled, whatever a library made of that.

    Seen with a store in Redis: at a bad moment a cancellation comes out of the client as an error
    like any other. A loop that goes on after errors would then never end, nor would the process.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
