"""Work on large bodies, in a thread, so that it does not hold the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from serving_gateway.errors import GatewayError

LARGE_BYTES: Final = 65_536
"""Size from which a body counts as large: decoding and checking it may take 5 ms and more."""

_T = TypeVar("_T")


class Offload:
    """One thread that works on large bodies in the order of their arrival.

    The interpreter switches to the event loop every few milliseconds meanwhile.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")

    def run(self, work: Callable[[], _T], done: Callable[[_T | GatewayError], None]) -> None:
        """Do `work` in the thread, then call `done` on the event loop with what came of it."""
        loop = asyncio.get_running_loop()

        def guarded() -> None:
            try:
                result: _T | GatewayError = work()
            except GatewayError as error:
                result = error
            except Exception as error:  # a bug belongs to the request that met it
                result = GatewayError(f"{type(error).__name__} while the body was read.")
            loop.call_soon_threadsafe(done, result)

        self._threads.submit(guarded)

    def close(self) -> None:
        """Drop what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)
