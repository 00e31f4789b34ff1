"""Work on large bodies and responses, in a thread, so that it does not hold the event loop."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep, thread_time
from typing import Final, TypeVar

from serving_gateway.batching import ByteBudget
from serving_gateway.errors import DeadlineExceeded, GatewayError, Overloaded

log = logging.getLogger(__name__)

LARGE_BYTES: Final = 65_536
"""Size from which a body counts as large: decoding or encoding it may take 5 ms and more."""

_T = TypeVar("_T")


class Offload:
    """One thread that works on large bodies, newest first, so that a flood is not all late.

    Meanwhile the interpreter switches to the event loop every few milliseconds. While more bodies
    wait, the thread rests after each as long as it worked: a flood takes half of the interpreter.
    Waiting bodies hold bytes of `budget`, which is shared with other queues.
    """

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._pending = 0
        self._waiting: dict[Callable[[], None], asyncio.TimerHandle] = {}
        """Work for the thread, oldest first, and the timer of its deadline."""
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")

    def run(
        self,
        size: int,
        work: Callable[[], _T],
        done: Callable[[_T | GatewayError], None],
        due: float,
    ) -> None:
        """Do `work` on a body of `size` bytes, then call `done` on the event loop.

        For a large body, this happens later, in the thread, and fails if it cannot begin before
        `due`, in event loop time. `work` may raise a `GatewayError`.
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

        def end(result: _T | GatewayError) -> None:
            self._pending -= 1
            self._budget.release(size)
            done(result)

        def guarded_work() -> None:
            began = thread_time()
            result = _run_guarded(work)
            others_wait = self._pending > 1
            loop.call_soon_threadsafe(end, result)
            if others_wait:
                sleep(thread_time() - began)

        def expire() -> None:
            if self._waiting.pop(guarded_work, None) is not None:
                end(DeadlineExceeded("A large body waited until the request's deadline."))

        self._pending += 1
        self._waiting[guarded_work] = loop.call_at(due, expire)
        self._threads.submit(self._work_on_newest, loop)

    def _work_on_newest(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            work, timer = self._waiting.popitem()
        except KeyError:  # its deadline came first
            return
        loop.call_soon_threadsafe(timer.cancel)
        work()

    def close(self) -> None:
        """Drop what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _run_guarded(work: Callable[[], _T]) -> _T | GatewayError:
    # A garbage collection amid a body would traverse all that was read of it, again and again,
    # without a switch to the event loop.
    gc.disable()
    try:
        return work()
    except GatewayError as error:
        return error
    except Exception as error:  # a bug belongs to the request that met it
        log.exception("a large body could not be processed")
        return GatewayError(f"{type(error).__name__} while a large body was processed.")
    finally:
        gc.enable()
