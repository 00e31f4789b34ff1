"""Histories of replicas that follow switches, played with a seed; and the same with one bug."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.faults.histories import Visit
from tests.support.load import Reign

_REPLICAS: Final = 4
_SWITCHES: Final = 40
_EVERY_SECONDS: Final = 0.1
_SLOWEST_SECONDS: Final = 0.03
"""Until a replica follows a switch."""


@dataclass(slots=True)
class World:
    """Switches between versions 1 and 2, and when each replica followed each of them."""

    chance: random.Random
    reigns: dict[int, Reign] = field(default_factory=dict)
    followed: list[dict[int, float]] = field(default_factory=list)
    """By replica: the moment from which it routes by a generation."""

    def generation(self, replica: int, at: float) -> int:
        """What a replica routes by at a moment."""
        return max(one for one, since in self.followed[replica].items() if since <= at)

    def version(self, generation: int) -> int:
        """What a generation routes to."""
        return self.reigns[generation].version


def played(seed: int) -> World:
    """A history of switches without any fault."""
    world = World(random.Random(seed), followed=[{1: -1.0} for _ in range(_REPLICAS)])
    world.reigns[1] = Reign(1, -1.0)
    for number in range(_SWITCHES):
        began, generation = number * _EVERY_SECONDS, number + 2
        world.reigns[generation] = Reign(2 - number % 2, began)
        for moments in world.followed:
            moments[generation] = began + world.chance.uniform(0.001, _SLOWEST_SECONDS)
        last = max(moments[generation] for moments in world.followed)
        world.reigns[generation - 1].ended = last
    return world


Bug = Callable[[World, int, int, float], tuple[int, int, int]]
"""From the world, a replica, its generation and the time: generation, version, computed by."""


def visits(world: World, bug: Bug | None = None) -> list[Visit]:
    """What a client of each replica saw; `bug` answers one request in five in its own way."""
    found: list[Visit] = []
    for replica in range(_REPLICAS):
        now = 0.0
        while now < _SWITCHES * _EVERY_SECONDS:
            routed = now + world.chance.uniform(0.0, 0.002)
            received = routed + world.chance.uniform(0.001, 0.004)
            generation = world.generation(replica, routed)
            version = world.version(generation)
            answer = generation, version, version
            if bug is not None and world.chance.random() < 0.2:
                answer = bug(world, replica, generation, routed)
            found.append(Visit(f"client-{replica}", now, received, answer[1], answer[0], answer[2]))
            now = received + world.chance.uniform(0.0, 0.003)
    return found


def _sound(world: World, generation: int) -> tuple[int, int, int]:
    return generation, world.version(generation), world.version(generation)


def _stale_table(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """A worker of the replica that missed the last two switches."""
    return _sound(world, max(1, generation - 2))


def _unconfirmed(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """Routes by the next generation before it was accepted."""
    return _sound(world, min(generation + 1, max(world.reigns)))


def _lost_commit(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """Routes by a commit that the store never took."""
    return max(world.reigns) + 1, 1, 1


def _unversioned(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """Asks Triton without a version: the highest answers."""
    return generation, world.version(generation), 2


def _torn_table(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """Takes the generation of one table and the version of another."""
    other = 3 - world.version(generation)
    return generation, other, other


def _wrong_label(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """Answers by the former version under the present one's name."""
    return generation, world.version(generation), 3 - world.version(generation)


def _restored(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """Goes back to what its snapshot has, the first generation."""
    return _sound(world, 1)


def _flapping(world: World, replica: int, generation: int, now: float) -> tuple[int, int, int]:
    """Adopts an older record that arrives late, for one request."""
    held = world.followed[replica][generation]
    return _sound(
        world, generation - 1 if now - held < _SLOWEST_SECONDS and generation > 1 else generation
    )


BUGS: Final[dict[str, Bug]] = {
    one.__name__.strip("_").replace("_", " "): one
    for one in (
        *(_stale_table, _unconfirmed, _lost_commit, _unversioned),
        *(_torn_table, _wrong_label, _restored, _flapping),
    )
}
"""What could go wrong in replicas, by name."""
