"""Releases on the real servers: bad candidates are stopped, good ones reach production.

And a release goes on, or stops, whichever process dies in whichever step. The quick form takes
four candidates, and kills each process in one step, several in the course of one release, under
less load; the long form (`FAULTS=long`) kills each in every step, in a release of its
own, and `python -m tests.benchmarks.releases` takes all candidates.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from serving_gateway.contract import DEFAULT_MODEL, ReleaseDecision, ReleaseState
from tests.faults import candidates
from tests.faults.release_kills import (
    EACH,
    QUICK,
    Fault,
    Place,
    Trial,
    kill_gateway,
    kill_pilot_in_tick,
    kill_triton_and_lose_candidate,
    persist,
    place_of,
    released,
)
from tests.faults.release_trials import QUICK as CANDIDATES
from tests.faults.release_trials import CandidateTrial, attempt
from tests.faults.release_world import PER_SECOND, World, run_world
from tests.faults.scale import report, scale
from tests.support.gateway_harness import RunningGateway, serve_versions
from tests.support.load import Answer
from tests.support.release_stops import SPLIT, act
from tests.support.servers import wait_until

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.needs("redis-server")]

_COURSES = EACH if scale(0, 1) else QUICK


def _name(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_name, value))
    return str(getattr(value, "__name__", value)).replace(" ", "-")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with run_world(tmp_path_factory.mktemp("releases")) as running:
        yield running


@pytest.fixture(scope="module")
def rivals(world: World) -> World:
    """With an equal version beside the one in production."""
    world.package(candidates.equals_production())
    return world


@pytest.fixture
def rivalry(rivals: World) -> Iterator[World]:
    """With both READY, whatever died before, and no release under way afterwards."""
    if not rivals.redis.process.running:  # after a test that failed
        rivals.redis.process.start()
    versions = rivals.production, rivals.rival
    persist(rivals, *versions)
    serve_versions(rivals.triton, *versions)
    rivals.wait_until_followed()
    yield rivals
    rivals.settle()


@pytest.mark.parametrize("trial", CANDIDATES, ids=lambda trial: trial.name.replace(" ", "-"))
async def test_candidate_ends_as_it_deserves_and_no_client_notices(
    world: World, trial: CandidateTrial
) -> None:
    course = await attempt(world, trial, per_second=scale(50, PER_SECOND))
    assert course.problems == [], course.summary()
    assert len(course.answers) > 20


@pytest.mark.parametrize("course", _COURSES, ids=_name)
async def test_release_survives_what_dies_in_any_step(
    rivalry: World, course: Sequence[Fault]
) -> None:
    world = rivalry
    last, at = course[-1]
    is_candidate_lost = last is kill_triton_and_lose_candidate and at is not Place.WATCHING

    def work(trial: Trial) -> None:
        begun = trial.begin()
        for fault, place in course:
            trial.reach(place)
            fault(trial)
            if not is_candidate_lost and fault is not kill_pilot_in_tick:
                assert place_of(world.release) == place
        if is_candidate_lost:
            wait_until(lambda: world.release.state is ReleaseState.STOPPED, 60, "it is stopped")
            world.tick()
        else:
            trial.complete()
            assert world.release.state is ReleaseState.COMPLETED
            assert world.acts(begun.id)[-2:] == ["watching", "completed"]
        assert world.release.id == begun.id
        for gateway in world.gateways:
            wait_until(
                lambda: (
                    gateway.client.get("/release").json()["release"]["state"]  # noqa: B023
                    == world.release.state
                ),
                60,
                "both say so",
            )
        acts = world.acts(begun.id)
        assert acts[-1] == world.release.state
        assert len(set(acts)) == len(acts), "each act is entered once"

    trial = await released(world, work)
    assert trial.failed == []
    assert world.exposed_wrongly(trial.load.answers) == []


@pytest.mark.parametrize("place", [Place.SPLIT, Place.WATCHING], ids=_name)
async def test_stop_without_the_store_is_in_effect_at_once_and_written_later(
    rivalry: World, place: Place
) -> None:
    world = rivalry

    def work(trial: Trial) -> None:
        trial.begin()
        trial.reach(place)
        begun_beside = world.release.previous_version
        world.redis.process.kill()
        done = world.gateway.stop_release(DEFAULT_MODEL, ReleaseDecision("it is wrong"))
        assert done.status == "stop_pending"
        seen = len(trial.load.answers)
        wait_until(lambda: len(trial.load.answers) > seen + 50, 60, "clients go on")
        # After the switch the version before answers as B: A's new one is the candidate.
        since = {(one.variant, one.version) for one in trial.load.answers[seen + 25 :]}
        assert since == {("A" if place is Place.SPLIT else "B", begun_beside)}
        world.redis.process.start()
        ends = {Place.SPLIT: ReleaseState.STOPPED, Place.WATCHING: ReleaseState.ROLLED_BACK}
        wait_until(lambda: world.release.state is ends[place], 60, "the stop is written")
        world.tick()
        assert world.acts(world.release.id)[-1] == str(ends[place]).replace("_", " ")

    trial = await released(world, work)
    assert trial.failed == []


async def test_what_a_killed_replica_had_counted_is_not_lost(rivalry: World) -> None:
    world = rivalry

    def work(trial: Trial) -> None:
        trial.begin()
        trial.reach(Place.SPLIT)
        wait_until(lambda: len(_by_b(trial)) > 30, 60, "B answers")
        kill_gateway(trial)

    trial = await released(world, work)
    counted = _candidate_requests(world)
    answers, killed = _by_b(trial), trial.outages[0].began
    # Each replica stores its counts every second.
    lost = [one for one in answers if killed - 1.5 <= one.received <= killed + 1.0]
    assert len(answers) - len(lost) <= counted <= len(answers) + len(trial.load.failed)
    report("releases", answered_by_b=len(answers), counted=counted, unsure=len(lost))


def _by_b(trial: Trial) -> list[Answer]:
    return [one for one in trial.load.answers if one.variant == "B"]


def _candidate_requests(world: World) -> int:
    evidence = world.report().evidence
    assert evidence is not None
    return evidence.phases["1"].candidate.requests


def _pin(world: World) -> None:
    answer = world.gateways[0].reload(version=world.production)
    assert answer.status_code == 200, answer.text


def _set_traffic(world: World) -> None:
    answer = world.gateways[0].traffic("mirror", 10)
    assert answer.status_code == 200, answer.text


def _unload(world: World) -> None:
    serve_versions(world.triton, world.production)
    wait_until(lambda: world.release.state is ReleaseState.STOPPED, 60, "a replica stops it")


@pytest.mark.parametrize("change", [_pin, _set_traffic, _unload], ids=_name)
async def test_another_change_ends_the_release_for_all_clients(
    rivalry: World, change: Callable[[World], None]
) -> None:
    world = rivalry

    def work(trial: Trial) -> None:
        trial.begin()
        trial.reach(Place.SPLIT)
        change(world)
        world.wait_until_followed()
        seen = len(trial.load.answers)
        wait_until(lambda: len(trial.load.answers) > seen + 60, 60, "clients go on")
        assert [one for one in trial.load.answers[seen + 30 :] if one.variant == "B"] == []
        assert world.release.state is ReleaseState.STOPPED
        world.tick()
        assert world.acts(world.release.id)[-1] == "stopped"

    trial = await released(world, work)
    assert trial.failed == []


async def test_two_releases_at_once_leave_one_that_names_the_other(rivalry: World) -> None:
    world = rivalry
    plan = {"steps": [SPLIT], "guardrails": {"failures": 0.3}}
    rival = world.rival
    third = world.package(candidates.equals_production())
    world.rival = rival
    serve_versions(world.triton, world.production, rival, third)

    def begin(gateway: RunningGateway, version: int) -> int:
        body = {"version": version, "run_id": f"run-{version}", "plan": plan}
        return gateway.client.post("/release", json=body).status_code

    async with asyncio.TaskGroup() as tasks:
        begun = [
            tasks.create_task(asyncio.to_thread(begin, gateway, version))
            for gateway, version in zip(world.gateways, (rival, third), strict=True)
        ]
    statuses = [one.result() for one in begun]
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    world.wait_until_followed()
    releases = [one.client.get("/release").json()["release"] for one in world.gateways]
    assert releases[0] == releases[1]
    assert releases[0]["state"] == "running"
    if statuses == [200, 200]:
        assert "stopped the release of version" in releases[0]["acts"][0]["reason"]
    routed = world.routed()
    assert routed["B"]["version"] == releases[0]["version"]


async def test_a_replica_that_missed_a_step_and_an_approval_follows(rivalry: World) -> None:
    world = rivalry
    stopped = world.gateways[1].process

    def work(trial: Trial) -> None:
        begun = trial.begin()
        trial.reach(Place.SPLIT)
        stopped.signal(signal.SIGSTOP)
        try:
            step = {"id": begun.id, "state": "running", "step": 1, "verdict": "go"}
            assert act(world.gateways[0], "advance", **step)["state"] == "waiting"
        finally:
            stopped.signal(signal.SIGCONT)
        world.gateways[0].process.kill()
        world.gateway.approve_release(DEFAULT_MODEL, ReleaseDecision("all is well"))
        world.gateways[0].process.start()
        world.wait_until_followed()
        for gateway in world.gateways:
            found = gateway.client.get("/release").json()["release"]
            assert (found["id"], found["state"]) == (begun.id, "cleared")

    await released(world, work)


async def test_a_clock_that_jumps_ends_no_step_too_early_and_no_release(rivalry: World) -> None:
    world = rivalry

    def work(trial: Trial) -> None:
        begun = trial.begin()
        world.late -= timedelta(hours=2)
        for _ in range(3):
            world.tick()
        assert place_of(world.release) == Place.MIRROR, "it has not begun yet, by this clock"
        world.late += timedelta(hours=5)
        trial.reach(Place.CLEARED)
        assert world.release.id == begun.id

    trial = await released(world, work)
    assert trial.failed == []


async def test_a_version_that_is_loaded_meanwhile_waits_for_the_end(rivalry: World) -> None:
    world = rivalry

    def work(trial: Trial) -> None:
        begun = trial.begin()
        trial.reach(Place.SPLIT)
        world.record_load(world.rival + 7)
        world.tick()
        assert world.release.id == begun.id
        trial.complete()
        assert world.release.state is ReleaseState.COMPLETED

    trial = await released(world, work)
    assert trial.failed == []
