"""Reads of features with several keys: each id once, joined by entity, judged key by key."""

from __future__ import annotations

import pytest

from serving_gateway.errors import FeaturesUnavailable
from serving_gateway.features.planned_read import PlannedRead
from serving_gateway.features.service_plan import ServicePlan
from serving_gateway.features.types import (
    EntityKey,
    InvalidEntityIds,
    KeyMismatch,
    LookupRequest,
    LookupResult,
)
from tests.support.feature_plans import KEY, NOON, SHOP, StoredRows, outcomes, plan_of, row, told

KEYS = ("shop", "id")


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", NOON.timestamp)


@pytest.fixture
def plan() -> ServicePlan:
    """Customers `a` and `b` by id in two views, shops `c` and `d` by name."""
    return plan_of(one=(KEY, 60, "a"), two=(KEY, 0, "b"), shops=(SHOP, 60, "cd"))


def planned(
    plan: ServicePlan, names: str, *ids: EntityKey, keys: tuple[str, ...] = KEYS, nullable: str = ""
) -> PlannedRead:
    return plan.read(LookupRequest("s", (*names,), ids, frozenset(nullable), keys))


ROWS: StoredRows = {
    "one": {1: row(5, 1.0), 2: row(5, 2.0), 3: row(90, 3.0), 4: row(5, None)},
    "two": {1: row(900, 10.0), 2: row(7, 20.0), 3: row(7, 30.0), 4: row(7, 40.0)},
    "shops": {"x": row(1, 0.1, 0.2), "y": row(2, 0.3, 0.4)},
}


def test_rows_of_all_keys_are_joined_in_the_order_of_the_names(plan: ServicePlan) -> None:
    read = planned(plan, "cadb", ("x", 2), ("y", 1), ("x", 1))
    found = outcomes(read, ROWS)
    assert [told(one) for one in found] == [
        ("found", [0.1, 2.0, 0.2, 20.0], (), 7),
        ("found", [0.3, 1.0, 0.4, 10.0], (), 900),
        ("found", [0.1, 1.0, 0.2, 10.0], (), 900),
    ]
    assert {own.read.key.name: own.ids for own in read.keys} == {"shop": ["x", "y"], "id": [2, 1]}
    again = outcomes(planned(plan, "abcd", ("x", 2)), ROWS)
    assert again[0].values == [2.0, 20.0, 0.1, 0.2]


def test_time_of_a_view_does_not_count_where_all_its_features_are_given(plan: ServicePlan) -> None:
    [found] = outcomes(planned(plan, "cab", ("x", 1)), ROWS)
    ages = {
        given: NOON.timestamp() - (found.oldest_without({*given}) or 0)
        for given in ("", "a", "b", "ab", "bc")
    }
    assert ages == {"": 900, "a": 900, "b": 5, "ab": 1, "bc": 5}
    assert found.oldest_without({*"abc"}) is None
    [one] = outcomes(planned(plan, "ab", 1, keys=("id",)), ROWS)
    assert one.oldest_without({"b"}) == NOON.timestamp() - 5


def test_each_key_says_what_it_lacks(plan: ServicePlan) -> None:
    read = planned(plan, "abc", ("z", 3), ("x", 4), (None, 1), ("x", 9))
    [both, incomplete, unnamed, unknown] = outcomes(read, ROWS)
    assert [told(one)[0] for one in (both, incomplete, unnamed, unknown)] == [
        *("expired", "incomplete", "unnamed", "unknown")
    ]
    assert [(gap.key, gap.views, gap.status.value, gap.missing) for gap in both.gaps] == [
        ("id", ("one", "two"), "expired", ("a",)),
        ("shop", ("shops",), "unknown", ("c",)),
    ]
    assert both.gaps[0].event_timestamp == "2024-06-01T11:58:30Z"
    assert both.missing == ("a", "c")
    assert [one.stored for one in (both, incomplete, unnamed, unknown)] == [
        *([None, 30.0, None], [None, 40.0, 0.1], [1.0, 10.0, None], [None, None, 0.1])
    ]
    assert (unnamed.gaps[0].key, unnamed.missing) == ("shop", ("c",))
    [nullable] = outcomes(planned(plan, "abc", ("x", 4), nullable="a"), ROWS)
    assert nullable.values == [None, 40.0, 0.1]


def test_entities_without_any_id_need_no_read(plan: ServicePlan) -> None:
    read = planned(plan, "ac", (None, None))
    assert read.is_empty
    [found] = read.empty_outcomes()
    assert isinstance(found, LookupResult)
    assert (found.status.value, found.missing, found.observed_at) == ("unnamed", ("a", "c"), None)
    assert not planned(plan, "ac", (None, 1)).is_empty


def test_invalid_id_fails_its_entities_alone_and_names_its_key(plan: ServicePlan) -> None:
    found = outcomes(planned(plan, "ac", ("x", 1), (7, 1), ("x", "1"), (7, 2)), ROWS)
    assert isinstance(found[0], LookupResult)
    assert [(type(one), one.key) for one in found[1:]] == [
        *((InvalidEntityIds, "shop"), (InvalidEntityIds, "id"), (InvalidEntityIds, "shop"))
    ]


def test_error_of_one_key_is_that_of_its_entities(plan: ServicePlan) -> None:
    read = planned(plan, "ac", ("x", 1), ("y", 1), ("x", 2))
    read.keys[0].errors[1] = FeaturesUnavailable("WRONGTYPE")
    found = outcomes(read, ROWS)
    assert [type(one) for one in found] == [LookupResult, LookupResult, FeaturesUnavailable]


@pytest.mark.parametrize(
    ("names", "keys", "needed"),
    [
        ("ac", (), ("id", "shop")),
        ("ac", ("id",), ("id", "shop")),
        ("c", ("id",), ("shop",)),
        ("ca", ("shop", "other"), ("shop", "id")),
    ],
)
def test_other_keys_are_refused(
    plan: ServicePlan, names: str, keys: tuple[str, ...], needed: tuple[str, ...]
) -> None:
    with pytest.raises(KeyMismatch, match=f"read by {', '.join(needed)}") as caught:
        planned(plan, names, keys=keys)
    assert caught.value.keys == needed


def test_only_the_keys_of_the_wanted_features_are_needed(plan: ServicePlan) -> None:
    assert outcomes(planned(plan, "c", "x", keys=()), ROWS)[0].values == [0.1]
    assert outcomes(planned(plan, "c", ("x", 4)), ROWS)[0].values == [0.1]


def test_sample_reads_every_view(plan: ServicePlan) -> None:
    read = plan.read(plan.sample())
    assert [[one.view.name for one in own.read.views] for own in read.keys] == [
        *(["one", "two"], ["shops"])
    ]
