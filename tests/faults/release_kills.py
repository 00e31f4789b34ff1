"""Every process of a release, killed in every step of it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from platform_assets.model_spec import ReleaseSpec, StepMinimum
from serving_gateway.contract import (
    ACTIVE,
    CONFIG_FILE,
    DEFAULT_MODEL,
    Approval,
    Guard,
    Release,
    ReleaseDecision,
    ReleaseState,
)
from tests.faults import candidates
from tests.faults.release_world import CONNECTIONS, PER_SECOND, World
from tests.faults.scale import scale
from tests.support.load import Answer, Load
from tests.support.onnx_models import config_text, write_config
from tests.support.servers import wait_until

_NOTICED_SECONDS: Final = 1.0
"""After which the balancer sends nothing more to a gateway that was killed."""
_HOURS: Final = 3 * 3600.0
_DECISION: Final = ReleaseDecision("the trial says so")
STEPS: Final = ReleaseSpec(
    steps=("mirror", 50.0),
    each=StepMinimum(requests=1, minutes=0.0),
    guardrails={Guard.FAILURES: 0.3},
    unproven=(Guard.FAILURES,),
    watch=timedelta(hours=2),
    approval=Approval.BEFORE_SWITCH,
)
"""Each look decides a step, but for the watch, which the pilot's clock ends."""


class Place(StrEnum):
    """Where a release is when something dies."""

    MIRROR = "running 0"
    SPLIT = "running 1"
    WAITING = "waiting 1"
    CLEARED = "cleared 1"
    WATCHING = "watching 1"


def place_of(release: Release) -> str:
    """State and step."""
    return f"{release.state.value} {release.step}"


@dataclass(slots=True)
class Outage:
    """While what failed is down: failed requests within it are no fault."""

    began: float = 0.0
    ended: float = 0.0

    def explains(self, answer: Answer) -> bool:
        """Whether a request met it."""
        return answer.received >= self.began and answer.sent <= self.ended


@dataclass(slots=True)
class Trial:
    """A release of the rival of production, while clients ask."""

    world: World
    load: Load
    outages: list[Outage] = field(default_factory=list)

    def begin(self) -> Release:
        """Begin the release of the rival."""
        world = self.world
        world.steps = STEPS
        world.record_load(world.rival)
        world.tick()
        release = world.release
        assert place_of(release) == Place.MIRROR, world.tick().summary
        return release

    def reach(self, place: Place) -> None:
        """Go on with the present release as far as that."""
        self._go_on(lambda: place_of(self.world.release) == place, place)

    def complete(self) -> None:
        """Go on with the present release to its end."""
        self._go_on(lambda: self.world.release.state not in ACTIVE, "its end")

    def _go_on(self, is_there: Callable[[], bool], what: str) -> None:
        world = self.world

        def step() -> bool:
            if is_there():
                return True
            if world.release.state is ReleaseState.WAITING:
                world.gateway.approve_release(DEFAULT_MODEL, _DECISION)
                world.report()
            else:
                is_watched = world.release.state is ReleaseState.WATCHING
                world.tick(after=_HOURS if is_watched else 0.0)
            return is_there()

        wait_until(step, 120, f"the release reaches {what}")

    def outage(self, kill: Callable[[], None], restore: Callable[[], None]) -> None:
        """Kill something and bring it back."""
        self.outages.append(outage := Outage(time.monotonic(), float("inf")))
        kill()
        restore()
        outage.ended = time.monotonic()

    @property
    def failed(self) -> list[Answer]:
        """Requests that failed while nothing was down."""
        return [
            one for one in self.load.failed if not any(each.explains(one) for each in self.outages)
        ]


def kill_gateway(trial: Trial) -> None:
    """`kill -9` of one of both gateways, and a restart."""
    process = trial.world.gateways[0].process

    def kill() -> None:
        process.kill()
        time.sleep(_NOTICED_SECONDS)

    trial.outage(kill, lambda: None)
    process.start()
    trial.world.wait_until_followed()


def kill_both_gateways(trial: Trial) -> None:
    """`kill -9` of both, so that only the store knows of the release."""
    gateways = trial.world.gateways

    def kill() -> None:
        for gateway in gateways:
            gateway.process.kill()

    def start() -> None:
        for gateway in gateways:
            gateway.process.start()
        trial.world.wait_until_followed()
        time.sleep(_NOTICED_SECONDS)

    trial.outage(kill, start)


def kill_pilot(trial: Trial) -> None:
    """The pilot's memory is lost, and with it what it had not stored."""
    trial.world.memory = type(trial.world.memory)()


def kill_pilot_in_tick(trial: Trial) -> None:
    """The pilot dies between the decision that it carried out and what it stores of that."""
    trial.world.die_in_tick()


def kill_triton(trial: Trial) -> None:
    """`kill -9` of the only Triton; both versions come back."""
    _kill_triton(trial, trial.world.production, trial.world.rival)


def kill_triton_and_lose_candidate(trial: Trial) -> None:
    """`kill -9` of the only Triton, which comes back with A's version alone."""
    _kill_triton(trial, trial.world.routed()["A"]["version"])


def _kill_triton(trial: Trial, *persisted: int) -> None:
    world = trial.world
    persist(world, *persisted)

    def restore() -> None:
        world.triton.restart()
        world.wait_until_followed()

    trial.outage(world.triton.kill, restore)


def persist(world: World, *versions: int) -> None:
    """Name the versions that a restarted Triton serves."""
    text = config_text(DEFAULT_MODEL, candidates.production(), sorted(versions))
    # Triton loads all versions anew after the file was written, whatever it says.
    if (world.triton.repository / DEFAULT_MODEL / CONFIG_FILE).read_text() != text:
        write_config(world.triton.repository, DEFAULT_MODEL, text)


def kill_redis(trial: Trial) -> None:
    """`kill -9` of Redis, which comes back with its data."""
    world = trial.world
    world.redis.process.kill()
    time.sleep(_NOTICED_SECONDS)
    _restore(world)


def empty_redis(trial: Trial) -> None:
    """`kill -9` of Redis, which comes back with nothing; the replicas write the record back."""
    world = trial.world
    world.redis.process.kill()
    shutil.rmtree(world.home / "redis" / "appendonlydir")
    _restore(world)


def _restore(world: World) -> None:
    world.redis.process.start()

    def is_in_sync() -> bool:
        return all(one.models()["in_sync"] for one in world.gateways)

    wait_until(is_in_sync, 60, "the replicas are in sync by the store")


async def released(world: World, work: Callable[[Trial], None]) -> Trial:
    """Do the work while clients ask, and end the release that is left."""
    bodies = candidates.questions(2_000)
    rate = scale(PER_SECOND // 4, PER_SECOND)
    async with Load(world.balancer.url, CONNECTIONS, per_second=rate, bodies=bodies) as load:
        trial = Trial(world, load)
        await asyncio.to_thread(work, trial)
    return trial


Fault = tuple[Callable[[Trial], None], Place]
"""What dies, and where the release is then."""

FAULTS: Final = (
    kill_gateway,
    kill_pilot,
    kill_triton,
    kill_redis,
    empty_redis,
    kill_both_gateways,
    kill_pilot_in_tick,
    kill_triton_and_lose_candidate,
)
QUICK: Final[tuple[tuple[Fault, ...], ...]] = (
    (
        (kill_triton, Place.MIRROR),
        (kill_gateway, Place.SPLIT),
        (kill_redis, Place.WAITING),
        (kill_pilot, Place.CLEARED),
        (empty_redis, Place.WATCHING),
    ),
    ((kill_both_gateways, Place.SPLIT), (kill_pilot_in_tick, Place.CLEARED)),
    ((kill_triton_and_lose_candidate, Place.MIRROR),),
)
"""Each fault in one place, and a fault in each place, in as few releases as can be."""
EACH: Final[tuple[tuple[Fault, ...], ...]] = tuple(
    ((fault, place),) for fault in FAULTS for place in Place
)
"""Each fault in each place, in a release of its own."""
