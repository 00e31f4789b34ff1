"""Which versions Triton should have READY."""

from __future__ import annotations

from typing import Any

import pytest

from platform_assets.serving.policy import (
    drift,
    versions_to_delete,
    versions_to_keep,
    versions_to_load,
)


def test_a_candidate_is_loaded_beside_everything_that_serves() -> None:
    assert versions_to_load(4, ready=[2, 3], verified=[2, 3], broken=[]) == (2, 3, 4)


def test_a_verified_version_that_triton_lost_comes_back_with_the_candidate() -> None:
    assert versions_to_load(4, ready=[], verified=[3], broken=[]) == (3, 4)


def test_a_verified_version_whose_files_are_broken_does_not_spoil_the_load() -> None:
    assert versions_to_load(4, ready=[], verified=[2, 3], broken=[2]) == (3, 4)


def test_a_version_that_is_ready_goes_on_serving_without_its_files() -> None:
    assert versions_to_load(4, ready=[2], verified=[2, 3], broken=[2]) == (2, 3, 4)


def test_what_a_variant_routes_to_is_never_retired() -> None:
    kept = versions_to_keep(production=5, previous=[4], routed=[5, 1], ready=[1, 4, 5], retention=1)
    assert kept == (1, 5)


def test_production_and_its_newest_predecessor_stay_up_to_retention() -> None:
    kept = versions_to_keep(production=5, previous=[4, 3], routed=[5], ready=[3, 4, 5], retention=2)
    assert kept == (4, 5)


def test_what_b_routes_to_takes_no_place_of_the_version_to_roll_back_to() -> None:
    kept = versions_to_keep(production=3, previous=[2], routed=[3, 1], ready=[1, 2, 3], retention=2)
    assert kept == (1, 2, 3)


def test_what_was_loaded_during_a_release_stays_for_its_own() -> None:
    kept = versions_to_keep(
        production=3, previous=[2], routed=[3], ready=[1, 2, 3, 4], retention=2, waiting=[4]
    )
    assert kept == (2, 3, 4)


def test_a_version_that_is_not_ready_cannot_be_kept() -> None:
    kept = versions_to_keep(production=5, previous=[4, 3], routed=[5], ready=[3, 5], retention=2)
    assert kept == (3, 5)


def test_drift_names_what_was_lost_and_what_was_gained() -> None:
    found = drift(verified=[2, 3], ready=[3, 9])
    assert (found.lost, found.gained) == ((2,), (9,))
    assert found


def test_no_drift_is_falsy() -> None:
    assert not drift(verified=[3, 2], ready=[2, 3])


def doomed(**other: object) -> tuple[int, ...]:
    wishes: dict[str, Any] = {
        "on_disk": (1, 2, 3, 4, 5, 6),
        "ready": (5, 6),
        "routed": (6,),
        "ledger": (6, 5, 4),
        "keep": 3,
    }
    return versions_to_delete(**{**wishes, **other})


def test_what_is_no_longer_needed_is_deleted_oldest_first() -> None:
    assert doomed() == (1, 2, 3)
    assert doomed(keep=5) == (1,)


def test_no_more_is_deleted_than_is_beyond_the_count() -> None:
    assert doomed(on_disk=(1, 6), keep=2) == ()


@pytest.mark.parametrize("needed", ["ready", "routed", "ledger"])
def test_what_serves_or_may_be_rolled_back_to_is_never_deleted(needed: str) -> None:
    assert 1 in doomed()
    assert 1 not in doomed(**{needed: (6, 1)})


def test_what_candidates_are_compared_with_is_never_deleted() -> None:
    assert 1 not in doomed(best=1)
    assert doomed(best=1, keep=5) == (2,)


def test_a_version_that_is_on_its_way_is_never_deleted() -> None:
    assert 9 not in doomed(on_disk=(1, 2, 3, 4, 5, 6, 9), keep=1)
