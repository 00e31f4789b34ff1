"""Rolling updates by the manifests drop no request; without their preStop hooks they do.

One round at a fifth of the manifests' seconds, under a quarter of the load of
`python -m tests.benchmarks.rolling`, which plays twenty at their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.benchmarks.rolling import under_load
from tests.support.rollout import Cluster, run_cluster

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.needs("redis-server")]
_PER_SECOND: Final = 50


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster"), pace=0.2) as running:
        yield running


def test_replacing_all_gateways_and_triton_drops_no_request(cluster: Cluster) -> None:
    def roll() -> None:
        cluster.replace_gateways()
        cluster.replace_triton()

    outcome = under_load(cluster, roll, _PER_SECOND)
    assert outcome.failed == []
    assert len(outcome.answers) > _PER_SECOND * 5
    assert cluster.killed == []


def test_without_the_pre_stop_hook_requests_fail(cluster: Cluster) -> None:
    cluster.pre_stop = False
    outcome = under_load(cluster, cluster.replace_gateway, 200)
    assert outcome.failed
    # The balancer's word that nothing answers there (502, 503), or the end of a connection that
    # was kept; no answer that the gateway gave is wrong, and no client waits for its time limit.
    assert {answer.status for answer in outcome.failed} <= {502, 503, 0}
    lost = [answer for answer in outcome.failed if answer.status == 0]
    assert all("IncompleteRead" in one.text or "ConnectionReset" in one.text for one in lost)
