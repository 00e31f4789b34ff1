"""What a process holds in memory while something is done to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil


@dataclass
class Memory:
    """The highest resident memory of a process while something is done."""

    process: psutil.Process
    highest: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.highest = max(self.highest, self.process.memory_info().rss)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch until the block ends."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
