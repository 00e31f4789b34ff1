"""Switches under load by two replicas behind HAProxy, on Redis: I2, I3, I7."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.switches import replicas_behind_haproxy, switch_under_load
from tests.support.servers import RunningRedis, RunningTriton

pytestmark = pytest.mark.needs("haproxy")


async def test_sixty_switches_fail_no_request_and_no_version_answers_out_of_its_time(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    with replicas_behind_haproxy(tmp_path, shared_triton, redis) as (url, replicas):
        urls = [replica.url for replica in replicas]
        outcome = await switch_under_load(url, urls, switches=60, connections=16)
    assert outcome.failed == []
    assert outcome.wrongly_answered == []
    assert {answer.version for answer in outcome.answers} == {1, 2}
    assert len(outcome.answers) > 500
    assert max(outcome.convergence) < 1, outcome.summary()
