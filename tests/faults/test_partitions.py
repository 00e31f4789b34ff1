"""Four replicas whose connections to the store are cut one by one, while clients ask them all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.histories import faults
from tests.faults.scale import report, scale
from tests.faults.switching import MISSED, REPLICAS, watch_switches
from tests.support.partitions import networks, run_partitioned_redis
from tests.support.servers import RunningTriton


@pytest.mark.needs("redis-server")
@pytest.mark.parametrize("network", networks()[: scale(1, 2)])
def test_replica_cut_off_from_the_store_answers_by_what_it_has_says_so_and_follows(
    tmp_path: Path, shared_triton: RunningTriton, network: str
) -> None:
    switches, partitions = scale(30, 1_000), scale(2, 25)
    with run_partitioned_redis(tmp_path / "redis", REPLICAS, network) as redis:
        options = {"kills": scale(0, 10), "partitions": partitions}
        seen = asyncio.run(watch_switches(tmp_path, shared_triton, redis, switches, **options))
    report("partitions", network=network, **seen.summary())
    assert faults(seen.visits, seen.reigns) == []
    for replica, visits_of_it in seen.by_replica.items():
        assert faults(visits_of_it, seen.reigns_of(replica)) == []
    assert seen.failed == []
    assert [one for one in seen.partitions if one.problems] == []
    assert sum(one.missed >= MISSED and one.answers > 0 for one in seen.partitions) >= scale(1, 15)
