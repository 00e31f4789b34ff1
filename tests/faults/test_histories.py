"""Clients' histories: the checker notices planted bugs, and four real replicas have none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.histories import Fault, faults
from tests.faults.scale import report, scale
from tests.faults.simulated_histories import BUGS, played, visits
from tests.faults.switching import watch_switches
from tests.support.servers import RunningRedis, RunningTriton

_EXPECTED = {
    "stale table": {Fault.TOO_LATE, Fault.BACK},
    "unconfirmed": {Fault.TOO_EARLY, Fault.BACK},
    "lost commit": {Fault.UNKNOWN, Fault.BACK},
    "unversioned": {Fault.OTHER_MODEL},
    "torn table": {Fault.OTHER_VERSION},
    "wrong label": {Fault.OTHER_MODEL},
    "restored": {Fault.TOO_LATE, Fault.BACK},
    "flapping": {Fault.BACK},
}


@pytest.mark.parametrize("seed", range(3))
def test_sound_histories_have_no_fault(seed: int) -> None:
    world = played(seed)
    assert faults(visits(world), world.reigns) == []


@pytest.mark.parametrize("name", BUGS)
def test_checker_notices_planted_bug(name: str) -> None:
    world = played(1)
    found = {fault for fault, _ in faults(visits(world, BUGS[name]), world.reigns)}
    assert _EXPECTED[name] <= found


@pytest.mark.needs("redis-server")
def test_no_client_of_four_replicas_goes_back_or_meets_a_version_out_of_its_time(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    switches = scale(30, 1_000)
    seen = asyncio.run(watch_switches(tmp_path, shared_triton, redis, switches, kills=scale(1, 25)))
    assert faults(seen.visits, seen.reigns) == []
    assert seen.failed == []
    assert {visit.version for visit in seen.visits} == {1, 2}
    assert len(seen.reigns) == switches + 1
    assert len({visit.connection for visit in seen.visits}) > 4
    report("histories", **seen.summary())
