"""Which version a rollback goes back to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from platform_assets.serving.rollback import RollbackConfig, target_version
from tests.support.models import IRIS


def replica(generation: int, present: int, *previous: int) -> Any:
    """What a gateway that routes to `present` by this generation says."""
    slots = [SimpleNamespace(version=version, ready=True) for version in (present, *previous)]
    routing = SimpleNamespace(generation=generation, previous={"A": tuple(slots[1:])})
    return SimpleNamespace(effective={"A": slots[0]}, routing=routing)


@pytest.mark.parametrize("behind_first", [True, False])
def test_replica_that_is_behind_does_not_say_what_is_before_the_present_version(
    behind_first: bool,
) -> None:
    statuses = [replica(5, 2, 1), replica(6, 3, 2, 1)]
    ordered = statuses if behind_first else statuses[::-1]
    gateway: Any = SimpleNamespace(model_statuses=lambda _: ordered)
    with dg.DagsterInstance.ephemeral() as instance:
        assert target_version(IRIS, RollbackConfig(), gateway, instance) == 2


def test_without_an_earlier_version_nothing_is_rolled_back() -> None:
    gateway: Any = SimpleNamespace(model_statuses=lambda _: [replica(1, 1)])
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.Failure, match="has no earlier version"),
    ):
        target_version(IRIS, RollbackConfig(), gateway, instance)
