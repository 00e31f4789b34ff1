"""Releases on the real servers: bad candidates are stopped, good ones reach production.

And a release goes on, or stops, whichever process dies in whichever step. The quick form takes
four candidates, and kills each process in one step; the long form (`FAULTS=long`) kills each in
every one, and `python -m tests.benchmarks.releases` takes all candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving_gateway.contract import DEFAULT_MODEL, ReleaseDecision, ReleaseState
from tests.faults import candidates
from tests.faults.release_kills import (
    FAULTS,
    Place,
    Trial,
    kill_triton_and_lose_candidate,
    persist,
    place_of,
    released,
)
from tests.faults.release_trials import QUICK, CandidateTrial, attempt
from tests.faults.release_world import World, run_world
from tests.faults.scale import scale
from tests.support.gateway_harness import serve_versions
from tests.support.servers import wait_until

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.needs("redis-server")]

_ALL = [(fault, place) for fault in FAULTS for place in Place]
_LATIN = [(fault, [*Place][(2 * n + 1) % len(Place)]) for n, fault in enumerate(FAULTS)]


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", value)).replace(" ", "-")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with run_world(tmp_path_factory.mktemp("releases")) as running:
        yield running


@pytest.fixture(scope="module")
def rivals(world: World) -> World:
    """With an equal version beside the one in production."""
    world.package(candidates.equal())
    return world


@pytest.fixture
def rivalry(rivals: World) -> Iterator[World]:
    """With both READY, whatever died before, and no release under way afterwards."""
    versions = rivals.production, rivals.rival
    persist(rivals, *versions)
    assert serve_versions(rivals.triton, *versions).is_success
    rivals.wait_until_followed()
    yield rivals
    rivals.settle()


@pytest.mark.parametrize("trial", QUICK, ids=lambda trial: trial.name.replace(" ", "-"))
async def test_candidate_ends_as_it_deserves_and_no_client_notices(
    world: World, trial: CandidateTrial
) -> None:
    course = await attempt(world, trial)
    assert course.problems == [], course.summary()
    assert len(course.answers) > 20


@pytest.mark.parametrize(("fault", "place"), _ALL if scale(0, 1) else _LATIN, ids=_name)
async def test_release_survives_what_dies_in_any_step(
    rivalry: World, fault: Callable[[Trial], None], place: Place
) -> None:
    world = rivalry
    is_candidate_lost = fault is kill_triton_and_lose_candidate and place is not Place.WATCHING

    def work(trial: Trial) -> None:
        begun = trial.begin()
        trial.reach(place)
        fault(trial)
        if is_candidate_lost:
            wait_until(lambda: world.release.state is ReleaseState.STOPPED, 10, "it is stopped")
            world.turn()
        else:
            assert (world.release.id, place_of(world.release)) == (begun.id, place)
            trial.complete()
            assert world.release.state is ReleaseState.COMPLETED
        assert world.release.id == begun.id
        for gateway in world.gateways:
            wait_until(
                lambda: (
                    gateway.client.get("/release").json()["release"]["state"]  # noqa: B023
                    == world.release.state
                ),
                5,
                "both say so",
            )
        acts = world.acts(begun.id)
        assert acts[-1] == world.release.state
        assert len(set(acts)) == len(acts), "each act is entered once"

    trial = await released(world, work)
    assert trial.failed == []
    assert world.exposed_wrongly(trial.load.answers) == []


@pytest.mark.parametrize("place", [Place.SPLIT, Place.WATCHING], ids=_name)
async def test_stop_without_the_store_puts_all_clients_on_a_and_is_written_later(
    rivalry: World, place: Place
) -> None:
    world = rivalry

    def work(trial: Trial) -> None:
        trial.begin()
        trial.reach(place)
        world.redis.process.kill()
        done = world.gateway.stop_release(DEFAULT_MODEL, ReleaseDecision("it is wrong"))
        assert done.status == "stop_pending"
        if place is Place.SPLIT:
            seen = len(trial.load.answers)
            wait_until(lambda: len(trial.load.answers) > seen + 50, 20, "clients go on")
            stopped = [one for one in trial.load.answers[seen + 25 :] if one.variant == "B"]
            assert stopped == []
        world.redis.process.start()
        ends = {Place.SPLIT: ReleaseState.STOPPED, Place.WATCHING: ReleaseState.ROLLED_BACK}
        wait_until(lambda: world.release.state is ends[place], 15, "the stop is written")
        world.turn()
        assert world.acts(world.release.id)[-1] == str(ends[place]).replace("_", " ")

    trial = await released(world, work)
    assert trial.failed == []
