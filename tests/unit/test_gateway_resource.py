"""What the pipeline reads out of `GET /models`."""

from __future__ import annotations

from typing import Any

import pytest

from platform_assets.resources.gateway import (
    GatewayResource,
    effective_version,
    laggards,
    routed_versions,
)


def page(**variants: tuple[int, bool]) -> dict[str, Any]:
    return {
        "effective": {
            alias: {"version": version, "ready": ready}
            for alias, (version, ready) in variants.items()
        }
    }


def test_a_confirmed_version_is_effective() -> None:
    assert effective_version(page(A=(3, True)), "A") == 3


def test_a_version_that_the_replica_cannot_confirm_is_not_effective() -> None:
    assert effective_version(page(A=(3, False)), "A") is None


def test_a_variant_without_a_version_has_no_effective_one() -> None:
    assert effective_version(page(A=(3, True)), "B") is None


def test_a_version_is_routed_to_whether_or_not_it_is_confirmed() -> None:
    assert routed_versions([page(A=(3, False), B=(4, True)), page(A=(3, True))]) == (3, 4)


def listing(*replicas: tuple[int, bool], problem: str | None = None) -> dict[str, Any]:
    return {
        "replicas_problem": problem,
        "replicas": [
            {
                "id": f"r{number}",
                "generation": generation,
                "ready": ready,
                "reasons": [] if ready else ["A is not READY"],
            }
            for number, (generation, ready) in enumerate(replicas)
        ],
    }


def test_replicas_that_are_behind_or_not_ready_are_late() -> None:
    late = laggards(listing((7, True), (6, True), (7, False), (8, True)), 7)
    assert late == {"r1": "generation 6", "r2": "not ready: A is not READY"}


def test_a_list_that_may_lack_somebody_is_not_trusted() -> None:
    late = laggards(listing((7, True), problem="Redis is gone"), 7)
    assert late == {"replicas that are not listed": "Redis is gone"}


@pytest.mark.parametrize("urls", ["http://a:1/,http://b:2", " http://a:1 , http://b:2/ ,"])
def test_replicas_are_separated_by_commas(urls: str) -> None:
    gateway = GatewayResource(urls=urls, control_token="secret")
    assert gateway.replicas == ("http://a:1", "http://b:2")
