"""Where a process ends: by `kill -9` of its own, or as its caller wants, at a named point."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

When = Literal["before", "during", "after"]


def die() -> None:
    """`kill -9` of this process."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class KillPoint:
    """A call during which the process dies.

    `before` it, `after` it (its effect is there, but not reported), or `during`: the call is
    under way, in a thread, for `seconds`.
    """

    when: When
    function: str
    """`module:name` or `module:Class.name`, where it is looked up."""
    call: int = 1
    """The how-manieth call it is."""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.when} {self.function} {self.call} {self.seconds}"

    @classmethod
    def parse(cls, text: str) -> KillPoint:
        """Read what `str` made of one."""
        when, function, call, seconds = text.split()
        return cls(cast(When, when), function, int(call), float(seconds))

    def arm(self, end: Callable[[], object] = die) -> None:
        """Have this process end there, by `end`."""
        module, _, path = self.function.partition(":")
        *outer, name = path.split(".")
        owner = functools.reduce(getattr, outer, importlib.import_module(module))
        original = getattr(owner, name)
        calls = 0

        @functools.wraps(original)
        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.call:
                return original(*args, **kwargs)
            if self.when == "during":
                threading.Thread(target=original, args=args, kwargs=kwargs, daemon=True).start()
                time.sleep(self.seconds)
            elif self.when == "after":
                done = original(*args, **kwargs)
                if inspect.isawaitable(done):
                    return _end_after(done, end)
            end()
            raise AssertionError("nothing goes on from here")

        setattr(owner, name, deadly)


async def _end_after(work: Awaitable[Any], end: Callable[[], object]) -> None:
    await work
    end()
