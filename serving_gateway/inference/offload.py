"""Work on large bodies, in a thread, so that it does not hold the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from serving_gateway.batching import ByteBudget
from serving_gateway.errors import GatewayError, Overloaded

log = logging.getLogger(__name__)

LARGE_BYTES: Final = 65_536
"""Size from which a body counts as large: decoding and checking it may take 5 ms and more."""

_T = TypeVar("_T")


class Offload:
    """One thread that works on large bodies in the order of their arrival.

    The interpreter switches to the event loop every few milliseconds meanwhile. What waits for
    the thread holds bytes of `budget`, which is shared with others that wait.
    """

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")

    def run(
        self, size: int, work: Callable[[], _T], done: Callable[[_T | GatewayError], None]
    ) -> None:
        """Do `work` on a body of `size` bytes, then call `done` on the event loop.

        A large body has it done later, in the thread. `work` may raise a `GatewayError`.
        """
        if size <= LARGE_BYTES:
            try:
                result: _T | GatewayError = work()
            except GatewayError as refusal:
                result = refusal
            done(result)
            return
        loop = asyncio.get_running_loop()
        if not self._budget.take(size):
            full = Overloaded("Large bodies that wait hold as many bytes as they may.")
            loop.call_soon(done, full)
            return

        def end(future: asyncio.Future[_T]) -> None:
            self._budget.release(size)
            if future.cancelled():
                return
            bug = future.exception()
            if isinstance(bug, GatewayError):
                done(bug)
            elif bug is not None:  # it belongs to the request that met it
                log.error("a large body could not be read", exc_info=bug)
                done(GatewayError(f"{type(bug).__name__} while the body was read."))
            else:
                done(future.result())

        loop.run_in_executor(self._threads, work).add_done_callback(end)

    def close(self) -> None:
        """Drop what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)
