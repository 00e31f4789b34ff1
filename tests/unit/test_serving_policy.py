"""Which versions Triton should have READY."""

from __future__ import annotations

from platform_assets.serving.policy import drift, versions_beside, versions_to_keep


def test_a_candidate_is_loaded_beside_everything_that_serves() -> None:
    assert versions_beside(4, ready=[2, 3], verified=[2, 3], broken=[]) == (2, 3, 4)


def test_a_verified_version_that_triton_lost_comes_back_with_the_candidate() -> None:
    assert versions_beside(4, ready=[], verified=[3], broken=[]) == (3, 4)


def test_a_verified_version_whose_files_are_broken_does_not_spoil_the_load() -> None:
    assert versions_beside(4, ready=[], verified=[2, 3], broken=[2]) == (3, 4)


def test_a_version_that_is_ready_goes_on_serving_whatever_became_of_its_files() -> None:
    assert versions_beside(4, ready=[2], verified=[2, 3], broken=[2]) == (2, 3, 4)


def test_what_a_variant_routes_to_is_never_retired() -> None:
    kept = versions_to_keep(production=5, previous=[4], routed=[5, 1], ready=[1, 4, 5], retention=1)
    assert kept == (1, 5)


def test_production_and_its_newest_predecessor_stay_up_to_retention() -> None:
    kept = versions_to_keep(production=5, previous=[4, 3], routed=[5], ready=[3, 4, 5], retention=2)
    assert kept == (4, 5)


def test_what_b_routes_to_takes_no_place_of_the_version_to_roll_back_to() -> None:
    kept = versions_to_keep(production=3, previous=[2], routed=[3, 1], ready=[1, 2, 3], retention=2)
    assert kept == (1, 2, 3)


def test_a_version_that_is_not_ready_cannot_be_kept() -> None:
    kept = versions_to_keep(production=5, previous=[4, 3], routed=[5], ready=[3, 5], retention=2)
    assert kept == (3, 5)


def test_drift_names_what_was_lost_and_what_was_gained() -> None:
    found = drift(verified=[2, 3], ready=[3, 9])
    assert (found.lost, found.gained) == ((2,), (9,))
    assert found


def test_no_drift_is_falsy() -> None:
    assert not drift(verified=[3, 2], ready=[2, 3])
