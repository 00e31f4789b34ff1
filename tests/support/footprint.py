"""What a server holds: resident memory and open descriptors, of all its processes together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import psutil

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Footprint:
    """At one moment; memory in bytes."""

    resident: int
    descriptors: int

    def growth_to(self, other: Footprint) -> float:
        """By how much the memory grew to another moment, in percent."""
        return (other.resident / self.resident - 1) * 100


def footprint(server: psutil.Process) -> Footprint:
    """What a process and those that it started hold now."""
    resident = descriptors = 0
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            resident += process.memory_info().rss
            descriptors += process.num_fds()
    return Footprint(resident, descriptors)


def growth(before: Mapping[str, Footprint], after: Mapping[str, Footprint]) -> dict[str, float]:
    """By server: how much more memory it holds than before, in percent to a tenth."""
    return {name: round(before[name].growth_to(now), 1) for name, now in after.items()}


@dataclass
class Memory:
    """The highest resident memory of a process while something is done, in bytes."""

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
