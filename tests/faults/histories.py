"""What clients saw, judged against what was effective: pure.

A client asks on one connection to one replica, one request after another, and keeps what each
answer named. Two things must hold of all histories together:

- no answer is by a version, or under a generation, that was not effective at some moment between
  its being sent and its being received;
- no client goes back: after an answer of a generation, none of an older one follows on the same
  connection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tests.support.load import Reign


@dataclass(frozen=True, slots=True)
class Visit:
    """One answered request; times are monotonic seconds."""

    connection: str
    sent: float
    received: float
    version: int
    generation: int
    computed_by: int
    """The version that the model itself names, in its prediction."""


class Fault(StrEnum):
    """What is wrong with an answer."""

    UNKNOWN = "of a generation that was never accepted"
    OTHER_VERSION = "by another version than its generation routes to"
    OTHER_MODEL = "computed by another version than it names"
    TOO_EARLY = "received before its generation was asked for"
    TOO_LATE = "sent after all replicas had left its generation"
    BACK = "of an older generation than this connection had seen"


def faults(visits: Iterable[Visit], reigns: Mapping[int, Reign]) -> list[tuple[Fault, Visit]]:
    """Every fault of every answer; `reigns` are the accepted generations."""
    found: list[tuple[Fault, Visit]] = []
    newest: dict[str, int] = defaultdict(int)
    for visit in sorted(visits, key=lambda one: one.received):
        found += [(fault, visit) for fault in _faults(visit, reigns)]
        if visit.generation < newest[visit.connection]:
            found.append((Fault.BACK, visit))
        newest[visit.connection] = max(newest[visit.connection], visit.generation)
    return found


def _faults(visit: Visit, reigns: Mapping[int, Reign]) -> Iterable[Fault]:
    if visit.computed_by != visit.version:
        yield Fault.OTHER_MODEL
    reign = reigns.get(visit.generation)
    if reign is None:
        yield Fault.UNKNOWN
        return
    if reign.version != visit.version:
        yield Fault.OTHER_VERSION
    if visit.received < reign.began:
        yield Fault.TOO_EARLY
    if visit.sent > reign.ended:
        yield Fault.TOO_LATE
