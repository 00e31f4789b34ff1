"""Rollbacks under load by four replicas on Redis behind HAProxy: I3, I7."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.drills import CONVERGENCE_SECONDS, REPLICAS, drill_under_load
from tests.benchmarks.switches import replicas_behind_haproxy
from tests.support.servers import RunningRedis, RunningTriton

pytestmark = pytest.mark.needs("haproxy")
DRILLS = 20
PER_SECOND = 100
"""Requests, a fifth of what the benchmark sends."""


async def test_twenty_rollbacks_fail_no_request_and_reach_all_replicas(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    with replicas_behind_haproxy(tmp_path, shared_triton, redis, count=REPLICAS) as (url, replicas):
        urls = [replica.url for replica in replicas]
        report = await drill_under_load(url, urls, drills=DRILLS, per_second=PER_SECOND)
        generations = {replica.client.get("/health").json()["generation"] for replica in replicas}
    assert report.failed == []
    assert len(report.convergence) == DRILLS
    assert max(report.convergence) < CONVERGENCE_SECONDS
    assert {answer.version for answer in report.answers} == {1, 2}
    assert len(generations) == 1
