"""Where a run kills itself: `kill -9` of its own process, at a point that is named."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal, cast

When = Literal["before", "during", "after"]


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

    def arm(self) -> None:
        """Make this process die there."""
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
                original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError("nobody survives this")

        setattr(owner, name, deadly)
